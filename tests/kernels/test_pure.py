"""Without compiled kernels: the same answers, gradients nearer the truth than torch's own in bfloat16, and no trace when taken off."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from phiscale import kernels
from phiscale.architecture.catalog import design
from phiscale.kernels import library
from phiscale.kernels.pure import PureConv2d
from phiscale.nn import Network
from phiscale.nn.layers import Conv2d

CL = torch.channels_last


@pytest.fixture(autouse=True)
def off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(library.SETTING, "off")
    library.opened.cache_clear()
    yield
    monkeypatch.undo()
    library.opened.cache_clear()


def test_status_says_so() -> None:
    assert kernels.status() == "pure PyTorch (PHISCALE_KERNELS=off)"


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 15), (3, 2, 15), (5, 1, 14), (5, 2, 14)])
def test_gradients_in_bfloat16(kernel: int, stride: int, size: int, autocast: bool) -> None:
    torch.manual_seed(0)
    plain = Conv2d(24, 24, kernel, stride, groups=24).to(memory_format=CL)  # pyright: ignore[reportCallIssue]
    pure = kernels.accelerate(copy.deepcopy(plain))
    truth = copy.deepcopy(plain).bfloat16().double()
    assert type(pure) is PureConv2d
    x = torch.randn(4, 24, size, size).bfloat16().contiguous(memory_format=CL)

    def learned(model: nn.Module, x: torch.Tensor, g: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        x = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and x.dtype != torch.float64):
            y = model(x)
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(y.dtype) if g is None else g)
        (weight,) = model.parameters()
        assert x.grad is not None
        assert weight.grad is not None
        return y.detach(), x.grad, weight.grad

    if not autocast:
        plain, pure = plain.bfloat16(), pure.bfloat16()
    exact, theirs, ours = learned(truth, x.double(), None), learned(plain, x, None), learned(pure, x, None)
    assert torch.equal(ours[0], theirs[0])
    for got, torchs, want in zip(ours[1:], theirs[1:], exact[1:], strict=True):
        assert got.dtype == torchs.dtype
        error = (got.double() - want).norm() / want.norm()
        assert error <= max(1.01 * ((torchs.double() - want).norm() / want.norm()).item(), 2**-8)


@pytest.mark.parametrize("frozen", [True, False])
def test_whole_network_learns_alike_and_comes_off(frozen: bool) -> None:
    torch.manual_seed(0)
    plain = Network(design("efficientnet_b0").spec.with_classes(5)).to(memory_format=CL).eval()  # pyright: ignore[reportCallIssue]
    pure = copy.deepcopy(plain)
    types = [type(module) for module in pure.modules()]
    if frozen:
        kernels.freeze_norms(pure)
    kernels.accelerate(pure)
    assert sum(type(module) is PureConv2d for module in pure.modules()) == 49  # all but squeeze-excite's
    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=CL)
    for model in (plain, pure):
        with torch.autocast("cpu", torch.bfloat16):
            y = model(images)
        y.float().square().sum().backward()
    off = [(a.grad - b.grad).norm() / b.grad.norm().clamp(min=1e-3) for a, b in zip(pure.parameters(), plain.parameters(), strict=True)]  # pyright: ignore
    assert torch.stack(off).median() < 0.05
    kernels.unfreeze_norms(kernels.restore(pure))
    assert [type(module) for module in pure.modules()] == types
