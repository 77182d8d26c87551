"""Figures of logits, against arithmetic by hand, other libraries, and what is known of made-up data."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from phiscale.architecture import Output
from phiscale.runtime.predictor import probabilities as without_torch
from phiscale.training.metrics import (
    calibrated_loss,
    calibration_error,
    correct,
    fit_temperature,
    many_scores,
    probabilities,
    scores,
)

MANY = Output(multi_label=True)


def drawn(n: int, classes: int, seed: int = 0, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits, and labels that are drawn from their softmax: calibrated but for `sharpness`."""
    chance = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=chance, dtype=torch.double)
    return sharpness * logits, torch.multinomial(logits.softmax(1), 1, generator=chance)[:, 0]


def yes_or_no(n: int, classes: int, seed: int = 0, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=chance, dtype=torch.double)
    return sharpness * logits, torch.bernoulli(logits.sigmoid(), generator=chance).float()


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_the_temperature_undoes_what_made_calibrated_logits_too_sure_or_not_sure_enough(sharpness: float) -> None:
    for made in (drawn(20_000, 5, sharpness=sharpness), yes_or_no(5_000, 4, sharpness=sharpness)):
        assert fit_temperature(scores(*made)) == pytest.approx(sharpness, rel=0.03)  # 20,000 draws; seen 0.012


def test_the_temperature_is_where_the_loss_is_least() -> None:
    """Against a plain search, of the loss with one image's worth of doubt (Platt's targets)."""
    logits, labels = drawn(60, 3, sharpness=2.5)
    doubt = 1 / 62
    targets = torch.where(one_hot(labels, 3) == 1, 1 - doubt, doubt / 2).double()
    tried = np.linspace(0.5, 6, 5501)
    best = tried[np.argmin([cross_entropy(logits / t, targets).item() for t in tried])]
    assert fit_temperature(scores(logits, labels)) == pytest.approx(best, abs=2e-3)  # the search's step is 1e-3


def test_few_images_that_are_all_right_leave_some_doubt() -> None:
    logits = 4.0 * one_hot(torch.arange(12) % 3, 3).double()
    output = Output(temperature=fit_temperature(scores(logits, torch.arange(12) % 3)))
    assert 0.9 < scores(logits, torch.arange(12) % 3).probabilities(output).max().item() < 0.96  # 13 / 14


def test_calibration_lowers_error_and_loss_and_changes_no_answer() -> None:
    made = scores(*drawn(4000, 10, sharpness=3.0))
    output = Output(temperature=fit_temperature(made))
    assert calibration_error(made, output) < 0.03 < 0.1 < calibration_error(made)
    assert calibrated_loss(made, output) < made.loss
    assert (made.probabilities(output).argmax(1) == made.logits.argmax(1)).all()


def test_calibration_error_by_hand() -> None:
    confidence = torch.tensor([0.9, 0.9, 0.62, 0.62])
    logits = torch.stack([confidence, 1 - confidence], 1).log()
    labels = torch.tensor([0, 1, 0, 0])  # half right at 90 %, all right at 62 %
    assert calibration_error(scores(logits, labels)) == pytest.approx((0.4 + 0.38) / 2, abs=1e-6)


@pytest.mark.parametrize("output", [Output(temperature=0.7), Output(multi_label=True, temperature=1.6)])
def test_probabilities_are_those_of_the_predictor(output: Output) -> None:
    logits = torch.cat([torch.randn(50, 6), torch.full((1, 6), 900.0), torch.full((1, 6), -900.0)])
    want = probabilities(logits, output).numpy()
    np.testing.assert_allclose(without_torch(logits.numpy(), output), want, atol=1e-12)
    assert np.isfinite(want).all()


def test_multi_label_figures_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = yes_or_no(200, 7, seed=3)
    logits = (logits * 4).round() / 4  # ties
    made, said = many_scores(logits, labels, MANY), (logits.sigmoid() >= 0.5).numpy()
    true = labels.bool().numpy()
    assert made.average_precision == pytest.approx([metrics.average_precision_score(true[:, k], logits[:, k].numpy()) for k in range(7)])
    assert made.mean_ap == pytest.approx(metrics.average_precision_score(true, logits.numpy(), average="macro"))
    assert made.micro_f1 == pytest.approx(metrics.f1_score(true, said, average="micro"))
    assert made.macro_f1 == pytest.approx(metrics.f1_score(true, said, average="macro"))
    assert made.exact == pytest.approx(metrics.accuracy_score(true, said))


def test_a_class_without_an_image_counts_in_no_mean() -> None:
    logits = torch.tensor([[3.0, -3.0, 1.0], [-3.0, 3.0, 1.0]])
    made = scores(logits, torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    assert made.many is not None
    assert made.many.average_precision == (1.0, 1.0, None)
    assert (made.many.mean_ap, made.many.macro_f1, made.many.exact) == (1.0, 1.0, 0.0)
    assert (made.top1, made.merit) == (1.0, 1.0)


def test_the_threshold_decides_what_is_said() -> None:
    logits, labels = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    assert many_scores(logits, labels, Output(multi_label=True, threshold=0.4)).exact == 0
    assert many_scores(logits, labels, Output(multi_label=True, threshold=0.6)).exact == 1


def test_any_of_an_images_labels_is_a_hit() -> None:
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    assert correct(torch.tensor([[0, 1], [2, 0]]), labels).tolist() == [[True, False], [False, False]]
    assert scores(torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]), labels).top1 == 0.5
