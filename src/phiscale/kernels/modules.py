"""nn's modules, computed with the fused operators: the same parameters and buffers, the same function, fewer passes.

A convolution's output is handed on as it is (`Raw`), and its norm and activation are computed by whatever reads it.
Made by `accelerate` from built modules, never built.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phiscale.kernels.depthwise import depthwise, replaceable
from phiscale.kernels.frozen_norm import FrozenConvNorm
from phiscale.kernels.norm import ACTIVATIONS, moments, norm_act, norm_act_gated
from phiscale.nn.blocks import FusedMBConv, MBConv
from phiscale.nn.layers import Conv2d, ConvNorm, DropPath, SqueezeExcite, same_pads

FEWEST = 32  # input channels of a matrix product


@dataclass(slots=True)
class Raw:
    """A convolution's output (B, C, H, W) whose norm and activation are still to come."""

    y: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    rstd: Tensor
    act: int
    batch: bool  # mean and rstd are of this batch

    def settled(self, residual: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
        return norm_act(self.y, self.weight, self.bias, self.mean, self.rstd, self.act, self.batch, gate, residual)

    def gated(self, se: SqueezeExcite) -> Tensor:
        parts = se.reduce.weight.flatten(1), se.reduce.bias, se.expand.weight.flatten(1), se.expand.bias
        act = ACTIVATIONS[type(se.act)]
        return norm_act_gated(self.y, self.weight, self.bias, self.mean, self.rstd, self.act, self.batch, *parts, act)[0]  # pyright: ignore[reportArgumentType]


class FastConvNorm(ConvNorm):
    """ConvNorm of fused operators."""

    frozen = False

    def forward(self, x: Tensor) -> Tensor:
        return self.raw(x).settled() if computes(x, self) else super().forward(x)

    def raw(self, x: Tensor | Raw) -> Raw:
        bn, measured = self.bn, None
        if replaceable(self.conv):
            y, *measured = _depthwise(self.conv, x)
        else:
            y = _dense(self.conv, x if isinstance(x, Tensor) else x.settled())
        batch = bn.training and not self.frozen
        with torch.no_grad():
            if batch:
                mean, var = measured or moments(y)
                _remember(bn, mean, var, y.numel() // y.shape[1])
            else:
                mean, var = cast(Tensor, bn.running_mean), cast(Tensor, bn.running_var)
            rstd = (var + bn.eps).rsqrt()
        return Raw(y, bn.weight, bn.bias, mean, rstd, ACTIVATIONS[type(self.act)], batch)


class FastFrozenConvNorm(FastConvNorm):
    """FrozenConvNorm of fused operators."""

    frozen = True


class FastMBConv(MBConv):
    """MBConv of fused operators: what is written of the wide maps is the two convolutions' raw outputs and the gated map."""

    def forward(self, x: Tensor) -> Tensor:
        if self.routing is not None or not computes(x, self.expand, self.depthwise, self.project):
            return super().forward(x)
        y = x if self.expand is None else _fast(self.expand).raw(x)
        middle = _fast(self.depthwise).raw(y)
        wide = middle.settled() if self.se is None else middle.gated(self.se)
        return _joined(_fast(self.project).raw(wide), x, self.drop_path)


class FastFusedMBConv(FusedMBConv):
    """FusedMBConv of fused operators."""

    def forward(self, x: Tensor) -> Tensor:
        if not computes(x, self.expand, self.project):
            return super().forward(x)
        y = x
        if self.expand is not None:
            wide = _fast(self.expand).raw(x)
            y = wide.settled() if self.se is None else wide.gated(self.se)
        elif self.se is not None:
            y = self.se(y)
        return _joined(_fast(self.project).raw(y), x, self.drop_path)


FAST: dict[type[nn.Module], type[nn.Module]] = {
    ConvNorm: FastConvNorm,
    FrozenConvNorm: FastFrozenConvNorm,
    MBConv: FastMBConv,
    FusedMBConv: FastFusedMBConv,
}


def computes(x: Tensor, *parts: nn.Module | None) -> bool:
    """Whether the operators take this input, and these ConvNorms: others have put norms of their own into some networks."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() > 0
        and all(type(part.bn) is nn.BatchNorm2d and type(part.act) in ACTIVATIONS for part in parts if isinstance(part, FastConvNorm))
    )


def _fast(part: nn.Module) -> FastConvNorm:
    return cast(FastConvNorm, part)


def _joined(y: Raw, x: Tensor, drop_path: DropPath | None) -> Tensor:
    """The block's output, with its shortcut where it has one."""
    if drop_path is None:
        return y.settled()
    gate = None
    if drop_path.training and drop_path.rate:  # the same random numbers as DropPath's own
        keep = 1.0 - drop_path.rate
        mask = torch.empty((x.shape[0], 1, 1, 1), dtype=y.y.dtype, device=x.device).bernoulli_(keep) / keep
        gate = mask.float().view(-1, 1).expand(-1, y.y.shape[1])
    return y.settled(residual=x, gate=gate)


def _dense(conv: Conv2d, x: Tensor) -> Tensor:
    """A pointwise convolution is a matrix product, which oneDNN does 1.1 to 1.5 times as fast, but for the fewest channels."""
    if conv.kernel_size != (1, 1) or conv.stride != (1, 1) or conv.groups != 1 or conv.in_channels < FEWEST:
        return conv(x)
    pixels = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return F.linear(pixels.reshape(-1, conv.in_channels), conv.weight.flatten(1)).view(*pixels.shape[:3], -1).permute(0, 3, 1, 2)


def _depthwise(conv: Conv2d, x: Tensor | Raw) -> tuple[Tensor, Tensor, Tensor]:
    norm: tuple[Tensor, Tensor, Tensor, Tensor] | tuple[None, ...] = (None,) * 4
    act, batch = 0, False
    if isinstance(x, Raw):
        norm, act, batch, x = (x.weight, x.bias, x.mean, x.rstd), x.act, x.batch, x.y
    elif torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    pads = ((kernel // 2, kernel // 2),) * 2 if conv.pads_itself else tuple(same_pads(size, kernel, stride) for size in x.shape[2:])
    size = [(edge + sum(pad) - kernel) // stride + 1 for edge, pad in zip(x.shape[2:], pads, strict=True)]
    return depthwise(x, conv.weight, stride, size, [pads[0][0], pads[1][0]], *norm, act, batch)


def _remember(bn: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    """Running statistics, as nn.BatchNorm2d keeps them."""
    tracked = cast(Tensor, bn.num_batches_tracked)
    tracked.add_(1)
    momentum = 1.0 / float(tracked) if bn.momentum is None else bn.momentum
    cast(Tensor, bn.running_mean).lerp_(mean, momentum)
    cast(Tensor, bn.running_var).lerp_(var * (count / max(1, count - 1)), momentum)
