"""Stops a training that no longer learns: numbers that are none, and losses that run away."""

import math
from collections.abc import Sequence
from pathlib import Path

from phiscale.errors import DivergedError
from phiscale.runtime.image import printable

RUNAWAY = 4.0  # times (the first loss + 1); pure guessing among 1,000 classes is 6.9
MEMORY = 0.9  # of the smoothed loss
FILES = 8  # named of a batch


class Guard:
    """`check` each step before the update. `first` and `level` (smoothed) belong to the checkpoint."""

    def __init__(self) -> None:
        self.first = math.nan
        self.level = math.nan

    def check(self, loss: float, norm: float, *, where: str, rate: float, files: Sequence[Path], kept: str) -> None:
        """DivergedError, naming step, rate and images, where this step must not be taken. kept: what is still there."""
        if math.isnan(self.first):
            self.first = self.level = loss
        self.level = MEMORY * self.level + (1 - MEMORY) * loss
        if not math.isfinite(loss):
            what = f"the loss is {loss}"
        elif not math.isfinite(norm):
            what = f"the gradients' norm is {norm} (loss {loss:.4g})"
        elif self.level > RUNAWAY * (self.first + 1):
            what = f"the loss runs away: {self.level:.4g} after {self.first:.4g} at first"
        else:
            return
        names = ", ".join(printable(str(path)) for path in files[:FILES]) + (
            f" and {len(files) - FILES} more" if len(files) > FILES else ""
        )
        raise DivergedError(
            f"{what} at {where}, learning rate {rate:.3g}, images {names}; this step was not taken; {kept}; "
            f"resuming would meet the same: start again with a lower rate (--learning-rate {rate / 3:.1g}) or --clip 1"
        )
