"""Optimisers and schedules against the reference's own arithmetic."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from phiscale.architecture.catalog import design
from phiscale.nn import Network
from phiscale.training.optim import RMSProp, make_optimizer, parameter_groups
from phiscale.training.recipe import Recipe, Schedule
from phiscale.training.recipes import paper, ra
from tiny import TINY


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rmsprop_is_tensorflows_step_by_step(weight_decay: float) -> None:
    """Against the formulas in float64, with a rate that changes, which is where torch's own form differs most."""
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=7), random.normal(size=(40, 7)) * 10.0 ** random.uniform(-4, 1, (40, 1))
    rates = np.linspace(0.05, 0.001, 40)
    p = nn.Parameter(torch.tensor(start))
    optimizer = RMSProp([p], lr=1.0, weight_decay=weight_decay)
    value, square, buffer = start.copy(), np.ones(7), np.zeros(7)
    for rate, gradient in zip(rates, gradients, strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        p.grad = torch.tensor(gradient)
        optimizer.step()
        gradient = gradient + weight_decay * value
        square = 0.9 * square + 0.1 * gradient**2
        buffer = 0.9 * buffer + rate * gradient / np.sqrt(square + 1e-3)
        value = value - buffer
        np.testing.assert_allclose(p.detach().numpy(), value, rtol=1e-12, atol=1e-13)


def test_rmsprop_is_timms_tensorflow_form() -> None:
    timm = pytest.importorskip("timm.optim", reason="timm is not installed")
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 9)) for _ in range(2))
    mine = RMSProp([ours], lr=0.01, weight_decay=0.01)
    other = timm.RMSpropTF([theirs], lr=0.01, alpha=0.9, eps=1e-3, momentum=0.9, weight_decay=0.01, decoupled_decay=False)
    for _ in range(20):
        ours.grad = torch.randn(9)
        theirs.grad = ours.grad.clone()
        mine.step()
        other.step()
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_loaded_rmsprop_goes_on_as_the_saved_one() -> None:
    def run(optimizer: RMSProp, p: nn.Parameter, steps: range) -> None:
        for step in steps:
            p.grad = torch.full((3,), float(step % 5 - 2))
            optimizer.step()

    one, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    whole = RMSProp([one], lr=0.1)
    run(whole, one, range(10))
    first = RMSProp([other], lr=0.1)
    run(first, other, range(4))
    second = RMSProp([other], lr=0.1)
    second.load_state_dict(first.state_dict())
    run(second, other, range(4, 10))
    assert torch.equal(one, other)


def test_the_papers_schedule_is_the_papers_table() -> None:
    """0.256 at a batch of 4,096: up to it over 5 epochs, times 0.97 every 2.4 epochs counted from the start."""
    recipe = paper(1_281_167, design("efficientnet_b0"))
    assert recipe.peak_rate(4096) == pytest.approx(0.256)
    assert recipe.peak_rate(2048) == pytest.approx(0.128)
    steps = 1_281_167 // 4096
    table = {0: 0.0, 2.5: 0.5, 5.0: 0.97**2, 7.1: 0.97**2, 7.3: 0.97**3, 100.0: 0.97**41, 240.5: 0.97**100, 350.0: 0.97**145}
    for epoch, share in table.items():
        assert recipe.schedule.rate(round(epoch * steps), steps, 350) == pytest.approx(share, rel=2e-3), epoch


def test_a_shorter_course_is_the_same_course() -> None:
    recipe = paper(50_000)
    short = recipe.lasting(35)
    for share in (0.001, 0.01, 0.2, 0.5, 0.99):
        assert short.schedule.rate(share * 35_000, 1000, 35) == pytest.approx(recipe.schedule.rate(share * 350_000, 1000, 350), rel=1e-6)
    cosine = Schedule(warmup=0.3)
    assert Recipe(name="x", schedule=cosine).lasting(9).schedule == cosine


def test_rate_rises_then_falls_to_zero() -> None:
    schedule = Schedule(warmup=0.25)
    rates = [schedule.rate(step, 10, 10) for step in range(101)]
    assert max(rates) == rates[25] == 1.0
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[100] == 0.0


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(design("efficientnet_b0").with_classes(3).spec)


def test_the_paper_decays_all_but_batch_norms(network: Network) -> None:
    groups = parameter_groups(paper(1000), network, rate=1.0)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for module in network.modules():
        for p in module.parameters(recurse=False):
            assert (id(p) in decayed) == (not isinstance(module, nn.BatchNorm2d))  # biases of squeeze-excite and classifier too


def test_others_decay_weights_alone(network: Network) -> None:
    groups = parameter_groups(ra(1000), network, rate=1.0)
    for group in groups:
        assert all((p.ndim > 1) == bool(group["weight_decay"]) for p in group["params"])


def test_rates_fall_from_block_to_block(network: Network) -> None:
    recipe = Recipe(name="x", body_rate=0.5, layer_decay=0.8)
    rate = {id(p): group["lr"] for group in parameter_groups(recipe, network, rate=2.0) for p in group["params"]}
    assert rate[id(network.classifier.weight)] == 2.0
    assert rate[id(network.head.conv.weight)] == pytest.approx(2.0 * 0.5 * 0.8)  # type: ignore[union-attr]
    last, first = network.get_submodule("stages.6.0"), network.get_submodule("stages.0.0")
    assert rate[id(next(last.parameters()))] == pytest.approx(2.0 * 0.5 * 0.8**2)
    assert rate[id(next(first.parameters()))] == pytest.approx(2.0 * 0.5 * 0.8**17)
    assert rate[id(next(network.stem.parameters()))] == pytest.approx(2.0 * 0.5 * 0.8**18)


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_every_optimizer_lowers_a_loss(name: str) -> None:
    torch.manual_seed(0)
    network = Network(TINY.spec)
    recipe = replace(Recipe(name="x", freeze_norms=False), optimizer=name, body_rate=1.0)
    optimizer = make_optimizer(recipe, network, rate=0.01 if name == "adamw" else 0.05)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(network(images), labels)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 2
