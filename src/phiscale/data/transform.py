"""The torch side of a `Preprocess`: the evaluation transform, the normalisation of a batch, and light augmentation."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import assert_never, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from phiscale.architecture.check import check_bool, check_int, check_one_of, check_real
from phiscale.architecture.preprocess import Preprocess
from phiscale.data.policies import Policy, auto_augment, rand_augment, torchvision_policy
from phiscale.errors import SpecError
from phiscale.runtime.transform import FILTERS

GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's own conversion to grey


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """How a training image is varied: a random crop of `scale` of the area, mirrored half the time, colours by ± `jitter`.

    `ratio` bounds width / height of the crop before it is made square; `jitter` is a share of brightness, contrast and
    saturation. Set `flip` to False where left and right mean something (digits, text, arrows).

    policy         none, or what else is done: auto (AutoAugment v0), rand (RandAugment), trivial (TrivialAugment), augmix
    magnitude      of rand, 10 = full; magnitude_std: spread of it; operations: how many; chance: of each to be applied
    erase          probability that a random box is filled with noise (random erasing)

    Source: random area and ratio as in arXiv 1409.4842, in torchvision's form (ten draws, then the central crop); policies.py;
    erasing arXiv 1708.04896.
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    jitter: float = 0.1
    policy: Policy = "none"
    magnitude: float = 9.0
    magnitude_std: float = 0.0
    operations: int = 2
    chance: float = 1.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "ratio"):
            pair = getattr(self, name)
            if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(value, (int, float)) for value in pair)):
                raise SpecError(f"augment: {name} must be two numbers, got {pair!r}")
            low, high = pair
            object.__setattr__(self, name, (low, high))
            if not 0 < low <= high or (name == "scale" and high > 1):
                raise SpecError(f"augment: {name} must be two growing numbers above 0{', up to 1' * (name == 'scale')}; got {low}, {high}")
        check_bool("augment", "flip", self.flip)
        check_one_of("augment", "policy", self.policy, get_args(Policy))
        check_int("augment", "operations", self.operations, 0, 16)
        for name, high in (("jitter", 0.999), ("magnitude", 30), ("magnitude_std", 30), ("chance", 1), ("erase", 1)):
            check_real("augment", name, getattr(self, name), 0, high)


def vary(image: Image.Image, *, preprocess: Preprocess, augment: Augment, seed: int, crop: int | None = None) -> Image.Image:
    """An RGB image as training sees it: (crop, crop), varied by `augment` in a way that depends on `seed` alone.

    crop   None: the preprocessing's
    """
    random, crop = Random(seed), crop or preprocess.crop
    image = image.resize((crop, crop), FILTERS[preprocess.interpolation], box=_random_box(image.size, augment, random))
    if augment.flip and random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    match augment.policy:
        case "none":
            pass
        case "auto":
            image = auto_augment(image, random)
        case "rand":
            image = rand_augment(
                image, random, magnitude=augment.magnitude, magnitude_std=augment.magnitude_std, operations=augment.operations,
                chance=augment.chance,
            )  # fmt: skip
        case "trivial" | "augmix":
            image = torchvision_policy(image, augment.policy, random.getrandbits(63))
        case _:
            assert_never(augment.policy)
    if augment.jitter:
        image = _jittered(image, augment.jitter, random)
    return _erased(image, preprocess, random) if augment.erase and random.random() < augment.erase else image


def _erased(image: Image.Image, preprocess: Preprocess, random: Random) -> Image.Image:
    """A box of 2 to 33 % of the area filled with noise that is standard normal once normalised; ten draws, then none."""
    width, height = image.size
    for _ in range(10):
        area, ratio = width * height * random.uniform(0.02, 1 / 3), 0.3 * (1 / 0.3**2) ** random.random()
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w < width and 0 < h < height:
            noise = np.random.default_rng(random.getrandbits(63)).standard_normal((h, w, 3))
            pixels = np.clip((noise * preprocess.std + preprocess.mean) * 255 + 0.5, 0, 255).astype(np.uint8)
            image = image.copy()
            image.paste(Image.fromarray(pixels), (random.randint(0, width - w), random.randint(0, height - h)))
            break
    return image


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
