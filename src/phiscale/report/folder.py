"""The files of a run folder as values. Only run.json and design.toml must be there; of the rest, what is missing is said."""

import csv
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from phiscale.architecture import Design
from phiscale.cost import Budget
from phiscale.errors import BudgetError, RunError
from phiscale.runtime.labels import load_labels

# names of files need not be UTF-8: their odd bytes travel as lone surrogates, and open the right file again
ODD_BYTES = "surrogateescape"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One row of metrics.csv and timings.csv; accuracies are fractions, NaN where the row has none."""

    epoch: float
    stage: str
    lr: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One row of predictions.csv: what the network said of one image. Probabilities from 0 to 1."""

    split: str
    path: str
    label: str
    predicted: str
    confidence: float
    p_label: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """Everything that a run folder says about itself."""

    folder: Path
    run: Mapping[str, Any]
    design: Design
    recipe: Mapping[str, Any]
    epochs: tuple[Epoch, ...]
    predictions: tuple[Prediction, ...]
    skipped: tuple[Mapping[str, str], ...]
    labels: tuple[str, ...]
    speeds: tuple[Mapping[str, Any], ...]  # rows of the bundle's bench.json
    parity: tuple[Mapping[str, Any], ...]  # rows of the bundle's parity.json
    missing: tuple[str, ...]  # one sentence a file that isn't there or can't be read

    def said(self, *keys: str) -> Any:
        """The value under nested keys of run.json, None where there is none."""
        value: Any = self.run
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    @property
    def speed(self) -> Mapping[str, Any]:
        """One image at a time, on the runtime that was asked for or the one that `predict` takes, the first; empty if not measured."""
        alone = [row for row in self.speeds if row.get("batch") == 1]
        asked = [row for row in alone if row.get("runtime") == self.said("asked", "runtime")]
        return next(iter(asked or alone), {})

    @property
    def split(self) -> str:
        """The split that the page looks into: test where it was kept apart, else the one that the result is of."""
        have = {row.split for row in self.predictions}
        wanted = ("test", str(self.said("result", "split") or "val"), "val")
        return next((split for split in wanted if split in have), wanted[1] if not have else min(have))

    def image(self, prediction: Prediction) -> Path:
        """Where the picture of a prediction should be: the path as written, or inside the data's folder."""
        path = Path(prediction.path)
        source = self.said("data", "source")
        return path if path.is_absolute() or not isinstance(source, str) or path.exists() else Path(source) / path


def read_run(run_dir: str | Path) -> RunFiles:
    """Read a run folder. RunError where run.json or design.toml is missing or broken."""
    folder = Path(run_dir)
    if not folder.is_dir():
        raise RunError(f"{folder} is no run folder: there is no such directory; a run is written by `phiscale fit`")
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8", errors=ODD_BYTES), object_hook=_known)
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} is no run folder: can't read its run.json ({error}); a run is written by `phiscale fit`") from None
    if not isinstance(run, Mapping):
        raise RunError(f"{folder / 'run.json'}: expected an object, got {type(run).__name__}")
    if not (folder / "design.toml").is_file():
        raise RunError(f"{folder} has no design.toml: the run was interrupted before it had a network")
    design = Design.read(folder / "design.toml")

    missing: list[str] = []

    def optional(name: str, read: Callable[[Path], T], otherwise: T, loss: str) -> T:
        path = folder / name
        try:
            return read(path)
        except FileNotFoundError:
            missing.append(f"{name} is not in the run folder: {loss}.")
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            missing.append(f"{name} can't be read ({type(error).__name__}: {error}): {loss}.")
        return otherwise

    return RunFiles(
        folder=folder,
        run=run,
        design=design,
        recipe=optional("recipe.toml", _toml, {}, "the recipe is not shown"),
        epochs=optional("metrics.csv", _epochs, (), "there are no curves"),
        predictions=optional("predictions.csv", _predictions, (), "there are no mistakes, per-class figures or calibration to show"),
        skipped=optional("skipped.csv", _rows, (), "which files were left out is not known"),
        labels=optional("labels.txt", _labels, (), "classes without images are not listed"),
        speeds=optional("bundle/bench.json", _measured, (), "the speed of the bundle was not measured"),
        parity=optional("bundle/parity.json", _measured, (), "the bundle was not compared with the trained network"),
        missing=tuple(missing),
    )


def read_budget(text: str) -> Budget | None:
    """`str(budget)` read back ("80M MACs, 64MB memory, 15 ms"); None for anything else."""
    limits: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"(?P<macs>\S+) MACs|(?P<params>\S+) params|(?P<memory>\S+) memory|(?P<latency>\S+ ms)", part)
        if not match:
            return None
        limits |= {name: amount for name, amount in match.groupdict().items() if amount}
    try:
        return Budget.parse(**limits) if limits else None
    except BudgetError:
        return None


def _known(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}  # null is as good as not there


def _toml(path: Path) -> Mapping[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _measured(path: Path) -> tuple[Mapping[str, Any], ...]:
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    if not all(isinstance(row, Mapping) for row in rows):
        raise TypeError("a row is no object")
    return tuple(rows)


def _labels(path: Path) -> tuple[str, ...]:
    return load_labels(path.read_text(encoding="utf-8"))


def _rows(path: Path) -> tuple[dict[str, str], ...]:
    with path.open(encoding="utf-8", errors=ODD_BYTES, newline="") as file:
        return tuple({key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file))


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _epochs(path: Path) -> tuple[Epoch, ...]:
    """metrics.csv, with the speeds of timings.csv beside it (apart, because they differ from one run of the same thing to the next)."""
    names = [name for name in Epoch.__slots__ if name != "stage"]
    timings = path.with_name("timings.csv")
    speeds = {row.get("epoch"): row for row in _rows(timings)} if timings.exists() else {}
    rows = [speeds.get(row.get("epoch"), {}) | row for row in _rows(path)]
    return tuple(Epoch(stage=row.get("stage", ""), **{name: _number(row.get(name)) for name in names}) for row in rows)


def _predictions(path: Path) -> tuple[Prediction, ...]:
    return tuple(
        Prediction(
            split=row["split"],
            path=row["path"],
            label=row["label"],
            predicted=row["predicted"],
            confidence=_number(row["confidence"]),
            p_label=_number(row["p_label"]),
        )
        for row in _rows(path)
    )
