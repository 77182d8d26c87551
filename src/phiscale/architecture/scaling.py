"""Compound scaling, arXiv 1905.11946 section 3.3: depth alpha^phi, width beta^phi, resolution gamma^phi.

How a scaled number becomes whole is a choice of each publication and is an argument here (`Rounding`, in rounding.py), never hidden.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from phiscale.architecture.design import Design, Origin
from phiscale.architecture.rounding import Rounding, round_depth, round_width
from phiscale.architecture.spec import NetworkSpec
from phiscale.errors import ArgumentError


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """The paper's alpha (depth), beta (width), gamma (resolution) at phi = 1; alpha * beta^2 * gamma^2 is about 2."""

    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0.1 <= value <= 10):
                raise ArgumentError(f"coefficient {name} must be between 0.1 and 10, got {value}; the paper's are 1.2, 1.1, 1.15")

    @property
    def ratio(self) -> float:
        """Cost growth for one step of phi before rounding.

        >>> round(Coefficients().ratio, 3)
        1.92
        """
        return self.alpha * self.beta**2 * self.gamma**2

    @classmethod
    def parse(cls, text: str | Path) -> "Coefficients":
        """From "1.2,1.1,1.15", or a TOML file as `phiscale search` writes it. ArgumentError says what can't be read.

        >>> Coefficients.parse("1.2,1.1,1.15") == Coefficients()
        True
        """
        if str(text).endswith(".toml"):
            return cls.read(text)
        try:
            alpha, beta, gamma = (float(part) for part in str(text).split(","))
        except ValueError:
            raise ArgumentError(
                f"can't read {str(text)!r} as coefficients; write three numbers, for example 1.2,1.1,1.15, or the .toml of a search"
            ) from None
        return cls(alpha=alpha, beta=beta, gamma=gamma)

    @classmethod
    def read(cls, path: str | Path) -> "Coefficients":
        """The [coefficients] of a TOML file; what else it holds is for people. ArgumentError where there are none."""
        try:
            held = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("coefficients")
        except (OSError, ValueError) as error:
            raise ArgumentError(f"can't read coefficients from {path}: {error}") from None
        letters = ("alpha", "beta", "gamma")
        if not isinstance(held, Mapping) or not all(
            isinstance(held.get(name), (int, float)) and not isinstance(held.get(name), bool) for name in letters
        ):
            raise ArgumentError(f"{path} has no [coefficients] table with alpha, beta and gamma; `phiscale search` writes one")
        return cls(**{name: float(held[name]) for name in letters})


# Each doubles the multiply-adds at phi = 1 before rounding ("compound": nearly)
POLICIES: Mapping[str, Coefficients] = MappingProxyType(
    {
        "compound": Coefficients(),
        "depth": Coefficients(alpha=2.0, beta=1.0, gamma=1.0),
        "width": Coefficients(alpha=1.0, beta=math.sqrt(2), gamma=1.0),
        "resolution": Coefficients(alpha=1.0, beta=1.0, gamma=math.sqrt(2)),
        # arXiv 2103.06877 at its default alpha = 0.8, pycls' d1_w8_g8_r1: mostly wider, so that activations grow slowest
        "fast": Coefficients(alpha=2**0.1, beta=2**0.4, gamma=2**0.05),
    }
)


def policy(name: str) -> Coefficients:
    """The coefficients of a scaling policy: "compound" (the paper's), "depth", "width", "resolution" (one alone), "fast".

    ArgumentError for another name. "fast" grows activations, and with them time on parallel hardware, least.

    >>> fast = policy("fast"); round(fast.ratio, 6), round(fast.beta, 4)
    (2.0, 1.3195)
    """
    if name not in POLICIES:
        raise ArgumentError(f"no scaling policy {name!r}; known: {', '.join(POLICIES)}")
    return POLICIES[name]


def own_coefficients(design: Design) -> Coefficients:
    """Those that `design` was made with, else the paper's."""
    three = design.origin.coefficients
    return Coefficients(alpha=three[0], beta=three[1], gamma=three[2]) if three else Coefficients()


def scale_spec(spec: NetworkSpec, *, depth: float = 1.0, width: float = 1.0, rounding: Rounding | None = None) -> NetworkSpec:
    """`spec` with all depths and widths multiplied and rounded; a factor of 1 changes nothing."""
    how = rounding or Rounding()

    def wide(channels: int) -> int:
        return channels if width == 1.0 else round_width(channels * width, how.divisor, how.guard)

    stages = tuple(
        replace(
            stage,
            width=wide(stage.width),
            depth=stage.depth
            if depth == 1.0 or (not how.ends and number in (0, len(spec.stages) - 1))
            else round_depth(stage.depth * depth, how.depth),
        )
        for number, stage in enumerate(spec.stages)
    )
    if not how.ends:
        return replace(spec, stages=stages)
    stem = replace(spec.stem, widths=tuple(wide(w) for w in spec.stem.widths))
    return replace(spec, stages=stages, stem=stem, head_width=wide(spec.head_width) if spec.head_width else 0)


def scale(
    design: Design,
    *,
    phi: float | None = None,
    coefficients: Coefficients | tuple[float, float, float] | None = None,
    depth: float | None = None,
    width: float | None = None,
    resolution: float | None = None,
) -> Design:
    """`design` grown by the compound coefficient `phi`, or by factors of depth, width and resolution given by hand.

    phi may be negative (smaller than the baseline); coefficients: None are those that the design was made with, else the paper's.
    A factor given beside phi replaces phi's own for that dimension.
    Resolution is rounded to the nearest pixel. ArgumentError for factors that are not positive and finite.

    >>> from phiscale.architecture.catalog import design as published
    >>> scale(published("efficientnet_b0"), phi=1).resolution
    258
    """
    if not isinstance(coefficients, Coefficients):
        three = coefficients
        coefficients = Coefficients(alpha=three[0], beta=three[1], gamma=three[2]) if three else own_coefficients(design)
    if phi is not None and not (math.isfinite(phi) and abs(phi) <= 64):
        raise ArgumentError(f"phi must be between -64 and 64, got {phi}")
    by_phi = (1.0, 1.0, 1.0) if phi is None else (coefficients.alpha**phi, coefficients.beta**phi, coefficients.gamma**phi)
    d, w, r = (given if given is not None else own for given, own in zip((depth, width, resolution), by_phi, strict=True))
    for name, factor in (("depth", d), ("width", w), ("resolution", r)):
        if not (math.isfinite(factor) and 0 < factor <= 1e6):
            raise ArgumentError(f"{name} factor must be positive and finite, got {factor}")
    before = design.origin
    three = (coefficients.alpha, coefficients.beta, coefficients.gamma)
    unscaled = before.phi is None and before.depth == before.width == before.resolution == 1
    by_phi_alone = (depth, width, resolution) == (None, None, None) and (unscaled or before.coefficients == three)
    return Design(
        spec=scale_spec(design.spec, depth=d, width=w, rounding=design.rounding),
        resolution=max(1, math.floor(design.resolution * r + 0.5)),
        rounding=design.rounding,
        origin=Origin(
            baseline=before.baseline,
            phi=(before.phi or 0.0) + phi if phi is not None and by_phi_alone else None,
            coefficients=three if phi is not None and by_phi_alone else None,
            depth=before.depth * d,
            width=before.width * w,
            resolution=before.resolution * r,
        ),
    )
