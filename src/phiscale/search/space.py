"""The grid of (α, β, γ): arXiv 1905.11946 section 3.3, step 1 fixes φ = 1 and searches these three."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from phiscale.errors import ArgumentError

MOST_POINTS = 200_000  # a step with a zero too many is a typo


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included, `step` apart.

    >>> Range(low=1.0, high=1.2, step=0.05).values()
    (1.0, 1.05, 1.1, 1.15, 1.2)
    """

    low: float
    high: float
    step: float = 0.05

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (self.low, self.high, self.step)):
            raise ArgumentError(f"a range of the grid must be of finite numbers, got {self.low}:{self.high}:{self.step}")
        if not (0.1 <= self.low <= self.high <= 10 and self.step > 0):
            raise ArgumentError(
                f"a range of the grid must rise from at least 0.1 to at most 10 by a positive step, "
                f"got {self.low:g}:{self.high:g}:{self.step:g}"
            )
        if (self.high - self.low) / self.step > MOST_POINTS:
            raise ArgumentError(f"a range of {self.low:g}:{self.high:g} in steps of {self.step:g} has too many points; raise the step")

    def values(self) -> tuple[float, ...]:
        """Every number of the range; the last is `high` where the step meets it."""
        return tuple(round(self.low + number * self.step, 9) for number in range(math.floor((self.high - self.low) / self.step + 1e-6) + 1))

    @classmethod
    def parse(cls, text: str, name: str) -> "Range":
        """From "1.0:1.6", "1.0:1.6:0.05" or one number that is kept fixed; ArgumentError says what can't be read.

        >>> Range.parse("1.2", "alpha").values(), Range.parse("1:1.1:0.1", "beta").values()
        ((1.2,), (1.0, 1.1))
        """
        try:
            numbers = [float(part) for part in text.split(":")]
        except ValueError:
            numbers = []
        if not 1 <= len(numbers) <= 3:
            raise ArgumentError(f"{name}: can't read {text!r} as a range; write 1.0:1.6, 1.0:1.6:0.05 or one number")
        try:
            return cls(low=numbers[0], high=numbers[min(1, len(numbers) - 1)], step=numbers[2] if len(numbers) == 3 else 0.05)
        except ArgumentError as error:
            raise ArgumentError(f"{name}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """All combinations of α (depth), β (width) and γ (resolution)."""

    alpha: Range = Range(low=1.0, high=1.6)
    beta: Range = Range(low=1.0, high=1.4)
    gamma: Range = Range(low=1.0, high=1.4)

    def __post_init__(self) -> None:
        if len(self) > MOST_POINTS:
            raise ArgumentError(f"the grid has {len(self):,} points, more than {MOST_POINTS:,}; raise the steps")

    def __len__(self) -> int:
        return len(self.alpha.values()) * len(self.beta.values()) * len(self.gamma.values())

    def __iter__(self) -> Iterator[tuple[float, float, float]]:
        gammas = self.gamma.values()
        for alpha in self.alpha.values():
            for beta in self.beta.values():
                for gamma in gammas:
                    yield alpha, beta, gamma
