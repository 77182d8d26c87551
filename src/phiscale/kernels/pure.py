"""The gain that needs no compiler: depthwise convolutions whose gradients are computed in float32 where the pass is in bfloat16.

oneDNN's bfloat16 kernels of a depthwise backward pass take several times as long as its float32 ones: a training step of
EfficientNet-B0 takes 1.5 times as long by them (docs/performance.md).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from phiscale.nn.layers import Conv2d, pad_same


class PureConv2d(Conv2d):
    """Conv2d, its gradients as `conv2d` computes them. Made by `accelerate`, never built."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the base class names it so)
        x = input if self.pads_itself else pad_same(input, self.kernel_size[0], self.stride[0])
        return conv2d(x, self.weight, self.bias, self.stride[0], self.padding, self.dilation[0], self.groups)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: Any, dilation: int, groups: int) -> Tensor:
    """F.conv2d, with a quicker backward pass of depthwise convolutions in bfloat16 on a CPU."""
    half = x.dtype == torch.bfloat16 or (torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
    if groups == 1 or groups != x.shape[1] or x.device.type != "cpu" or not half or torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    y = _Depthwise.apply(x.bfloat16(), weight.bfloat16(), stride, padding, dilation)
    return y if bias is None else y + bias.bfloat16().view(-1, 1, 1)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: Any, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape = [stride, stride], list(padding), [dilation, dilation]
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.shape
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        gx, gw, _ = torch.ops.aten.convolution_backward(
            grads[0].float(), x.float(), weight.float(), None, stride, padding, dilation, False, [0, 0], x.shape[1], wanted
        )
        return None if gx is None else gx.bfloat16(), None if gw is None else gw.bfloat16(), None, None, None
