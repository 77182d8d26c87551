"""The plan: the list of blocks that a spec implies. Every derived width is decided here, once."""

from dataclasses import dataclass
from functools import lru_cache
from typing import assert_never

from phiscale.architecture.spec import Kind, NetworkSpec, Padding


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

    @property
    def name(self) -> str:
        """Module path, the prefix of its state_dict keys: `stages.2.0`."""
        return f"stages.{self.stage}.{self.position}"

    @property
    def expands(self) -> bool:
        """Whether a first convolution widens (mbconv, fused) the input; a ratio of 1 leaves it out."""
        return self.w_mid != self.w_in

    @property
    def projects(self) -> bool:
        """Whether a bottleneck's shortcut is a convolution: its input and output differ."""
        return self.kind == "bottleneck" and self.skips and (self.stride > 1 or self.w_in != self.w_out)


@lru_cache(maxsize=512)
def blocks(spec: NetworkSpec) -> tuple[Block, ...]:
    """All blocks in order of execution.

    SE width is a share of the block's *input* width (the reference TPU implementation, efficientnet_model.py), at least 1.
    """
    plan: list[Block] = []
    w_in = spec.stem.widths[-1]
    for number, stage in enumerate(spec.stages):
        for position in range(stage.depth):
            stride = stage.stride if position == 0 else 1
            match stage.kind:
                case "mbconv" | "fused":
                    w_mid, se_of = max(1, round(w_in * stage.expand)), w_in
                case "separable":
                    w_mid, se_of = w_in, w_in
                case "bottleneck":
                    w_mid, se_of = max(1, round(stage.width * stage.expand)), stage.width
                case _:
                    assert_never(stage.kind)
            # a fused block that doesn't expand is one convolution: it has nothing to gate
            gates = stage.se > 0 and not (stage.kind == "fused" and w_mid == w_in)
            plan.append(
                Block(
                    index=len(plan),
                    stage=number,
                    position=position,
                    kind=stage.kind,
                    w_in=w_in,
                    w_mid=w_mid,
                    w_out=stage.width,
                    w_se=max(1, int(se_of * stage.se)) if gates else 0,
                    kernel=stage.kernel,
                    stride=stride,
                    # a bottleneck is always residual: where shapes differ its shortcut is a convolution
                    skips=stage.skip and (stage.kind == "bottleneck" or (stride == 1 and w_in == stage.width)),
                )
            )
            w_in = stage.width
    return tuple(plan)


def feature_width(spec: NetworkSpec) -> int:
    """Channels that reach the pooling: the head's, or the last stage's where there is no head."""
    return spec.head_width or spec.stages[-1].width


def pads(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Pixels added before and after one axis of `size` pixels.

    >>> pads(224, 3, 2, "same"), pads(225, 3, 2, "same"), pads(224, 3, 2, "symmetric")
    ((0, 1), (1, 1), (1, 1))
    """
    if padding == "symmetric":
        return (kernel - 1) // 2, (kernel - 1) // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def out_size(size: int, kernel: int, stride: int, padding: Padding) -> int:
    """Pixels of one axis after a convolution.

    >>> out_size(225, 3, 2, "same"), out_size(225, 3, 2, "symmetric"), out_size(7, 5, 1, "same")
    (113, 113, 7)
    """
    if padding == "same":
        return -(-size // stride)
    return (size + 2 * ((kernel - 1) // 2) - kernel) // stride + 1
