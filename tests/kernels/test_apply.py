"""An accelerated network is the same network: answers, gradients, statistics, state; and no trace of it remains."""

import copy

import pytest
import torch
from torch import nn

from phiscale import kernels
from phiscale.architecture import NetworkSpec, Stage, Stem
from phiscale.architecture.catalog import design
from phiscale.kernels import library
from phiscale.kernels.modules import FAST
from phiscale.nn import Network

compiled = pytest.mark.skipif(library.library() is None, reason=library.status())
CL = torch.channels_last


def small(activation: str = "silu", padding: str = "same", drop_path: float = 0.0) -> Network:
    """Every kind of block, with and without squeeze-excite, expansion, shortcut; channels of no multiple of anything."""
    spec = NetworkSpec(
        stem=Stem(widths=(11,)),
        stages=(
            Stage(kind="mbconv", depth=1, width=13, expand=1, se=0.25),
            Stage(kind="mbconv", depth=2, width=19, stride=2, expand=3, se=0.25, kernel=5),
            Stage(kind="fused", depth=2, width=19, expand=2),
            Stage(kind="separable", depth=1, width=20),
            Stage(kind="mbconv", depth=2, width=20, expand=2),
        ),
        head_width=24,
        num_classes=5,
        activation=activation,  # pyright: ignore[reportArgumentType]
        padding=padding,  # pyright: ignore[reportArgumentType]
    )
    torch.manual_seed(0)
    model = Network(spec, drop_path=drop_path).to(memory_format=CL)  # pyright: ignore[reportCallIssue]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model


def images() -> torch.Tensor:
    return torch.randn(6, 3, 33, 46, generator=torch.Generator().manual_seed(3)).contiguous(memory_format=CL)


def learned(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(1)
    model(x.to(next(model.parameters()).dtype)).square().mean().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


@compiled
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("activation", "padding"), [("silu", "same"), ("hardswish", "symmetric"), ("relu", "same"), ("relu6", "symmetric")]
)
def test_it_learns_the_same_as_torch_in_float64(activation: str, padding: str, frozen: bool) -> None:
    plain = small(activation, padding, drop_path=0.5).train()
    if frozen:
        kernels.freeze_norms(plain)
    fast, exact = kernels.accelerate(copy.deepcopy(plain)), copy.deepcopy(plain).double()
    of_torch, ours, truth = (learned(model, images()) for model in (plain, fast, exact))
    assert len(ours) == len(truth) == len(list(plain.parameters()))
    theirs, mine = (
        sorted(((a - b).norm() / b.norm().clamp(min=1e-6)).item() for a, b in zip(found, truth, strict=True)) for found in (of_torch, ours)
    )
    assert mine[len(mine) // 2] <= 2 * theirs[len(theirs) // 2] + 1e-7  # no worse than torch's own, up to luck
    for (name, a), (_, b) in zip(fast.named_buffers(), exact.named_buffers(), strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=1e-6, msg=name)


@compiled
def test_bfloat16_gradients_are_as_good_as_torchs() -> None:
    plain = small().train()
    fast, exact = kernels.accelerate(copy.deepcopy(plain)), copy.deepcopy(plain).double()
    truth = learned(exact, images())
    errors: list[float] = []
    for model in (plain, fast):
        with torch.autocast("cpu", torch.bfloat16):
            y = model(images())
        y.float().square().mean().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
        found = [p.grad for p in model.parameters() if p.grad is not None]
        off = sorted(((a - b).norm() / b.norm().clamp(min=1e-3)).item() for a, b in zip(found, truth, strict=True))
        errors.append(off[len(off) // 2])
    assert errors[1] <= 1.25 * errors[0]  # medians over the parameters; seen 0.75 to 1.05 times torch's


@compiled
def test_a_norm_that_is_not_torchs_own_is_left_alone() -> None:
    class Doubled(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
            return 2 * super().forward(input)

    plain = small().train()
    plain.stages[1][0].depthwise.bn.__class__ = Doubled  # pyright: ignore
    fast = kernels.accelerate(copy.deepcopy(plain))
    torch.testing.assert_close(fast(images()), plain(images()), rtol=1e-4, atol=1e-5)


@compiled
def test_evaluation_gives_the_same_answers() -> None:
    plain = small().eval()
    fast = kernels.accelerate(copy.deepcopy(plain))
    with torch.no_grad():
        torch.testing.assert_close(fast(images()), plain(images()), rtol=1e-4, atol=1e-5)


@compiled
def test_a_momentum_of_none_is_a_plain_mean() -> None:
    plain = small().train()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    fast = kernels.accelerate(copy.deepcopy(plain))
    with torch.no_grad():
        for scale in (1.0, 2.0):
            fast(scale * images())
            plain(scale * images())
    for (name, a), (_, b) in zip(fast.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


@compiled
@pytest.mark.parametrize("frozen_first", [True, False])
def test_restore_takes_everything_off(frozen_first: bool) -> None:
    model = Network(design("efficientnet_lite0").spec).eval()
    types, state = [type(m) for m in model.modules()], list(model.state_dict())
    if frozen_first:
        kernels.accelerate(kernels.freeze_norms(model))
    else:
        kernels.freeze_norms(kernels.accelerate(model))
    assert sum(type(m) in FAST.values() for m in model.modules()) == 49 + 16  # convolutions with their norm, and blocks
    assert list(model.state_dict()) == state
    kernels.unfreeze_norms(model)
    kernels.restore(model)
    assert [type(m) for m in model.modules()] == types


@compiled
def test_compile_sees_whole_operators() -> None:
    model = kernels.accelerate(small().train())
    graph = torch.compile(model, backend="aot_eager", fullgraph=True)
    other = copy.deepcopy(model)
    torch.testing.assert_close(graph(images()), other(images()), rtol=1e-4, atol=1e-5)


@compiled
def test_export_after_restore() -> None:
    model = kernels.restore(kernels.accelerate(small().eval()))
    program = torch.export.export(model, (images(),))
    assert not any("phiscale" in str(node.target) for node in program.graph.nodes)
