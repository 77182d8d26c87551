"""The paper's figures 3, 4 and 8 and its table 7 on somebody's own images: one network after another, trained briefly and alike.

A run is a row of a CSV file, appended when it is done; the same command goes on where it was stopped.
"""

import csv
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phiscale.architecture import Design, scale
from phiscale.atomic import as_run_error, write_text
from phiscale.data.find import find_images
from phiscale.data.load import typical_side
from phiscale.errors import ArgumentError, DivergedError, RunError
from phiscale.jobs.choose import ENLARGE, LEAST_USEFUL, named_design
from phiscale.jobs.watch import Watcher
from phiscale.report.sweep import SweepPoint, sweep_svg, write_sweep
from phiscale.search.study import give_folder
from phiscale.search.sweep import WAYS, scaled_to

# Factors as the paper's figure 3 labels them.
WIDTHS, DEPTHS, RESOLUTIONS = (1.0, 1.4, 1.8, 2.6, 3.8, 5.0), (1.0, 2.0, 3.0, 4.0, 6.0, 8.0), (1.0, 1.3, 1.5, 1.7, 1.9, 2.2, 2.5)
FIGURE4 = ((1.0, 1.0), (2.0, 1.0), (1.0, 1.3), (2.0, 1.3))  # depth, resolution
# Table 7: multiply-adds and ImageNet top-1 as printed; the same networks are labelled in figure 8.
TABLE7 = {
    "baseline": (0.4e9, 0.773),
    "depth": (1.8e9, 0.790),
    "width": (1.8e9, 0.789),
    "resolution": (1.9e9, 0.791),
    "compound": (1.8e9, 0.811),
}
BY_HAND = {
    "depth": (4.0, 1.0, 1.0),
    "width": (1.0, 2.0, 1.0),
    "resolution": (1.0, 1.0, 2.0),
    "compound": (1.4, 1.2, 1.3),
}  # d, w, r of table 7
TITLES = {
    "fig3": "Figure 3: one dimension at a time",
    "fig4": "Figure 4: width under different depths and resolutions",
    "fig8": "Figure 8: depth, width, resolution or all three, cost for cost",
    "table7": "Table 7: the same baseline scaled four ways",
}
COLUMNS: tuple[str, ...] = ("network", "series", "macs", "params", "resolution", "seed", "epochs", "images", "top1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep's points (means over seeds), and the folder with NAME.csv, NAME.svg and NAME.html (None: nothing was trained)."""

    title: str
    points: tuple[SweepPoint, ...]
    notes: tuple[str, ...]
    folder: Path | None


def networks(what: str, baseline: Design, *, quick: bool = False) -> list[tuple[str, Design]]:
    """(series, design) of a figure. Figure 8 is at equal real cost; table 7 has the factors that the paper prints. ArgumentError else."""
    few = slice(0, 3) if quick else slice(None)
    match what:
        case "fig3":
            return [
                *(("width", scale(baseline, width=w)) for w in WIDTHS[few]),
                *(("depth", scale(baseline, depth=d)) for d in DEPTHS[few]),
                *(("resolution", scale(baseline, resolution=r)) for r in RESOLUTIONS[few]),
            ]
        case "fig4":
            pairs = FIGURE4[::3] if quick else FIGURE4
            return [(f"d {d:g}, r {r:g}", scale(baseline, depth=d, width=w, resolution=r)) for d, r in pairs for w in WIDTHS[few]]
        case "fig8":
            ratios = (2.0, 4.0) if quick else (2.0, 4.0, 8.0)
            return [("baseline", baseline), *((way, scaled_to(baseline, ratio=ratio, way=way)) for way in WAYS for ratio in ratios)]
        case "table7":
            made = ((way, scale(baseline, depth=d, width=w, resolution=r)) for way, (d, w, r) in BY_HAND.items())
            return [("baseline", baseline), *made]
        case _:
            raise ArgumentError(f"can't sweep {what!r}; possible: {', '.join(TITLES)}")


def sweep(
    what: str,
    *,
    baseline: str = "efficientnet_b0",
    images: str | None = None,
    quick: bool = False,
    epochs: int | None = None,
    seeds: int | None = None,
    resolution: int | None = None,
    out: str | Path | None = None,
    watch: Watcher | None = None,
) -> Sweep:
    """A figure's networks with their costs and the paper's points; trained on `images`, if given, with figure, page and table in `out`.

    quick  fewer networks, 2 epochs and 1 seed instead of 9 and 3
    """
    start = named_design(baseline)
    tell = watch or Watcher()
    published = baseline == "efficientnet_b0" and resolution is None
    if images is None:
        designs = networks(what, start if resolution is None else start.at(resolution), quick=quick)
        points = tuple(_point(series, design, start, (), published and what == "table7") for series, design in designs)
        return Sweep(title=TITLES[what], points=points, notes=("costs alone; give --images to train these networks",), folder=None)
    found = find_images(images)
    side = max(LEAST_USEFUL, ENLARGE * typical_side(found))
    start = start.at(resolution if resolution is not None else min(start.resolution, side)).with_classes(len(found.classes))
    designs = networks(what, start, quick=quick)
    epochs, seeds = epochs or (2 if quick else 9), seeds or (1 if quick else 3)
    folder = Path(out) if out is not None else Path("sweeps") / f"{what}-{Path(images).resolve().stem}"
    try:
        give_folder(folder)
    except OSError as error:
        raise as_run_error(error, folder.parent) from error
    from phiscale.jobs.proxy import make_proxy  # brings torch

    proxy = make_proxy(found, start, epochs=epochs, tell=tell.progress)
    file, train = folder / f"{what}.csv", len(found.splits["train"])
    rows = read_rows(file, COLUMNS)
    diverged: list[str] = []
    for seed in range(seeds):
        for series, design in designs:
            key = (design.name, series, str(design.resolution), str(seed), str(epochs), str(train))
            if any((r["network"], r["series"], r["resolution"], r["seed"], r["epochs"], r["images"]) == key for r in rows):
                continue
            tell.say(f"{design.name}: {design.cost.macs / 1e6:,.0f}M MACs at {design.resolution} px, seed {seed}")
            try:
                with tempfile.TemporaryDirectory(prefix="phiscale-") as work:
                    top1 = proxy.trained(design, seed=seed, folder=Path(work)).top1
            except DivergedError as error:
                diverged.append(f"{design.name}, seed {seed}: {error}")
                continue
            values = (design.name, series, design.cost.macs, design.cost.params, design.resolution, seed, epochs, train, f"{top1:.5f}")
            rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
            write_text(file, rows_text(rows, COLUMNS))
    points = tuple(
        _point(
            series,
            design,
            start,
            _scores(rows, series, design, epochs, train),
            baseline == "efficientnet_b0" and what in ("table7", "fig8"),
        )
        for series, design in designs
    )
    if not any(point.scores for point in points):
        raise RunError(f"no network of {what} could be trained: {diverged[0] if diverged else 'nothing was asked for'}")
    notes = (
        f"trained from random weights for {epochs} epochs on {train} images, the same for every network; {seeds} seeds; "
        f"{len(found.splits['val'])} validation images",
        "the paper's accuracies are ImageNet's after a whole training: compare the order and the shape, not the height",
        *(f"diverged: {said}" for said in diverged),
    )
    write_text(folder / f"{what}.svg", sweep_svg(what, TITLES[what], points))
    write_sweep(folder / f"{what}.html", name=what, title=TITLES[what], points=points, notes=notes, baseline=start)
    return Sweep(title=TITLES[what], points=points, notes=notes, folder=folder)


def _point(series: str, design: Design, start: Design, scores: Sequence[float], published: bool) -> SweepPoint:
    paper = TABLE7.get(series) if published else None
    of = design.cost
    return SweepPoint(
        network=design.name, series=series, macs=of.macs, params=of.params, resolution=design.resolution, ratio=of.macs / start.cost.macs,
        scores=tuple(scores), paper_macs=paper[0] if paper else None, paper_top1=paper[1] if paper else None,
    )  # fmt: skip


def _scores(rows: Sequence[dict[str, str]], series: str, design: Design, epochs: int, images: int) -> list[float]:
    wanted = (design.name, series, str(design.resolution), str(epochs), str(images))
    return [float(r["top1"]) for r in rows if (r["network"], r["series"], r["resolution"], r["epochs"], r["images"]) == wanted]


def read_rows(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The trainings that are done; none where there is no file. RunError where it has other columns."""
    if not file.is_file():
        return []
    try:
        with file.open(encoding="utf-8", newline="") as text:
            rows = list(csv.DictReader(text))
    except (OSError, ValueError) as error:
        raise RunError(f"can't read {file}: {error}") from None
    if any(set(row) != set(columns) for row in rows):
        raise RunError(f"{file} is not a sweep's table; move it away, or give another folder with -o")
    return rows


def rows_text(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> str:
    out = io.StringIO()
    table = csv.DictWriter(out, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return out.getvalue()
