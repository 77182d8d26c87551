"""A page of a search: which (α, β, γ), how sure that is, what every run did."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from phiscale.atomic import write_text
from phiscale.cost.budget import amount_text
from phiscale.report.chart import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Axis, Cell, Line, around, chart, frame
from phiscale.report.page import render
from phiscale.search import Range
from phiscale.search.setup import Setup
from phiscale.search.study import Findings, Run

TONES = ("a", "b", "c")  # best third, middle, last
ACROSS, DOWN = 44, 30  # cells of the shaded ground


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    heading: str
    chart: Markup
    caption: str


def write_study(
    path: str | Path, *, setup: Setup, runs: Sequence[Run], findings: Findings, latency: Mapping[str, float] | None = None, clock: str = ""
) -> Path:
    """Write a self-contained HTML page to `path` and return it. RunError where it can't be written.

    latency  milliseconds of one image, by the key of a point; clock: how they were measured
    """
    first = [run for run in runs if run.seed == setup.seed]
    ranked = sorted((run for run in first if run.curve), key=lambda run: (run.curve[-1][0], run.curve[-1][1]), reverse=True)
    tone = {run.point.key: TONES[min(2, 3 * place // max(1, len(ranked)))] for place, run in enumerate(ranked)}
    macs = {run.point.key: float(run.point.cost.macs) for run in ranked}
    figures = [
        _surface(setup, ranked, tone, findings),
        _parallel(ranked, tone, findings),
        _curves(setup, runs, tone),
        _pareto(ranked, tone, findings, macs, name="pareto-macs", what="multiply-adds", label="multiply-adds", form=amount_text),
    ]
    if latency:
        form = "{:.4g}".format
        figures.append(
            _pareto(ranked, tone, findings, latency, name="pareto-latency", what="latency", label="ms of one image", form=form, how=clock)
        )
    by_key = {run.point.key: run.point for run in runs}
    page = render(
        "study.html",
        setup=setup,
        findings=findings,
        winner=findings.winner,
        standings=[(one, by_key[one.key]) for one in findings.standings],
        runs=sorted(runs, key=lambda run: (run.seed != setup.seed, -(run.curve[-1][0] if run.curve else 0), -_score(run))),
        score=_score,
        figures=figures,
        counts={state: sum(run.state == state for run in runs) for state in ("done", "pruned", "failed")},
        took=_took(sum(run.seconds or 0 for run in runs)),
    )
    write_text(path, page)
    return Path(path)


def _took(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _score(run: Run) -> float:
    return run.top1 if run.top1 is not None else run.curve[-1][1] if run.curve else 0.0


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def _range(setup: Setup, name: str, values: Sequence[float]) -> Range:
    """What the grid was asked to span; the points' own range where the study doesn't say."""
    text = setup.asked.get(name)
    return Range.parse(text, name) if isinstance(text, str) else Range(low=min(values, default=1.0), high=max(values, default=1.5))


def _surface(setup: Setup, ranked: Sequence[Run], tone: dict[str, str], findings: Findings) -> Figure:
    """α against β; γ is what α·β²·γ² = ratio leaves for it: dotted where it is a round number, the ground shaded by the fitted surface."""
    ratio = float(setup.asked.get("ratio", 2.0))
    alpha, beta, gamma = (
        _range(setup, name, [getattr(run.point.coefficients, name) for run in ranked]) for name in ("alpha", "beta", "gamma")
    )
    x = Axis(label="α (depth)", low=alpha.low - 0.04, high=alpha.high + 0.04)
    y = Axis(label="β (width)", low=beta.low - 0.04, high=beta.high + 0.04)
    lines: list[Line] = []
    for number in range(21):
        level = 0.5 + number / 10
        if gamma.low - 1e-6 <= level <= gamma.high + 1e-6:
            along = [(a, math.sqrt(ratio / a) / level) for a in (x.low + (x.high - x.low) * n / 60 for n in range(61))]
            along = [(a, b) for a, b in along if y.low <= b <= y.high]
            if len(along) > 1:
                lines.append(Line(label="", points=along, tone="contour", names=[f"γ {level:.1f}"]))
    for name in TONES:
        own = [run for run in ranked if tone[run.point.key] == name]
        spots = [(run.point.coefficients.alpha, run.point.coefficients.beta) for run in own]
        said = [f"γ {run.point.coefficients.gamma:g}, {_percent(_score(run))} after {_epochs(run.curve[-1][0])}" for run in own]
        lines.append(Line(label=name, points=spots, tone=name, joined=False, hints=said))
    cells, shading = _shading(findings, x, y, gamma, ratio)
    c = findings.winner.coefficients
    return Figure(
        heading="Where on the grid: the surface α·β²·γ² = " + f"{ratio:g}",
        chart=chart(
            "surface",
            title="The surface of equal cost",
            about=f"α against β; winner at α {c.alpha:g}, β {c.beta:g}, γ {c.gamma:g}",
            x=x,
            y=y,
            lines=lines,
            mark=((c.alpha, c.beta), f"winner: α {c.alpha:g}, β {c.beta:g}, γ {c.gamma:g}"),
            rings=[((p.coefficients.alpha, p.coefficients.beta), "not told apart from the winner") for p in findings.unsure],
            cells=cells,
        ),
        caption=f"On this surface α and β decide γ: along a dotted line it is the same. Points lie off it by what rounding does. {shading}",
    )


def _shading(findings: Findings, x: Axis, y: Axis, gamma: Range, ratio: float) -> tuple[list[Cell], str]:
    """What the fitted surface predicts where the grid has a γ; nothing where it explains nothing."""
    fitted = findings.surface
    if fitted is None or fitted.explained <= 0:
        return [], "The ground is not shaded, because the response surface predicts no better than the mean."
    wide, tall = (x.high - x.low) / ACROSS, (y.high - y.low) / DOWN
    corners = [(x.low + i * wide, y.low + j * tall) for i in range(ACROSS) for j in range(DOWN)]
    held: list[tuple[float, float, float, float]] = []
    for a, b in corners:
        left = math.sqrt(ratio / (a + wide / 2)) / (b + tall / 2)
        if gamma.low - 0.01 <= left <= gamma.high + 0.01:
            held.append((a, b, left, fitted.at(a + wide / 2, b + tall / 2, left)))
    if not held:
        return [], ""
    low, high = min(value for *_, value in held), max(value for *_, value in held)
    cells = [
        Cell(
            low=(a, b),
            high=(a + wide, b + tall),
            share=(value - low) / (high - low) if high > low else 0.5,
            hint=f"α {a + wide / 2:.2f}, β {b + tall / 2:.2f}, γ {left:.2f}: {_percent(value)} predicted",
        )
        for a, b, left, value in held
    ]
    return (
        cells,
        f"Shaded: what the response surface predicts after {_epochs(findings.surface_epoch)}, {_percent(low)} to {_percent(high)}.",
    )


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' if number != 1 else ''}"


def _curves(setup: Setup, runs: Sequence[Run], tone: dict[str, str]) -> Figure:
    values = [top1 for run in runs for _, top1 in run.curve]
    low, high = around(values, least=0.0)
    shown = [run for run in reversed(runs) if run.curve]
    lines = [Line(label="", points=run.curve, tone=tone.get(run.point.key, "c"), hints=[_named(run)] * len(run.curve)) for run in shown]
    about = f"validation top-1 after each epoch, {len(lines)} runs"
    return Figure(
        heading="Learning curves",
        chart=chart(
            "curves",
            title="Learning curves",
            about=about,
            x=Axis(label="epochs", low=0.5, high=setup.epochs + 0.5, whole=True),
            y=Axis(label="top-1", low=low, high=high, form=_percent),
            lines=lines,
        ),
        caption=f"{about[0].upper()}{about[1:]}; a line that ends early was pruned.",
    )


def _pareto(
    ranked: Sequence[Run],
    tone: dict[str, str],
    findings: Findings,
    costs: Mapping[str, float],
    *,
    name: str,
    what: str,
    label: str,
    form: Callable[[float], str],
    how: str = "",
) -> Figure:
    """Accuracy against a cost, for the networks that were trained whole; the line joins those that nothing beats in both."""
    means = {one.key: one for one in findings.standings}
    shown = [run for run in ranked if run.point.key in costs and (run.state == "done" or run.point.key in means)]

    def at(run: Run) -> tuple[float, float]:
        one = means.get(run.point.key)
        return costs[run.point.key], one.mean if one else _score(run)

    front: list[tuple[float, float]] = []
    for spot in sorted(map(at, shown), key=lambda spot: (spot[0], -spot[1])):
        if not front or spot[1] > front[-1][1]:
            front.append(spot)
    spreads = {key: one.sd or 0.0 for key, one in means.items()}
    tops = [at(run)[1] + side * spreads.get(run.point.key, 0.0) for run in shown for side in (-1, 1)]
    lines = [Line(label="", points=front, tone="contour")]
    for letter in TONES:
        own = [run for run in shown if tone[run.point.key] == letter]
        spread = [spreads.get(run.point.key, 0.0) for run in own]
        lines.append(
            Line(
                label=letter, points=[at(run) for run in own], tone=letter, joined=False, hints=[_named(run) for run in own], spreads=spread
            )
        )
    low, high = around([costs[run.point.key] for run in shown])
    title = f"Accuracy against {what}"
    return Figure(
        heading=title,
        chart=chart(
            name,
            title=title,
            about=f"{len(shown)} networks trained whole; "
            + "; ".join(f"{_named(run)}: {form(x)}, {y:.1%}" for run in shown for x, y in [at(run)]),
            x=Axis(label=label, low=low, high=high, form=form),
            y=Axis(label="top-1", low=around(tops)[0], high=around(tops)[1], form=_percent),
            lines=lines,
        ),
        caption="Networks that were trained whole; finalists at the mean of their fresh seeds, with its standard deviation. "
        f"The line is the Pareto front: nothing is cheaper and better.{f' {how}' if how else ''}",
    )


def _named(run: Run) -> str:
    return "α {:g}, β {:g}, γ {:g}".format(*_triple(run))


def _triple(run: Run) -> tuple[float, float, float]:
    c = run.point.coefficients
    return c.alpha, c.beta, c.gamma


def _parallel(ranked: Sequence[Run], tone: dict[str, str], findings: Findings) -> Figure:
    """One line a point, across α, β, γ, costs, and top-1 at an epoch that nearly all reached, so that only equals are compared."""
    epoch = findings.surface_epoch
    names = ("α", "β", "γ", "MACs", "params", f"top-1 at {epoch}")
    held = [(run, dict(run.curve)[epoch]) for run in ranked if epoch in dict(run.curve)]
    rows = [(*_triple(run), float(run.point.cost.macs), float(run.point.cost.params), top1) for run, top1 in held]
    forms = ("{:g}".format, "{:g}".format, "{:g}".format, amount_text, amount_text, _percent)
    xs = [round(LEFT + number * (WIDTH - 2 * LEFT) / (len(names) - 1), 1) for number in range(len(names))]
    lows, highs = ([pick(column) for column in zip(*rows, strict=True)] if rows else [0.0] * len(names) for pick in (min, max))
    bottom = HEIGHT - BOTTOM

    def y(number: int, value: float) -> float:
        span = highs[number] - lows[number]
        return round(bottom - ((value - lows[number]) / span if span else 0.5) * (bottom - TOP), 1)

    parts: list[Markup] = []
    for number, (x, name) in enumerate(zip(xs, names, strict=True)):
        parts.append(Markup('<line class="axis" x1="{x}" x2="{x}" y1="{a}" y2="{b}"/>').format(x=x, a=TOP, b=bottom))
        label = Markup('<text class="label" x="{}" y="{}">{}</text>')
        parts += [label.format(x, bottom + 30, name), label.format(x, bottom + 15, forms[number](lows[number]))]
        parts.append(label.format(x, TOP - 8, forms[number](highs[number])))
    for (run, _), row in reversed(list(zip(held, rows, strict=True))):
        path = " ".join(f"{x},{y(number, value)}" for number, (x, value) in enumerate(zip(xs, row, strict=True)))
        said = ", ".join(f"{name} {form(value)}" for name, form, value in zip(names, forms, row, strict=True))
        line = Markup('<polyline class="line {}" points="{}"><title>{}</title></polyline>')
        parts.append(line.format(tone[run.point.key], path, said))
    about = f"{len(rows)} points, each a line across {', '.join(names)}"
    return Figure(
        heading="Parallel coordinates",
        chart=frame("parallel", "Parallel coordinates", about, parts),
        caption=f"Each line is a network of the first round; accuracy after {_epochs(epoch)}, which nearly all of them reached.",
    )
