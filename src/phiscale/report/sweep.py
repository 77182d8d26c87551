"""A page and a figure of a sweep: accuracy against cost, one line a way of scaling."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from markupsafe import Markup

from phiscale.architecture import Design
from phiscale.atomic import write_text
from phiscale.cost.budget import amount_text
from phiscale.report.chart import Axis, Line, around, chart
from phiscale.report.page import render

TONES = ("a", "b", "c", "d")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """A network of a sweep. `scores` is a top-1 (fraction) a seed; the paper's figures are there where it printed any."""

    network: str
    series: str
    macs: int
    params: int
    resolution: int
    ratio: float
    scores: tuple[float, ...] = ()
    paper_macs: float | None = None
    paper_top1: float | None = None

    @property
    def top1(self) -> float | None:
        return mean(self.scores) if self.scores else None

    @property
    def sd(self) -> float | None:
        return stdev(self.scores) if len(self.scores) > 1 else None


def write_sweep(path: str | Path, *, name: str, title: str, points: Sequence[SweepPoint], notes: Sequence[str], baseline: Design) -> Path:
    """Write a self-contained HTML page to `path` and return it. RunError where it can't be written."""
    charts = [_ours(name, title, points)]
    if any(point.paper_top1 is not None for point in points):
        charts.append(_paper(name, points))
    write_text(path, render("sweep.html", title=title, points=points, notes=notes, baseline=baseline, charts=charts))
    return Path(path)


def sweep_svg(name: str, title: str, points: Sequence[SweepPoint]) -> str:
    """The figure as a file of its own, with the page's colours."""
    style = Markup("<style>{}</style>").format(Markup(render("style.css")))
    drawn = str(_ours(name, title, points)).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, _, rest = drawn.partition(">")
    return f"{head}>{style}{rest}\n"


def _ours(name: str, title: str, points: Sequence[SweepPoint]) -> Markup:
    trained = [(point.macs, point.top1) for point in points if point.top1 is not None]
    return _against_macs(f"{name}-ours", f"{title}, on these images", points, trained, ours=True)


def _paper(name: str, points: Sequence[SweepPoint]) -> Markup:
    printed = [(point.paper_macs or 0.0, point.paper_top1) for point in points if point.paper_top1 is not None]
    return _against_macs(f"{name}-paper", "The paper's points, ImageNet", points, printed, ours=False)


def _against_macs(name: str, title: str, points: Sequence[SweepPoint], spots: Sequence[tuple[float, float]], *, ours: bool) -> Markup:
    xs, ys = around([x for x, _ in spots], log=True), around([y for _, y in spots])
    series = [one for one in dict.fromkeys(point.series for point in points) if one != "baseline"]

    def at(point: SweepPoint) -> tuple[float, float] | None:
        x, y = (point.macs, point.top1) if ours else (point.paper_macs, point.paper_top1)
        return (x, y) if x is not None and y is not None else None

    start = [spot for point in points if point.series == "baseline" and (spot := at(point))]
    lines: list[Line] = []
    for number, one in enumerate(series):
        own = sorted({*start, *(spot for point in points if point.series == one and (spot := at(point)))})
        lines.append(Line(label=one, points=own, tone=TONES[number % len(TONES)]))
    return chart(
        name,
        title=title,
        about="; ".join(f"{line.label}: " + ", ".join(f"{amount_text(x)} {y:.1%}" for x, y in line.points) for line in lines),
        x=Axis(label="multiply-adds", low=xs[0], high=xs[1], log=True, form=amount_text),
        y=Axis(label="top-1", low=ys[0], high=ys[1], form=_percent),
        lines=lines,
    )


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"
