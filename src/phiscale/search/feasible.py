"""Which points of the grid cost what was asked, counted on the networks that rounding really makes of them."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from phiscale.architecture import Coefficients, Design, NetworkSpec, scale, scale_spec
from phiscale.architecture.design import MAX_RESOLUTION
from phiscale.cost import Budget, Cost, cost, layers
from phiscale.cost.budget import amount_text
from phiscale.errors import ArgumentError, BudgetError, SpecError
from phiscale.search.space import Grid

Latency = Callable[[Sequence[Design]], Sequence[float]]  # seconds of one image, one for each design
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One network of the grid, with every (α, β, γ) that rounds to it; `coefficients` is the one whose α·β²·γ² is nearest to the ratio.

    key      names the network (spec and resolution) in the study, so that it is trained once
    ratio    its multiply-adds over the baseline's
    latency  seconds of one image, where a latency limit had it measured
    """

    key: str
    coefficients: Coefficients
    aliases: tuple[Triple, ...]
    design: Design
    cost: Cost
    ratio: float
    latency: float | None = None


def feasible(
    baseline: Design,
    *,
    grid: Grid | None = None,
    ratio: float = 2.0,
    tolerance: float = 0.05,
    budget: Budget | None = None,
    latency: Latency | None = None,
) -> tuple[Candidate, ...]:
    """Distinct networks of the grid whose real cost is within `tolerance` of `ratio` times the baseline's, and inside `budget`.

    budget   limits of the scaled networks; its latency needs `latency`, which measures only what keeps every other limit
    BudgetError where no point is left: it says how near the nearest comes and which limit keeps it out.
    """
    if not 0.1 <= ratio <= 100:
        raise ArgumentError(f"ratio must be between 0.1 and 100, got {ratio:g}; the paper's is 2")
    if not 0 < tolerance < 1:
        raise ArgumentError(f"tolerance must be between 0 and 1 (a share of the ratio), got {tolerance:g}")
    grid, budget = grid or Grid(), budget or Budget()
    if budget.latency is not None and latency is None:
        raise ArgumentError("a latency limit needs a way to measure")
    points = _distinct(baseline, grid)
    near = [_candidate(baseline, point, ratio) for point in points if abs(point.ratio / ratio - 1) <= tolerance]
    if not near:
        raise BudgetError(_nearest_by_ratio(points, grid, ratio, tolerance))
    kept = [candidate for candidate in near if all(share <= 1 for share in budget.shares(candidate.cost).values())]
    if not kept:
        raise BudgetError(_nearest_by_limit(near, budget))
    if budget.latency is not None and latency is not None:
        measured = latency([candidate.design for candidate in kept])
        timed = [replace(candidate, latency=seconds) for candidate, seconds in zip(kept, measured, strict=True)]
        kept = [candidate for candidate in timed if candidate.latency is not None and candidate.latency <= budget.latency]
        if not kept:
            best = min(timed, key=lambda candidate: candidate.latency or 0)
            raise BudgetError(
                f"none of the {len(timed)} points at the ratio keeps {budget.latency * 1e3:g} ms on this machine; the nearest, "
                f"{_said(best.coefficients)}, takes {(best.latency or 0) * 1e3:.3g} ms; raise --latency or lower --ratio"
            )
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class _Point:
    """A distinct network of the grid; its multiply-adds alone, because they are all that most points are asked for."""

    spec: NetworkSpec
    resolution: int
    triples: list[Coefficients]
    ratio: float  # of multiply-adds to the baseline's

    def best(self, ratio: float) -> Coefficients:
        return min(self.triples, key=lambda c: (abs(c.ratio / ratio - 1), c.alpha, c.beta, c.gamma))


def _distinct(baseline: Design, grid: Grid) -> list[_Point]:
    """In the order of the grid."""
    base = _macs(baseline.spec, baseline.resolution)
    specs: dict[tuple[float, float], NetworkSpec | None] = {}
    found: dict[tuple[NetworkSpec, int], list[Coefficients]] = {}
    for alpha, beta, gamma in grid:
        if (alpha, beta) not in specs:
            specs[alpha, beta] = _scaled(baseline, alpha, beta)
        spec, resolution = specs[alpha, beta], max(1, math.floor(baseline.resolution * gamma + 0.5))
        if spec is not None and resolution <= MAX_RESOLUTION:
            found.setdefault((spec, resolution), []).append(Coefficients(alpha=alpha, beta=beta, gamma=gamma))
    return [_Point(spec, resolution, triples, _macs(spec, resolution) / base) for (spec, resolution), triples in found.items()]


def _scaled(baseline: Design, alpha: float, beta: float) -> NetworkSpec | None:
    try:
        return scale_spec(baseline.spec, depth=alpha, width=beta, rounding=baseline.rounding)
    except SpecError:  # too large to be a network at all
        return None


def _macs(spec: NetworkSpec, resolution: int) -> int:
    return sum(layer.macs for layer in layers(spec, resolution))


def _candidate(baseline: Design, point: _Point, ratio: float) -> Candidate:
    chosen = point.best(ratio)
    made = scale(baseline, phi=1, coefficients=chosen)
    return Candidate(
        key=_key(made),
        coefficients=chosen,
        aliases=tuple((c.alpha, c.beta, c.gamma) for c in point.triples),
        design=made,
        cost=cost(made),
        ratio=point.ratio,
    )


def _key(design: Design) -> str:
    text = json.dumps([design.spec.to_dict(), design.resolution], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _said(c: Coefficients) -> str:
    return f"α {c.alpha:g}, β {c.beta:g}, γ {c.gamma:g}"


def _nearest_by_ratio(points: Sequence[_Point], grid: Grid, ratio: float, tolerance: float) -> str:
    if not points:
        return f"none of the {len(grid)} points of the grid is a network that can be built; lower its upper ends"
    nearest = min(points, key=lambda point: abs(point.ratio / ratio - 1))
    away = nearest.ratio / ratio - 1
    return (
        f"none of the {len(grid)} points of the grid costs within {tolerance:.3g} of {ratio:g} times the baseline, after rounding; "
        f"the nearest, {_said(nearest.best(ratio))}, costs {nearest.ratio:.4g} times ({away:+.1%}); "
        f"raise --tolerance to {abs(away) * 1.01 + 0.001:.3f}, widen the grid or make its steps finer"
    )


def _nearest_by_limit(near: Sequence[Candidate], budget: Budget) -> str:
    def worst(candidate: Candidate) -> tuple[float, str]:
        return max((share, name) for name, share in budget.shares(candidate.cost).items())

    best = min(near, key=lambda candidate: worst(candidate)[0])
    share, name = worst(best)
    limit = float(getattr(budget, name))
    return (
        f"none of the {len(near)} points at the ratio keeps {budget}; the nearest, {_said(best.coefficients)}, "
        f"needs {amount_text(limit * share)} of {name} where {amount_text(limit)} are allowed; raise --{name} or lower --ratio"
    )
