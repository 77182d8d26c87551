"""How scaled widths and depths become whole numbers: the rules of each publication, and a value that says which."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from phiscale.architecture.check import check_bool, check_int, check_one_of, check_real

DepthRule = Literal["ceil", "nearest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How scaled widths and depths become whole numbers; a fact of a family of networks.

    divisor, guard   widths to multiples of `divisor`, never below `guard` times the exact width (0 = no guard)
    depth            "ceil" (EfficientNet V1, V2) or "nearest" (pycls)
    ends             whether stem, head, and the depth of the first and last stage scale too (EfficientNet-Lite: no)
    """

    divisor: int = 8
    guard: float = 0.9
    depth: DepthRule = "ceil"
    ends: bool = True

    def __post_init__(self) -> None:
        check_int("rounding", "divisor", self.divisor, 1, 1024)
        check_real("rounding", "guard", self.guard, 0, 1)
        check_one_of("rounding", "depth", self.depth, get_args(DepthRule))
        check_bool("rounding", "ends", self.ends)


def round_width(channels: float, divisor: int = 8, guard: float = 0.9) -> int:
    """Nearest multiple of `divisor` channels, at least `divisor`, never more than 10 % below (`guard` = 0.9).

    >>> round_width(32 * 1.1), round_width(16 * 1.12)
    (32, 24)

    Source: the reference TPU implementation's `round_filters`; the guard only matters below 36 channels. V2 has none.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    if rounded < guard * channels:
        rounded += divisor
    return rounded


def round_depth(depth: float, how: DepthRule = "ceil") -> int:
    """Whole number of blocks, at least 1; upwards like the reference TPU implementation's `round_repeats`.

    >>> round_depth(4 * 1.1), round_depth(4 * 1.1, "nearest")
    (5, 4)
    """
    # 5 * 1.2 is 6.000000000000001 in no book but this machine's: a hair above a whole number is that number
    return max(1, math.ceil(depth - 1e-9) if how == "ceil" else math.floor(depth + 0.5))
