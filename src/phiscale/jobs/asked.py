"""What a person asked of `fit`, and the folder that it goes to."""

import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from phiscale.architecture.block_strings import is_block_strings
from phiscale.errors import ArgumentError
from phiscale.jobs.run import RUN, empty
from phiscale.runtime.image import printable
from phiscale.training.compute import Precision
from phiscale.training.processes import TIMEOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a person asked of `fit`, as run.json keeps it and --resume reads it."""

    images: str
    data_root: str | None = None
    multi_label: bool = False
    network: str | None = None
    coefficients: str | None = None
    macs: str | None = None
    params: str | None = None
    memory: str | None = None
    latency: str | None = None
    runtime: str | None = None
    weights: str | None = None
    recipe: str | None = None
    unlabelled: str | None = None
    teacher: str | None = None
    epochs: int | None = None
    minutes: float | None = None
    batch: int | None = None
    learning_rate: float | None = None
    clip: float | None = None
    patience: int | None = None
    resolution: int | None = None
    flip: bool | None = None
    precision: Precision = "auto"
    accumulate: int = 1
    compile: bool = False
    channels_last: bool = True
    sync_norms: bool = False
    tensorboard: bool = False
    seed: int = 0
    threads: int | None = None
    workers: int = 0
    timeout: float = TIMEOUT
    changes: dict[str, Any] = field(default_factory=dict[str, Any])  # of the recipe

    @property
    def command(self) -> str:
        """The command that asks the same."""
        words = ["phiscale", "fit", shlex.quote(printable(self.images))]
        given = {part.name: getattr(self, part.name) for part in fields(self) if getattr(self, part.name) != part.default}
        for part, value in (given | self.changes).items():
            if part in ("images", "changes"):
                continue
            name = part.replace("_", "-")
            words += [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", shlex.quote(str(value))]
        return " ".join(words)


def new_folder(asked: Asked, out: Path | None) -> Path:
    """`out`, or a name of our own. ArgumentError where something is in it."""
    folder = out or free_name(asked)
    if not empty(folder):
        what = "a run" if (folder / RUN).exists() else "files"
        raise ArgumentError(f"{folder} has {what} in it already; go on with it by --resume {folder}, or name another folder with -o")
    return folder


def free_name(asked: Asked) -> Path:
    """runs/IMAGES-NETWORK, with a number behind it where that is taken."""
    network = "auto" if not asked.network else "blocks" if is_block_strings(asked.network) else Path(asked.network).stem
    base = f"{Path(asked.images).resolve().stem or 'images'}-{network}"
    for number in range(1, 10_000):
        folder = Path("runs") / (base if number == 1 else f"{base}-{number}")
        if empty(folder):
            return folder
    raise ArgumentError(f"runs/{base} to runs/{base}-9999 are all taken; name a folder with -o")
