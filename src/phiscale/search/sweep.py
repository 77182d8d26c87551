"""One dimension at a time, at a cost that was named: the networks of the paper's figures 3, 4 and 8 and of its table 7."""

from typing import Literal, get_args

from phiscale.architecture import Coefficients, Design, scale
from phiscale.cost import layers
from phiscale.errors import ArgumentError, SpecError

Way = Literal["depth", "width", "resolution", "compound"]
WAYS: tuple[Way, ...] = get_args(Way)
PRECISION = 2.0**-16  # of the factor (compound: of phi); far below the distance of two rounding steps


def scaled_to(baseline: Design, *, ratio: float, way: Way, coefficients: Coefficients | None = None) -> Design:
    """`baseline` grown along one way until its multiply-adds are as near to `ratio` times its own as rounding allows.

    >>> from phiscale.architecture.catalog import design
    >>> b0 = design("efficientnet_b0")
    >>> [round(scaled_to(b0, ratio=2, way=way).cost.macs / b0.cost.macs, 2) for way in WAYS]
    [2.03, 2.0, 2.0, 2.0]

    Cost grows in steps: the last network below the target and the first above it are compared. ArgumentError for ratios below 1.
    """
    if not 1 <= ratio <= 1000:
        raise ArgumentError(f"ratio must be between 1 and 1000, got {ratio:g}")
    target = ratio * macs(baseline)

    def made(amount: float) -> Design:
        match way:
            case "depth":
                return scale(baseline, depth=1 + amount)
            case "width":
                return scale(baseline, width=1 + amount)
            case "resolution":
                return scale(baseline, resolution=1 + amount)
            case "compound":
                return scale(baseline, phi=amount, coefficients=coefficients)

    def fits(amount: float) -> bool:
        try:
            return macs(made(amount)) <= target
        except SpecError:  # too large to be a network
            return False

    low, high = 0.0, 1.0
    while fits(high):
        low, high = high, 2 * high
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    try:
        return min((made(low), made(high)), key=lambda design: abs(macs(design) - target))
    except SpecError:
        return made(low)


def macs(design: Design) -> int:
    """Multiply-adds of one image; quicker than the whole cost."""
    return sum(layer.macs for layer in layers(design.spec, design.resolution))
