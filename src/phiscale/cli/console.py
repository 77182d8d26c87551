"""How things are printed: results on standard output, everything else on standard error."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiscale.jobs.watch import Watcher

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from phiscale.cost.table import Table

WAIT = 2.0  # seconds that a step may take before its progress is shown
STDIN = "<standard input>"  # what `-` becomes
WIDE = 200  # characters
EVERY = 5.0  # seconds between lines of progress where there is no terminal


def tolerate_odd_names() -> None:
    """Let bytes of file names that are not UTF-8 leave as they came in (standard error escapes them)."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def say(text: str) -> None:
    """One line for a person."""
    with suppress(BrokenPipeError):
        sys.stderr.write(text.encode("utf-8", "backslashreplace").decode() + "\n")
        sys.stderr.flush()


def emit(text: str) -> None:
    """A piece of the result."""
    sys.stdout.write(text + "\n")


def emit_json(value: Any) -> None:
    """Exactly one value on standard output."""
    emit(json_text(value, indent=1))


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON whose bytes of names that are not UTF-8 are escapes."""
    ascii_only = (sys.stdout.encoding or "").lower() not in ("utf-8", "utf8")
    return json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "backslashreplace").decode()


def emit_table(table: "Table", *, markdown: bool = False) -> None:
    """A table: as wide as it wants to be where there is no terminal."""
    if markdown:
        emit((f"**{table.title}**\n\n" if table.title else "") + table.markdown().rstrip("\n"))
        return
    from rich.console import Console

    Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDE).print(table.rich())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, columns of numbers to the right.

    >>> print(table(("name", "n"), [("a", "1"), ("bb", "10")]))
    name   n
    a      1
    bb    10
    """
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    right = [column > 0 and all(_is_number(line[column]) for line in lines[1:]) for column in range(len(header))]
    shown = (
        "  ".join(cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in zip(line, widths, right, strict=True))
        for line in lines
    )
    return "\n".join(line.rstrip() for line in shown)


def _is_number(cell: str) -> bool:
    return cell in ("", "–") or cell.removeprefix("-")[:1].isdigit()


class Steps(Watcher):
    """Shows progress on standard error: a bar on a terminal, else a line now and then; nothing for steps under `WAIT`.

    A context, so that the bar is taken off at the end. `folder` is that of the job's run, once there is one.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._terminal = sys.stderr.isatty()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._what, self._start, self._last, self._first, self._done = "", 0.0, 0.0, 0, 0

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def say(self, text: str) -> None:
        """One line for a person, above the bar."""
        self._end()
        say(text)

    def began(self, folder: Path) -> None:
        self.folder = folder

    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total` images of the step named `what`."""
        now = time.monotonic()
        if what != self._what or done < self._done:
            self._end()
            self._what, self._start, self._last, self._first = what, now, now, done
        self._done = done
        took = now - self._start
        if took < WAIT:
            return
        rate = (done - self._first) / took
        left = (total - done) / rate if rate > 0 else 0.0
        if self._terminal:
            self._draw(what, done, total, rate)
        elif done >= total or now - self._last >= EVERY:
            self._last = now
            say(f"{what}: {done}/{total} images, {rate:.0f} a second, " + (f"{left:.0f} s left" if done < total else f"{took:.0f} s"))

    def _draw(self, what: str, done: int, total: int, rate: float) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]:.0f} images/s"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(what, total=total, rate=rate, completed=done)
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total, rate=rate, description=what)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._what = None, None, ""
