"""Depthwise convolution as an operator of its own, with the batch norm and activation before it, and its output's statistics.

oneDNN computes a depthwise convolution's weight gradient, and its input gradient at stride 2, several times slower than
memory and arithmetic ask for (docs/performance.md has the figures). The operator reads the raw output of the convolution before:
the normalised, activated map between the two is never written, neither forward nor backward.
"""

from typing import Any

import torch
from torch import Tensor
from torch.library import register_autograd, register_fake

from phiscale.errors import ArgumentError
from phiscale.kernels.library import call, once_only, operator
from phiscale.kernels.norm import CL, _affine, _floats, _map, _plain, slopes
from phiscale.nn.layers import Conv2d


def replaceable(conv: Conv2d) -> bool:
    """Whether `depthwise` computes this convolution."""
    return (
        1 < conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size[0] == conv.kernel_size[1] in (3, 5, 7)
        and conv.stride[0] in (1, 2)
        and conv.dilation[0] == 1
    )


@operator
def depthwise(
    x: Tensor,
    weight: Tensor,
    stride: int,
    size: list[int],
    origin: list[int],
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    act: int,
    batch: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, C, H, W), (C, 1, K, K) -> (B, C, *size), its mean (C) and its variance (C); K in 3, 5, 7; stride 1 or 2.

    origin: rows and columns of zeros before the image; after it there are as many as `size` asks for.
    norm_weight and the rest, where given: it is act((x - mean) * rstd * norm_weight + norm_bias) that is convolved, see `norm_act`.
    """
    del batch
    x = x.contiguous(memory_format=CL)
    y = torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=CL)
    of_mean, of_var = _floats(x, x.shape[1]), _floats(x, x.shape[1])
    affine = _norm(norm_weight, norm_bias, mean, rstd)[:2]
    _run("depthwise_forward", *_geometry(x, size, origin, weight, stride), x, *affine, act, _plain(weight), y, of_mean, of_var)
    return y, of_mean, of_var


def _fake_depthwise(x: Tensor, weight: Tensor, stride: int, size: list[int], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    del weight, stride
    y = torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=CL)
    return y, _floats(x, x.shape[1]), _floats(x, x.shape[1])


register_fake("phiscale::depthwise", _fake_depthwise)


@operator
def depthwise_backward(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int,
    origin: list[int],
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    act: int,
    batch: bool,
    needs_x: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and weight, and (2, C) of the norm's bias and weight; empty where not needed."""
    x, g = (t.to(x.dtype).contiguous(memory_format=CL) for t in (x, g))
    normed = _norm(norm_weight, norm_bias, mean, rstd)
    dx = torch.empty_like(x) if needs_x else None
    dw = _floats(x, *weight.shape) if needs_weight else None
    both = _floats(x, 2, x.shape[1]) if needs_x and norm_weight is not None else None
    geometry = _geometry(x, list(g.shape[2:]), origin, weight, stride)
    _run("depthwise_backward", *geometry, g, x, *normed, act, _plain(weight), dx, dw, both)
    if dx is not None and both is not None:  # dx is act' times the gradient so far
        scale, shift, middle, spread = normed
        assert spread is not None
        assert scale is not None
        taken = slopes(both, scale, spread, x, batch)
        call("norm_apply_backward", *_map(x), x, dx, scale, shift, middle, 0, None, None, *taken, dx)
    return tuple(_floats(x, 0) if t is None else t for t in (dx, dw, both))  # pyright: ignore[reportReturnType]


def _fake_depthwise_backward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    _, x, weight, _, _, norm_weight, _, _, _, _, _, needs_x, needs_weight = inputs
    dx = torch.empty_like(x, memory_format=CL) if needs_x else _floats(x, 0)
    both = _floats(x, 2, x.shape[1]) if needs_x and norm_weight is not None else _floats(x, 0)
    return dx, _floats(x, *weight.shape) if needs_weight else _floats(x, 0), both


register_fake("phiscale::depthwise_backward", _fake_depthwise_backward)
once_only("depthwise_backward")


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    del output
    x, weight, ctx.stride, _, ctx.origin, norm_weight, norm_bias, mean, rstd, ctx.act, ctx.batch = inputs
    ctx.save_for_backward(x, weight, norm_weight, norm_bias, mean, rstd)


def _backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, *norm = ctx.saved_tensors
    normed = norm[0] is not None
    needs_x = ctx.needs_input_grad[0] or (normed and (ctx.needs_input_grad[5] or ctx.needs_input_grad[6]))
    needs_weight = ctx.needs_input_grad[1]
    dx, dw, both = depthwise_backward(g, x, weight, ctx.stride, ctx.origin, *norm, ctx.act, ctx.batch, needs_x, needs_weight)
    of_norm = (both[1], both[0]) if needs_x and normed else (None, None)
    return dx if needs_x else None, dw.to(weight.dtype) if needs_weight else None, None, None, None, *of_norm, None, None, None, None


register_autograd("phiscale::depthwise", _backward, setup_context=_save)


def _norm(weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, rstd: Tensor | None) -> tuple[Tensor | None, ...]:
    """scale, shift, mean, rstd; Nones without a norm."""
    if weight is None or bias is None or mean is None or rstd is None:
        return None, None, None, None
    return *_affine(weight, bias, mean, rstd), mean, rstd


def _geometry(x: Tensor, size: list[int], origin: list[int], weight: Tensor, stride: int) -> tuple[Any, ...]:
    batch, channels, height, width = x.shape
    return [batch, height, width, channels, *size, *origin], weight.shape[2], stride, x.dtype == torch.bfloat16


def _run(function: str, *arguments: Any) -> None:
    if not call(function, *arguments):
        raise ArgumentError("depthwise: kernels are 3, 5 or 7, strides 1 or 2")
