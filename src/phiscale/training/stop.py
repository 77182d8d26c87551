"""SIGTERM and Ctrl-C, heeded where nothing is lost by it: between two steps, after a checkpoint."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from phiscale.errors import StoppedError

AGAIN = 1.0  # seconds within which torchrun's own signal after the terminal's is the same wish


class Stop:
    """A context in which the first signal waits for the loop while `steps` is set; outside of steps, and a second time, it ends at once.

    Handlers are set in the main thread only, and put back at the end.
    """

    def __init__(self) -> None:
        self.asked = 0  # the signal's number
        self.steps = False
        self._at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def error(self, number: int) -> BaseException:
        """What ends the job for this signal."""
        return KeyboardInterrupt() if number == signal.SIGINT else StoppedError("stopped by SIGTERM")

    def _heard(self, number: int, frame: FrameType | None) -> None:
        del frame
        first, since = not self.asked, time.monotonic() - self._at
        self.asked, self._at = self.asked or number, time.monotonic()
        if self.steps and (first or ("TORCHELASTIC_RUN_ID" in os.environ and since < AGAIN)):
            return
        raise self.error(number)
