"""`report.html` of a run: one page, no script, nothing loaded from elsewhere."""

import base64
import io
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader, Undefined
from markupsafe import Markup
from PIL import Image

from phiscale.architecture import Design, blocks
from phiscale.atomic import write_text
from phiscale.cost import Budget, layers
from phiscale.cost.budget import amount_text
from phiscale.errors import ImageError
from phiscale.report.chart import Axis, Line, around, chart, reliability
from phiscale.report.folder import Epoch, Prediction, RunFiles, read_budget, read_run
from phiscale.report.scores import scores
from phiscale.runtime.image import printable, read_image

MISTAKES = 18  # thumbnails
THUMBNAIL = 192  # pixels of the longer side
MATRIX_CLASSES = 24  # up to here the whole confusion matrix is readable
SHOWN_CLASSES = 12  # of more classes, so many of the worst; the rest folds away
WRITTEN = 0.005  # a budget is written with three digits, so that it can be this much off
LISTED = 500  # rows of a folded list; the files hold the rest


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run folder from the folder's files alone, and return its path.

    RunError where run.json or design.toml is missing, or the page can't be written; any other file that is missing is named on the page.
    """
    files = read_run(run_dir)
    page = files.folder / "report.html"
    write_text(page, render("report.html", **_report(files)))
    return page


def render(template: str, **values: Any) -> str:
    """A template of this room, filled. Everything is escaped; text that can't be printed is made visible."""
    return _environment().get_template(template).render(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One line of the stage table: what the paper's table 1 says of a stage, and what the stage costs."""

    name: str
    operator: str
    size: str  # of its output
    width: int
    depth: int
    params: int
    macs: int


def stage_rows(design: Design) -> tuple[StageRow, ...]:
    """The stage table: stem, stages, head, classifier, in order of execution."""
    rows: list[StageRow] = []
    plan = {number: tuple(group) for number, group in groupby(blocks(design.spec), lambda block: block.stage)}
    for (part, number), group in groupby(layers(design.spec, design.resolution), lambda layer: _part(layer.name)):
        held = tuple(group)
        size = next((layer.size for layer in reversed(held) if ".se." not in layer.name), held[-1].size)
        operator, width, depth = held[0].kind, held[-1].w_out, 1
        if part == "stages":
            first = plan[number][0]
            # kernels and strides are the first block's; the stage's other blocks differ in stride only
            operator, width, depth = _operator(design, number), first.w_out, len(plan[number])
        elif part == "stem":
            operator, depth = f"{held[0].kind}{_stride(design.spec.stem.stride)}", len(held)
        elif part == "classifier":
            operator = "mean pool, linear"
        rows.append(
            StageRow(
                name=f"stage {number + 1}" if part == "stages" else part,
                operator=operator.replace("x", "×"),
                size="1×1" if part == "classifier" else f"{size[0]}×{size[1]}",
                width=width,
                depth=depth,
                params=sum(layer.params for layer in held),
                macs=sum(layer.macs for layer in held),
            )
        )
    return tuple(rows)


def _part(layer: str) -> tuple[str, int]:
    part, _, rest = layer.partition(".")
    return (part, int(rest.split(".")[0])) if part == "stages" else (part, 0)


def _operator(design: Design, number: int) -> str:
    stage = design.spec.stages[number]
    kind = {
        "mbconv": f"MBConv{stage.expand:g}",
        "fused": f"FusedMBConv{stage.expand:g}",
        "separable": "Separable",
        "bottleneck": "Bottleneck",
    }[stage.kind]
    return f"{kind} {stage.kernel}x{stage.kernel}{_stride(stage.stride)}{', SE' if stage.se else ''}"


def _stride(stride: int) -> str:
    return f", stride {stride}" if stride > 1 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRow:
    """One cost: what was asked (None: nothing), what the design takes (a latency: as measured before training), what the bundle took."""

    name: str
    asked: str | None
    designed: str | None
    measured: str | None
    share: float | None  # of what was asked: used by what was measured, else by what was designed
    kept: bool


def budget_rows(
    design: Design, budget: Budget | None, speed: Mapping[str, Any], *, slack: float = 0.0, designed_ms: float | None = None
) -> tuple[BudgetRow, ...]:
    """Costs beside their budget: asked, designed, measured on the bundle.

    slack        the share of a limit by which it may be overrun
    designed_ms  the latency that the design was chosen by, measured before training
    """
    of, limits = design.cost, budget or Budget()
    latency = latency_ms(speed)

    def row(name: str, limit: float | None, unit: str, designed: float, counted: Any = None) -> BudgetRow:
        return BudgetRow(
            name=name,
            asked=None if limit is None else amount_text(limit) + unit,
            designed=amount_text(designed) + unit,
            measured=amount_text(counted) + unit if isinstance(counted, (int, float)) else None,
            share=None if limit is None else designed / limit,
            kept=limit is None or designed <= limit * (1 + slack),
        )

    asked_ms = None if limits.latency is None else limits.latency * 1e3
    return (
        row("multiply-adds", limits.macs, "", of.macs, speed.get("macs")),
        row("parameters", limits.params, "", of.params, speed.get("params")),
        row("peak memory", limits.memory, "B", of.peak_bytes),
        BudgetRow(
            name="median latency",
            asked=None if asked_ms is None else f"{asked_ms:g} ms",
            designed=None if designed_ms is None else f"{designed_ms:.3g} ms",
            measured=None if latency is None else f"{latency:.3g} ms",
            share=latency / asked_ms if latency is not None and asked_ms else None,
            kept=latency is None or asked_ms is None or latency <= asked_ms * (1 + slack),
        ),
    )


def latency_ms(speed: Mapping[str, Any]) -> float | None:
    """The median of a row of bench.json; None where it wasn't measured."""
    told = speed.get("latency_ms")
    return _milliseconds(told.get("p50") if isinstance(told, Mapping) else None)


def _milliseconds(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _report(files: RunFiles) -> dict[str, Any]:
    split = files.split
    multi_label = bool(files.said("output", "multi_label"))  # whose rows name sets of classes: run.json has the figures
    rows = [row for row in files.predictions if row.split == split]
    looked_at = [] if multi_label else rows
    counted = scores(looked_at, files.labels)
    wrong = sorted((row for row in rows if row.label != row.predicted), key=_worst_missed if multi_label else _surest)
    asked = str(files.said("asked", "budget") or files.design.origin.budget or "")
    budget = read_budget(asked)
    bundle = str(files.folder / "bundle")
    stages = stage_rows(files.design)
    mistakes = [(row, thumbnail(files.image(row))) for row in wrong[:MISTAKES]]
    return {
        "files": files,
        "run": files.run,
        "created": _when(files.said("created")),
        "design": files.design,
        "cost": files.design.cost,
        "split": split,
        "scores": counted,
        "average_precision": _average_precision(files) if multi_label else [],
        "charts": _curves(files.epochs, files.said("result")),
        "reliability": reliability("reliability", bins=counted.bins) if counted and counted.bins else None,
        "mistakes": mistakes,
        "seen": len(rows),
        "wrong": len(wrong),
        "multi_label": multi_label,
        "pseudo": pseudo_rows(files),
        "pictured": any(picture for _, picture in mistakes),
        "worst": sorted(counted.classes, key=lambda c: (c.recall is None, c.recall, -c.support)) if counted else [],
        "matrix": _matrix(looked_at, [c.label for c in counted.classes]) if counted and len(counted.classes) <= MATRIX_CLASSES else None,
        "turned": counted is not None and len(counted.classes) > 6 and max(len(c.label) for c in counted.classes) > 3,
        "shown_classes": SHOWN_CLASSES,
        "listed": LISTED,
        "budget": budget_rows(files.design, budget, files.speed, slack=WRITTEN, designed_ms=_milliseconds(files.said("designed_ms"))),
        "asked_budget": asked,
        "budget_is_read": budget is not None or not asked,
        "stages": stages,
        "disagrees": _disagrees(files, split, counted.top1 if counted else None),
        "q": {
            "bundle": shlex.quote(bundle),
            "run": shlex.quote(str(files.folder)),
            "source": shlex.quote(str(files.said("data", "source"))),
        },
        "python": f"import phiscale\n\nphiscale.load({bundle!r}).predict(['photo.jpg'])   # no PyTorch needed",
    }


def _average_precision(files: RunFiles) -> list[tuple[str, float | None]]:
    """Of each class, the worst first; a class without an image last."""
    told = files.said("test", "average_precision") or files.said("result", "average_precision")
    if not isinstance(told, list) or len(told) != len(files.labels):
        return []
    return sorted(zip(files.labels, told, strict=True), key=lambda row: (row[1] is None, row[1] or 0.0, row[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoRow:
    """Images without labels that the teacher took for a class: all of them, those it was sure enough of, and how often these count."""

    label: str
    seen: int
    images: int
    taken: int


def pseudo_rows(files: RunFiles) -> tuple[PseudoRow, ...]:
    """Of each class, then of all together; empty for a run without pseudo-labels."""
    told = files.said("pseudo_labels", "classes")
    counts = ("seen", "images", "taken")
    rows: list[PseudoRow] = []
    for label, row in told.items() if isinstance(told, Mapping) else ():
        if isinstance(row, Mapping) and all(isinstance(row.get(name), int) for name in counts):
            rows.append(PseudoRow(label=str(label), **{name: row[name] for name in counts}))
    total = {name: sum(getattr(row, name) for row in rows) for name in counts}
    return (*rows, PseudoRow(label="all", **total)) if rows else ()


def _surest(row: Prediction) -> tuple[float, str]:
    return -_or_zero(row.confidence), row.path


def _worst_missed(row: Prediction) -> tuple[float, float, str]:
    """Of several labels: first the images one of whose own was given least."""
    return _or_zero(row.p_label), -_or_zero(row.confidence), row.path


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _when(created: Any) -> str | None:
    try:
        return f"{datetime.fromisoformat(str(created)):%d %B %Y, %H:%M %Z}".strip()
    except ValueError:
        return None if created is None else str(created)


def _disagrees(files: RunFiles, split: str, top1: float | None) -> str | None:
    """A sentence where run.json and predictions.csv don't tell the same accuracy."""
    told = files.said("test", "top1") if split == "test" else files.said("result", "top1")
    if not isinstance(told, (int, float)) or top1 is None or abs(told - top1) < 5e-4:
        return None
    return f"run.json says {told:.2%} for {split}, counting predictions.csv gives {top1:.2%}: the two files are not of the same evaluation."


def _matrix(rows: Sequence[Prediction], labels: Sequence[str]) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """(label, [(predicted, images, share of the label's images)]) for every class."""
    number = {label: index for index, label in enumerate(labels)}
    counts = [[0] * len(labels) for _ in labels]
    for row in rows:
        counts[number[row.label]][number[row.predicted]] += 1
    return [
        (label, [(labels[index], n, n / max(1, sum(counts[row]))) for index, n in enumerate(counts[row])])
        for row, label in enumerate(labels)
    ]


def _curves(epochs: Sequence[Epoch], result: Any) -> list[Markup]:
    if not epochs:
        return []
    at = [row.epoch for row in epochs]
    if any(math.isnan(e) for e in at) or any(later <= earlier for earlier, later in pairwise(at)):
        at = [float(number) for number in range(1, len(epochs) + 1)]  # stages that count their own epochs: one after another
    low, high = (at[0], at[-1]) if len(at) > 1 else (at[0] - 1, at[0] + 1)
    x = Axis(label="epoch", low=low, high=high, whole=True)
    best = None
    if isinstance(result, Mapping):
        best = next((n for n, row in enumerate(epochs) if row.epoch == result.get("epoch") and row.stage == result.get("stage")), None)
    charts: list[Markup] = []
    for what, title, form in (("loss", "Loss", "{:.2g}".format), ("top1", "Accuracy", "{:.4g}%".format)):
        times = 100 if what == "top1" else 1
        train = [(e, getattr(row, f"train_{what}") * times) for e, row in zip(at, epochs, strict=True)]
        val = [(e, getattr(row, f"val_{what}") * times) for e, row in zip(at, epochs, strict=True)]
        low, high = around([v for _, v in (*train, *val)], least=0)
        y = Axis(label=title.lower(), low=low, high=min(high, 100.0) if what == "top1" and high > 100 else high, form=form)
        last = val[best if best is not None else -1]
        kept = best is not None and math.isfinite(last[1])
        charts.append(
            chart(
                f"curve-{what}",
                title=f"{title} by epoch",
                about=f"validation {title.lower()} goes from {form(val[0][1])} to {form(val[-1][1])} over {len(epochs)} epochs",
                x=x,
                y=y,
                lines=[Line(label="training", points=train, tone="b"), Line(label="validation", points=val, tone="a")],
                mark=(last, f"kept: {form(last[1])}") if kept else None,
            )
        )
    return charts


def thumbnail(path: Path) -> str | None:
    """A small JPEG as a data URI; None for what can't be read."""
    try:
        image = read_image(path)
    except ImageError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    if (times := THUMBNAIL // 2 // max(image.size)) > 1:  # a browser would blur the few pixels that the network saw
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    held = io.BytesIO()
    image.save(held, "JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode("ascii")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=ChainableUndefined,  # run.json of an interrupted run lacks keys: a dash, not a failure
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(formats())
    return environment


def formats() -> dict[str, Callable[..., str]]:
    """How templates write numbers (anything that is none becomes a dash) and labels."""
    return {"named": _named, "amount": _amount, "percent": _share, "fixed": _fixed, "commas": _commas, "plain": _plain, "spelt": _spelt}


def shown(value: Any) -> Any:
    """What is written for a value: a dash for none; odd bytes, control and direction-changing characters as escapes.

    >>> shown("a\\x1bb"), shown(None), shown(3)
    ('a\\\\x1bb', '–', 3)
    """
    if value is None or isinstance(value, Undefined):
        return "–"
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "\n".join(map(printable, value.split("\n")))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _amount(value: Any, unit: str = "") -> str:
    return amount_text(value) + unit if _is_number(value) else "–"


def _share(value: Any, digits: int = 1) -> str:
    return f"{value * 100:.{digits}f}%" if _is_number(value) else "–"


def _fixed(value: Any, digits: int = 3) -> str:
    return f"{value:.{digits}g}" if _is_number(value) else "–"


def _commas(value: Any) -> str:
    return f"{value:,}" if _is_number(value) else "–"


def _named(labels: Any) -> str:
    """Labels of an image as predictions.csv joins them."""
    return str(labels).replace("|", ", ") or "none of them"


def _spelt(split: Any) -> Any:
    return {"val": "validation", "train": "training"}.get(split, split) if isinstance(split, str) else split


def _plain(value: Any) -> str:
    """A setting as one would write it."""
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value is None or value == "" or isinstance(value, Undefined) else str(value)
