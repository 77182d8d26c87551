"""Batch norm with its activation as operators of their own, with what may follow in the same pass: a gate, a residual.

torch's batch norm, activation, squeeze-excite and residual go over a map a dozen times forward and backward, which costs
more than the convolutions between them where memory is slower than arithmetic. These go over it five times: statistics; write;
and backwards sums; write. Statistics and sums are float32 whatever the map is.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.library import register_autograd, register_fake

from phiscale.kernels.library import call, once_only, operator

CL = torch.channels_last
ACTIVATIONS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.ReLU6: 2, nn.Hardswish: 3, nn.SiLU: 4}
_SILU = 4


@operator
def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> mean and biased variance of the channels, each (C) float32."""
    x = x.contiguous(memory_format=CL)
    mean, var = _floats(x, x.shape[1]), _floats(x, x.shape[1])
    call("norm_moments", *_map(x), x, mean, var)
    return mean, var


def _fake_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return _floats(x, x.shape[1]), _floats(x, x.shape[1])


register_fake("phiscale::moments", _fake_moments)
once_only("moments")


@operator
def norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    act: int,
    batch: bool,
    gate: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """act((x - mean) * rstd * weight + bias) * gate + residual: (B, C, H, W) -> same.

    act: see ACTIVATIONS.  batch: mean and rstd are x's own, and the gradient goes through them.
    gate (B, C): a constant factor, drop-path's; residual like x.
    """
    del batch  # the backward pass asks
    x = x.contiguous(memory_format=CL)
    y = torch.empty_like(x)
    residual = residual if residual is None else residual.to(x.dtype).contiguous(memory_format=CL)
    gate = gate if gate is None else _plain(gate)
    call("norm_apply", *_map(x), x, *_affine(weight, bias, mean, rstd), act, gate, residual, y)
    return y


def _fake_norm_act(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=CL)


register_fake("phiscale::norm_act", _fake_norm_act)


