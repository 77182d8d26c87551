"""Depthwise convolution as an operator of its own, where the compiled kernels are.

oneDNN computes a depthwise convolution's weight gradient, and its input gradient at stride 2, several times slower than
memory and arithmetic ask for (docs/performance.md has the figures). The operator also pads unevenly ("same" at stride 2)
without a copy, and clamps, and masks the gradient, for the activation after it in the same pass.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phiscale.errors import ArgumentError
from phiscale.kernels.library import library
from phiscale.nn.layers import Conv2d, same_pads

NO_CLAMP = 0.0  # `high` where no activation follows
CL = torch.channels_last


class FastDepthwise(Conv2d):
    """A depthwise Conv2d that computes with `depthwise`. Made by `accelerate`, never built."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the base class names it so)
        if not computes(input):
            return super().forward(input)
        return self.with_weight(input, self.weight, None)

    def with_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None, high: float = NO_CLAMP) -> Tensor:
        """This convolution with another weight and a bias, clamped to [0, high] where high is not 0."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if self.pads_itself:
            (top, bottom), (left, right) = ((kernel // 2, kernel // 2),) * 2
        else:
            (top, bottom), (left, right) = (same_pads(x.shape[axis], kernel, stride) for axis in (2, 3))
        size = [(x.shape[2] + top + bottom - kernel) // stride + 1, (x.shape[3] + left + right - kernel) // stride + 1]
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        if (top, left) != (bottom, right) and x.dtype == torch.float32:
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        return depthwise(x, weight, bias, stride, size, [top, left], high)


def computes(x: Tensor) -> bool:
    """Whether `depthwise` takes this input."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def replaceable(module: nn.Module) -> bool:
    """Whether `depthwise` computes this convolution."""
    return (
        type(module) is Conv2d
        and 1 < module.groups == module.in_channels == module.out_channels
        and module.kernel_size[0] in (3, 5, 7)
        and module.stride[0] in (1, 2)
    )


@torch.library.custom_op("phiscale::depthwise", mutates_args=())
def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, size: list[int], origin: list[int], high: float) -> Tensor:
    """(B, C, H, W), (C, 1, K, K), (C) -> (B, C, *size), channels last; K in 3, 5, 7; stride 1 or 2; x float32 or bfloat16.

    origin: rows and columns of zeros before the image; after it there are as many as `size` asks for.
    high: clamp to [0, high] (infinity: ReLU); 0: don't.
    """
    x = x.contiguous(memory_format=CL)
    if x.dtype == torch.float32 and _even(x, weight, stride, size, origin):
        y = F.conv2d(x, weight, bias, stride, origin, 1, x.shape[1]).contiguous(memory_format=CL)
        return y.clamp_(0.0, high) if high != NO_CLAMP else y
    y = _empty(x, size)
    weight, bias = _plain(weight), None if bias is None else _plain(bias)
    geometry = _geometry(x, size, origin, weight, stride)
    _run(_compiled().depthwise_forward, *geometry, x, weight, bias, high != NO_CLAMP, 0.0, high, y)
    return y


@depthwise.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, size: list[int], origin: list[int], high: float) -> Tensor:
    del weight, bias, stride, origin, high
    return _empty(x, size)


