"""A page and a figure of a sweep: accuracy against cost, one line a way of scaling."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from markupsafe import Markup

from phiscale.architecture import Design
from phiscale.atomic import write_text
from phiscale.cost.budget import amount_text
from phiscale.report.chart import Axis, Line, around, chart, side_by_side
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
    charts = _charts(name, title, points)
    write_text(path, render("sweep.html", title=title, points=points, notes=notes, baseline=baseline, charts=charts))
    return Path(path)


def sweep_svg(name: str, title: str, points: Sequence[SweepPoint]) -> str:
    """The figure as a file of its own, in the page's colours: ours, and beside it the paper's points where it printed any."""
    (here, ours), *paper = _charts(name, title, points)
    return side_by_side([(f"{title}; {here.lower()}", ours), *paper], style=render("style.css"))


def _charts(name: str, title: str, points: Sequence[SweepPoint]) -> list[tuple[str, Markup]]:
    """Under their headings."""
    here, there = "On these images", "What the paper prints, of ImageNet"
    made = [(here, _against_macs(f"{name}-ours", f"{title}, on these images", points, ours=True))]
    if any(point.paper_top1 is not None for point in points):
        made.append((there, _against_macs(f"{name}-paper", there, points, ours=False)))
    return made


def _against_macs(name: str, title: str, points: Sequence[SweepPoint], *, ours: bool) -> Markup:
    def at(point: SweepPoint) -> tuple[float, float] | None:
        x, y = (point.macs, point.top1) if ours else (point.paper_macs, point.paper_top1)
        return (x, y) if x is not None and y is not None else None

    held = [(point, spot) for point in points if (spot := at(point))]
    tops = [spot[1] + side * ((point.sd if ours else None) or 0.0) for point, spot in held for side in (-1, 1)]
    xs, ys = around([spot[0] for _, spot in held], log=True), around(tops)
    lines: list[Line] = []
    for number, one in enumerate(dict.fromkeys(point.series for point in points if point.series != "baseline")):
        own = sorted((*spot, point.sd or 0.0, point.network) for point, spot in held if point.series in ("baseline", one))
        lines.append(
            Line(
                label=one,
                points=[(x, y) for x, y, _, _ in own],
                tone=TONES[number % len(TONES)],
                hints=[f"{one}, {network}" for _, _, _, network in own],
                spreads=[sd for _, _, sd, _ in own] if ours else (),
            )
        )
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
