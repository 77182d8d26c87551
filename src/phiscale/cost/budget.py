"""Budgets, and the largest design that keeps one: arXiv 1905.11946 equation 2, Memory(N) and FLOPS(N) within targets."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from phiscale.architecture.design import Design
from phiscale.architecture.scaling import Coefficients, own_coefficients, scale
from phiscale.cost.count import Cost, cost
from phiscale.errors import ArgumentError, BudgetError, SpecError

SMALLEST_PHI, LARGEST_PHI = -24.0, 24.0
PRECISION = 2.0**-20  # of phi; far below the distance of two rounding steps that matter

_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SECONDS = {"": 1e-3, "US": 1e-6, "MS": 1e-3, "S": 1.0}


def parse_amount(text: str | float, units: dict[str, float] | dict[str, int], what: str) -> float:
    """A positive number with an optional unit.

    >>> parse_amount("1.5G", _COUNTS, "macs"), parse_amount("64MB", _BYTES, "memory")
    (1500000000.0, 64000000.0)
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
    try:
        amount = float(match[1]) * units[match[2].upper()] if match else math.nan
    except (KeyError, ValueError):
        amount = math.nan
    if not (math.isfinite(amount) and amount > 0):
        examples = {"macs": "300M or 1.2G", "params": "5M", "memory": "64MB", "latency": "15ms"}[what]
        raise BudgetError(f"{what}: can't read {text!r} as a positive amount; write for example {examples}")
    return amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits, each optional: multiply-adds, parameters, bytes of peak inference memory at batch 1, seconds of latency."""

    macs: float | None = None
    params: float | None = None
    memory: float | None = None
    latency: float | None = None

    @classmethod
    def parse(
        cls,
        *,
        macs: str | float | None = None,
        params: str | float | None = None,
        memory: str | float | None = None,
        latency: str | float | None = None,
    ) -> "Budget":
        """From "1G", "8M", "64MB", "15ms" or plain numbers (latency: milliseconds). BudgetError says what can't be read."""
        return cls(
            macs=None if macs is None else parse_amount(macs, _COUNTS, "macs"),
            params=None if params is None else parse_amount(params, _COUNTS, "params"),
            memory=None if memory is None else parse_amount(memory, _BYTES, "memory"),
            latency=None if latency is None else parse_amount(latency, _SECONDS, "latency"),
        )

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))

    def __str__(self) -> str:
        limits = ((self.macs, " MACs"), (self.params, " params"), (self.memory, "B memory"))
        said = [amount_text(limit) + unit for limit, unit in limits if limit is not None]
        return ", ".join([*said, f"{self.latency * 1e3:g} ms"] if self.latency is not None else said)

    def shares(self, of: Cost) -> dict[str, float]:
        """How much of each analytic limit `of` uses; 1 is all of it."""
        pairs = {"macs": (of.macs, self.macs), "params": (of.params, self.params), "memory": (of.peak_bytes, self.memory)}
        return {name: used / limit for name, (used, limit) in pairs.items() if limit is not None}