@torch.library.custom_op("phiscale::depthwise_backward", mutates_args=())
def depthwise_backward(
    g: Tensor, y: Tensor | None, x: Tensor, weight: Tensor, stride: int, origin: list[int], high: float, needs_x: bool, needs_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias (float32); empty where not needed. y: the output, where it was clamped to [0, high]."""
    g, x = (t.to(x.dtype).contiguous(memory_format=CL) for t in (g, x))
    weight, channels, size = _plain(weight), x.shape[1], list(g.shape[2:])
    our_x, our_weight = needs_x, needs_weight
    dx, dw, db = x.new_empty(0), torch.empty(0), torch.empty(0)
    if x.dtype == torch.float32 and _even(x, weight, stride, size, origin):
        our_x, our_weight = False, needs_weight and weight.shape[2] > 3
        if y is not None:
            g, y = torch.ops.aten.hardtanh_backward(g, y, 0.0, high), None
        if needs_x:
            dx = _torch_gradients(g, x, weight, stride, origin, (True, False, False))[0]
        if needs_weight and not our_weight:
            _, dw, db = _torch_gradients(g, x, weight, stride, origin, (False, True, True))
    if our_x:
        dx = torch.empty_like(x)
    if our_weight:
        dw, db = torch.empty(weight.shape), torch.empty(channels)
    if our_x or our_weight:
        wanted = (dx if our_x else None, *((dw, db) if our_weight else (None, None)))
        _run(_compiled().depthwise_backward, *_geometry(x, size, origin, weight, stride), g, y, high, x, weight, *wanted)
    return dx.contiguous(memory_format=CL) if needs_x else dx, dw, db


def _torch_gradients(
    g: Tensor, x: Tensor, weight: Tensor, stride: int, origin: list[int], mask: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    channels = x.shape[1]
    return torch.ops.aten.convolution_backward(
        g, x, weight, [channels], [stride, stride], origin, [1, 1], False, [0, 0], channels, list(mask)
    )


def _even(x: Tensor, weight: Tensor, stride: int, size: list[int], origin: list[int]) -> bool:
    """Whether torch's own convolution pads so: as much after as before the image."""
    return all((size[axis] - 1) * stride + weight.shape[2] - x.shape[2 + axis] == 2 * origin[axis] for axis in (0, 1))


@depthwise_backward.register_fake
def _(
    g: Tensor, y: Tensor | None, x: Tensor, weight: Tensor, stride: int, origin: list[int], high: float, needs_x: bool, needs_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    del g, y, stride, origin, high
    dx = torch.empty_like(x, memory_format=CL) if needs_x else x.new_empty(0)
    shapes = (weight.shape, weight.shape[:1]) if needs_weight else ((0,), (0,))
    dw, db = (torch.empty(shape, dtype=torch.float32, device=weight.device) for shape in shapes)
    return dx, dw, db


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.stride, _, ctx.origin, ctx.high = inputs
    ctx.types = weight.dtype, None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, output if ctx.high != NO_CLAMP else None)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, y = ctx.saved_tensors
    needs_x, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    dx, dw, db = depthwise_backward(g, y, x, weight, ctx.stride, ctx.origin, ctx.high, needs_x, needs_weight)
    of_weight, of_bias = ctx.types
    weights = dw.to(of_weight) if needs_weight else None, db.to(of_bias) if needs_weight and of_bias else None
    return dx if needs_x else None, *weights, None, None, None, None


depthwise.register_autograd(_backward, setup_context=_save)


def _empty(x: Tensor, size: list[int]) -> Tensor:
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=CL)


def _plain(t: Tensor) -> Tensor:
    return t.detach().float().contiguous()


def _compiled() -> ctypes.CDLL:
    found = library()
    if found is None:
        raise ArgumentError("phiscale's kernels are not compiled here; kernels.status() says why")
    return found


def _geometry(x: Tensor, size: list[int], origin: list[int], weight: Tensor, stride: int) -> tuple[Any, ...]:
    batch, channels, height, width = x.shape
    shape = (ctypes.c_int64 * 8)(batch, height, width, channels, *size, *origin)
    return shape, weight.shape[2], stride, x.dtype == torch.bfloat16


def _run(function: Callable[..., int], *arguments: Any) -> None:
    """Call into the library: tensors as their addresses, None as null."""
    ready = [_c(argument) for argument in arguments]
    if not function(*ready, ctypes.c_int(torch.get_num_threads())):
        raise ArgumentError("depthwise: kernels are 3, 5 or 7, strides 1 or 2")


def _c(value: Any) -> Any:
    match value:
        case Tensor():
            return ctypes.c_void_p(value.data_ptr())
        case float():
            return ctypes.c_float(value)
        case bool() | int():
            return ctypes.c_int(value)
        case None:
            return ctypes.c_void_p()
        case _:
            return value
