"""The small parts: same-padded convolution, convolution + norm + activation, squeeze-excite, stochastic depth."""

import math
from collections.abc import Callable
from functools import partial
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phiscale.architecture.spec import Activation, NetworkSpec, Padding


def activation(name: Activation) -> nn.Module:
    match name:
        case "silu":
            return nn.SiLU()
        case "relu":
            return nn.ReLU()
        case "relu6":
            return nn.ReLU6()
        case "hardswish":
            return nn.Hardswish()
        case _:
            assert_never(name)


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TF's padding of one axis: the odd pixel goes after, and what no window reaches (kernel < stride) is cropped there.

    Written so that a symbolic size cancels out: exports with dynamic sizes need no guard.
    """
    total = (size + stride - 1) // stride * stride - stride + kernel - size
    # the latter is half of max(total, 0), for a size that is traced too
    before = total // 2 if kernel >= stride else (total + abs(total)) // 4
    return before, total - before


def pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """(B, C, H, W) -> (B, C, H + pads, W + pads)."""
    (top, bottom), (left, right) = (same_pads(x.shape[axis], kernel, stride) for axis in (2, 3))
    return F.pad(x, (left, right, top, bottom), value=value)


class Conv2d(nn.Conv2d):
    """nn.Conv2d without bias, padded as the spec says: (B, w_in, H, W) -> (B, w_out, H', W')."""

    def __init__(self, w_in: int, w_out: int, kernel: int, stride: int = 1, groups: int = 1, padding: Padding = "same") -> None:
        super().__init__(w_in, w_out, kernel, stride, groups=groups, bias=False)
        self.pad(padding)

    def pad(self, padding: Padding) -> None:
        """Pad so from now on."""
        # at stride 1 an odd kernel pads the same on both sides, which the convolution does itself
        self.pads_itself = (padding == "symmetric" or self.stride[0] == 1) and self.kernel_size[0] % 2 == 1
        edge = self.dilation[0] * (self.kernel_size[0] - 1) // 2 if self.pads_itself else 0
        self.padding = (edge, edge)
        self._reversed_padding_repeated_twice = [edge] * 4  # torch keeps the padding a second time

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the base class names it so)
        return super().forward(input if self.pads_itself else pad_same(input, self.kernel_size[0], self.stride[0]))


class CondConv2d(nn.Module):
    """A convolution mixed from `experts` for each image: (B, w_in, H, W), (B, experts) -> (B, w_out, H', W').

    Pointwise at stride 1, or depthwise: what an MBConv has.   Source: arXiv 1904.04971.
    """

    def __init__(self, w_in: int, w_out: int, kernel: int, stride: int, groups: int, padding: Padding, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, w_out, w_in // groups, kernel, kernel))
        self.stride, self.groups, self.dilation = stride, groups, 1
        self.pad(padding)

    def pad(self, padding: Padding) -> None:
        """Pad so from now on."""
        self.padding = padding

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "CondConv2d":
        """As a matrix, one row an expert: torch takes five axes for a volume's, and refuses channels-last for them."""
        shape = self.weight.shape
        self.weight.data = self.weight.data.flatten(1)
        super()._apply(fn, recurse)
        self.weight.data = self.weight.data.reshape(shape)
        return self

    def forward(self, x: Tensor, routing: Tensor) -> Tensor:
        experts, w_out, per_group, kernel, _ = self.weight.shape
        if kernel == self.groups == 1:
            weight = (routing @ self.weight.flatten(1)).unflatten(1, (w_out, per_group))
            return (weight @ x.flatten(2)).unflatten(2, x.shape[2:])
        reach = self.dilation * (kernel - 1)
        edge = reach // 2
        if self.padding == "same" or kernel % 2 == 0:
            x, edge = pad_same(x, reach + 1, self.stride), 0
        if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            # a trace keeps the number of groups, and with it the batch: there the experts' answers are mixed, not their weights
            weight = self.weight.transpose(0, 1).flatten(0, 1)
            y = F.conv2d(x, weight, None, self.stride, edge, self.dilation, self.groups).unflatten(1, (w_out, experts))
            return torch.einsum("bcehw,be->bchw", y, routing)
        batch, w_in, height, width = x.shape
        weight = (routing @ self.weight.flatten(1)).reshape(-1, per_group, kernel, kernel)  # B * w_out of them
        # images side by side, as groups of one convolution
        y = F.conv2d(x.reshape(1, batch * w_in, height, width), weight, None, self.stride, edge, self.dilation, batch * self.groups)
        return y.reshape(batch, w_out, y.shape[2], y.shape[3])


