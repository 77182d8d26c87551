"""The depthwise operator computes what torch computes, in every shape, with and without the norm before it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from phiscale import kernels
from phiscale.kernels import library
from phiscale.kernels.depthwise import depthwise, depthwise_backward
from phiscale.nn.layers import same_pads

compiled = pytest.mark.skipif(library.library() is None, reason=library.status())
RTOL_FLOAT32 = 3e-6  # of the largest value; seen 1.2e-6
RTOL_BFLOAT16 = 1.5e-2  # a bfloat16 result is rounded to 2^-9, dx twice; seen 7e-3
SMOOTH = {0: lambda z: z, 3: F.hardswish, 4: F.silu}  # activations whose gradient rounding can't flip


def inputs(batch: int, channels: int, height: int, width: int, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch + channels + height + width + kernel)
    x = torch.randn(batch, channels, height, width, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator)
    return x, weight, torch.rand(4, channels, generator=generator) + 0.5


def by_torch(x: Tensor, weight: Tensor, stride: int, norm: Tensor | None, act: int, batch: bool) -> Tensor:
    if norm is not None:
        weight_of, bias, mean, rstd = (part.view(1, -1, 1, 1) for part in norm)
        if batch:
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
            rstd = var.rsqrt()
        x = SMOOTH[act]((x - mean) * rstd * weight_of + bias)
    (top, bottom), (left, right) = (same_pads(size, weight.shape[2], stride) for size in x.shape[2:])
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, None, stride, 0, 1, x.shape[1])


def by_us(x: Tensor, weight: Tensor, stride: int, norm: Tensor | None, act: int, batch: bool) -> tuple[Tensor, Tensor, Tensor]:
    origin = [same_pads(size, weight.shape[2], stride)[0] for size in x.shape[2:]]
    parts = (None,) * 4 if norm is None else tuple(norm)
    if batch and norm is not None:
        var, mean = torch.var_mean(x.detach().float(), (0, 2, 3), correction=0)
        parts = norm[0], norm[1], mean, var.rsqrt()
    return depthwise(x, weight, stride, [-(-size // stride) for size in x.shape[2:]], origin, *parts, act, batch)


@compiled
@settings(max_examples=80, deadline=None)
@given(
    batch=st.integers(1, 10),
    channels=st.integers(1, 70),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    kernel=st.sampled_from((3, 5, 7)),
    stride=st.sampled_from((1, 2)),
    act=st.sampled_from((None, *SMOOTH)),
    learned=st.booleans(),
    half=st.booleans(),
)
@example(batch=20, channels=17, height=75, width=61, kernel=5, stride=2, act=4, learned=True, half=False)  # several images a sum
@example(batch=2, channels=48, height=30, width=50, kernel=7, stride=1, act=4, learned=True, half=True)
@example(batch=2, channels=5, height=1, width=1, kernel=3, stride=2, act=None, learned=False, half=False)
def test_output_and_gradients_are_the_exact_ones(
    batch: int, channels: int, height: int, width: int, kernel: int, stride: int, act: int | None, learned: bool, half: bool
) -> None:
    learned = learned and batch * height * width > 8  # of fewer numbers there is hardly a variance
    x, weight, norm = inputs(batch, channels, height, width, kernel)
    x = x.bfloat16() if half else x
    ours = x.clone().requires_grad_(), weight.clone().requires_grad_(), norm.clone().requires_grad_()
    exact = x.double().requires_grad_(), weight.double().requires_grad_(), norm.double().requires_grad_()
    y, mean, var = by_us(ours[0], ours[1], stride, None if act is None else ours[2], act or 0, learned)
    plain = exact[2]
    fixed = None if act is None else (*plain[:2], *plain.detach()[2:])
    y_exact = by_torch(exact[0], exact[1], stride, None if fixed is None else fixed, act or 0, learned)  # pyright: ignore[reportArgumentType]
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    y.backward(g)
    y_exact.backward(g.double())
    tolerance = RTOL_BFLOAT16 if half else RTOL_FLOAT32
    pairs = [("y", y, y_exact), ("x", ours[0].grad, exact[0].grad), ("weight", ours[1].grad, exact[1].grad)]
    if act is not None:
        assert ours[2].grad is not None
        assert exact[2].grad is not None
        pairs.append(("norm", ours[2].grad[:2], exact[2].grad[:2]))
    for name, got, expected in pairs:
        assert got is not None
        assert expected is not None
        assert (got - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1.0), name
    var_exact, mean_exact = torch.var_mean(y_exact, (0, 2, 3), correction=0)
    assert (mean - mean_exact).abs().max() <= tolerance * y_exact.abs().max()
    assert (var - var_exact).abs().max() <= tolerance * y_exact.square().max()


@compiled
def test_threads_do_not_change_a_bit() -> None:
    x, weight, norm = inputs(5, 40, 13, 11, 5)
    g, before = torch.ones(5, 40, 7, 6), torch.get_num_threads()
    results: list[list[Tensor]] = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            forward = by_us(x, weight, 2, norm, 4, True)
            results.append([*forward, *depthwise_backward(g, x, weight, 2, [1, 2], *norm, 4, True, True, True)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@compiled
@pytest.mark.parametrize("name", sorted(path.name for path in library.builds()))
def test_every_instruction_set_agrees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    level = name.partition(".")[0].removeprefix("_")
    if level not in library.fitting():
        pytest.skip(f"this processor has no {level}")
    x, weight, norm = inputs(2, 19, 9, 12, 3)
    g = torch.ones(2, 19, 5, 6)
    arguments = g, x, weight, 2, [0, 0], *norm, 4, True, True, True
    expected = depthwise_backward(*arguments)
    monkeypatch.setenv(library.SETTING, level)
    library.opened.cache_clear()
    try:
        assert kernels.status() == {
            "portable": "compiled, portable",
            "avx2": "compiled, AVX2",
            "avx512": "compiled, AVX-512",
            "avx512bf16": "compiled, AVX-512 with bfloat16",
        }.get(level)
        got = depthwise_backward(*arguments)
        y = by_us(x, weight, 1, None, 0, False)[0]
    finally:
        monkeypatch.undo()
        library.opened.cache_clear()
    torch.testing.assert_close(y, by_torch(x, weight, 1, None, 0, False))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@compiled
def test_operators_are_registered_properly() -> None:
    x, weight, norm = inputs(2, 3, 6, 5, 3)
    arguments = (x.requires_grad_(), weight.requires_grad_(), 2, [3, 3], [0, 1], *norm, 4, True)
    torch.library.opcheck(depthwise, arguments, test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))
