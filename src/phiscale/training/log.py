"""What a training tells of itself: metrics.csv (the same bytes for the same seed), timings.csv (what the clock said), TensorBoard."""

import csv
import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from phiscale.atomic import write_text
from phiscale.errors import MissingExtraError

try:
    import resource
except ImportError:  # Windows
    resource = None

METRICS = ("epoch", "stage", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "grad_norm")
TIMINGS = ("epoch", "images_per_second", "seconds", "peak_bytes")


class Log:
    """Rows of the epochs so far, for the checkpoint; written to `folder` after each, where there is one."""

    def __init__(self, folder: Path | None, *, tensorboard: bool = False) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.timings: list[dict[str, Any]] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._new_writer = _tensorboard() if tensorboard and folder is not None else None
        self._made: Any = None
        self._void = 0  # what an earlier writer logged of this step and later ones doesn't count

    def go_on(self, rows: list[dict[str, Any]], timings: list[dict[str, Any]], steps: int) -> None:
        """Continue after `steps` steps: what was logged of later ones is void."""
        self.rows, self.timings = rows, timings
        self._write()
        self._void = steps + 1

    def epoch(self, row: dict[str, Any], *, speed: float | None, seconds: float | None) -> None:
        """One more epoch. speed: images a second, None for an epoch that had no steps."""
        self.rows.append({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
        if speed is not None and seconds is not None:
            timing = {"epoch": row["epoch"], "images_per_second": round(speed, 2), "seconds": round(seconds, 3), "peak_bytes": peak_bytes()}
            self.timings.append(timing)
        self._write()
        if (writer := self._writer) is not None:
            for name in METRICS[3:]:
                writer.add_scalar(f"epoch/{name}", row[name], row["epoch"])
            if speed is not None:
                writer.add_scalar("epoch/images_per_second", speed, row["epoch"])
            writer.flush()

    def step(self, number: int, **values: float) -> None:
        """One more step, the `number`-th."""
        if (writer := self._writer) is not None:
            for name, value in values.items():
                writer.add_scalar(f"step/{name}", value, number)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    def _write(self) -> None:
        if self.folder is not None:
            write_text(self.folder / "metrics.csv", _csv(METRICS, self.rows))
            write_text(self.folder / "timings.csv", _csv(TIMINGS, self.timings))

    @property
    def _writer(self) -> Any:
        """TensorBoard's, made when something is to be written: by then it is known from which step on."""
        if self._made is None and self._new_writer is not None and self.folder is not None:
            self._made = self._new_writer(str(self.folder / "tensorboard"), purge_step=self._void)
        return self._made


def _tensorboard() -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise MissingExtraError("--tensorboard needs the package tensorboard: pip install 'phiscale[tensorboard]'") from None
    return SummaryWriter


def peak_bytes() -> int:
    """Most memory that this process held so far: on the GPU where there is one, else in all; 0 if the system doesn't say."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError, StopIteration):  # Linux: getrusage counts what the process that started this one held, too
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    if resource is None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _csv(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
