"""The loss of a step, against torch or a closed form."""

import math
from dataclasses import replace
from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from phiscale.architecture import NetworkSpec, Preprocess, Stage, Stem
from phiscale.nn import Network
from phiscale.training.adversary import TwinNorm, attacked, twin_norms
from phiscale.training.objective import Objective, class_weights, distillation, loss_of, mixed
from phiscale.training.recipe import Adversary, Loss, Mixing, Recipe

SPEC = NetworkSpec(
    stem=Stem(widths=(8,)), stages=(Stage(kind="mbconv", depth=2, width=8, expand=2, se=0.25),), head_width=16, num_classes=3
)
PRE = Preprocess(crop=16, resize=16)
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0], [1.0, 1.0, 1.0], [-2.0, 4.0, 0.0]])
LABELS = torch.tensor([0, 2, 1, 1])


def make(recipe: Recipe, seed: int = 0, **options: object) -> tuple[Objective, Network]:
    torch.manual_seed(seed)
    network = Network(SPEC)
    return Objective(recipe, network, preprocess=PRE, counts=(2, 1, 1), **options), network  # type: ignore[arg-type]


def batch(n: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 3, torch.arange(n)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_is_torchs_cross_entropy(smoothing: float, weighted: bool) -> None:
    weights = torch.tensor([0.5, 2.0, 1.0]) if weighted else None
    part = Loss(label_smoothing=smoothing)
    shares = F.one_hot(LABELS, 3).float()
    expected = F.cross_entropy(LOGITS, shares if weighted else LABELS, weight=weights, label_smoothing=smoothing)
    assert torch.equal(loss_of(LOGITS, LABELS, part, weights), expected)
    parts = [loss_of(LOGITS[rows], LABELS[rows], part, weights) for rows in (slice(0, 1), slice(1, 4))]
    assert torch.allclose((parts[0] + 3 * parts[1]) / 4, expected)  # a step in parts is the same step
    assert torch.allclose(loss_of(LOGITS, shares, part), F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing))


def test_focal_loss_is_its_formula_and_cross_entropy_at_zero() -> None:
    p = LOGITS.softmax(1)[range(4), LABELS]
    expected = (-((1 - p) ** 2) * p.log()).mean()
    assert torch.allclose(loss_of(LOGITS, LABELS, Loss(label_smoothing=0, focal=2)), expected)
    assert torch.allclose(loss_of(LOGITS, LABELS, Loss(focal=1e-9)), F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1))


def test_focal_bce_is_torchvisions() -> None:
    from torchvision.ops import sigmoid_focal_loss

    shares = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    expected = sigmoid_focal_loss(LOGITS, shares, alpha=-1, gamma=2, reduction="mean")
    assert torch.allclose(loss_of(LOGITS, shares, Loss(name="bce", label_smoothing=0, focal=2)), expected)


def test_bce_of_several_labels_is_torchs_and_smooths_towards_a_half() -> None:
    shares = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    assert torch.equal(loss_of(LOGITS, shares, Loss(name="bce", label_smoothing=0)), F.binary_cross_entropy_with_logits(LOGITS, shares))
    expected = F.binary_cross_entropy_with_logits(LOGITS, shares * 0.8 + 0.1)
    assert torch.allclose(loss_of(LOGITS, shares, Loss(name="bce", label_smoothing=0.2)), expected)
    single = F.binary_cross_entropy_with_logits(LOGITS, F.one_hot(LABELS, 3) * 0.9 + 0.1 / 3)
    assert torch.allclose(loss_of(LOGITS, LABELS, Loss(name="bce", label_smoothing=0.1)), single)


def test_class_weights_are_one_in_the_mean_over_images() -> None:
    counts = [10, 30, 0, 60]
    weights = class_weights(counts)
    assert sum(n * w for n, w in zip(counts, weights.tolist(), strict=True)) / 100 == pytest.approx(1)
    assert weights[0] == pytest.approx(3 * weights[1].item())
    assert weights[2] == 0


def test_distillation_is_the_divergence_at_the_temperature() -> None:
    taught = LOGITS.flip(0)
    p, q = (taught / 3).softmax(1), (LOGITS / 3).softmax(1)
    assert torch.allclose(distillation(LOGITS, taught, Loss(temperature=3)), 9 * (p * (p / q).log()).sum(1).mean(), rtol=1e-4)
    assert distillation(LOGITS, LOGITS, Loss()).abs() < 1e-6