def amount_text(number: float) -> str:
    """A count for people.

    >>> amount_text(385_814_752), amount_text(5_288_548), amount_text(950)
    ('386M', '5.29M', '950')
    """
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size * 0.9995:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetFit:
    """The largest design inside a budget, and what keeps it from being larger.

    shares  of each limit, how much is used; 1 is all of it (of a latency that was not measured here, nothing is said)
    binds   the limits that the next larger design breaks
    """

    design: Design
    phi: float
    budget: Budget
    shares: Mapping[str, float]
    binds: tuple[str, ...]

    @property
    def left(self) -> dict[str, float]:
        """How much of each limit is unused, in its own unit (bytes for memory, seconds for latency)."""
        return {name: getattr(self.budget, name) * (1 - share) for name, share in self.shares.items()}

    def __str__(self) -> str:
        limits = asdict(self.budget)
        amounts = {name: f"{limits[name] * 1e3:g} ms" if name == "latency" else amount_text(limits[name]) for name in self.shares}
        said = [f"{name}: {share:.1%} of {amounts[name]} used" for name, share in self.shares.items()]
        return f"φ = {self.phi:.4g}; " + "; ".join(said) + f"; {' and '.join(self.binds)} allow no larger one"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and run.json."""
        return {"phi": self.phi, "shares": dict(self.shares), "left": self.left, "binds": list(self.binds)}


def fit_budget(
    design: Design,
    *,
    macs: str | float | None = None,
    params: str | float | None = None,
    memory: str | float | None = None,
    coefficients: Coefficients | None = None,
    depth: float | None = None,
    width: float | None = None,
    resolution: float | None = None,
) -> Design:
    """The largest phi (negative too) whose design keeps every limit, exact for the rounding rules. See `search_budget`."""
    budget = Budget.parse(macs=macs, params=params, memory=memory)
    return search_budget(design, budget, coefficients=coefficients, depth=depth, width=width, resolution=resolution).design


def search_budget(
    design: Design,
    budget: Budget,
    *,
    coefficients: Coefficients | None = None,
    depth: float | None = None,
    width: float | None = None,
    resolution: float | None = None,
) -> BudgetFit:
    """The design of `fit_budget`, with its phi, what binds, and how much of each limit is left.

    coefficients              None: those the design was made with, else the paper's; a policy's: `policy(name)`
    depth, width, resolution  a factor fixed by hand; phi decides the others

    Cost never falls as phi grows (every rounding rule is monotone), so the designs that keep a budget are all those below
    one phi, found by bisection. BudgetError where even the smallest design of the family is too large (it names the limit), or
    where no limit counts what phi would make larger.
    """
    limits = replace(budget, latency=None)
    if not limits:
        raise BudgetError("a budget needs at least one limit: --macs, --params or --memory")
    if None not in (depth, width, resolution):
        raise BudgetError("depth, width and resolution are all fixed, so there is nothing left for a budget to decide; free one of them")

    how = coefficients or own_coefficients(design)
    if min(how.alpha, how.beta, how.gamma) < 1:
        raise BudgetError(f"coefficients below 1 ({how.alpha:g}, {how.beta:g}, {how.gamma:g}) shrink what phi should grow; use 1 or more")

    def make(phi: float) -> Design:
        return scale(design, phi=phi, coefficients=coefficients, depth=depth, width=width, resolution=resolution)

    def keeps(made: Design) -> bool:
        return all(share <= 1 for share in limits.shares(cost(made)).values())

    fixed = {name: factor for name, factor in (("depth", depth), ("width", width), ("resolution", resolution)) if factor is not None}
    phi = _largest(make, keeps)
    if phi is None:
        smallest = make(SMALLEST_PHI)
        shares = limits.shares(cost(smallest))
        worst = max(shares, key=lambda name: shares[name])
        limit, least = getattr(limits, worst), getattr(limits, worst) * shares[worst]
        with_fixed = "".join(f", {name} fixed at {factor:g}" for name, factor in fixed.items())
        raise BudgetError(
            f"a budget of {amount_text(limit)} {worst} is below the smallest design of {design.origin.baseline} "
            f"({amount_text(least)}, at {smallest.resolution} px{with_fixed}); raise --{worst}"
            + (f", or free the {' or '.join(fixed)}" if fixed else "")
        )
    made = make(phi)
    try:
        beyond = limits.shares(cost(make(phi + 2 * PRECISION)))
    except ArgumentError:
        beyond = {}
    binds = tuple(name for name, share in beyond.items() if share > 1)
    if not binds:
        raise BudgetError(
            f"{limits} puts no end to this family: it still holds for {made.name} at {made.resolution} px, the largest that can be "
            "described; lower it, or add a limit that grows with what is scaled (params don't grow with the resolution)"
        )
    made = replace(made, origin=replace(made.origin, budget=str(budget)))
    return BudgetFit(design=made, phi=phi, budget=budget, shares=limits.shares(cost(made)), binds=binds)


def largest_phi(design: Design, keeps: Callable[[Design], bool], coefficients: Coefficients | None = None) -> float | None:
    """The largest phi whose design `keeps` (a test that only ever turns from true to false as phi grows); None if none does."""
    return _largest(lambda phi: scale(design, phi=phi, coefficients=coefficients), keeps)


def _largest(make: Callable[[float], Design], keeps: Callable[[Design], bool]) -> float | None:
    def ok(phi: float) -> bool:
        try:
            return keeps(make(phi))
        except SpecError:  # too large to be a design at all
            return False

    if not ok(SMALLEST_PHI):
        return None
    # widen from phi = 0, so that no design far larger than the answer is ever costed
    low, high, step = SMALLEST_PHI, SMALLEST_PHI, 1.0
    if ok(0.0):
        low, high = 0.0, step
        while high < LARGEST_PHI and ok(high):
            low, high = high, high + step
            step *= 2
    else:
        high = 0.0
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if ok(middle) else (low, middle)
    return low
