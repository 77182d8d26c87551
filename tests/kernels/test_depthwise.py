"""The compiled depthwise operators compute what torch computes, in every shape, and leave no trace in the model."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from phiscale import kernels
from phiscale.architecture.catalog import design
from phiscale.kernels import library
from phiscale.kernels.depthwise import FastDepthwise, depthwise, depthwise_backward
from phiscale.nn import Network
from phiscale.nn.layers import same_pads

compiled = pytest.mark.skipif(library.library() is None, reason=library.status())
RTOL_FLOAT32 = 2e-6  # of the largest gradient; seen 6.5e-7
RTOL_BFLOAT16 = 8e-3  # a bfloat16 result is rounded to 2^-9; seen 4e-3


def inputs(batch: int, channels: int, height: int, width: int, kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch + channels + height + width + kernel)
    x = torch.randn(batch, channels, height, width, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator)
    return x, weight, torch.randn(channels, generator=generator)


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, stride: int, high: float) -> Tensor:
    (top, bottom), (left, right) = (same_pads(size, weight.shape[2], stride) for size in x.shape[2:])
    y = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride, 0, 1, x.shape[1])
    return y.clamp(0.0, high) if high else y


def by_us(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, high: float) -> Tensor:
    origin = [same_pads(size, weight.shape[2], stride)[0] for size in x.shape[2:]]
    return depthwise(x, weight, bias, stride, [-(-size // stride) for size in x.shape[2:]], origin, high)


@compiled
@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 10),
    channels=st.integers(1, 40),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    kernel=st.sampled_from((3, 5, 7)),
    stride=st.sampled_from((1, 2)),
    high=st.sampled_from((0.0, 6.0, float("inf"))),
    half=st.booleans(),
)
@example(batch=2, channels=17, height=150, width=131, kernel=5, stride=2, high=6.0, half=False)  # more rows than a panel holds
@example(batch=2, channels=16, height=130, width=150, kernel=7, stride=1, high=0.0, half=False)
def test_output_and_gradients_are_the_exact_ones(
    batch: int, channels: int, height: int, width: int, kernel: int, stride: int, high: float, half: bool
) -> None:
    x, weight, bias = inputs(batch, channels, height, width, kernel)
    x = x.bfloat16() if half else x
    ours = tuple(t.clone().requires_grad_() for t in (x, weight, bias))
    exact = tuple(t.double().requires_grad_() for t in (x, weight, bias))
    y, y_exact = by_us(*ours, stride, high), by_torch(*exact, stride, high)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    if high:  # where rounding decides on which side of a corner an output lies there is no one gradient
        sure = (y_exact.detach() - 0).abs().gt(1e-2) & (y_exact.detach() - high).abs().gt(1e-1)
        sure |= by_torch(*(t.detach() for t in exact), stride, 0.0) < -1e-2
        g = g * sure
    y.backward(g)
    y_exact.backward(g.double())
    tolerance = RTOL_BFLOAT16 if half else RTOL_FLOAT32
    pairs = [(y, y_exact), *((a.grad, b.grad) for a, b in zip(ours, exact, strict=True))]
    for name, (got, expected) in zip(("y", "x", "weight", "bias"), pairs, strict=True):
        assert got is not None
        assert expected is not None
        assert (got - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1.0), name


@compiled
def test_threads_do_not_change_a_bit() -> None:
    x, weight, bias = inputs(5, 40, 13, 11, 5)
    g, before = torch.ones(5, 40, 7, 6), torch.get_num_threads()
    results: list[list[Tensor]] = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = by_us(x, weight, bias, 2, 6.0)
            results.append([y, *depthwise_backward(g, y, x, weight, 2, [1, 2], 6.0, True, True)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@compiled
@pytest.mark.parametrize("name", sorted(path.name for path in library.builds()))
def test_every_instruction_set_agrees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    level = name.partition(".")[0].removeprefix("_")
    if level not in library.fitting():
        pytest.skip(f"this processor has no {level}")
    x, weight, bias = inputs(2, 19, 9, 12, 3)
    g = torch.ones(2, 19, 5, 6)
    expected = depthwise_backward(g, None, x, weight, 2, [0, 0], 0.0, True, True)
    monkeypatch.setenv(library.SETTING, level)
    library.opened.cache_clear()
    try:
        assert level in kernels.status().lower().replace("-", "")
        got = depthwise_backward(g, None, x, weight, 2, [0, 0], 0.0, True, True)
        y = by_us(x, weight, bias, 1, 0.0)
    finally:
        monkeypatch.undo()
        library.opened.cache_clear()
    torch.testing.assert_close(y, by_torch(x, weight, bias, 1, 0.0))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@compiled
def test_operators_are_registered_properly() -> None:
    x, weight, bias = inputs(2, 3, 6, 5, 3)
    arguments = (x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), 2, [3, 3], [0, 1], 6.0)
    torch.library.opcheck(depthwise, arguments, test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_b0"])
def test_an_accelerated_network_learns_the_same(name: str, frozen: bool) -> None:
    torch.manual_seed(0)
    plain = Network(design(name).spec).to(memory_format=torch.channels_last).train()
    if frozen:
        kernels.freeze_norms(plain)
    fast = kernels.accelerate(copy.deepcopy(plain))
    x = torch.randn(4, 3, 33, 48).contiguous(memory_format=torch.channels_last)
    exact = copy.deepcopy(plain).double()
    gradients = []
    for model in (plain, fast, exact):
        torch.manual_seed(1)
        model(x.to(next(model.parameters()).dtype)).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    of_torch, ours = (
        sorted(((a - b).norm() / b.norm()).item() for a, b in zip(found, gradients[2], strict=True)) for found in gradients[:2]
    )
    assert ours[len(ours) // 2] <= 2 * of_torch[len(of_torch) // 2]


@compiled
def test_restore_takes_everything_off() -> None:
    model = Network(design("efficientnet_lite0").spec).eval()
    types, state = [type(m) for m in model.modules()], list(model.state_dict())
    kernels.accelerate(model)
    assert sum(isinstance(m, FastDepthwise) for m in model.modules()) == 16
    assert list(model.state_dict()) == state
    kernels.restore(model)
    assert [type(m) for m in model.modules()] == types


@compiled
def test_autocast_keeps_the_weights_gradient_in_float32() -> None:
    model = kernels.accelerate(Network(design("efficientnet_lite0").spec)).train()
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 3, 32, 32)).float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_off_means_pure_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.SETTING, "off")
    library.opened.cache_clear()
    try:
        assert kernels.status() == "pure PyTorch (PHISCALE_KERNELS=off)"
        model = kernels.accelerate(Network(design("efficientnet_lite0").spec))
        assert not any(isinstance(m, FastDepthwise) for m in model.modules())
    finally:
        monkeypatch.undo()
        library.opened.cache_clear()
