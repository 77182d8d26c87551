"""Feature maps instead of logits, for detection and segmentation, and strides traded for dilation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from phiscale.architecture.plan import blocks, stem
from phiscale.architecture.spec import NetworkSpec
from phiscale.errors import ArgumentError
from phiscale.nn.blocks import Bottleneck
from phiscale.nn.layers import AvgPool, CondConv2d, Conv2d
from phiscale.nn.network import Network, recomputed, resized


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The last map before the next halving. stage: whose output it is, -1 = the stem's; reduction: pixels of the image per pixel."""

    stage: int
    channels: int
    reduction: int


def levels(spec: NetworkSpec, output_stride: int = 32) -> tuple[Level, ...]:
    """The maps that `Features` can give, largest first.

    >>> from phiscale.architecture.catalog import design
    >>> [(level.channels, level.reduction) for level in levels(design("efficientnet_b0").spec)]
    [(16, 2), (24, 4), (40, 8), (112, 16), (320, 32)]
    """
    reduction = math.prod(conv.stride for conv in stem(spec))
    found = {reduction: Level(stage=-1, channels=stem(spec)[-1].w_out, reduction=reduction)}
    reduction *= 2 if spec.stem.pool else 1
    for block in blocks(spec):
        reduction = min(reduction * block.stride, output_stride)
        if block.position == spec.stages[block.stage].depth - 1:
            # with dilation several stages share a reduction; the last stands
            found[reduction] = Level(stage=block.stage, channels=block.w_out, reduction=reduction)
    return tuple(found.values())


class Features(nn.Module):
    """Images (B, in_channels, H, W) -> one map a wanted level, largest first: (B, channels, H / reduction, W / reduction), rounded up.

    out_indices   which `levels`, counted from the largest; negative ones from the smallest
    Takes over the parts of `network` (what isn't needed is left out), with its weights.
    """

    def __init__(self, network: Network, *, out_indices: Sequence[int] | None = None, output_stride: int = 32) -> None:
        super().__init__()
        known = levels(network.spec, output_stride)
        wanted = tuple(range(len(known)) if out_indices is None else out_indices)
        if not wanted or not all(-len(known) <= index < len(known) for index in wanted):
            reductions = ", ".join(f"{number}: 1/{level.reduction}" for number, level in enumerate(known))
            raise ArgumentError(f"out_indices {wanted} are not all among this network's {len(known)} levels ({reductions})")
        self.spec = network.spec
        self.levels = tuple(known[index] for index in sorted({index % len(known) for index in wanted}))
        self.stem, self.pool, self.resize_to, self.recompute = network.stem, network.pool, network.resize_to, network.recompute
        self.stages = nn.ModuleList(stage for number, stage in enumerate(network.stages) if number <= self.levels[-1].stage)

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(level.channels for level in self.levels)

    @property
    def reductions(self) -> tuple[int, ...]:
        return tuple(level.reduction for level in self.levels)

    def forward(self, x: Tensor) -> list[Tensor]:
        wanted = {level.stage for level in self.levels}
        x = self.stem(x if self.resize_to is None else resized(x, self.resize_to))
        maps = [x] if -1 in wanted else []
        x = self.pool(x)
        for number, stage in enumerate(self.stages):
            x = recomputed(stage, x) if self.recompute and self.training else stage(x)
            if number in wanted:
                maps.append(x)
        return maps


def dilate(network: Network, output_stride: int) -> None:
    """Let `network` reduce its input by no more than `output_stride`: later strides become dilation, weights stay.

    ArgumentError where the stem alone reduces more.
    Source: arXiv 1706.05587; which block dilates first, and that a shortcut's pooling keeps its window, is as in timm.
    """
    spec = network.spec
    reduction = math.prod(conv.stride for conv in stem(spec)) * (2 if spec.stem.pool else 1)
    if output_stride < reduction or output_stride & (output_stride - 1):
        raise ArgumentError(f"output_stride must be a power of 2, at least {reduction} for this network; got {output_stride}")
    dilation = 1
    for block in blocks(spec):
        module = network.get_submodule(block.name)
        later = dilation
        if block.stride > 1 and reduction * block.stride > output_stride:
            later *= block.stride
            if isinstance(module, Bottleneck) and block.pools:
                module.pool = AvgPool(1, spec.padding)
        else:
            reduction *= block.stride
        for part in module.modules():
            if isinstance(part, Conv2d):
                if later != dilation:
                    part.stride = (1, 1)
                if part.kernel_size[0] > 1:
                    part.dilation = (dilation, dilation)
                part.pad(spec.padding)
            elif isinstance(part, CondConv2d):
                part.stride = 1 if later != dilation else part.stride
                part.dilation = dilation
        dilation = later