def test_a_teacher_takes_its_share_of_the_loss() -> None:
    images, labels, indices = batch()
    taught = torch.randn(4, 3)
    objective, network = make(Recipe(name="x", loss=Loss(distill="x", distill_weight=0.25)), teacher=lambda _: taught)
    loss, logits = objective(network, images, labels, indices, seed=0)
    part = objective.recipe.loss
    assert torch.allclose(loss, 0.75 * loss_of(logits, labels, part) + 0.25 * distillation(logits, taught, part))


def test_targets_stand_in_place_of_labels() -> None:
    images, labels, indices = batch()
    targets = torch.rand(10, 3)
    targets = targets / targets.sum(1, keepdim=True)
    objective, network = make(Recipe(name="x"), targets=targets)
    loss, logits = objective(network, images, labels, indices + 5, seed=0)
    assert torch.allclose(loss, F.cross_entropy(logits, targets[5:9], label_smoothing=0.1))


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.4), Mixing(cutmix=1.0)])
def test_mixing_blends_targets_as_it_blends_pixels(mixing: Mixing) -> None:
    """Images are their own target: red channel 1 for class 0, green for class 1; so the mean of a channel is the target's share."""
    targets = F.one_hot(torch.arange(6) % 2, 3).float()
    images = targets[:, :, None, None].expand(6, 3, 20, 30).contiguous()
    before = images.clone()
    changed = 0
    for seed in range(30):
        made, shares = mixed(images, targets, mixing, Random(seed))
        assert torch.allclose(made.mean((2, 3)), shares, atol=1e-5)
        assert torch.allclose(shares.sum(1), torch.ones(6))
        changed += not torch.equal(made, images)
    assert changed > 20
    assert torch.equal(images, before)
    again = mixed(images, targets, mixing, Random(3))
    assert all(torch.equal(a, b) for a, b in zip(again, mixed(images, targets, mixing, Random(3)), strict=True))


def test_mixup_shares_follow_the_beta_distribution() -> None:
    """Mean of max(share, 1 - share) for Beta(1, 1) is 3/4."""
    targets = torch.eye(2)
    images = torch.zeros(2, 3, 2, 2)
    shares = [mixed(images, targets, Mixing(mixup=1.0), Random(seed))[1] for seed in range(600)]
    own = [share[0, 0].item() for share in shares if share[0, 0] < 1]
    assert len(own) == pytest.approx(300, abs=60)  # half the orders pair an image with itself
    assert sum(own) / len(own) == pytest.approx(0.75, abs=0.03)


def test_multi_sample_dropout_averages_the_losses_of_its_samples() -> None:
    images, labels, indices = batch()
    objective, network = make(Recipe(name="x", dropout=0.5, loss=Loss(dropout_samples=4)))
    network.train()
    torch.manual_seed(5)
    loss, logits = objective(network, images, labels, indices, seed=0)
    torch.manual_seed(5)
    features = network.forward_features(images).mean((2, 3))
    dropped = F.dropout(features.repeat(4, 1), 0.5)
    outputs = [network.classifier(part) for part in dropped.chunk(4)]
    losses = [F.cross_entropy(output, labels, label_smoothing=0.1) for output in outputs]
    assert torch.allclose(loss, sum(losses) / 4, rtol=1e-5)
    assert torch.allclose(logits, sum(outputs) / 4, atol=1e-6)
    network.eval()
    assert network(images).shape == (4, 3)
    objective.finish()
    assert type(network.dropout) is nn.Dropout


def test_stages_grow_together_and_are_a_function_of_the_epoch() -> None:
    recipe = Recipe(name="x", epochs=8, dropout=0.4, mixing=Mixing(mixup=0.3, cutmix=0.6))
    recipe = recipe.changed(
        {"policy": "rand", "magnitude": 15, "progressive": {"stages": 4, "train_size": 0.4, "magnitude": 5, "dropout": 0.1}}
    )
    seen = [recipe.at(epoch) for epoch in range(8)]
    assert [round(now.train_size, 2) for now in seen] == [0.4, 0.4, 0.6, 0.6, 0.8, 0.8, 1.0, 1.0]
    assert [round(now.augment.magnitude, 2) for now in seen[::2]] == [5, 8.33, 11.67, 15]
    assert [round(now.mixing.mixup, 2) for now in seen[::2]] == [0, 0.1, 0.2, 0.3]
    assert [round(now.mixing.cutmix, 2) for now in seen[::2]] == [0, 0.2, 0.4, 0.6]
    assert [round(now.dropout, 2) for now in seen[::2]] == [0.1, 0.2, 0.3, 0.4]
    objective, network = make(recipe)
    for epoch, now in enumerate(seen):
        assert objective.enter(epoch) == now
        assert network.dropout.p == now.dropout