class Routing(nn.Linear):
    """How much each image asks of each expert: (B, C, H, W) -> (B, experts), each in (0, 1)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the base class names it so)
        return super().forward(input.mean((2, 3))).sigmoid()


class MaxPool(nn.Module):
    """3x3 of stride 2, padded as the spec says: (B, C, H, W) -> (B, C, H', W')."""

    def __init__(self, padding: Padding) -> None:
        super().__init__()
        self.pad(padding)

    def pad(self, padding: Padding) -> None:
        """Pad so from now on."""
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        if self.padding == "symmetric":
            return F.max_pool2d(x, 3, 2, 1)
        return F.max_pool2d(pad_same(x, 3, 2, -math.inf), 3, 2)


class AvgPool(nn.Module):
    """2x2 means, in a shortcut: (B, C, H, W) -> (B, C, H / stride, W / stride), rounded up; what the image lacks is not counted.

    A column and a row twice give that mean. What no window reaches is cropped, so that a symbolic size comes out as the same
    expression as from the convolutions beside it. At stride 1, where dilation took the stride's place, timm counts zeros instead.
    """

    def __init__(self, stride: int, padding: Padding) -> None:
        super().__init__()
        self.stride = stride
        self.pad(padding)

    def pad(self, padding: Padding) -> None:
        """Pad so from now on."""
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, 1)
        bottom, right = (sum(same_pads(x.shape[axis], 2, self.stride)) - 1 for axis in (2, 3))
        x = F.pad(x, (0, 1, 0, 1), "replicate")
        return F.avg_pool2d(F.pad(x, (0, right, 0, bottom)) if self.padding == "same" else x, 2, self.stride)

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


class ConvNorm(nn.Module):
    """Convolution, batch norm, and an activation where one is named: (B, w_in, H, W) -> (B, w_out, H', W')."""

    def __init__(
        self,
        w_in: int,
        w_out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        eps: float,
        padding: Padding,
        act: Activation | None,
        momentum: float,
    ) -> None:
        super().__init__()
        self.conv = Conv2d(w_in, w_out, kernel, stride, groups, padding)
        self.bn = nn.BatchNorm2d(w_out, eps=eps, momentum=momentum)
        self.act = activation(act) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class MixedConvNorm(nn.Module):
    """ConvNorm of a convolution mixed from experts: (B, w_in, H, W), (B, experts) -> (B, w_out, H', W')."""

    def __init__(
        self,
        w_in: int,
        w_out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        eps: float,
        padding: Padding,
        act: Activation | None,
        momentum: float,
        experts: int,
    ) -> None:
        super().__init__()
        self.conv = CondConv2d(w_in, w_out, kernel, stride, groups, padding, experts)
        self.bn = nn.BatchNorm2d(w_out, eps=eps, momentum=momentum)
        self.act = activation(act) if act else nn.Identity()

    def forward(self, x: Tensor, routing: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x, routing)))


def conv_norm_of(spec: NetworkSpec, momentum: float) -> partial[ConvNorm]:
    """ConvNorm with what the whole network shares filled in."""
    return partial(ConvNorm, eps=spec.bn_eps, padding=spec.padding, momentum=momentum)


def mixed_conv_norm_of(spec: NetworkSpec, momentum: float, experts: int) -> partial[MixedConvNorm]:
    """MixedConvNorm with what the whole network shares filled in."""
    return partial(MixedConvNorm, eps=spec.bn_eps, padding=spec.padding, momentum=momentum, experts=experts)


class SqueezeExcite(nn.Module):
    """Gate channels by their global mean: (B, C, H, W) -> same.   C -> w_se -> C, activation then sigmoid.   Source: arXiv 1709.01507."""

    def __init__(self, width: int, w_se: int, act: Activation) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, w_se, 1)
        self.act = activation(act)
        self.expand = nn.Conv2d(w_se, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class DropPath(nn.Module):
    """Stochastic depth: in training drop a sample's whole branch with probability `rate`.   Source: arXiv 1603.09382."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"
