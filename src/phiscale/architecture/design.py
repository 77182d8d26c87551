"""A design: a spec, the resolution it is run at, and how it came about. Written to and read from TOML."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiscale.architecture.check import build, check, check_int, check_real
from phiscale.architecture.rounding import Rounding
from phiscale.architecture.spec import NetworkSpec
from phiscale.architecture.toml import dumps
from phiscale.errors import ArgumentError, SpecError

if TYPE_CHECKING:
    from phiscale.cost import Cost

SCHEMA = 1  # of design files; a reader refuses a higher one
MAX_RESOLUTION = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """How a design came about: the baseline's name and what it was multiplied by (phi and coefficients if by phi alone)."""

    baseline: str = "own"
    phi: float | None = None
    coefficients: tuple[float, float, float] | None = None
    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0
    budget: str = ""  # as asked, e.g. "macs 1G, memory 64MB"

    def __post_init__(self) -> None:
        for name in ("baseline", "budget"):
            check("origin", ok=isinstance(getattr(self, name), str), say=f"{name} must be text, got {getattr(self, name)!r}")
        for name in ("depth", "width", "resolution"):
            check_real("origin", name, getattr(self, name), 1e-30, 1e30)
        if self.phi is not None:
            check_real("origin", "phi", self.phi, -1e3, 1e3)
        if self.coefficients is not None:
            three = isinstance(self.coefficients, (tuple, list)) and len(self.coefficients) == 3
            check("origin", ok=three, say=f"coefficients must be three numbers, got {self.coefficients!r}")
            for value in self.coefficients:
                check_real("origin", "coefficients", value, 0.1, 10)
            object.__setattr__(self, "coefficients", tuple(self.coefficients))


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A network and the size of the square image it is run at, in pixels."""

    spec: NetworkSpec
    resolution: int
    rounding: Rounding = Rounding()
    origin: Origin = Origin()

    def __post_init__(self) -> None:
        check_int("design", "resolution", self.resolution, 1, MAX_RESOLUTION)

    @property
    def name(self) -> str:
        """The published name where nothing was scaled, else the baseline with what was done to it."""
        o = self.origin
        if o.phi is not None:
            return f"{o.baseline}_phi{o.phi:g}"
        parts = [f"{letter}{value:.3g}" for letter, value in (("d", o.depth), ("w", o.width), ("r", o.resolution)) if value != 1.0]
        return "_".join([o.baseline, *parts])

    @property
    def cost(self) -> "Cost":
        """Params, MACs, activations and peak inference memory at batch 1; analytic."""
        # the one upward import of the house, so that a design can say what it costs; see ARCHITECTURE.md
        from phiscale.cost import cost

        return cost(self)

    def with_classes(self, num_classes: int, in_channels: int | None = None) -> "Design":
        """The same design with another classifier."""
        return replace(self, spec=self.spec.with_classes(num_classes, in_channels))

    def at(self, resolution: int) -> "Design":
        """The same network at another resolution."""
        if resolution == self.resolution:
            return self
        factor = resolution / self.resolution * self.origin.resolution
        return replace(self, resolution=resolution, origin=replace(self.origin, phi=None, coefficients=None, resolution=factor))

    def to_toml(self) -> str:
        """The whole design as TOML, with its schema number."""
        return dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "resolution": self.resolution,
            "origin": asdict(self.origin),
            "rounding": asdict(self.rounding),
            "network": self.spec.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Design":
        """Read `to_dict`'s form. SpecError names what is unknown, missing or wrong."""
        known = {"schema", "resolution", "origin", "rounding", "network"}
        if unknown := sorted(set(values) - known):
            raise SpecError(f"design: no field {unknown[0]!r}; known: {', '.join(sorted(known))}")
        schema = values.get("schema")
        newer = isinstance(schema, int) and schema > SCHEMA
        check(
            "design",
            ok=schema is not True and schema == SCHEMA,
            say=f"schema must be {SCHEMA}, got {schema!r}" + "; written by a newer phiscale" * newer,
        )
        if "network" not in values or "resolution" not in values:
            raise SpecError("design: needs `resolution` and a [network] table")
        network = values["network"]
        if not isinstance(network, Mapping):
            raise SpecError(f"network: expected a table, got {network!r}")
        return cls(
            spec=NetworkSpec.from_dict(network),
            resolution=values["resolution"],
            rounding=build(Rounding, values.get("rounding", {}), "rounding"),
            origin=build(Origin, values.get("origin", {}), "origin"),
        )

    @classmethod
    def from_toml(cls, text: str) -> "Design":
        """Read a design file's text. SpecError for anything that is not one."""
        try:
            return cls.from_dict(tomllib.loads(text))
        except SpecError:
            raise
        except RecursionError:
            raise SpecError("not a design: nested too deeply") from None
        except ValueError as error:  # not TOML, or a number of thousands of digits, which Python won't even print
            raise SpecError(f"not TOML: {error}") from None

    @classmethod
    def read(cls, path: str | Path) -> "Design":
        """Read a design file. ArgumentError where there is none; SpecError, with the file's name, where it is wrong."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArgumentError(f"can't read the design file {path}: {error}") from None
        try:
            return cls.from_toml(text)
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from None
