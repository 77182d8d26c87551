"""The torch side of a `Preprocess`: the evaluation transform, the normalisation of a batch, and light augmentation."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from PIL import Image
from torch import Tensor

from phiscale.architecture.preprocess import Preprocess
from phiscale.errors import ArgumentError
from phiscale.runtime.transform import FILTERS

GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's own conversion to grey


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """How a training image is varied: a random crop of `scale` of the area, mirrored half the time, colours by ± `jitter`.

    `ratio` bounds width / height of the crop before it is made square; `jitter` is a share of brightness, contrast and
    saturation. Set `flip` to False where left and right mean something (digits, text, arrows).
    Source: random area and ratio as in arXiv 1409.4842, in torchvision's form (ten draws, then the central crop).
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
                    f"augment: {name} must be two growing numbers above 0{', up to 1' * (name == 'scale')}; got {low}, {high}"
                )
        if not 0 <= self.jitter < 1:
            raise ArgumentError(f"augment: jitter must be at least 0 and below 1, got {self.jitter!r}")


def vary(image: Image.Image, *, preprocess: Preprocess, augment: Augment, seed: int) -> Image.Image:
    """An RGB image as training sees it: (crop, crop), varied by `augment` in a way that depends on `seed` alone."""
    random, crop = Random(seed), preprocess.crop
    image = image.resize((crop, crop), FILTERS[preprocess.interpolation], box=_random_box(image.size, augment, random))
    if augment.flip and random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _jittered(image, augment.jitter, random) if augment.jitter else image


def _random_box(size: tuple[int, int], augment: Augment, random: Random) -> tuple[int, int, int, int]:
    width, height = size
    low, high = augment.ratio
    for _ in range(10):
        area = width * height * random.uniform(*augment.scale)
        ratio = low * (high / low) ** random.random()  # uniform in the logarithm
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * high))), min(height, max(1, round(width / low)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _jittered(image: Image.Image, jitter: float, random: Random) -> Image.Image:
    """Saturation around grey, contrast around the mean grey, then brightness: linear all three, so one matrix does them."""
    brightness, contrast, saturation = (1 + random.uniform(-jitter, jitter) for _ in range(3))
    pixel = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    mean = sum(weight * value for weight, value in zip(GREY, pixel if isinstance(pixel, tuple) else (), strict=True))
    gain, shift = brightness * contrast, brightness * (1 - contrast) * mean
    rows = [[gain * ((1 - saturation) * weight + saturation * (row == column)) for column, weight in enumerate(GREY)] for row in range(3)]
    return image.convert("RGB", tuple(value for row in rows for value in (*row, shift)))


def eval_transform(pre: Preprocess) -> Callable[[Image.Image], Tensor]:
    """PIL RGB -> float32 (3, crop, crop), as torchvision does it; equal to `runtime.transform.to_array` bit for bit."""
    from torchvision import transforms  # here, as training does without it: it is 170 MB of memory

    mode = transforms.InterpolationMode(pre.interpolation)
    return transforms.Compose(
        [
            transforms.Resize(pre.resize, mode, antialias=True),
            transforms.CenterCrop(pre.crop),
            transforms.ToTensor(),  # divides by 255; v2.ToDtype multiplies by 1 / 255, which differs in the last bit
            transforms.Normalize(list(pre.mean), list(pre.std)),
        ]
    )


def normalise(batch: Tensor, pre: Preprocess) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 of the same shape and memory format: (x / 255 - mean) / std."""
    mean, std = (torch.tensor(values, dtype=torch.float32, device=batch.device)[:, None, None] for values in (pre.mean, pre.std))
    return batch.to(torch.float32).div_(255).sub_(mean).div_(std)
