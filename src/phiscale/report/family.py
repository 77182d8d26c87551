"""A page of one family: what grows with phi, where the budget ends it, what was chosen."""

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path

from markupsafe import Markup

from phiscale.architecture import Coefficients, Design, scale
from phiscale.atomic import write_text
from phiscale.cost import Budget, Cost, cost
from phiscale.cost.budget import amount_text
from phiscale.errors import ArgumentError, SpecError
from phiscale.report.chart import Axis, Line, Point, around, chart
from phiscale.report.page import budget_rows, render, stage_rows

POINTS = 81  # of the family's line; rounding makes it a staircase, so more than a smooth line needs


def write_family(
    path: str | Path,
    *,
    baseline: Design,
    chosen: Design,
    budget: Budget,
    coefficients: Coefficients | None = None,
    published: Sequence[tuple[str, Design]] = (),
    measured: Sequence[tuple[float, float]] = (),
) -> Path:
    """Write a self-contained HTML page to `path` and return it.

    The family is `scale(baseline, phi, coefficients)`. published: (name, design), drawn as dots at the phi whose resolution they have.
    measured: (phi, median milliseconds of one image). RunError where the page can't be written.
    """
    how = coefficients or Coefficients()
    at = phi_of(chosen, baseline, how)
    dots = [(phi_of(design, baseline, how), name, design.cost) for name, design in _short(published)]
    timed = sorted(measured)
    phis = [0.0, at, *(phi for phi, _, _ in dots), *(phi for phi, _ in timed)]
    x = Axis(label="φ", low=min(phis) - 0.5, high=max(phis) + 0.5)
    family = [(phi, cost(made)) for phi, made in _members(baseline, x, how, through=(0.0, at))]

    def drawn(name: str, title: str, read: Callable[[Cost], float], limit: float | None, unit: str) -> Markup:
        return _chart(
            name,
            title,
            x=x,
            line=Line(label="", points=[(phi, read(of)) for phi, of in family], tone="b"),
            dots=Line(label="", points=[(phi, read(of)) for phi, _, of in dots], tone="c", joined=False, names=[n for _, n, _ in dots]),
            chosen=(at, read(chosen.cost)),
            limit=limit,
            form=lambda value: amount_text(value) + unit,
        )

    charts = [
        drawn("macs", "multiply-adds", lambda of: of.macs, budget.macs, ""),
        drawn("params", "parameters", lambda of: of.params, budget.params, ""),
        drawn("memory", "peak memory", lambda of: of.peak_bytes, budget.memory, "B"),
    ]
    latency = min((ms for phi, ms in timed if math.isclose(phi, at, abs_tol=1e-9)), default=None)
    if timed:
        charts.append(
            _chart(
                "latency",
                "median latency, measured",
                x=x,
                line=Line(label="", points=timed, tone="b"),
                dots=Line(label="", points=timed, tone="b", joined=False),
                chosen=None if latency is None else (at, latency),
                limit=None if budget.latency is None else budget.latency * 1e3,
                form="{:.3g} ms".format,
            )
        )
    rows = budget_rows(chosen, budget, {} if latency is None else {"latency_ms": {"p50": latency}})
    binding = max((row for row in rows if row.share is not None), key=lambda row: row.share or 0, default=None)
    write_text(
        path,
        render(
            "family.html",
            baseline=baseline,
            chosen=chosen,
            coefficients=how,
            asked=str(budget) if budget else None,
            phi=at,
            budget=rows,
            before={row.name: row for row in budget_rows(baseline, None, {})},
            binding=binding,
            latency=latency,
            charts=charts,
            has_published=bool(dots),
            stages=list(zip_longest(stage_rows(baseline), stage_rows(chosen))),
            totals=(baseline.cost, chosen.cost),
        ),
    )
    return Path(path)


def phi_of(design: Design, baseline: Design, coefficients: Coefficients) -> float:
    """Where a design stands on the axis: its own phi if these coefficients made it so, else the phi whose resolution it has.

    Published members were rounded by hand and have no phi of their own. ArgumentError where gamma is 1, so that resolution tells nothing.

    >>> from phiscale.architecture.catalog import design
    >>> round(phi_of(design("efficientnet_b3"), design("efficientnet_b0"), Coefficients()), 2)
    2.09
    """
    origin, own = design.origin, (coefficients.alpha, coefficients.beta, coefficients.gamma)
    if origin.phi is not None and origin.coefficients == own and origin.baseline == baseline.origin.baseline:
        return origin.phi
    if design == baseline:
        return 0.0
    if math.isclose(coefficients.gamma, 1.0):
        raise ArgumentError(f"{design.name} has no place on the φ axis: it was not made by φ, and γ = 1 gives every φ the same resolution")
    return math.log(design.resolution / baseline.resolution) / math.log(coefficients.gamma)


def _members(baseline: Design, x: Axis, coefficients: Coefficients, *, through: Sequence[float]) -> list[tuple[float, Design]]:
    made: list[tuple[float, Design]] = []
    grid = {x.low + (x.high - x.low) * number / (POINTS - 1) for number in range(POINTS)}
    for phi in sorted(grid.union(through)):
        try:
            made.append((phi, scale(baseline, phi=phi, coefficients=coefficients)))
        except SpecError:  # beyond what a design can be: the line ends there
            continue
    return made


def _short(published: Sequence[tuple[str, Design]]) -> list[tuple[str, Design]]:
    """Names without what all of them begin with, where that ends in an underscore."""
    heads = {name.rpartition("_")[0] for name, _ in published}
    cut = len(heads.pop()) + 1 if len(heads) == 1 and "" not in heads else 0
    return [(name[cut:] or name, design) for name, design in published]


def _chart(
    name: str,
    title: str,
    *,
    x: Axis,
    line: Line,
    dots: Line,
    chosen: Point | None,
    limit: float | None,
    form: Callable[[float], str],
) -> Markup:
    values = [value for _, value in (*line.points, *dots.points, *([chosen] if chosen else []))]
    low, high = around([*values, *([limit] if limit else [])], log=True)
    said = f"from {form(line.points[0][1])} at φ = {line.points[0][0]:.2g} to {form(line.points[-1][1])} at φ = {line.points[-1][0]:.2g}"
    said += f"; the budget is {form(limit)}" if limit else ""
    said += f"; chosen: {form(chosen[1])} at φ = {chosen[0]:.3g}" if chosen else ""
    return chart(
        f"family-{name}",
        title=f"{title} against φ",
        about=said,
        x=x,
        y=Axis(label=title, low=low, high=high, log=True, form=form),
        lines=[Line(label=line.label, points=line.points, tone=line.tone), dots],
        limit=(limit, f"{form(limit)} asked") if limit else None,
        mark=(chosen, f"chosen: φ = {chosen[0]:.3g}, {form(chosen[1])}") if chosen else None,
    )
