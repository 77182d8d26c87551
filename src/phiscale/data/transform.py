"""The torch side of a `Preprocess`: the evaluation transform, the normalisation of a batch, and light augmentation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from phiscale.architecture.preprocess import Preprocess
from phiscale.errors import ArgumentError

MODES = {
    "bilinear": v2.InterpolationMode.BILINEAR,
    "bicubic": v2.InterpolationMode.BICUBIC,
    "lanczos": v2.InterpolationMode.LANCZOS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """How a training image is varied: a random crop of `scale` of the area, mirrored half the time, colours by ± `jitter`.

    `jitter` is a share of brightness, contrast and saturation. Set `flip` to False where
    left and right mean something (digits, text, arrows).
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    jitter: float = 0.1

    def __post_init__(self) -> None:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            object.__setattr__(self, name, (low, high))
            if not 0 < low <= high or (name == "scale" and high > 1):
                raise ArgumentError(
                    f"augment: {name} must be two growing positive numbers{' up to 1' if name == 'scale' else ''}; got {low, high}"
                )
        if not 0 <= self.jitter < 1:
            raise ArgumentError(f"augment: jitter must be at least 0 and below 1, got {self.jitter!r}")


def eval_transform(pre: Preprocess) -> Callable[[Image.Image], Tensor]:
    """PIL RGB -> float32 (3, crop, crop), as torchvision does it; equal to `runtime.transform.to_array` bit for bit."""
    return transforms.Compose(
        [
            transforms.Resize(pre.resize, MODES[pre.interpolation], antialias=True),
            transforms.CenterCrop(pre.crop),
            transforms.ToTensor(),  # divides by 255; v2.ToDtype multiplies by 1 / 255, which differs in the last bit
            transforms.Normalize(list(pre.mean), list(pre.std)),
        ]
    )


def train_transform(pre: Preprocess, augment: Augment) -> Callable[[Image.Image], Tensor]:
    """PIL RGB -> uint8 (3, crop, crop), varied at random by torch's global generator."""
    steps: list[Callable[..., object]] = [
        v2.RandomResizedCrop(pre.crop, augment.scale, augment.ratio, MODES[pre.interpolation], antialias=True)
    ]
    if augment.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augment.jitter:
        steps.append(v2.ColorJitter(augment.jitter, augment.jitter, augment.jitter))
    return v2.Compose([*steps, v2.PILToTensor()])


def normalise(batch: Tensor, pre: Preprocess) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 of the same shape and memory format: (x / 255 - mean) / std."""
    mean, std = (torch.tensor(values, dtype=torch.float32, device=batch.device)[:, None, None] for values in (pre.mean, pre.std))
    return batch.to(torch.float32).div_(255).sub_(mean).div_(std)
