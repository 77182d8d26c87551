"""Counting predictions: against figures done by hand; axes and lines of charts."""

import math

import pytest

from phiscale.report.chart import Axis, Line, chart
from phiscale.report.folder import Prediction
from phiscale.report.scores import scores, wilson


def row(label: str, predicted: str, confidence: float) -> Prediction:
    return Prediction(split="val", path="x.jpg", label=label, predicted=predicted, confidence=confidence, p_label=0.0)


def test_no_predictions_no_scores() -> None:
    assert scores([]) is None


def test_precision_recall_and_support_by_hand() -> None:
    told = scores([row("a", "a", 0.9), row("a", "b", 0.8), row("b", "b", 0.7), row("b", "b", 0.6)], labels=("a", "b", "c"))
    assert told is not None
    assert (told.n, told.right, told.top1) == (4, 3, 0.75)
    assert [(c.label, c.support, c.precision, c.recall) for c in told.classes] == [
        ("a", 2, 1.0, 0.5),
        ("b", 2, 2 / 3, 1.0),
        ("c", 0, None, None),
    ]
    assert told.confusions == (("a", "b", 1),)


def test_calibration_error_by_hand() -> None:
    # two bins: 0.9 and 0.9 confident, half right: gap 0.4; 0.6 confident, right: gap 0.4
    told = scores([row("a", "a", 0.9), row("a", "b", 0.9), row("a", "a", 0.6)])
    assert told is not None
    assert told.ece == pytest.approx(0.4)
    assert [held.n for held in told.bins] == [1, 2]


def test_confidence_that_is_no_number_counts_for_accuracy_alone() -> None:
    told = scores([row("a", "a", math.nan), row("a", "a", 1.0), row("a", "b", 0.0)])
    assert told is not None
    assert told.n == 3
    assert sum(held.n for held in told.bins) == 2


def test_interval_at_the_ends_stays_inside_and_is_not_empty() -> None:
    assert wilson(10, 10) == (pytest.approx(0.722, abs=1e-3), 1.0)  # Wilson 1927, as in Brown, Cai, DasGupta 2001
    low, high = wilson(0, 10)
    assert low == 0.0
    assert high == pytest.approx(0.278, abs=1e-3)


@pytest.mark.parametrize("high", [0.01, 0.9, 1, 6, 7, 60, 999, 1e6])
def test_axes_have_a_few_round_ticks_inside_their_range(high: float) -> None:
    for axis in (Axis(label="", low=0, high=high), Axis(label="", low=high / 1000, high=high, log=True)):
        ticks = axis.ticks()
        assert 2 <= len(ticks) <= 8
        assert all(axis.low * 0.99 <= tick <= high * 1.01 for tick in ticks)


def test_points_that_are_not_finite_are_left_out() -> None:
    axis = Axis(label="", low=0, high=2)
    drawn = chart("c", title="t", about="a", x=axis, y=axis, lines=[Line(label="l", points=[(0, 0), (1, math.nan), (2, 2)])])
    assert drawn.count("<circle") == 2
    assert "nan" not in drawn
