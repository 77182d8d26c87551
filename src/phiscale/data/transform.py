"""The torch side of a `Preprocess`: the evaluation transform, the normalisation of a batch, and light augmentation."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import assert_never, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from phiscale.architecture.check import check_bool, check_int, check_one_of, check_real
from phiscale.architecture.preprocess import Interpolation, Preprocess
from phiscale.data.policies import Policy, auto_augment, rand_augment, torchvision_policy
from phiscale.errors import SpecError
from phiscale.runtime.transform import FILTERS

Pixels = NDArray[np.uint8]

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


def vary(image: Pixels, *, preprocess: Preprocess, augment: Augment, seed: int, crop: int | None = None) -> Tensor:
    """RGB pixels (H, W, 3) as training sees them: uint8 (3, crop, crop), varied by `augment` in a way that depends on `seed` alone.

    The random crop is resized by torch, which is 3.5 times as fast as Pillow, the reference that evaluation uses: on photos they differ
    by 0.04 of 255 in the mean, by more than 2 in fewer than one pixel in 1,000.

    crop   None: the preprocessing's
    """
    random, crop = Random(seed), crop or preprocess.crop
    pixels = _resized(image, _random_box((image.shape[1], image.shape[0]), augment, random), crop, preprocess.interpolation)
    if augment.flip and random.random() < 0.5:
        pixels = pixels.flip(2)
    match augment.policy:
        case "none":
            pass
        case "auto":
            pixels = _planes(auto_augment(_picture(pixels), random))
        case "rand":
            varied = rand_augment(
                _picture(pixels), random, magnitude=augment.magnitude, magnitude_std=augment.magnitude_std,
                operations=augment.operations, chance=augment.chance,
            )  # fmt: skip
            pixels = _planes(varied)
        case "trivial" | "augmix":
            pixels = _planes(torchvision_policy(_picture(pixels), augment.policy, random.getrandbits(63)))
        case _:
            assert_never(augment.policy)
    if augment.jitter:
        pixels = _jittered(pixels, augment.jitter, random)
    return _erased(pixels, preprocess, random) if augment.erase and random.random() < augment.erase else pixels


def _resized(image: Pixels, box: tuple[int, int, int, int], size: int, interpolation: Interpolation) -> Tensor:
    """The part of `image` inside `box`, antialiased to uint8 (3, size, size)."""
    left, top, right, bottom = box
    part = image[top:bottom, left:right]
    if interpolation == "lanczos":  # torch has none
        return _planes(Image.fromarray(part).resize((size, size), FILTERS[interpolation]))
    planes = torch.from_numpy(part if part.flags.writeable else part.copy()).permute(2, 0, 1)[None]
    return F.interpolate(planes, (size, size), mode=interpolation, antialias=True)[0]


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _planes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(np.asarray(image).transpose(2, 0, 1), order="C"))


def _erased(pixels: Tensor, preprocess: Preprocess, random: Random) -> Tensor:
    """A box of 2 to 33 % of the area filled with noise that is standard normal once normalised; ten draws, then none."""
    _, height, width = pixels.shape
    for _ in range(10):
        area, ratio = width * height * random.uniform(0.02, 1 / 3), 0.3 * (1 / 0.3**2) ** random.random()
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w < width and 0 < h < height:
            noise = np.random.default_rng(random.getrandbits(63)).standard_normal((h, w, 3))
            noisy = np.clip((noise * preprocess.std + preprocess.mean) * 255 + 0.5, 0, 255).astype(np.uint8)
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            pixels = pixels.clone()
            pixels[:, top : top + h, left : left + w] = torch.from_numpy(noisy).permute(2, 0, 1)
            break
    return pixels


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


def _jittered(pixels: Tensor, jitter: float, random: Random) -> Tensor:
    """Saturation around grey, contrast around the mean grey, then brightness: linear all three, so one matrix does them."""
    brightness, contrast, saturation = (1 + random.uniform(-jitter, jitter) for _ in range(3))
    planes, grey = pixels.reshape(3, -1).float(), torch.tensor(GREY)
    gain, shift = brightness * contrast, brightness * (1 - contrast) * (planes.mean(1) @ grey)
    matrix = gain * ((1 - saturation) * grey.expand(3, 3) + saturation * torch.eye(3))
    changed = torch.addmm((shift + 0.5).expand(3, 1), matrix, planes)  # + 0.5: what follows rounds down
    return changed.clamp_(0, 255).to(torch.uint8).view(pixels.shape)


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
