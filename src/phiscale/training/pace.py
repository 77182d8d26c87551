"""A whole schedule inside a given time: how far along it the next step is, from the time that is left."""

import statistics
import time
from collections import deque
from collections.abc import Callable

RECENT = 21  # steps whose median is the time of one
LONGEST = 3.0  # times the recipe's epochs: more time than that is not used
EVALUATION = 1 / 3  # time of an image in evaluation, as a share of one in training, until it was measured
SLACK = 0.03  # of the time, for what can't be foreseen


class Pace:
    """`position` goes from 0 to 1 and is 1 when the time is up; every step moves it by its share of the steps that still fit.

    seconds   that training may take, evaluations included
    steps     an epoch
    longest   steps in all if time were endless
    spent     seconds before this process: belongs to the checkpoint, as `position` does
    """

    def __init__(self, seconds: float, *, steps: int, longest: int, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds, self.steps, self.longest, self.now = seconds * (1 - SLACK), steps, max(1, longest), now
        self.position, self.spent, self.evaluation = 0.0, 0.0, 0.0
        self._began = self._last = now()
        self._recent: deque[float] = deque(maxlen=RECENT)

    @property
    def used(self) -> float:
        """Seconds until now."""
        return self.spent + self.now() - self._began

    def begin_steps(self) -> None:
        """The time until now was not a step's."""
        self._last = self.now()

    def evaluated(self, seconds: float) -> None:
        self.evaluation = max(self.evaluation, seconds)

    def stepped(self, *, images: int, judged: int, afterwards: int = 0, last: bool = False) -> None:
        """A step of `images` is done, the epoch's `last`; every evaluation is of `judged` images, and `afterwards` are once at the end."""
        now = self.now()
        self._recent.append(now - self._last)
        self._last = now
        step = statistics.median(self._recent)
        evaluation = self.evaluation or EVALUATION * step * judged / images
        left = self.seconds - self.used - (2 + afterwards / judged) * evaluation  # the last epoch's, and of the best at the very end
        fit = max(1.0, left / (step + evaluation / self.steps))
        self.position = min(1.0, self.position + max((1 - self.position) / fit, 1 / self.longest))
        if left <= (evaluation if last else step) or self.position > 1 - 1e-9:  # no time for one more evaluation: no more steps either
            self.position = 1.0
