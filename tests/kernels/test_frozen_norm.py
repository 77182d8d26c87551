"""Folding frozen norms changes neither answers nor gradients, and comes off without a trace."""

import copy

import pytest
import torch
from torch import nn

from phiscale.architecture import NetworkSpec, Stage, Stem
from phiscale.kernels import freeze_norms, unfreeze_norms
from phiscale.nn import Network

RTOL = 2e-5  # float32 re-association through a dozen layers; seen 3e-6


def network(activation: str, padding: str) -> Network:
    spec = NetworkSpec(
        stem=Stem(widths=(8,)),
        stages=(Stage(kind="mbconv", depth=2, width=16, stride=2, expand=3, se=0.25), Stage(kind="fused", depth=2, width=16, expand=2)),
        head_width=24,
        num_classes=5,
        activation=activation,  # pyright: ignore[reportArgumentType]
        padding=padding,  # pyright: ignore[reportArgumentType]
    )
    torch.manual_seed(0)
    model = Network(spec)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


@pytest.mark.parametrize("activation", ["silu", "relu", "relu6", "hardswish"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_same_answers_and_gradients(activation: str, padding: str) -> None:
    plain = network(activation, padding)
    folded = freeze_norms(copy.deepcopy(plain)).train()
    images = torch.randn(3, 3, 33, 46)
    for model in (plain, folded):
        model(images).square().sum().backward()
    torch.testing.assert_close(folded(images), plain(images), rtol=RTOL, atol=1e-5)
    for (name, mine), theirs in zip(folded.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert (mine.grad - theirs.grad).norm() <= 1e-4 * theirs.grad.norm() + 1e-6, name


def test_statistics_stay_and_nothing_remains() -> None:
    model = network("relu6", "same")
    before = copy.deepcopy(model.state_dict())
    kinds = [type(module) for module in model.modules()]
    freeze_norms(model).train()(torch.randn(2, 3, 32, 32))
    assert [type(module) for module in unfreeze_norms(model).modules()] == kinds
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
