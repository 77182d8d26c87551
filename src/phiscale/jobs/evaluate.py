"""The same numbers as in training, on any labelled images, from a run (PyTorch) or a bundle (its runtime)."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

import torch
from torch import Tensor

from phiscale.architecture import Output, Preprocess
from phiscale.data.find import Item, find_labelled
from phiscale.data.load import ImageDataset, check_images, make_loader
from phiscale.data.transform import normalise
from phiscale.errors import ArgumentError, DataError, ImageError
from phiscale.jobs.run import Run, true_and_said
from phiscale.jobs.watch import Watcher
from phiscale.runtime.bundle import is_bundle
from phiscale.runtime.predictor import Predictor, load
from phiscale.training import Progress, Scores
from phiscale.training import evaluate as evaluate_model
from phiscale.training.metrics import calibrated_loss, calibration_error, probabilities, scores

Views = Literal["flip", "crops", "all"]
ROOM = 8 / 7  # of several crops the image is this much larger than one, as 256 is than 224
BATCH = 8


class How(TypedDict, total=False):
    """Options of `evaluate` that are the same for every resolution."""

    split: str | None
    views: Views | None
    threshold: float | None
    data_root: str | Path | None
    watch: Watcher | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores with the files they are about."""

    split: str
    scores: Scores
    output: Output
    labels: tuple[str, ...]
    items: tuple[Item, ...]
    skipped: tuple[Any, ...]
    runtime: str
    resolution: int
    views: Views | None

    @property
    def top1(self) -> float:
        return self.scores.top1

    @property
    def top5(self) -> float:
        return self.scores.top5

    @property
    def loss(self) -> float:
        return self.scores.loss

    @property
    def n(self) -> int:
        return self.scores.n

    @property
    def ece(self) -> float:
        """Expected calibration error of the probabilities as `predict` gives them."""
        return calibration_error(self.scores, self.output)

    def to_dict(self) -> dict[str, Any]:
        """What `evaluate --json` prints: fractions, and per class precision and recall."""
        plain = replace(self.output, temperature=1.0)
        said: dict[str, Any] = {
            "split": self.split,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "ece": self.ece,
            "n": self.n,
            "skipped": len(self.skipped),
            "runtime": self.runtime,
            "resolution": self.resolution,
            "views": self.views,
            "calibration": {
                "temperature": self.output.temperature,
                "loss": calibrated_loss(self.scores, self.output),
                "ece": self.ece,
                "ece_at_temperature_1": calibration_error(self.scores, plain),
            },
            "classes": self.per_class(),
            "confusions": self.confusions(),
        }
        if (many := self.scores.many) is not None:
            said |= {"mean_ap": many.mean_ap, "micro_f1": many.micro_f1, "macro_f1": many.macro_f1, "exact": many.exact}
            said["threshold"] = self.output.threshold
        return said

    def per_class(self) -> dict[str, dict[str, Any]]:
        """Images of each class, recall and precision (None where nothing can be divided); of several labels average precision too."""
        many, (true, said) = self.scores.many, true_and_said(self.scores, self.output)
        out: dict[str, dict[str, Any]] = {}
        for number, name in enumerate(self.labels):
            both, n, m = (int(column.sum()) for column in (said[:, number] & true[:, number], true[:, number], said[:, number]))
            out[name] = {"n": n, "recall": both / n if n else None, "precision": both / m if m else None}
            if many is not None:
                out[name]["average_precision"] = many.average_precision[number]
        return out

    def confusions(self) -> list[dict[str, Any]]:
        """Which class was taken for which other one, and how often; the most frequent first. Of several labels: none."""
        if self.output.multi_label:
            return []
        predicted, true = self.scores.logits.argmax(1).tolist(), self.scores.labels.tolist()
        pairs = Counter((label, said) for label, said in zip(true, predicted, strict=True) if label != said)
        return [{"label": self.labels[label], "predicted": self.labels[said], "n": n} for (label, said), n in pairs.most_common()]


