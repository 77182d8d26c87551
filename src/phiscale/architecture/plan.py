"""The plan: the list of blocks that a spec implies. Every derived width is decided here, once."""

from dataclasses import dataclass
from functools import lru_cache
from typing import assert_never

from phiscale.architecture.spec import Activation, Kind, NetworkSpec, Padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block, resolved.

    w_in -> w_mid -> w_out channels; w_se channels inside squeeze-excite (0 = none).
    """

    index: int  # over the whole network, from 0: stochastic depth grows with it
    stage: int
    position: int  # inside the stage, from 0
    kind: Kind
    w_in: int
    w_mid: int
    w_out: int
    w_se: int
    kernel: int
    stride: int
    skips: bool
    activation: Activation
    experts: int = 0  # of CondConv; 0 = plain convolutions
    pools: bool = False  # a bottleneck's shortcut averages before its convolution, which then has stride 1
    split: bool = False  # a fused block has its 1x1 convolution, though it doesn't widen

    @property
    def name(self) -> str:
        """Module path, the prefix of its state_dict keys: `stages.2.0`."""
        return f"stages.{self.stage}.{self.position}"

    @property
    def expands(self) -> bool:
        """Whether there is a first convolution that widens (mbconv, fused); a ratio of 1 leaves it out, but for fused with SE or split."""
        return self.w_mid != self.w_in or (self.kind == "fused" and (self.w_se > 0 or self.split))

    @property
    def projects(self) -> bool:
        """Whether a bottleneck's shortcut is a convolution: its input and output differ."""
        return self.kind == "bottleneck" and self.skips and (self.stride > 1 or self.w_in != self.w_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class StemConv:
    """One convolution of the stem, resolved."""

    name: str
    w_in: int
    w_out: int
    kernel: int
    stride: int


def stem(spec: NetworkSpec) -> tuple[StemConv, ...]:
    """The stem's convolutions in order of execution; a max-pooling may follow (`spec.stem.pool`)."""
    s, w_in = spec.stem, spec.in_channels
    rows = [(width, s.kernel if number == 0 else 3, s.stride if number == 0 else 1) for number, width in enumerate(s.widths)]
    if s.space_to_depth:
        rows.append((4 * s.widths[-1], 2, 2))
    plan: list[StemConv] = []
    for number, (w_out, kernel, stride) in enumerate(rows):
        plan.append(StemConv(name=f"stem.{number}", w_in=w_in, w_out=w_out, kernel=kernel, stride=stride))
        w_in = w_out
    return tuple(plan)


@lru_cache(maxsize=512)
def blocks(spec: NetworkSpec) -> tuple[Block, ...]:
    """All blocks in order of execution."""
    plan: list[Block] = []
    for number, stage in enumerate(spec.stages):
        for position in range(stage.depth):
            plan.append(_block(spec, number, position, index=len(plan)))
    return tuple(plan)


@lru_cache(maxsize=512)
def distinct(spec: NetworkSpec) -> tuple[tuple[Block, int], ...]:
    """The first two blocks of each stage, each with how many of the stage are like it: from the second on, only their places differ."""
    plan: list[tuple[Block, int]] = []
    index = 0
    for number, stage in enumerate(spec.stages):
        plan.append((_block(spec, number, 0, index=index), 1))
        if stage.depth > 1:
            plan.append((_block(spec, number, 1, index=index + 1), stage.depth - 1))
        index += stage.depth
    return tuple(plan)


def _block(spec: NetworkSpec, number: int, position: int, *, index: int) -> Block:
    """Block `position` of stage `number`.

    SE width is a share of the block's *input* width (the reference TPU implementation, efficientnet_model.py), at least 1.
    """
    stage = spec.stages[number]
    stride = stage.stride if position == 0 else 1
    w_in = stage.width if position else spec.stages[number - 1].width if number else stem(spec)[-1].w_out
    match stage.kind:
        case "mbconv" | "fused":
            w_mid, se_of = max(1, round(w_in * stage.expand)), w_in
        case "separable":
            w_mid, se_of = w_in, w_in
        case "bottleneck":
            w_mid, se_of = max(1, round(stage.width * stage.expand)), stage.width
        case _:
            assert_never(stage.kind)
    # a bottleneck is always residual: where shapes differ its shortcut is a convolution
    skips = stage.skip and (stage.kind == "bottleneck" or (stride == 1 and w_in == stage.width))
    return Block(
        index=index,
        stage=number,
        position=position,
        kind=stage.kind,
        w_in=w_in,
        w_mid=w_mid,
        w_out=stage.width,
        # a hair below a whole number is that number: 35 * (10 / 35)
        w_se=max(1, int(se_of * stage.se + 1e-9)) if stage.se else 0,
        kernel=stage.kernel,
        stride=stride,
        skips=skips,
        activation=stage.activation or spec.activation,
        experts=stage.experts,
        pools=skips and stage.shortcut == "pool" and stride > 1,
        split=stage.split,
    )


def feature_width(spec: NetworkSpec) -> int:
    """Channels that reach the pooling: the head's, or the last stage's where there is no head."""
    return spec.head_width or spec.stages[-1].width


def pads(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Pixels added before and after one axis of `size` pixels.

    >>> pads(224, 3, 2, "same"), pads(225, 3, 2, "same"), pads(224, 3, 2, "symmetric")
    ((0, 1), (1, 1), (1, 1))
    """
    if padding == "symmetric" and kernel % 2:
        return (kernel - 1) // 2, (kernel - 1) // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def out_size(size: int, kernel: int, stride: int, padding: Padding) -> int:
    """Pixels of one axis after a convolution.

    >>> out_size(225, 3, 2, "same"), out_size(225, 3, 2, "symmetric"), out_size(7, 5, 1, "same")
    (113, 113, 7)
    """
    if padding == "same" or kernel % 2 == 0:
        return -(-size // stride)
    return (size + 2 * ((kernel - 1) // 2) - kernel) // stride + 1