@operator
def norm_act_backward(
    g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, act: int, batch: bool, gate: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    x = x.contiguous(memory_format=CL)
    gate = gate if gate is None else _plain(gate)
    affine, sums, dx = _affine(weight, bias, mean, rstd), _floats(x, x.shape[0], 5, x.shape[1]), torch.empty_like(x)
    if g.stride()[2:] == (0, 0) and g.shape[2] * g.shape[3] > 1:  # a mean's gradient: one number an image and channel, no map
        more = g[:, :, 0, 0].float() if gate is None else g[:, :, 0, 0] * gate
        call("norm_sums", *_map(x), x, x, *affine, mean, rstd, act, True, sums)
        both = (sums[:, 2:4] * more.unsqueeze(1)).sum(0)
        g, gate, more = x, torch.zeros_like(more), _plain(more)  # no map's place is taken by x, times 0
    else:
        more, g = None, g.to(x.dtype).contiguous(memory_format=CL)
        call("norm_sums", *_map(x), x, g, *affine, mean, rstd, act, False, sums)
        both = sums[:, :2].sum(0) if gate is None else (sums[:, :2] * gate.unsqueeze(1)).sum(0)
    call("norm_apply_backward", *_map(x), x, g, *affine, mean, act, gate, more, *slopes(both, affine[0], rstd, x, batch), dx)
    return dx, both[1].clone(), both[0].clone()


def _fake_norm_act_backward(g: Tensor, x: Tensor, weight: Tensor, bias: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    del g
    return torch.empty_like(x, memory_format=CL), torch.empty_like(weight), torch.empty_like(bias)


register_fake("phiscale::norm_act_backward", _fake_norm_act_backward)
once_only("norm_act_backward")


def _save_norm_act(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    x, weight, bias, mean, rstd, ctx.act, ctx.batch, gate, residual = inputs
    ctx.residual = None if residual is None else residual.dtype
    ctx.save_for_backward(x, weight, bias, mean, rstd, gate)


def _norm_act_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, mean, rstd, gate = ctx.saved_tensors
    dx, dweight, dbias = norm_act_backward(g, x, weight, bias, mean, rstd, ctx.act, ctx.batch, gate)
    return dx, dweight, dbias, None, None, None, None, None, None if ctx.residual is None else g.to(ctx.residual)


register_autograd("phiscale::norm_act", _norm_act_backward, setup_context=_save_norm_act)


@operator
def norm_act_gated(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    act: int,
    batch: bool,
    reduce: Tensor,
    reduce_bias: Tensor,
    expand: Tensor,
    expand_bias: Tensor,
    gate_act: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Norm, activation and squeeze-excite: (B, C, H, W) -> same; and for the backward pass pooled (B, C), hidden (B, S), gate (B, C).

    reduce (S, C), expand (C, S). The activated map is never written: it is computed once for its mean and once for the result.
    """
    del batch
    x = x.contiguous(memory_format=CL)
    affine = _affine(weight, bias, mean, rstd)
    pooled = _floats(x, *x.shape[:2])
    call("norm_pool", *_map(x), x, *affine, act, pooled)
    with torch.autocast("cpu", enabled=False):
        hidden = torch.addmm(reduce_bias, pooled, reduce.t())
        gate = torch.addmm(expand_bias, _activated(hidden, gate_act), expand.t()).sigmoid_()
    y = torch.empty_like(x)
    call("norm_apply", *_map(x), x, *affine, act, gate, None, y)
    return y, pooled, hidden, gate


def _fake_norm_act_gated(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, _, _, _, _, _, _, reduce, *_ = inputs
    batches, channels = x.shape[:2]
    pooled, gate = (_floats(x, batches, channels) for _ in range(2))
    return torch.empty_like(x, memory_format=CL), pooled, _floats(x, batches, reduce.shape[0]), gate


register_fake("phiscale::norm_act_gated", _fake_norm_act_gated)


@operator
def norm_act_gated_backward(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    act: int,
    batch: bool,
    reduce: Tensor,
    expand: Tensor,
    gate_act: int,
    pooled: Tensor,
    hidden: Tensor,
    gate: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias, reduce, its bias, expand, its bias. One pass sums all that gate and norm need to know."""
    x, g = (t.to(x.dtype).contiguous(memory_format=CL) for t in (x, g))
    affine = _affine(weight, bias, mean, rstd)
    sums = _floats(x, x.shape[0], 5, x.shape[1])
    call("norm_sums", *_map(x), x, g, *affine, mean, rstd, act, True, sums)
    with torch.autocast("cpu", enabled=False):
        dlogit = sums[:, 4] * gate * (1 - gate)
        squeezed = _activated(hidden, gate_act)
        dhidden = _activation_backward(dlogit @ expand, hidden, gate_act)
        more = (dhidden @ reduce) / (x.shape[2] * x.shape[3])
        both = (sums[:, :2] * gate.unsqueeze(1) + sums[:, 2:4] * more.unsqueeze(1)).sum(0)
        of_gate = dhidden.t() @ pooled, dhidden.sum(0), dlogit.t() @ squeezed, dlogit.sum(0)
    dx = torch.empty_like(x)
    call("norm_apply_backward", *_map(x), x, g, *affine, mean, act, gate, more, *slopes(both, affine[0], rstd, x, batch), dx)
    return dx, both[1].clone(), both[0].clone(), *of_gate


def _fake_norm_act_gated_backward(*inputs: Any) -> tuple[Tensor, ...]:
    _, x, weight, bias, _, _, _, _, reduce, expand, *_ = inputs
    small = weight, bias, reduce, reduce[:, 0], expand, expand[:, 0]
    return torch.empty_like(x, memory_format=CL), *(torch.empty_like(t) for t in small)


register_fake("phiscale::norm_act_gated_backward", _fake_norm_act_gated_backward)
once_only("norm_act_gated_backward")


def _save_gated(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, mean, rstd, ctx.act, ctx.batch, reduce, _, expand, _, ctx.gate_act = inputs
    ctx.save_for_backward(x, weight, bias, mean, rstd, reduce, expand, *output[1:])


def _gated_backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, mean, rstd, reduce, expand, *kept = ctx.saved_tensors
    found = norm_act_gated_backward(g, x, weight, bias, mean, rstd, ctx.act, ctx.batch, reduce, expand, ctx.gate_act, *kept)
    dx, dweight, dbias, *of_gate = found
    return dx, dweight, dbias, None, None, None, None, *of_gate, None


register_autograd("phiscale::norm_act_gated", _gated_backward, setup_context=_save_gated)


def slopes(both: Tensor, scale: Tensor, rstd: Tensor, x: Tensor, batch: bool) -> tuple[Tensor | None, Tensor | None]:
    """What `norm_apply_backward` takes off for the statistics' own gradients; both (2, C): sums of act' g and act' g xhat."""
    if not batch:
        return None, None
    fixed = both * (scale / (x.shape[0] * x.shape[2] * x.shape[3]))
    return fixed[0], fixed[1] * rstd


def _affine(weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    scale = _plain(weight) * rstd
    return scale, torch.addcmul(_plain(bias), mean, scale, value=-1)


def _activated(x: Tensor, act: int) -> Tensor:
    functions = (torch.Tensor.clone, F.relu, F.relu6, F.hardswish, F.silu)
    return functions[act](x)


def _activation_backward(g: Tensor, x: Tensor, act: int) -> Tensor:
    match act:
        case 1:
            return g * (x > 0)
        case 2:
            return torch.ops.aten.hardtanh_backward(g, x, 0.0, 6.0)
        case 3:
            return torch.ops.aten.hardswish_backward(g, x)
        case 4:
            return torch.ops.aten.silu_backward(g, x)
        case _:
            return g


def _floats(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _plain(t: Tensor) -> Tensor:
    return t.detach().float().contiguous()


def _map(x: Tensor) -> tuple[list[int], bool]:
    return [x.shape[0], x.shape[2] * x.shape[3], x.shape[1]], x.dtype == torch.bfloat16