def evaluate(
    model: str | Path,
    images: str | Path,
    *,
    split: str | None = None,
    resolution: int | None = None,
    views: Views | None = None,
    threshold: float | None = None,
    data_root: str | Path | None = None,
    runtime: str | None = None,
    watch: Watcher | None = None,
) -> Evaluation:
    """Scores of a run folder (by PyTorch) or a bundle (by its runtime) on labelled images.

    split       of images that come in splits; None: test, else val, else train
    resolution  of the input, other than the design's; a run only. A network whose training took random crops sees things larger
                there than here, and often does better at a larger size (arXiv 1906.06423)
    views       of each image, whose probabilities are averaged: "flip" (and its mirror image), "crops" (the corners and the centre
                of the image, 8/7 the size), "all" (both: ten); None: the centre, as in prediction
    threshold   of a multi-label network, in place of its own
    data_root   where data sets by name are
    ArgumentError for a resolution below 1 or of a bundle; DataError where the images have classes that the network lacks.
    """
    tell = (watch or Watcher()).progress
    path = Path(model)
    if views is not None and views not in get_args(Views):
        raise ArgumentError(f"views must be one of {', '.join(get_args(Views))}; got {views!r}")
    if resolution is not None and resolution < 1:
        raise ArgumentError(f"resolution must be at least 1 pixel, got {resolution}")
    judged = load(path, runtime=runtime) if is_bundle(path) else Run(path)
    if isinstance(judged, Predictor) and resolution not in (None, judged.design.resolution):
        raise ArgumentError(f"a bundle runs at {judged.design.resolution} px alone; give the run for --resolution {resolution}")
    labels, output = judged.labels, judged.output
    if threshold is not None:
        if not output.multi_label:
            raise ArgumentError("a threshold is for multi-label networks; this one names one class")
        output = replace(output, threshold=threshold)
    found = find_labelled(images, classes=labels, split=split, multi_label=output.multi_label, data_root=data_root, tell=tell)
    found = check_images(found, progress=lambda done, total: tell("reading", done, total))
    (name, items), *_ = found.splits.items()

    def dataset(at: Preprocess) -> ImageDataset:
        return ImageDataset(found, name, preprocess=at)

    if isinstance(judged, Predictor):
        at, ran = judged.preprocess, judged.runtime
        if views is None:
            scored = _by_bundle(judged, items, dataset(at), tell)
        else:
            scored = _averaged(lambda pixels: torch.from_numpy(judged.logits(pixels.numpy())), dataset, at, views, output, tell)
    else:
        network, preprocess = judged.model()
        at, ran = preprocess.at(resolution) if resolution else preprocess, "torch"
        if views is None:
            scored = evaluate_model(network, dataset(at), tell=tell, by_torch=True)
        else:
            scored = _averaged(network, dataset, at, views, output, tell)
    return Evaluation(
        split=name, scores=scores(scored.logits, scored.labels, output), output=output, labels=labels, items=items, skipped=found.skipped,
        runtime=ran, resolution=at.crop, views=views,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AtResolution:
    """One of several input sizes of a run: what an image costs there, and the scores."""

    macs: int
    own: bool  # the size that the run is used at
    found: Evaluation

    def to_dict(self) -> dict[str, Any]:
        """A row of what `evaluate --resolution 96,128 --json` prints."""
        said = self.found.to_dict()
        names = ("resolution", "top1", "top5", "mean_ap", "loss", "ece", "n")
        return {"own": self.own, "macs": self.macs} | {name: said[name] for name in names if name in said}


def at_resolutions(model: str | Path, images: str | Path, resolutions: Sequence[int], **how: Unpack[How]) -> tuple[AtResolution, ...]:
    """A run's scores at several input sizes, its own among them; errors and options as of `evaluate`."""
    if is_bundle(Path(model)):
        raise ArgumentError(f"a bundle runs at one size alone; give the run that {model} was exported from to compare several")
    design = Run(Path(model)).design
    return tuple(
        AtResolution(
            macs=design.at(side).cost.macs,
            own=side == design.resolution,
            found=evaluate(model, images, resolution=side, **how),
        )
        for side in sorted({*resolutions, design.resolution})
    )


def _by_bundle(predictor: Predictor, items: Sequence[Item], dataset: ImageDataset, tell: Progress) -> Scores:
    rows: list[Tensor] = []
    for number, (path, logits) in enumerate(predictor.all_logits([item.path for item in items]), 1):
        if isinstance(logits, ImageError):
            raise DataError(f"{path} could be read a moment ago and can't be now: {logits}")
        rows.append(torch.from_numpy(logits))
        tell("evaluating", number, len(items))
    return scores(torch.stack(rows), dataset.answers())


@torch.no_grad()
def _averaged(
    network: Callable[[Tensor], Tensor],
    dataset: Callable[[Preprocess], ImageDataset],
    at: Preprocess,
    views: Views,
    output: Output,
    tell: Progress,
) -> Scores:
    """Logits that stand for the mean probability over the views of each image."""
    room = at if views == "flip" else replace(at, crop=max(at.resize, round(ROOM * at.crop)), resize=max(at.resize, round(ROOM * at.crop)))
    images, plain = dataset(room), Output(multi_label=output.multi_label)
    rows: list[Tensor] = []
    for pixels, _, _ in make_loader(images, batch=BATCH):
        seen = [probabilities(network(view), plain) for view in seen_as(normalise(pixels, at), at.crop, views)]
        mean = torch.stack(seen).mean(0).clamp(1e-12, 1 - 1e-12)
        rows.append(mean.logit() if output.multi_label else mean.log())
        tell("evaluating", min(len(rows) * BATCH, len(images)), len(images))
    return scores(torch.cat(rows).float(), images.answers())


def seen_as(images: Tensor, crop: int, views: Views) -> Iterator[Tensor]:
    """The views of images (B, 3, side, side): each (B, 3, crop, crop), contiguous."""
    end = images.shape[-1] - crop
    corners = [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)]
    for top, left in [(end // 2, end // 2)] if views == "flip" else corners:
        part = images[..., top : top + crop, left : left + crop]
        yield part.contiguous()
        if views != "crops":
            yield part.flip(-1).contiguous()
