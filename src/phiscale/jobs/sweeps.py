"""The paper's figures 3, 4 and 8 and its table 7 on somebody's own images: one network after another, trained briefly and alike.

A run is a row of a CSV file, appended when it is done; the same command goes on where it was stopped.
"""

import csv
import io
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phiscale.architecture import Design, NetworkSpec, scale
from phiscale.atomic import as_run_error, write_text
from phiscale.data.find import find_images, fingerprint
from phiscale.data.load import typical_side
from phiscale.errors import ArgumentError, DivergedError, RunError
from phiscale.jobs.choose import ENLARGE, LEAST_USEFUL, named_design
from phiscale.jobs.watch import Watcher
from phiscale.report.sweep import SweepPoint, sweep_svg, write_sweep
from phiscale.search.evidence import better_than_guessing
from phiscale.search.study import give_folder
from phiscale.search.sweep import WAYS, scaled_to

# Factors as the paper's figure 3 labels them, and 2 of width and of resolution, of which table 7 prints what they came to.
WIDTHS, DEPTHS, RESOLUTIONS = (1.0, 1.4, 1.8, 2.0, 2.6, 3.8, 5.0), (1.0, 2.0, 3.0, 4.0, 6.0, 8.0), (1.0, 1.3, 1.5, 1.7, 1.9, 2.0, 2.2, 2.5)
QUICK_WIDTHS, QUICK_DEPTHS, QUICK_RESOLUTIONS = (1.0, 1.4, 2.0), (1.0, 2.0, 4.0), (1.0, 1.3, 2.0)
FIGURE4 = ((1.0, 1.0), (2.0, 1.0), (1.0, 1.3), (2.0, 1.3))  # depth, resolution
BY_HAND = {
    "baseline": (1.0, 1.0, 1.0),
    "depth": (4.0, 1.0, 1.0),
    "width": (1.0, 2.0, 1.0),
    "resolution": (1.0, 1.0, 2.0),
    "compound": (1.4, 1.2, 1.3),
}  # d, w, r of table 7
# Multiply-adds and ImageNet top-1, all that the paper prints of scaled B0s: the figures have no numbers but at these networks.
TABLE7 = {
    "baseline": (0.4e9, 0.773),
    "depth": (1.8e9, 0.790),
    "width": (1.8e9, 0.789),
    "resolution": (1.9e9, 0.791),
    "compound": (1.8e9, 0.811),
}
TITLES = {
    "fig3": "Figure 3: one dimension at a time",
    "fig4": "Figure 4: width under different depths and resolutions",
    "fig8": "Figure 8: depth, width, resolution or all three, cost for cost",
    "table7": "Table 7: the same baseline scaled four ways",
}
COLUMNS: tuple[str, ...] = ("network", "series", "macs", "params", "resolution", "seed", "epochs", "images", "data", "top1")
KEY = ("network", "series", "resolution", "epochs", "images", "data")  # what a point is a mean over the seeds of


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep's points (means over seeds), and the folder with NAME.csv, NAME.svg and NAME.html (None: nothing was trained)."""

    title: str
    points: tuple[SweepPoint, ...]
    notes: tuple[str, ...]
    folder: Path | None


def networks(what: str, baseline: Design, *, quick: bool = False) -> list[tuple[str, Design]]:
    """(series, design) of a figure. Figure 8 is at equal real cost; table 7 has the factors that the paper prints. ArgumentError else."""
    widths, depths, resolutions = (QUICK_WIDTHS, QUICK_DEPTHS, QUICK_RESOLUTIONS) if quick else (WIDTHS, DEPTHS, RESOLUTIONS)
    match what:
        case "fig3":
            return [
                *(("width", scale(baseline, width=w)) for w in widths),
                *(("depth", scale(baseline, depth=d)) for d in depths),
                *(("resolution", scale(baseline, resolution=r)) for r in resolutions),
            ]
        case "fig4":
            pairs = FIGURE4[::3] if quick else FIGURE4
            return [(f"d {d:g}, r {r:g}", scale(baseline, depth=d, width=w, resolution=r)) for d, r in pairs for w in widths]
        case "fig8":
            ratios = (2.0, 4.0) if quick else (2.0, 4.0, 8.0)
            return [("baseline", baseline), *((way, scaled_to(baseline, ratio=ratio, way=way)) for way in WAYS for ratio in ratios)]
        case "table7":
            return [(way, scale(baseline, depth=d, width=w, resolution=r)) for way, (d, w, r) in BY_HAND.items()]
        case _:
            raise ArgumentError(f"can't sweep {what!r}; possible: {', '.join(TITLES)}")


