"""One module a block kind, written by hand from a plan's Block: (B, w_in, H, W) -> (B, w_out, H', W').

cost/count.py says what each line costs.
"""

from typing import assert_never

from torch import Tensor, nn

from phiscale.architecture.plan import Block
from phiscale.architecture.spec import NetworkSpec
from phiscale.nn.layers import AvgPool, DropPath, Routing, SqueezeExcite, activation, conv_norm_of, mixed_conv_norm_of


def make_block(block: Block, spec: NetworkSpec, *, drop_path: float, bn_momentum: float) -> nn.Module:
    """The module of `block`. drop_path is this block's own rate."""
    match block.kind:
        case "mbconv":
            return MBConv(block, spec, drop_path, bn_momentum)
        case "fused":
            return FusedMBConv(block, spec, drop_path, bn_momentum)
        case "separable":
            return Separable(block, spec, drop_path, bn_momentum)
        case "bottleneck":
            return Bottleneck(block, spec, drop_path, bn_momentum)
        case _:
            assert_never(block.kind)


class MBConv(nn.Module):
    """Expand 1x1, depthwise kxk, squeeze-excite, project 1x1 (linear); with experts all three are mixed for each image.

    Source: arXiv 1801.04381, 1905.11946; experts: 1904.04971.
    """

    def __init__(self, block: Block, spec: NetworkSpec, drop_path: float, bn_momentum: float) -> None:
        super().__init__()
        b = block
        conv = mixed_conv_norm_of(spec, bn_momentum, b.experts) if b.experts else conv_norm_of(spec, bn_momentum)
        self.routing = Routing(b.w_in, b.experts) if b.experts else None
        self.expand = conv(b.w_in, b.w_mid, act=b.activation) if b.expands else None
        self.depthwise = conv(b.w_mid, b.w_mid, b.kernel, b.stride, b.w_mid, act=b.activation)
        self.se = SqueezeExcite(b.w_mid, b.w_se, b.activation) if b.w_se else None
        self.project = conv(b.w_mid, b.w_out, act=None)
        self.drop_path = DropPath(drop_path) if b.skips else None

    def forward(self, x: Tensor) -> Tensor:
        y, routing = x, () if self.routing is None else (self.routing(x),)
        if self.expand is not None:
            y = self.expand(y, *routing)
        y = self.depthwise(y, *routing)
        if self.se is not None:
            y = self.se(y)
        y = self.project(y, *routing)
        return y if self.drop_path is None else self.drop_path(y) + x


class FusedMBConv(nn.Module):
    """Expand kxk, squeeze-excite, project 1x1 (linear); without expansion one kxk with activation.   Source: arXiv 2104.00298."""

    def __init__(self, block: Block, spec: NetworkSpec, drop_path: float, bn_momentum: float) -> None:
        super().__init__()
        conv = conv_norm_of(spec, bn_momentum)
        b = block
        self.expand = conv(b.w_in, b.w_mid, b.kernel, b.stride, act=b.activation) if b.expands else None
        self.se = SqueezeExcite(b.w_mid, b.w_se, b.activation) if b.w_se else None
        self.project = conv(b.w_mid, b.w_out, act=None) if b.expands else conv(b.w_in, b.w_out, b.kernel, b.stride, act=b.activation)
        self.drop_path = DropPath(drop_path) if b.skips else None

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expand is not None:
            y = self.expand(y)
        if self.se is not None:
            y = self.se(y)
        y = self.project(y)
        return y if self.drop_path is None else self.drop_path(y) + x


class Separable(nn.Module):
    """Depthwise kxk, squeeze-excite, pointwise 1x1, both with activation.   Source: arXiv 1704.04861."""

    def __init__(self, block: Block, spec: NetworkSpec, drop_path: float, bn_momentum: float) -> None:
        super().__init__()
        conv = conv_norm_of(spec, bn_momentum)
        b = block
        self.depthwise = conv(b.w_in, b.w_in, b.kernel, b.stride, b.w_in, act=b.activation)
        self.se = SqueezeExcite(b.w_in, b.w_se, b.activation) if b.w_se else None
        self.project = conv(b.w_in, b.w_out, act=b.activation)
        self.drop_path = DropPath(drop_path) if b.skips else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x)
        if self.se is not None:
            y = self.se(y)
        y = self.project(y)
        return y if self.drop_path is None else self.drop_path(y) + x


class Bottleneck(nn.Module):
    """1x1, kxk (with the stride), 1x1 (linear), squeeze-excite, shortcut, activation.

    Source: arXiv 1512.03385, stride as in v1.5; pooled shortcut: ResNet-D of 1812.01187.
    """

    def __init__(self, block: Block, spec: NetworkSpec, drop_path: float, bn_momentum: float) -> None:
        super().__init__()
        conv = conv_norm_of(spec, bn_momentum)
        b = block
        self.reduce = conv(b.w_in, b.w_mid, act=b.activation)
        self.spatial = conv(b.w_mid, b.w_mid, b.kernel, b.stride, act=b.activation)
        self.expand = conv(b.w_mid, b.w_out, act=None)
        self.se = SqueezeExcite(b.w_out, b.w_se, b.activation) if b.w_se else None
        self.pool = AvgPool(b.stride, spec.padding) if b.pools else nn.Identity()
        self.shortcut = conv(b.w_in, b.w_out, 1, 1 if b.pools else b.stride, act=None) if b.projects else nn.Identity()
        self.drop_path = DropPath(drop_path) if b.skips else None
        self.act = activation(b.activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.spatial(self.reduce(x)))
        if self.se is not None:
            y = self.se(y)
        return self.act(y if self.drop_path is None else self.drop_path(y) + self.shortcut(self.pool(x)))
