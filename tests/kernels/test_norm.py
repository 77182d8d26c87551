"""Norm, activation, gate and residual in one operator compute what torch computes one after the other."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from phiscale.kernels import library
from phiscale.kernels.norm import moments, norm_act, norm_act_backward, norm_act_gated

pytestmark = pytest.mark.skipif(library.library() is None, reason=library.status())
RTOL_FLOAT32 = 5e-6  # of the largest value; seen 2e-6
RTOL_BFLOAT16 = 2e-2  # the inputs are bfloat16 in both; seen 8e-3
FUNCTIONS = (lambda z: z, F.relu, F.relu6, F.hardswish, F.silu)


def normed(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, learned: bool) -> Tensor:
    if learned:
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    weight, bias, mean, var = (t.double().view(1, -1, 1, 1) for t in (weight, bias, mean, var))
    return (x - mean) * var.rsqrt() * weight + bias


def close(pairs: dict[str, tuple[Tensor | None, Tensor | None]], half: bool) -> None:
    for name, (got, expected) in pairs.items():
        assert got is not None
        assert expected is not None
        off = (got - expected).abs().max()
        assert off <= (RTOL_BFLOAT16 if half else RTOL_FLOAT32) * expected.abs().max().clamp(min=1.0), (name, off)


def map_of(batch: int, channels: int, height: int, width: int, half: bool, offset: float) -> tuple[Tensor, Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(batch * 7 + channels + height * 3 + width)
    x = torch.randn(batch, channels, height, width, generator=generator) + offset
    g = torch.randn(x.shape, generator=generator)
    x, g = (t.to(torch.bfloat16 if half else torch.float32).contiguous(memory_format=torch.channels_last) for t in (x, g))
    return x, g, generator


shapes = {
    "batch": st.integers(1, 20),
    "channels": st.integers(1, 70),
    "height": st.integers(1, 12),
    "width": st.integers(3, 12),
    "half": st.booleans(),
    "learned": st.booleans(),
}


@settings(max_examples=60, deadline=None)
@given(**shapes, act=st.integers(0, 4), offset=st.sampled_from((0.0, 3.0)), gate=st.booleans(), residual=st.booleans())
@example(batch=3, channels=2000, height=9, width=9, half=True, learned=True, act=4, offset=0.0, gate=True, residual=True)
def test_norm_and_activation_with_gate_and_residual(
    batch: int, channels: int, height: int, width: int, half: bool, learned: bool, act: int, offset: float, gate: bool, residual: bool
) -> None:
    learned = learned and batch * height * width > 8
    x, g, generator = map_of(batch, channels, height, width, half, offset)
    weight, bias = torch.rand(2, channels, generator=generator) + 0.5
    mean, var = torch.zeros(channels), torch.ones(channels)
    if learned:
        mean, var = moments(x)
    factor = torch.rand(batch, channels, generator=generator) if gate else None
    added = torch.randn(x.shape, generator=generator).to(x.dtype) if residual else None
    z = normed(x.double(), weight, bias, mean, var, False)
    if act in (1, 2):  # no gradient where rounding decides on which side of a corner a number lies
        g = g * ((z.abs() > 0.02) & ((z - 6).abs() > 0.05)).to(g.dtype)
    ours = [x.clone().requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    exact = [x.double().requires_grad_(), weight.double().requires_grad_(), bias.double().requires_grad_()]
    y = norm_act(*ours, mean, var.rsqrt(), act, learned, factor, added)
    y_exact = FUNCTIONS[act](normed(*exact, mean, var, learned))
    y_exact = y_exact if factor is None else y_exact * factor.double()[:, :, None, None]
    y_exact = y_exact if added is None else y_exact + added.double()
    y.backward(g)
    y_exact.backward(g.double())
    names = {"x": 0, "weight": 1, "bias": 2}
    scale = max(1.0, float(g.double().abs().sum((0, 2, 3)).max())) if half else 1.0  # sums of rounded numbers
    close({"y": (y, y_exact), "x": (ours[0].grad, exact[0].grad)}, half)
    for name in ("weight", "bias"):
        a, b = ours[names[name]].grad, exact[names[name]].grad
        assert a is not None
        assert b is not None
        close({name: (a / scale, b / scale)}, half)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("gate", [False, True])
def test_the_gradient_of_a_mean_needs_no_map(half: bool, gate: bool) -> None:
    x, _, generator = map_of(3, 21, 5, 4, half, 0.0)
    weight, bias, mean, var = torch.rand(4, 21, generator=generator) + 0.5
    factor = torch.rand(3, 21, generator=generator) if gate else None
    g = torch.randn(3, 21, generator=generator).to(x.dtype)[:, :, None, None]
    expanded, written = g.expand(x.shape), g.expand(x.shape).contiguous(memory_format=torch.channels_last)
    arguments = x, weight, bias, mean, var.rsqrt(), 4, True, factor
    for short, long in zip(norm_act_backward(expanded, *arguments), norm_act_backward(written, *arguments), strict=True):
        torch.testing.assert_close(short, long, rtol=1e-2 if half else 1e-5, atol=1e-2 if half else 1e-5)


@settings(max_examples=40, deadline=None)
@given(**shapes, act=st.sampled_from((0, 3, 4)), squeezed=st.integers(1, 9))
def test_squeeze_excite(batch: int, channels: int, height: int, width: int, half: bool, learned: bool, act: int, squeezed: int) -> None:
    learned = learned and batch * height * width > 8
    x, g, generator = map_of(batch, channels, height, width, half, 0.0)
    weight, bias = torch.rand(2, channels, generator=generator) + 0.5
    mean, var = moments(x) if learned else (torch.zeros(channels), torch.ones(channels))
    shapes_of_gate = (squeezed, channels), (squeezed,), (channels, squeezed), (channels,)
    gate = [torch.randn(shape, generator=generator) / channels**0.5 for shape in shapes_of_gate]
    ours = [t.clone().requires_grad_() for t in (x, weight, bias, *gate)]
    exact = [t.double().requires_grad_() for t in (x, weight, bias, *gate)]
    y = norm_act_gated(*ours[:3], mean, var.rsqrt(), act, learned, *ours[3:], 4)[0]
    a = FUNCTIONS[act](normed(*exact[:3], mean, var, learned))
    hidden = F.silu(F.linear(a.mean((2, 3)), exact[3], exact[4]))
    y_exact = a * F.linear(hidden, exact[5], exact[6]).sigmoid()[:, :, None, None]
    y.backward(g)
    y_exact.backward(g.double())
    names = ("x", "weight", "bias", "reduce", "reduce_bias", "expand", "expand_bias")
    scale = max(1.0, float(g.double().abs().sum((2, 3)).max())) if half else 1.0
    close({"y": (y, y_exact), "x": (ours[0].grad, exact[0].grad)}, half)
    for name, mine, theirs in list(zip(names, ours, exact, strict=True))[1:]:
        assert mine.grad is not None
        assert theirs.grad is not None
        close({name: (mine.grad / scale, theirs.grad / scale)}, half)


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 20), channels=st.integers(1, 70), height=st.integers(1, 20), offset=st.sampled_from((0.0, 100.0, -3e4)))
def test_moments_far_from_zero(batch: int, channels: int, height: int, offset: float) -> None:
    x, _, _ = map_of(batch, channels, height, 7, False, offset)
    mean, var = moments(x)
    var_exact, mean_exact = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), mean_exact, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(var.double(), var_exact, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("act", range(5))
@pytest.mark.parametrize("half", [False, True])
def test_what_is_no_number_stays_none(act: int, half: bool) -> None:
    x = torch.tensor([float("nan"), 1.0, float("inf"), -500.0, 500.0]).view(1, 5, 1, 1).repeat(1, 1, 2, 3)
    x = x.to(torch.bfloat16 if half else torch.float32)
    one, zero = torch.ones(5), torch.zeros(5)
    y = norm_act(x, one, zero, zero, one, act, False, None, None)
    assert y[:, 0].isnan().all()
    torch.testing.assert_close(y[:, 1:], FUNCTIONS[act](x[:, 1:]), rtol=4e-3 if half else 1e-6, atol=1e-6)


def test_operators_are_registered_properly() -> None:
    x, _, generator = map_of(2, 3, 4, 5, False, 0.0)
    a, b, c, d = torch.rand(4, 3, generator=generator) + 0.5
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    inputs = (x.requires_grad_(), a.requires_grad_(), b.requires_grad_(), c, d, 4, True)
    torch.library.opcheck(moments, (x.detach(),), test_utils=tests)
    torch.library.opcheck(norm_act, (*inputs, torch.ones(2, 3), x.detach()), test_utils=tests)
    gate = torch.ones(2, 3), torch.ones(2), torch.ones(3, 2), torch.ones(3)
    torch.library.opcheck(norm_act_gated, (*inputs, *gate, 4), test_utils=tests)


def test_a_gradient_of_a_gradient_is_refused_not_zero() -> None:
    x, _, _ = map_of(2, 3, 4, 5, False, 0.0)
    x, one, zero = x.requires_grad_(), torch.ones(3), torch.zeros(3)
    y = norm_act(x, one, zero, zero, one, 4, False, None, None)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        slope.square().sum().backward()
