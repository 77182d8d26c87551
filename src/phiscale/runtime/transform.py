"""From an upright RGB image to what a network reads, with Pillow and numpy alone.

Sizes and crops are rounded as torchvision's Resize(int) and CenterCrop round them, so that the arrays are equal to its
tensors bit for bit (`data/transform.py` is the other hand; a test compares the two).
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phiscale.architecture.preprocess import Interpolation, Preprocess

FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resized_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """(width, height) after the shorter side becomes `shorter` pixels; the longer is rounded down.

    >>> resized_size((640, 427), 256)
    (383, 256)
    """
    width, height = size
    return (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)


def crop_box(size: tuple[int, int], crop: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the central square of `crop` pixels; a half is rounded to even.

    >>> crop_box((383, 256), 224)
    (80, 16, 304, 240)
    """
    left, top = (round((side - crop) / 2) for side in size)
    return left, top, left + crop, top + crop


def resize_shorter(image: Image.Image, shorter: int, interpolation: Interpolation = "bicubic") -> Image.Image:
    """The image with its shorter side resized to `shorter` pixels, antialiased; the same object where it already is."""
    size = resized_size(image.size, shorter)
    return image if size == image.size else image.resize(size, FILTERS[interpolation])


def to_pixels(image: Image.Image, pre: Preprocess) -> NDArray[np.uint8]:
    """Resized and cropped, not yet normalised: uint8 (crop, crop, 3)."""
    image = resize_shorter(image, pre.resize, pre.interpolation)
    return np.asarray(image.crop(crop_box(image.size, pre.crop)))


def normalise(pixels: NDArray[np.uint8], pre: Preprocess) -> NDArray[np.float32]:
    """uint8 (..., H, W, 3) -> float32 (..., 3, H, W): (x / 255 - mean) / std, in that order of operations."""
    x = np.moveaxis(pixels, -1, -3).astype(np.float32) / np.float32(255)
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (pre.mean, pre.std))
    return np.ascontiguousarray((x - mean) / std)


def to_array(image: Image.Image, pre: Preprocess) -> NDArray[np.float32]:
    """An RGB image as the network reads it: float32 (3, crop, crop)."""
    return normalise(to_pixels(image, pre), pre)
