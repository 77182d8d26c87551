"""Budgets, and the largest design that keeps one: arXiv 1905.11946 equation 2, Memory(N) and FLOPS(N) within targets."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from phiscale.architecture.design import Design
from phiscale.architecture.scaling import Coefficients, scale
from phiscale.cost.count import Cost, cost
from phiscale.errors import BudgetError, SpecError

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


def fit_budget(
    design: Design,
    *,
    macs: str | float | None = None,
    params: str | float | None = None,
    memory: str | float | None = None,
    coefficients: Coefficients | None = None,
) -> Design:
    """The largest phi (negative too) whose design keeps every limit, exact for the rounding rules.

    Cost never falls as phi grows (every rounding rule is monotone), so the designs that keep a budget are all those below
    one phi, found by bisection. BudgetError where even the smallest design of the family is too large: it names the limit.
    """
    budget = Budget.parse(macs=macs, params=params, memory=memory)
    if not budget:
        raise BudgetError("a budget needs at least one limit: --macs, --params or --memory")
    phi = largest_phi(design, lambda made: all(share <= 1 for share in budget.shares(cost(made)).values()), coefficients)
    if phi is None:
        smallest = scale(design, phi=SMALLEST_PHI, coefficients=coefficients)
        shares = budget.shares(cost(smallest))
        worst = max(shares, key=lambda name: shares[name])
        limit = getattr(budget, worst)
        raise BudgetError(
            f"a budget of {amount_text(limit)} {worst} is below the smallest design of {design.origin.baseline} "
            f"({amount_text(limit * shares[worst])}, at {smallest.resolution} px); raise --{worst}"
        )
    made = scale(design, phi=phi, coefficients=coefficients)
    return replace(made, origin=replace(made.origin, budget=str(budget)))


def largest_phi(design: Design, keeps: Callable[[Design], bool], coefficients: Coefficients | None = None) -> float | None:
    """The largest phi whose design `keeps` (a test that only ever turns from true to false as phi grows); None if none does."""

    def ok(phi: float) -> bool:
        try:
            return keeps(scale(design, phi=phi, coefficients=coefficients))
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
