"""The learning-rate range test: the loss while the rate grows from far too small to far too large.   Source: arXiv 1506.01186."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from torch import Tensor

from phiscale.architecture import Preprocess
from phiscale.data.find import ImageSet
from phiscale.data.load import ImageCache
from phiscale.errors import DivergedError
from phiscale.nn import Network
from phiscale.training.compute import Compute
from phiscale.training.loop import Progress, _mute, _silent, _Training
from phiscale.training.objective import Teacher
from phiscale.training.optim import without_compiler
from phiscale.training.processes import Processes
from phiscale.training.recipe import Recipe
from phiscale.training.stop import Stop

STEPS = 100
LOWEST, HIGHEST = 1e-3, 100.0  # times the recipe's own rate
MEMORY = 0.9  # of the smoothed loss
TOO_HIGH = 4.0  # times the lowest smoothed loss: there it ends
BEFORE = 10.0  # the rate at which the loss is lowest, divided by this, still learns safely


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """A row a step: the classifier's rate, the step's loss, and the loss smoothed over the steps before."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def smoothed(self) -> tuple[float, ...]:
        return smooth(self.losses)

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest."""
        return self.rates[min(range(len(self.rates)), key=self.smoothed.__getitem__)]

    @property
    def suggested(self) -> float:
        """A tenth of it, to two digits."""
        return float(f"{self.lowest / BEFORE:.1e}")


def smooth(losses: Sequence[float]) -> tuple[float, ...]:
    """An average that forgets, without a bias at the beginning.

    >>> smooth([2.0, 2.0, 2.0])
    (2.0, 2.0, 2.0)
    """
    level, out = 0.0, []
    for number, loss in enumerate(losses, 1):
        level = MEMORY * level + (1 - MEMORY) * loss
        out.append(round(level / (1 - MEMORY**number), 12))
    return tuple(out)


class _Rising(_Training):
    """A training that keeps nothing, and whose rate rises by the same factor every step."""

    steps_in_all = STEPS

    def share_of_rate(self, number: int) -> float:
        return LOWEST * (HIGHEST / LOWEST) ** (number / (self.steps_in_all - 1))

    def save(self) -> None:
        return


@without_compiler()
def range_test(
    model: Network,
    images: ImageSet,
    *,
    recipe: Recipe,
    preprocess: Preprocess,
    compute: Compute | None = None,
    seed: int = 0,
    cache: ImageCache | None = None,
    workers: int = 0,
    steps: int = STEPS,
    teacher: Teacher | None = None,
    progress: Progress | None = None,
) -> Rates:
    """Train `model` as the recipe says, but with rising rates, until the loss runs away or after `steps`; the model is spoilt by it."""
    with tempfile.TemporaryDirectory(prefix="phiscale-") as folder:
        test = _Rising(
            model, images, recipe=recipe, compute=compute or Compute(), preprocess=preprocess, folder=Path(folder), seed=seed, cache=cache,
            workers=workers, targets=None, teacher=teacher, processes=Processes(), stop=Stop(), tensorboard=False,
            tell=progress or _silent, say=_mute, judged=None,
        )  # fmt: skip
        test.steps_in_all = steps
        return _run(test, steps)


def _run(test: _Rising, steps: int) -> Rates:
    test.warm_up()
    test.prepare()
    test.network.train()
    rates: list[float] = []
    losses: list[float] = []
    for number, batch in enumerate(_endless(test)):
        before = test.sums[0], test.sums[2]
        test.epoch, test.step = divmod(number, test.steps)
        try:
            test.one_step(*batch)
        except DivergedError:
            break
        losses.append((test.sums[0] - before[0]) / (test.sums[2] - before[1]))
        rates.append(test.optimizer.param_groups[-1]["lr"])
        test.tell("raising the rate", number + 1, steps)
        smoothed = smooth(losses)
        if number + 1 == steps or smoothed[-1] > TOO_HIGH * min(smoothed) + math.log(2):
            break
    return Rates(rates=tuple(rates), losses=tuple(losses))


def _endless(test: _Rising) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for epoch in count():
        test.batches.epoch, test.batches.first = epoch, 0
        yield from test.loader
