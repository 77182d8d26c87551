"""Augmentation policies: AutoAugment v0 and RandAugment as EfficientNet was trained with them; the others are torchvision's.

All of them: an RGB image and a seed -> an image of the same size, the same for the same seed in any process.
"""

from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any, Literal, assert_never

import torch
from PIL import Image, ImageEnhance, ImageOps

Policy = Literal["none", "auto", "rand", "trivial", "augmix"]

GREY = (128, 128, 128)  # where an image was moved away
MAX_LEVEL = 10  # at which an operation is as strong as its authors meant; levels above go on in proportion

Operation = tuple[str, float, float]  # name, probability, level
V0: tuple[tuple[Operation, Operation], ...] = (
    (("equalize", 0.8, 1), ("shear_y", 0.8, 4)),
    (("color", 0.4, 9), ("equalize", 0.6, 3)),
    (("color", 0.4, 1), ("rotate", 0.6, 8)),
    (("solarize", 0.8, 3), ("equalize", 0.4, 7)),
    (("solarize", 0.4, 2), ("solarize", 0.6, 2)),
    (("color", 0.2, 0), ("equalize", 0.8, 8)),
    (("equalize", 0.4, 8), ("solarize_add", 0.8, 3)),
    (("shear_x", 0.2, 9), ("rotate", 0.6, 8)),
    (("color", 0.6, 1), ("equalize", 1.0, 2)),
    (("invert", 0.4, 9), ("rotate", 0.6, 0)),
    (("equalize", 1.0, 9), ("shear_y", 0.6, 3)),
    (("color", 0.4, 7), ("equalize", 0.6, 0)),
    (("posterize", 0.4, 6), ("auto_contrast", 0.4, 7)),
    (("solarize", 0.6, 8), ("color", 0.6, 9)),
    (("solarize", 0.2, 4), ("rotate", 0.8, 9)),
    (("rotate", 1.0, 7), ("translate_y", 0.8, 9)),
    (("shear_x", 0.0, 0), ("solarize", 0.8, 4)),
    (("shear_y", 0.8, 0), ("color", 0.6, 4)),
    (("color", 1.0, 0), ("rotate", 0.6, 2)),
    (("equalize", 0.8, 4), ("equalize", 0.0, 8)),
    (("equalize", 1.0, 4), ("auto_contrast", 0.6, 2)),
    (("shear_y", 0.4, 7), ("solarize_add", 0.6, 7)),
    (("posterize", 0.8, 2), ("solarize", 0.6, 10)),
    (("solarize", 0.6, 8), ("equalize", 0.6, 1)),
    (("color", 0.8, 6), ("rotate", 0.4, 5)),
)
RAND = (
    "auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "color", "contrast", "brightness", "sharpness",
    "shear_x", "shear_y", "translate_x", "translate_y", "cutout", "solarize_add",
)  # fmt: skip


def auto_augment(image: Image.Image, random: Random) -> Image.Image:
    """One of v0's 25 pairs of operations.   Source: arXiv 1805.09501; tensorflow/tpu efficientnet autoaugment.py, policy_v0."""
    for name, probability, level in random.choice(V0):
        if random.random() < probability:
            image = operate(image, name, level, random)
    return image


def rand_augment(
    image: Image.Image, random: Random, *, magnitude: float, magnitude_std: float = 0.0, operations: int = 2, chance: float = 1.0
) -> Image.Image:
    """`operations` of the 16, drawn anew each time and applied with probability `chance`, at a level around `magnitude` (10 = full).

    Source: arXiv 1909.13719; tensorflow/tpu efficientnet autoaugment.py (magnitude_std and chance: timm's rand-m9-mstd0.5).
    """
    for _ in range(operations):
        name, level = random.choice(RAND), random.gauss(magnitude, magnitude_std) if magnitude_std else magnitude
        if random.random() < chance:
            image = operate(image, name, max(0.0, level), random)
    return image


def operate(image: Image.Image, name: str, level: float, random: Random) -> Image.Image:
    """One operation. `random` decides its direction or place.

    Moves are relative to the image: at level 10 by 45 %, which is the reference's 100 pixels of 224 (its v0 moves 250 pixels, off a
    224 pixel image); a cutout's half side is 18 %, its 40 pixels of 224.
    """
    share = level / MAX_LEVEL
    width, height = image.size
    signed = share * random.choice((-1, 1))
    match name:
        case "auto_contrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "invert":
            return ImageOps.invert(image)
        case "posterize":
            return ImageOps.posterize(image, max(1, min(8, int(share * 4))))  # TensorFlow's shift leaves one bit too
        case "solarize":
            return ImageOps.solarize(image, min(256, int(share * 256)))
        case "solarize_add":
            return image.point([min(255, i + int(share * 110)) if i < 128 else i for i in range(256)] * 3)
        case "color":
            return ImageEnhance.Color(image).enhance(share * 1.8 + 0.1)
        case "contrast":
            return ImageEnhance.Contrast(image).enhance(share * 1.8 + 0.1)
        case "brightness":
            return ImageEnhance.Brightness(image).enhance(share * 1.8 + 0.1)
        case "sharpness":
            return ImageEnhance.Sharpness(image).enhance(share * 1.8 + 0.1)
        case "rotate":
            return image.rotate(signed * 30, fillcolor=GREY)
        case "shear_x":
            return _affine(image, (1, signed * 0.3, 0, 0, 1, 0))
        case "shear_y":
            return _affine(image, (1, 0, 0, signed * 0.3, 1, 0))
        case "translate_x":
            return _affine(image, (1, 0, signed * 0.45 * width, 0, 1, 0))
        case "translate_y":
            return _affine(image, (1, 0, 0, 0, 1, signed * 0.45 * height))
        case "cutout":
            x, y, half = random.randrange(width), random.randrange(height), int(share * 40 / 224 * min(width, height))
            image = image.copy()
            image.paste(GREY, (max(0, x - half), max(0, y - half), min(width, x + half), min(height, y + half)))
            return image
        case _:
            raise ValueError(name)


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=GREY)


def torchvision_policy(image: Image.Image, name: Literal["trivial", "augmix"], seed: int) -> Image.Image:
    """TrivialAugment (wide) or AugMix.   Source: arXiv 2103.10158, 1912.02781."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPU's generator too
        return _made(name)(image)


@cache
def _made(name: Literal["trivial", "augmix"]) -> Callable[[Image.Image], Any]:
    from torchvision.transforms import v2  # here, as it takes a second and 170 MB

    match name:
        case "trivial":
            return v2.TrivialAugmentWide(fill=list(GREY))
        case "augmix":
            return v2.AugMix(fill=list(GREY))
        case _:
            assert_never(name)
