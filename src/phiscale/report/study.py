"""A page of a search: which (α, β, γ), how sure that is, what every run did."""

import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from phiscale.atomic import write_text
from phiscale.cost.budget import amount_text
from phiscale.report.chart import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Axis, Line, around, chart, frame
from phiscale.report.page import render
from phiscale.search.setup import Setup
from phiscale.search.study import Findings, Run

TONES = ("a", "b", "c")  # best third, middle, last


def write_study(path: str | Path, *, setup: Setup, runs: Sequence[Run], findings: Findings) -> Path:
    """Write a self-contained HTML page to `path` and return it. RunError where it can't be written."""
    first = [run for run in runs if run.seed == setup.seed]
    ranked = sorted((run for run in first if run.curve), key=lambda run: (run.curve[-1][0], run.curve[-1][1]), reverse=True)
    tone = {run.point.key: TONES[min(2, 3 * place // max(1, len(ranked)))] for place, run in enumerate(ranked)}
    charts = [_surface(setup, ranked, tone, findings), _parallel(ranked, tone), _curves(setup, runs, tone), _pareto(ranked, tone, findings)]
    if any(run.point.latency is not None for run in ranked):
        charts.append(_pareto(ranked, tone, findings, latency=True))
    by_key = {run.point.key: run.point for run in runs}
    page = render(
        "study.html",
        setup=setup,
        findings=findings,
        winner=findings.winner,
        standings=[(one, by_key[one.key]) for one in findings.standings],
        runs=sorted(runs, key=lambda run: (run.seed != setup.seed, -(run.curve[-1][0] if run.curve else 0), -_score(run))),
        score=_score,
        charts=charts,
        counts={state: sum(run.state == state for run in runs) for state in ("done", "pruned", "failed")},
        seconds=sum(run.seconds or 0 for run in runs),
    )
    write_text(path, page)
    return Path(path)


def _score(run: Run) -> float:
    return run.top1 if run.top1 is not None else run.curve[-1][1] if run.curve else 0.0


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def _surface(setup: Setup, ranked: Sequence[Run], tone: dict[str, str], findings: Findings) -> Markup:
    """α against β; the curves are where α·β²·γ² is the ratio, one for each γ, so the third coefficient can be read off."""
    ratio = float(setup.asked.get("ratio", 2.0))
    alphas = [run.point.coefficients.alpha for run in ranked] or [1.0]
    betas = [run.point.coefficients.beta for run in ranked] or [1.0]
    x = Axis(label="α (depth)", low=min(*alphas, 1.0) - 0.04, high=max(*alphas, 1.1) + 0.04)
    y = Axis(label="β (width)", low=min(*betas, 1.0) - 0.04, high=max(*betas, 1.1) + 0.04)
    lines: list[Line] = []
    for step in range(6):
        gamma = 1.0 + step / 10
        points = [(x.low + (x.high - x.low) * n / 60, 0.0) for n in range(61)]
        points = [(alpha, math.sqrt(ratio / alpha) / gamma) for alpha, _ in points]
        points = [(alpha, beta) for alpha, beta in points if y.low <= beta <= y.high]
        if len(points) > 1:
            lines.append(Line(label=f"γ = {gamma:.1f}", points=points, tone="grid"))
    for name in TONES:
        own = [run for run in ranked if tone[run.point.key] == name]
        spots = [(run.point.coefficients.alpha, run.point.coefficients.beta) for run in own]
        said = [f"γ {run.point.coefficients.gamma:g}, {_percent(_score(run))} after {run.curve[-1][0]} epochs" for run in own]
        lines.append(Line(label=name, points=spots, tone=name, joined=False, hints=said))
    c = findings.winner.coefficients
    return chart(
        "surface",
        title="Points of the grid",
        about=f"α against β; winner at α {c.alpha:g}, β {c.beta:g}, γ {c.gamma:g}",
        x=x,
        y=y,
        lines=lines,
        mark=((c.alpha, c.beta), f"winner: α {c.alpha:g}, β {c.beta:g}, γ {c.gamma:g}"),
    )


def _curves(setup: Setup, runs: Sequence[Run], tone: dict[str, str]) -> Markup:
    values = [top1 for run in runs for _, top1 in run.curve]
    low, high = around(values, least=0.0)
    lines = [Line(label="", points=run.curve, tone=tone.get(run.point.key, "c")) for run in runs if run.curve]
    return chart(
        "curves",
        title="Learning curves",
        about=f"validation top-1 after each epoch, {len(lines)} runs; a line that ends early was pruned",
        x=Axis(label="epochs", low=0.5, high=setup.epochs + 0.5, whole=True),
        y=Axis(label="top-1", low=low, high=high, form=_percent),
        lines=lines,
    )


def _pareto(ranked: Sequence[Run], tone: dict[str, str], findings: Findings, *, latency: bool = False) -> Markup:
    """Accuracy against cost, for the runs that were trained whole; the line joins those that nothing beats in both."""
    shown = [run for run in ranked if run.state == "done"] or list(ranked)
    if latency:
        shown = [run for run in shown if run.point.latency is not None]
    means = {one.key: one.mean for one in findings.standings}

    def at(run: Run) -> tuple[float, float]:
        return ((run.point.latency or 0.0) * 1e3 if latency else run.point.cost.macs), means.get(run.point.key, _score(run))

    front: list[tuple[float, float]] = []
    for spot in sorted((at(run) for run in shown), key=lambda spot: (spot[0], -spot[1])):
        if not front or spot[1] > front[-1][1]:
            front.append(spot)
    xs, ys = [at(run)[0] for run in shown], [at(run)[1] for run in shown]
    lines = [Line(label="", points=front, tone="grid")]
    for name in TONES:
        own = [run for run in shown if tone[run.point.key] == name]
        hints = ["α {:g}, β {:g}, γ {:g}".format(*_triple(run)) for run in own]
        lines.append(Line(label=name, points=[at(run) for run in own], tone=name, joined=False, hints=hints))
    what = "latency" if latency else "multiply-adds"
    low, high = around(xs)
    return chart(
        f"pareto-{'latency' if latency else 'macs'}",
        title=f"Accuracy against {what}",
        about=f"{len(shown)} networks trained whole; finalists at the mean of their seeds",
        x=Axis(label=what, low=low, high=high, form="{:.3g} ms".format if latency else amount_text),
        y=Axis(label="top-1", low=around(ys)[0], high=around(ys)[1], form=_percent),
        lines=lines,
    )


def _triple(run: Run) -> tuple[float, float, float]:
    c = run.point.coefficients
    return c.alpha, c.beta, c.gamma


def _parallel(ranked: Sequence[Run], tone: dict[str, str]) -> Markup:
    """Parallel coordinates: one line a point, across α, β, γ, MACs and top-1 where it ended."""
    names = ("α", "β", "γ", "MACs", "top-1")
    rows = [(*_triple(run), float(run.point.cost.macs), _score(run)) for run in ranked]
    forms = ("{:g}".format, "{:g}".format, "{:g}".format, amount_text, _percent)
    xs = [round(LEFT + number * (WIDTH - 2 * LEFT) / (len(names) - 1), 1) for number in range(len(names))]
    lows, highs = ([pick(column) for column in zip(*rows, strict=True)] if rows else [0.0] * 5 for pick in (min, max))
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
    for run, row in reversed(list(zip(ranked, rows, strict=True))):
        path = " ".join(f"{x},{y(number, value)}" for number, (x, value) in enumerate(zip(xs, row, strict=True)))
        said = ", ".join(f"{name} {form(value)}" for name, form, value in zip(names, forms, row, strict=True))
        line = Markup('<polyline class="line {}" points="{}"><title>{}</title></polyline>')
        parts.append(line.format(tone[run.point.key], path, said))
    return frame("parallel", "Parallel coordinates", f"{len(rows)} points, each a line across {', '.join(names)}", parts)
