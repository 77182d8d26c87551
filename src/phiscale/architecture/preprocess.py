"""What happens to an image before a network sees it: one description, from which every transform is generated."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from phiscale.architecture.check import build
from phiscale.errors import SpecError

Interpolation = Literal["bilinear", "bicubic", "lanczos"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
# Google's (x - 127) / 128 and (x - 128) / 128
P127, P128 = (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Upright RGB, shorter side to `resize` pixels (antialiased), centre crop of `crop` pixels, (x / 255 - mean) / std."""

    crop: int
    resize: int
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    background: tuple[int, int, int] = (255, 255, 255)  # under transparent pixels

    def __post_init__(self) -> None:
        for name in ("mean", "std", "background"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != 3:
                raise SpecError(f"preprocess: {name} must have 3 numbers, got {getattr(self, name)!r}")
        if not (isinstance(self.crop, int) and isinstance(self.resize, int) and 1 <= self.crop <= self.resize <= 1 << 15):
            raise SpecError(f"preprocess: needs 1 <= crop <= resize, got crop {self.crop!r}, resize {self.resize!r}")
        if self.interpolation not in get_args(Interpolation):
            raise SpecError(f"preprocess: interpolation must be one of {', '.join(get_args(Interpolation))}; got {self.interpolation!r}")
        if not all(isinstance(s, (int, float)) and s > 0 for s in self.std):
            raise SpecError(f"preprocess: std must be positive, got {self.std!r}")

    def at(self, resolution: int) -> "Preprocess":
        """The same preprocessing for another input size: the share of the image that the crop keeps stays."""
        return (
            self
            if resolution == self.crop
            else replace(self, crop=resolution, resize=max(resolution, round(resolution * self.resize / self.crop)))
        )

    def to_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """Read `to_dict`'s form; SpecError names what is wrong."""
        return build(cls, values, "preprocess")
