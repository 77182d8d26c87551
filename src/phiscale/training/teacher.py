"""A trained network to learn from: of a run folder, a published one, or one of timm's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phiscale.architecture import Preprocess
from phiscale.architecture.catalog import rows
from phiscale.errors import ArgumentError, MissingExtraError
from phiscale.nn import Network
from phiscale.weights import load_weights
from phiscale.weights.store import CONFIG, load_folder

TIMM = "timm:"


@dataclass(slots=True, kw_only=True)
class TaughtBy:
    """A teacher in evaluation mode: images as the student gets them (B, 3, H, W) -> logits (B, classes), in the student's order.

    Images are brought to the teacher's own size, mean and deviation. columns: the teacher's outputs for the student's classes;
    None: all, in order.
    """

    model: nn.Module
    preprocess: Preprocess
    student: Preprocess
    columns: tuple[int, ...] | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        own, theirs = self.student, self.preprocess
        self.model.to(images.device)
        if (own.mean, own.std) != (theirs.mean, theirs.std):
            mean, std, new_mean, new_std = (
                torch.tensor(values, device=images.device)[:, None, None] for values in (own.mean, own.std, theirs.mean, theirs.std)
            )
            images = images * (std / new_std) + (mean - new_mean) / new_std
        if images.shape[-1] != theirs.crop:
            images = F.interpolate(images, (theirs.crop, theirs.crop), mode="bicubic", antialias=True)
        logits = self.model(images)
        return logits if self.columns is None else logits[:, self.columns]


def load_teacher(source: str | Path, *, classes: Sequence[str], preprocess: Preprocess | None = None) -> TaughtBy:
    """The teacher of that name for a student of these classes, whose images are normalised as `preprocess` says (None: as its own).

    source   a folder that a run or `save_model` wrote; a published network, with its weights; timm:NAME for timm's own weights,
             timm:NAME:FILE for a checkpoint of your own
    A folder says its classes' names, and must have the student's among them. Of others the number must be the same, and then the
    order counts. ArgumentError says which are missing.
    """
    name, path = str(source), Path(source)
    if name.startswith(TIMM):
        model, own, labels = _of_timm(name.removeprefix(TIMM), len(classes))
    elif path.is_dir():
        if not (path / CONFIG).is_file():
            raise ArgumentError(f"the teacher {path} is no finished run: it has no {CONFIG}")
        state, design, own, labels = load_folder(path)
        model = Network(design.spec)
        model.load_state_dict(state)
    elif name in rows():
        row = rows()[name]
        model = Network(row.design.spec)
        own, labels = load_weights(model, "auto").preprocess or row.preprocess, None
    else:
        raise ArgumentError(f"no teacher {name!r}: give a run folder, a published network, or timm:NAME")
    columns: tuple[int, ...] | None = None
    if labels is not None:
        if missing := [label for label in classes if label not in labels]:
            raise ArgumentError(f"the teacher {name} doesn't know {', '.join(missing[:5])}; it knows {', '.join(labels[:10])}")
        columns = tuple(labels.index(label) for label in classes)
    else:
        known = model.spec.num_classes if isinstance(model, Network) else int(model.num_classes)  # pyright: ignore[reportArgumentType]
        if known != len(classes):
            raise ArgumentError(
                f"the teacher {name} knows {known} classes, the images have {len(classes)}; train it on them first: "
                "phiscale fit IMAGES -o TEACHER, then --distill TEACHER"
            )
    return TaughtBy(model=model.eval().requires_grad_(False), preprocess=own, student=preprocess or own, columns=columns)


def _of_timm(name: str, classes: int) -> tuple[nn.Module, Preprocess, tuple[str, ...] | None]:
    try:
        import timm
        from timm.data import resolve_data_config  # pyright: ignore[reportPrivateImportUsage, reportUnknownVariableType]
    except ImportError:
        raise MissingExtraError("a teacher of timm's needs it: pip install timm") from None
    network, _, file = name.partition(":")
    if not timm.is_model(network.partition(".")[0]) and ":" not in network and not file:
        raise ArgumentError(f"timm has no network {network!r}")
    if file and not Path(file).is_file():
        raise ArgumentError(f"there is no file {file}, the weights of the teacher {name}")
    made: Any
    try:
        if file:
            made = timm.create_model(network, num_classes=classes, checkpoint_path=file)
        else:
            made = timm.create_model(network, pretrained=True)
    except (RuntimeError, OSError) as error:
        raise ArgumentError(f"timm can't make the teacher {name}: {str(error).splitlines()[0]}") from None
    config: Any = resolve_data_config({}, model=made)
    side = int(config["input_size"][1])
    own = Preprocess(crop=side, resize=round(side / config["crop_pct"]), mean=tuple(config["mean"]), std=tuple(config["std"]))
    labels = made.pretrained_cfg.get("label_names")
    return made, own, tuple(labels) if labels else None