# --- AdvProp

ADVERSE = Recipe(name="x", freeze_norms=False, adversary=Adversary(iterations=3, epsilon=4, step=2))


def test_adversaries_stay_near_and_raise_the_wrong_class() -> None:
    _, network = make(Recipe(name="x"))
    twin_norms(network)
    network.train()
    pixels = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (PRE.mean, PRE.std))
    images, labels = (pixels - mean) / std, torch.arange(8) % 3
    before = {key: value.clone() for key, value in network.state_dict().items()}
    made = attacked(network, images, labels, Adversary(iterations=5, epsilon=4, step=1), PRE, Random(0))
    assert ((made - images) * std).abs().max() <= 4 / 255 + 1e-6
    back = made * std + mean
    assert back.min() >= -1e-6
    assert back.max() <= 1 + 1e-6
    network.eval()
    right = [network(x).log_softmax(1)[range(8), labels].mean() for x in (images, made)]
    assert right[1] < right[0]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(made, attacked(network, images, labels, Adversary(iterations=5, epsilon=4, step=1), PRE, Random(0)))


def test_the_auxiliary_norms_see_adversaries_alone() -> None:
    images, labels, indices = batch(6)
    objective, network = make(ADVERSE)
    network.train()
    seen: dict[str, list[torch.Tensor]] = {"main": [], "auxiliary": []}
    first = next(part for part in network.modules() if isinstance(part, TwinNorm))
    convolved: list[torch.Tensor] = []
    network.stem[0].conv.register_forward_hook(lambda *of: convolved.append(of[2].detach()))  # type: ignore[union-attr]
    first.auxiliary.register_forward_hook(lambda *of: seen["auxiliary"].append(of[1][0].detach()))
    before = first.running_mean.clone(), first.auxiliary.running_mean.clone()
    loss, logits = objective(network, images, labels, indices, seed=0)
    step = convolved[-1]
    assert len(step) == 12
    assert torch.equal(seen["auxiliary"][-1], step[6:])
    m = first.momentum
    assert torch.allclose(first.running_mean, (1 - m) * before[0] + m * step[:6].mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(first.auxiliary.running_mean, (1 - m) * before[1] + m * step[6:].mean((0, 2, 3)), atol=1e-6)
    assert first.num_batches_tracked == first.auxiliary.num_batches_tracked == 1  # the attack itself counts nothing
    assert logits.shape == (6, 3)
    loss.backward()
    assert first.auxiliary.weight.grad.abs().sum() > 0


def test_what_advprop_leaves_is_the_plain_network() -> None:
    objective, network = make(ADVERSE)
    images, labels, indices = batch()
    network.train()
    objective(network, images, labels, indices, seed=0)
    state = objective.plain(network.state_dict())
    fresh = Network(SPEC)
    assert list(state) == list(fresh.state_dict())
    network.eval()
    expected = network(images)
    objective.finish()
    assert list(network.state_dict()) == list(fresh.state_dict())
    assert not any(isinstance(part, TwinNorm) for part in network.modules())
    assert torch.equal(network(images), expected)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.eval()(images), expected)


def test_advprop_without_learning_norms_is_refused() -> None:
    with pytest.raises(ValueError, match="freeze_norms"):
        replace(ADVERSE, freeze_norms=True)


def test_a_steps_loss_is_a_function_of_its_seed() -> None:
    recipe = replace(ADVERSE, mixing=Mixing(mixup=0.5, cutmix=0.5))
    losses = []
    for seed in (1, 1, 2):
        objective, network = make(recipe)
        network.train()
        losses.append(objective(network, *batch(), seed=seed)[0].item())
    assert losses[0] == losses[1] != losses[2]
    assert math.isfinite(losses[0])
