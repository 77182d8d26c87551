"""The same numbers as in training, on any labelled images, from a run (PyTorch) or a bundle (its runtime)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phiscale.data.find import find_labelled
from phiscale.data.load import ImageDataset, check_images
from phiscale.errors import DataError, ImageError
from phiscale.jobs.run import Run
from phiscale.jobs.watch import Watcher
from phiscale.runtime.bundle import is_bundle
from phiscale.runtime.predictor import Predictor, load
from phiscale.training import Progress, Scores
from phiscale.training import evaluate as evaluate_model
from phiscale.training.metrics import scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores with the files they are about."""

    split: str
    scores: Scores
    labels: tuple[str, ...]
    files: tuple[Path, ...]
    skipped: tuple[Any, ...]
    runtime: str

    def to_dict(self) -> dict[str, Any]:
        """What `evaluate --json` prints: fractions, and per class precision and recall."""
        predicted, true = self.scores.logits.argmax(1), self.scores.labels
        per_class: dict[str, Any] = {}
        for number, name in enumerate(self.labels):
            of, said = true == number, predicted == number
            both = int((of & said).sum())
            n, m = int(of.sum()), int(said.sum())
            per_class[name] = {"n": n, "recall": both / n if n else None, "precision": both / m if m else None}
        return {
            "split": self.split,
            "top1": self.scores.top1,
            "top5": self.scores.top5,
            "loss": self.scores.loss,
            "ece": calibration_error(self.scores),
            "n": self.scores.n,
            "skipped": len(self.skipped),
            "runtime": self.runtime,
            "classes": per_class,
            "confusions": self.confusions(),
        }

    def confusions(self) -> list[dict[str, Any]]:
        """Which class was taken for which other one, and how often; the most frequent first."""
        predicted, true = self.scores.logits.argmax(1).tolist(), self.scores.labels.tolist()
        pairs = Counter((label, said) for label, said in zip(true, predicted, strict=True) if label != said)
        return [{"label": self.labels[label], "predicted": self.labels[said], "n": n} for (label, said), n in pairs.most_common()]


def calibration_error(scored: Scores, bins: int = 15) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over `bins` equal bins (arXiv 1706.04599)."""
    confidence, predicted = scored.logits.double().softmax(1).max(1)
    right = (predicted == scored.labels).double()
    total = 0.0
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        if inside.any():
            total += inside.double().mean().item() * abs(confidence[inside].mean().item() - right[inside].mean().item())
    return total


def evaluate(
    model: str | Path,
    images: str | Path,
    *,
    split: str | None = None,
    resolution: int | None = None,
    runtime: str | None = None,
    watch: Watcher | None = None,
) -> Evaluation:
    """Scores of a run folder (by PyTorch) or a bundle (by its runtime) on labelled images.

    split       of images that come in splits; None: test, else val, else train
    resolution  of the input, other than the design's; a run only
    DataError where the images have classes that the network lacks.
    """
    tell = (watch or Watcher()).progress
    path = Path(model)
    bundle = load(path, runtime=runtime) if is_bundle(path) else None
    labels = bundle.labels if bundle is not None else Run(path).labels
    found = check_images(find_labelled(images, classes=labels, split=split), progress=lambda done, total: tell("reading", done, total))
    (name, items), *_ = found.splits.items()
    files = tuple(item.path for item in items)
    if bundle is not None:
        scored, ran = _by_bundle(bundle, files, [item.label for item in items], tell), bundle.runtime
    else:
        network, preprocess = Run(path).model()
        at = preprocess.at(resolution) if resolution else preprocess
        scored, ran = evaluate_model(network, ImageDataset(found, name, preprocess=at), tell=tell), "torch"
    return Evaluation(split=name, scores=scored, labels=labels, files=files, skipped=found.skipped, runtime=ran)


def _by_bundle(predictor: Predictor, files: Sequence[Path], labels: Sequence[int], tell: Progress) -> Scores:
    rows: list[torch.Tensor] = []
    for number, (path, probabilities) in enumerate(predictor.scores(files), 1):
        if isinstance(probabilities, ImageError):
            raise DataError(f"{path} could be read a moment ago and can't be now: {probabilities}")
        rows.append(torch.from_numpy(probabilities))
        tell("evaluating", number, len(files))
    return scores(torch.stack(rows).clamp_min(1e-12).log(), torch.tensor(labels))
