"""What a network is: stages of blocks, as results (widths, not multipliers), never rules.

Membership test of a field: two models with equal specs can exchange state dicts and agree in eval mode; change any
field and one of the two fails. So dropout, drop-path and BN momentum (recipe), resolution (Design) and mean/std (weights
record) are not here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast, get_args

from phiscale.architecture.check import build, check, check_bool, check_int, check_one_of, check_real
from phiscale.errors import SpecError

Kind = Literal["mbconv", "fused", "separable", "bottleneck"]
Activation = Literal["silu", "relu", "relu6", "hardswish"]
Padding = Literal["same", "symmetric"]
Shortcut = Literal["conv", "pool"]

MAX_WIDTH, MAX_DEPTH = 1 << 17, 1 << 12  # far above anything built; refuses typos before they are allocated


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """The first convolutions: one each of `widths`, the first with `kernel` and `stride`, later ones 3x3 stride 1.

    `space_to_depth` adds a 2x2 convolution of stride 2 to four times the width (EfficientNet-X); `pool` adds a 3x3
    max-pooling of stride 2 (ResNet).
    """

    widths: tuple[int, ...] = (32,)
    kernel: int = 3
    stride: int = 2
    space_to_depth: bool = False
    pool: bool = False

    def __post_init__(self) -> None:
        check("stem", ok=isinstance(self.widths, (tuple, list)), say=f"widths must be a list of whole numbers, got {self.widths!r}")
        object.__setattr__(self, "widths", tuple(self.widths))
        check("stem", ok=1 <= len(self.widths) <= 8, say=f"widths must have 1 to 8 entries, got {len(self.widths)}")
        for width in self.widths:
            check_int("stem", "widths", width, 1, MAX_WIDTH)
        _check_kernel("stem", self.kernel)
        check_int("stem", "stride", self.stride, 1, 4)
        check_bool("stem", "space_to_depth", self.space_to_depth)
        check_bool("stem", "pool", self.pool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`depth` blocks of one kind and `width` output channels; the first has the `stride`.

    expand  mbconv, fused: inner width over input width; bottleneck: inner width over output width; separable: unused (1)
            (fused with 1: a single convolution, unless squeeze-excite stands between two, or `split`)
    se      squeeze-excite width over block input width (bottleneck: over output width); 0 = none
    skip    whether blocks of equal input and output are residual
    experts   mbconv: CondConv, each convolution a mixture of so many, chosen by each image's own routing; 0 = plain
    activation  where it is not the network's
    shortcut  bottleneck: how the shortcut of a strided block strides: its 1x1 convolution, or an average pool before it
    split   fused with expand 1: two convolutions all the same, kxk and 1x1 (timm's V2-RW)
    """

    kind: Kind
    depth: int
    width: int
    kernel: int = 3
    stride: int = 1
    expand: float = 1.0
    se: float = 0.0
    skip: bool = True
    experts: int = 0
    activation: Activation | None = None
    shortcut: Shortcut = "conv"
    split: bool = False

    def __post_init__(self) -> None:
        where = "stage"  # whoever reads it from a file knows its number
        check_one_of(where, "kind", self.kind, get_args(Kind))
        check_int(where, "depth", self.depth, 1, MAX_DEPTH)
        check_int(where, "width", self.width, 1, MAX_WIDTH)
        _check_kernel(where, self.kernel)
        check_int(where, "stride", self.stride, 1, 4)
        check_real(where, "expand", self.expand, 0.01, 64)
        check_real(where, "se", self.se, 0, 1)
        check_bool(where, "skip", self.skip)
        check_int(where, "experts", self.experts, 0, 1024)
        if self.activation is not None:
            check_one_of(where, "activation", self.activation, get_args(Activation))
        check_one_of(where, "shortcut", self.shortcut, get_args(Shortcut))
        check_bool(where, "split", self.split)
        # what has no effect is no fact
        check(where, ok=self.kind == "mbconv" or not self.experts, say=f"only mbconv has experts, got {self.experts!r} in {self.kind}")
        pools = self.shortcut == "pool"
        check(where, ok=self.kind == "bottleneck" or not pools, say=f"only a bottleneck has a pooled shortcut, got {self.kind}")
        one = self.kind == "fused" and self.expand == 1 and not self.se
        check(where, ok=one or not self.split, say="split is of a fused stage with expand 1 and no squeeze-excite; others have two anyway")
        check(where, ok=self.kind != "separable" or self.expand == 1, say=f"a separable block has no expand, got {self.expand!r}")


def _check_kernel(where: str, kernel: int) -> None:
    check_int(where, "kernel", kernel, 1, 31)
    # 2 is EfficientNet-X's, after its space-to-depth convolution; it looks one pixel right and below
    check(where, ok=kernel % 2 == 1 or kernel == 2, say=f"kernel must be odd, got {kernel} (same-size padding needs a centre)")


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
        check("network", ok=1 <= len(self.stages) <= 64, say=f"stages must have 1 to 64 entries, got {len(self.stages)}")
        for number, stage in enumerate(self.stages, 1):
            if not isinstance(stage, Stage):
                raise SpecError(f"stage {number}: expected a Stage, got {stage!r}")
        if not isinstance(self.stem, Stem):
            raise SpecError(f"stem: expected a Stem, got {self.stem!r}")
        check_int("network", "head_width", self.head_width, 0, MAX_WIDTH)
        check_int("network", "num_classes", self.num_classes, 0, 1 << 20)
        check_int("network", "in_channels", self.in_channels, 1, 1 << 12)
        check_one_of("network", "activation", self.activation, get_args(Activation))
        check_one_of("network", "padding", self.padding, get_args(Padding))
        check_real("network", "bn_eps", self.bn_eps, 1e-12, 1)

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