def printed(what: str, series: str, design: Design, start: Design) -> tuple[float, float] | None:
    """Multiply-adds and top-1 that the paper prints for this network of EfficientNet-B0's; None where it prints none.

    Networks of figure 8 are matched by their cost, those of the others by their factors.
    """
    if start.origin.baseline != "efficientnet_b0":
        return None
    if what == "fig8":
        near = abs(design.cost.macs / start.cost.macs / 4 - 1) < 0.15
        return TABLE7[series] if series == "baseline" or near else None
    own, base = design.origin, start.origin  # of which the resolution may not be 224
    factors = (own.depth / base.depth, own.width / base.width, own.resolution / base.resolution)
    return next((TABLE7[way] for way, by_hand in BY_HAND.items() if all(map(math.isclose, factors, by_hand))), None)


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
    if images is None:
        start = start if resolution is None else start.at(resolution)
        designs = networks(what, start, quick=quick)
        points = tuple(_point(what, series, design, start, ()) for series, design in designs)
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
    from phiscale.jobs.proxy import make_proxy

    proxy = make_proxy(found, start, epochs=epochs, tell=tell.progress)
    file = folder / f"{what}.csv"
    same = (str(epochs), str(len(found.splits["train"])), fingerprint(found))
    rows = read_rows(file, COLUMNS)
    diverged: list[str] = []
    for seed in range(seeds):
        scores: dict[tuple[NetworkSpec, int], str] = {}  # a network that stands in several series is trained once
        for series, design in designs:
            key = (design.name, series, str(design.resolution), *same)
            held = [row["top1"] for row in rows if row["seed"] == str(seed) and tuple(row[name] for name in KEY) == key]
            if held:
                scores[design.spec, design.resolution] = held[0]
                continue
            if (design.spec, design.resolution) not in scores:
                tell.say(f"{design.name}: {design.cost.macs / 1e6:,.0f}M MACs at {design.resolution} px, seed {seed}")
                work = folder / "work" / "-".join((design.name, str(design.resolution), str(seed), *same))  # what a killed one goes on from
                try:
                    scores[design.spec, design.resolution] = f"{proxy.trained(design, seed=seed, folder=work).top1:.5f}"
                except DivergedError as error:
                    diverged.append(f"{design.name}, seed {seed}: {error}")
                    continue
                shutil.rmtree(work, ignore_errors=True)
            values = (design.name, series, design.cost.macs, design.cost.params, design.resolution, seed, *same)
            rows.append(dict(zip(COLUMNS, (*map(str, values), scores[design.spec, design.resolution]), strict=True)))
            write_text(file, rows_text(rows, COLUMNS))
    shutil.rmtree(folder / "work", ignore_errors=True)
    points = tuple(
        _point(what, series, design, start, _scores(rows, (design.name, series, str(design.resolution), *same)))
        for series, design in designs
    )
    if not any(point.scores for point in points):
        raise RunError(f"no network of {what} could be trained: {diverged[0] if diverged else 'nothing was asked for'}")
    best = max(point.top1 or 0.0 for point in points)
    learned = better_than_guessing(best, len(found.classes), len(found.splits["val"]))
    notes = (
        f"trained from random weights for {epochs} epochs on {same[1]} images, the same for every network; {seeds} seeds; "
        f"{len(found.splits['val'])} validation images",
        "the paper's accuracies are ImageNet's after a whole training: compare the order and the shape, not the height",
        *(f"diverged: {said}" for said in diverged),
        *(() if learned else ("no network is better than guessing, so their order is chance: give them more epochs or images",)),
    )
    write_text(folder / f"{what}.svg", sweep_svg(what, TITLES[what], points))
    write_sweep(folder / f"{what}.html", name=what, title=TITLES[what], points=points, notes=notes, baseline=start)
    return Sweep(title=TITLES[what], points=points, notes=notes, folder=folder)


def _point(what: str, series: str, design: Design, start: Design, scores: Sequence[float]) -> SweepPoint:
    paper, of = printed(what, series, design, start), design.cost
    return SweepPoint(
        network=design.name, series=series, macs=of.macs, params=of.params, resolution=design.resolution, ratio=of.macs / start.cost.macs,
        scores=tuple(scores), paper_macs=paper[0] if paper else None, paper_top1=paper[1] if paper else None,
    )  # fmt: skip


def _scores(rows: Sequence[dict[str, str]], wanted: tuple[str, ...]) -> list[float]:
    return [float(row["top1"]) for row in rows if tuple(row[name] for name in KEY) == wanted]


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
