"""A run folder as an object: what `phiscale.fit` gives back, and what `evaluate`, `predict` and `export` take."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import one_hot

from phiscale.architecture import Design, Output, Preprocess
from phiscale.atomic import write_text
from phiscale.errors import ArgumentError, RunError
from phiscale.jobs.lock import LOCK
from phiscale.nn import Network
from phiscale.runtime.labels import load_labels
from phiscale.runtime.predictor import Prediction
from phiscale.training import Scores
from phiscale.weights.store import load_folder, load_output

RUN, DESIGN, RECIPE, PREDICTIONS, SKIPPED = "run.json", "design.toml", "recipe.toml", "predictions.csv", "skipped.csv"
LABELS, BUNDLE = "labels.txt", "bundle"


if TYPE_CHECKING:
    from phiscale.jobs.evaluate import Evaluation, Views


@dataclass(frozen=True, slots=True)
class Run:
    """A folder with everything about one training."""

    folder: Path
    here: bool = field(default=True, repr=False, compare=False)  # False: another machine's process wrote it

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if self.here and not (self.folder / RUN).is_file():
            raise ArgumentError(f"{self.folder} is no run folder: it has no {RUN}; `phiscale fit IMAGES -o {self.folder}` makes one")

    @property
    def about(self) -> dict[str, Any]:
        """run.json: what was asked, and what came out."""
        try:
            about = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"can't read {self.folder / RUN}: {error}") from None
        if not isinstance(about, dict):
            raise RunError(f"{self.folder / RUN} is not a run's description")
        return about

    @property
    def design(self) -> Design:
        return Design.read(self.folder / DESIGN)

    @property
    def bundle(self) -> Path:
        """The bundle folder. RunError where the run was not finished."""
        if not (self.folder / BUNDLE).is_dir():
            raise RunError(f"{self.folder} has no bundle; finish the run: phiscale fit --resume {self.folder}")
        return self.folder / BUNDLE

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the outputs. RunError where the run was not finished."""
        path = self.folder / LABELS
        if not path.is_file():
            raise RunError(f"{self.folder} has no {LABELS}; finish the run: phiscale fit --resume {self.folder}")
        return load_labels(path.read_text(encoding="utf-8"))

    @property
    def output(self) -> Output:
        """What becomes of the network's logits: softmax or sigmoid, temperature, threshold."""
        return load_output(self.folder)

    def model(self) -> tuple[Network, Preprocess]:
        """The trained network in eval mode, and its preprocessing."""
        state, design, preprocess, _ = load_folder(self.folder)
        network = Network(design.spec)
        network.load_state_dict(state)
        return network.eval(), preprocess

    def evaluate(
        self, images: str | Path, *, split: str | None = None, resolution: int | None = None, views: "Views | None" = None
    ) -> "Evaluation":
        """How it does on labelled images, by the PyTorch model, preprocessed as in training: `.top1`, `.ece`, `.to_dict()`, `.scores`.

        resolution, views   as for `jobs.evaluate.evaluate`: the input's pixels; "flip", "crops" or "all" of each image
        """
        from phiscale.jobs.evaluate import evaluate

        return evaluate(self.folder, images, split=split, resolution=resolution, views=views)

    def predict(self, files: Iterable[str | Path], *, top: int = 5) -> list[Prediction]:
        """The bundle's best labels for image files, without torch."""
        from phiscale.runtime.predictor import load

        return load(self.bundle).predict(files, top=top)

    def export(self) -> Path:
        """The bundle, written anew if it is not there."""
        from phiscale.jobs.export import export

        return export(self.folder)


def write_predictions(path: Path, parts: Sequence[tuple[str, Sequence[Path], Scores]], labels: Sequence[str], output: Output) -> None:
    """predictions.csv: a row an image of each split, with probabilities as `predict` gives them.

    Of several labels, `label` and `predicted` have them with `|` between them, confidence is that of the likeliest class, and
    p_label the least that a class of the image was given (1 where it has none).
    """
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(("split", "path", "label", "predicted", "confidence", "p_label"))
    for split, files, scores in parts:
        chances = scores.probabilities(output)
        true, said = true_and_said(scores, output)
        own = torch.where(true, chances, 1.0).min(1).values
        rows = zip(files, joined(true, labels), joined(said, labels), chances.max(1).values.tolist(), own.tolist(), strict=True)
        table.writerows((split, str(file), label, predicted, f"{sure:.6g}", f"{p:.6g}") for file, label, predicted, sure, p in rows)
    write_text(path, out.getvalue())


def true_and_said(scores: Scores, output: Output) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each class is a label of each image, and whether it is said to be one: two of bool (n, classes)."""
    if output.multi_label:
        return scores.labels > 0.5, scores.probabilities(output) >= output.threshold
    width = scores.logits.shape[1]
    return one_hot(scores.labels, width).bool(), one_hot(scores.logits.argmax(1), width).bool()


def joined(which: torch.Tensor, labels: Sequence[str]) -> list[str]:
    """The names of the classes that are true in each row of bool (n, classes), with `|` between them."""
    return ["|".join([label for label, there in zip(labels, row, strict=True) if there]) for row in which.tolist()]


def write_skipped(path: Path, skipped: Iterable[Any]) -> None:
    """skipped.csv: a row a file that was left out."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(("path", "code", "message"))
    table.writerows((str(skip.path), skip.code, skip.message) for skip in skipped)
    write_text(path, out.getvalue())


def scaled_preprocess(preprocess: Preprocess, design: Design, *, whole: bool) -> Preprocess:
    """`preprocess` at the design's resolution; `whole`: the crop keeps all of the shorter side (small images lose nothing)."""
    made = preprocess.at(design.resolution)
    return replace(made, resize=made.crop) if whole else made


def empty(folder: Path) -> bool:
    """Whether nothing is there yet but what a killed start left. ArgumentError where it is a file."""
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"{folder} is a file; name another folder with -o")
    return not folder.is_dir() or all(path.name == LOCK or path.name.startswith(f".{RUN}.") for path in folder.iterdir())
