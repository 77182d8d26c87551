"""What a network is: stages of blocks, as results (widths, not multipliers), never rules.

Membership test of a field: two models with equal specs can exchange state dicts and agree in eval mode; change any
field and one of the two fails. So dropout, drop-path and BN momentum (recipe), resolution (Design) and mean/std (weights
record) are not here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar, cast, get_args

from phiscale.errors import SpecError

Kind = Literal["mbconv", "fused", "separable", "bottleneck"]
Activation = Literal["silu", "relu", "relu6", "hardswish"]
Padding = Literal["same", "symmetric"]

MAX_WIDTH, MAX_DEPTH = 1 << 17, 1 << 12  # far above anything built; refuses typos before they are allocated


def _check(where: str, *, ok: bool, say: str) -> None:
    if not ok:
        raise SpecError(f"{where}: {say}")


def _check_int(where: str, name: str, value: object, low: int, high: int) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _check(where, ok=fits, say=f"{name} must be a whole number from {low} to {high}, got {value!r}")


def _check_one_of(where: str, name: str, value: object, kinds: tuple[str, ...]) -> None:
    _check(where, ok=value in kinds, say=f"{name} must be one of {', '.join(kinds)}; got {value!r}")


def _check_real(where: str, name: str, value: object, low: float, high: float) -> None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    _check(where, ok=fits, say=f"{name} must be a number from {low:g} to {high:g}, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """The first convolutions: one each of `widths`, the first with `kernel` and `stride`, later ones 3x3 stride 1.

    `pool` adds a 3x3 max-pooling of stride 2 (ResNet).
    """

    widths: tuple[int, ...] = (32,)
    kernel: int = 3
    stride: int = 2
    pool: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        _check("stem", ok=1 <= len(self.widths) <= 8, say=f"widths must have 1 to 8 entries, got {len(self.widths)}")
        for width in self.widths:
            _check_int("stem", "widths", width, 1, MAX_WIDTH)
        _check_kernel("stem", self.kernel)
        _check_int("stem", "stride", self.stride, 1, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`depth` blocks of one kind and `width` output channels; the first has the `stride`.

    expand  mbconv, fused: inner width over input width; bottleneck: inner width over output width; separable: unused (1)
    se      squeeze-excite width over block input width (bottleneck: over output width); 0 = none
    skip    whether blocks of equal input and output are residual
    """

    kind: Kind
    depth: int
    width: int
    kernel: int = 3
    stride: int = 1
    expand: float = 1.0
    se: float = 0.0
    skip: bool = True

    def __post_init__(self) -> None:
        self.check("stage")

    def check(self, where: str) -> None:
        """Raise SpecError naming `where` and the field that is wrong."""
        _check_one_of(where, "kind", self.kind, get_args(Kind))
        _check_int(where, "depth", self.depth, 1, MAX_DEPTH)
        _check_int(where, "width", self.width, 1, MAX_WIDTH)
        _check_kernel(where, self.kernel)
        _check_int(where, "stride", self.stride, 1, 4)
        _check_real(where, "expand", self.expand, 0.01, 64)
        _check_real(where, "se", self.se, 0, 1)
        _check(where, ok=self.skip in (True, False), say=f"skip must be true or false, got {self.skip!r}")


def _check_kernel(where: str, kernel: int) -> None:
    _check_int(where, "kernel", kernel, 1, 31)
    _check(where, ok=kernel % 2 == 1, say=f"kernel must be odd, got {kernel} (same-size padding needs a centre)")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A convolutional classifier: stem, stages, an optional 1x1 head, mean pooling, a linear classifier.

    head_width   channels of the 1x1 head convolution; 0 = none
    num_classes  outputs of the classifier; 0 = none (pooled features come out)
    bn_eps       epsilon of every batch norm: a fact of the weights (TF 1e-3, torch 1e-5)
    padding      "same": TF, the odd pixel goes right and below; "symmetric": (kernel - 1) / 2 on each side
    """

    stages: tuple[Stage, ...]
    stem: Stem = Stem()
    head_width: int = 1280
    num_classes: int = 1000
    in_channels: int = 3
    activation: Activation = "silu"
    bn_eps: float = 1e-3
    padding: Padding = "same"

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        _check("network", ok=1 <= len(self.stages) <= 64, say=f"stages must have 1 to 64 entries, got {len(self.stages)}")
        for number, stage in enumerate(self.stages, 1):
            stage.check(f"stage {number}")
        _check_int("network", "head_width", self.head_width, 0, MAX_WIDTH)
        _check_int("network", "num_classes", self.num_classes, 0, 1 << 20)
        _check_int("network", "in_channels", self.in_channels, 1, 1 << 12)
        _check_one_of("network", "activation", self.activation, get_args(Activation))
        _check_one_of("network", "padding", self.padding, get_args(Padding))
        _check_real("network", "bn_eps", self.bn_eps, 1e-12, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for TOML or JSON; `from_dict` reads them back equal."""
        return asdict(self) | {"stages": [asdict(stage) for stage in self.stages], "stem": asdict(self.stem)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NetworkSpec":
        """Read `to_dict`'s form. SpecError names the stage and field that is unknown, missing or wrong."""
        parts = dict(values)
        stages = cast("list[Any]", parts.get("stages"))
        if not isinstance(stages, list) or not stages:
            raise SpecError("network: stages is missing; write one [[network.stages]] table a stage")
        parts["stages"] = tuple(build(Stage, stage, f"stage {number}") for number, stage in enumerate(stages, 1))
        if "stem" in parts:
            parts["stem"] = build(Stem, parts["stem"], "stem")
        return build(cls, parts, "network")

    def with_classes(self, num_classes: int, in_channels: int | None = None) -> "NetworkSpec":
        """The same network with another classifier (and, if given, another number of input channels)."""
        return replace(self, num_classes=num_classes, in_channels=in_channels or self.in_channels)


Made = TypeVar("Made")


def build(kind: type[Made], values: Any, where: str) -> Made:
    """`kind(**values)` from a stranger's table: unknown and missing keys are errors that name the nearest field."""
    from difflib import get_close_matches

    if not isinstance(values, Mapping):
        raise SpecError(f"{where}: expected a table, got {values!r}")
    known = [field.name for field in fields(cast(Any, kind))]
    for key in cast(Mapping[str, Any], values):
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise SpecError(f"{where}: no field {key!r}; {hint}")
    try:
        return kind(**values)
    except SpecError as error:
        # a nested check already says "stage: …"; the caller knows which one
        message = str(error)
        raise SpecError(f"{where}: {message.split(': ', 1)[-1]}" if message.startswith(("stage: ", "stem: ")) else message) from None
    except TypeError as error:
        raise SpecError(f"{where}: {str(error).split('() ', 1)[-1]}") from None
