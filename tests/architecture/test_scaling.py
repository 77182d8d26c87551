"""Compound scaling: what a factor of one, a phi and a rounding rule do."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiscale.architecture import Coefficients, Design, NetworkSpec, Rounding, policy, round_width, scale
from phiscale.architecture.catalog import design
from phiscale.errors import ArgumentError
from random_specs import specs

B0 = design("efficientnet_b0")


@given(spec=specs, resolution=st.integers(1, 2000))
@settings(deadline=None)
def test_scaling_by_one_changes_nothing(spec: NetworkSpec, resolution: int) -> None:
    own = Design(spec=spec, resolution=resolution)
    assert scale(own) == own
    for made in (scale(own, depth=1, width=1, resolution=1), scale(own, phi=0)):
        assert (made.spec, made.resolution, made.rounding) == (own.spec, own.resolution, own.rounding)


@given(low=st.floats(-6, 6), step=st.floats(0, 3))
@settings(deadline=None)
def test_a_larger_phi_is_never_a_smaller_network(low: float, step: float) -> None:
    small, large = scale(B0, phi=low), scale(B0, phi=low + step)
    assert small.resolution <= large.resolution
    for before, after in zip(small.spec.stages, large.spec.stages, strict=True):
        assert before.width <= after.width
        assert before.depth <= after.depth


@given(channels=st.floats(1, 4000))
def test_widths_are_multiples_of_eight_and_at_most_ten_percent_narrower(channels: float) -> None:
    assert round_width(channels) % 8 == 0
    assert round_width(channels) >= 0.9 * channels


def test_v2_rounding_has_no_guard() -> None:
    assert (round_width(11.9), round_width(11.9, guard=0)) == (16, 8)


def test_lite_ends_do_not_scale() -> None:
    lite4 = design("efficientnet_lite4").spec
    assert (lite4.stem.widths, lite4.head_width) == ((32,), 1280)
    assert (lite4.stages[0].depth, lite4.stages[-1].depth) == (1, 1)


def test_a_given_factor_replaces_phis_own() -> None:
    made = scale(B0, phi=2, width=1)
    assert [stage.width for stage in made.spec.stages] == [stage.width for stage in B0.spec.stages]
    assert made.resolution == 296


def test_a_name_tells_what_was_done() -> None:
    assert B0.name == "efficientnet_b0"
    assert scale(B0, phi=1.5).name == "efficientnet_b0_phi1.5"
    assert scale(scale(B0, phi=1), phi=0.5).name == "efficientnet_b0_phi1.5"
    assert scale(B0, depth=2, width=1.5).name == "efficientnet_b0_d2_w1.5"
    assert scale(B0, phi=1, width=3).name == "efficientnet_b0_d1.2_w3_r1.15"
    assert scale(scale(B0, phi=1), depth=2).name == "efficientnet_b0_d2.4_w1.1_r1.15"


def test_pycls_rounds_depth_to_the_nearest() -> None:
    nearest = replace(B0, rounding=Rounding(depth="nearest"))
    assert [stage.depth for stage in scale(nearest, depth=1.2).spec.stages] == [1, 2, 2, 4, 4, 5, 1]
    assert [stage.depth for stage in scale(B0, depth=1.2).spec.stages] == [2, 3, 3, 4, 4, 5, 2]


@pytest.mark.parametrize("given", [{"phi": float("nan")}, {"phi": 100.0}, {"depth": 0.0}, {"width": -1.0}, {"resolution": float("inf")}])
def test_factors_that_make_no_sense_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(given))):
        scale(B0, **given)


def test_coefficients_of_the_paper_double_the_cost() -> None:
    assert Coefficients().ratio == pytest.approx(2, rel=0.05)
    with pytest.raises(ArgumentError, match="alpha"):
        Coefficients(alpha=0)


# pycls models/scaler.py, d1_w8_g8_r1 of B0: factor, depths, widths, stem, head, resolution, params, activations
PYCLS_FAST = [
    (2, [1, 2, 2, 3, 3, 4, 1], [24, 32, 56, 104, 144, 256, 424], 40, 1688, 232, 8602822, 10191038),
    (4, [1, 2, 2, 3, 3, 5, 1], [24, 40, 72, 136, 192, 336, 560], 56, 2232, 240, 15824374, 13328046),
    (8, [1, 2, 2, 4, 4, 5, 1], [40, 56, 88, 184, 256, 440, 736], 72, 2944, 248, 27838930, 21552866),
    (16, [1, 3, 3, 4, 4, 5, 1], [48, 72, 120, 240, 336, 584, 968], 96, 3880, 256, 47392966, 34302246),
]


@pytest.mark.parametrize("row", PYCLS_FAST, ids=lambda row: f"x{row[0]}")
def test_the_fast_policy_is_that_of_pycls(row) -> None:
    factor, depths, widths, stem, head, resolution, params, activations = row
    base = replace(B0, rounding=Rounding(depth="nearest", guard=0.0))
    made = scale(base, phi=math.log2(factor), coefficients=policy("fast"))
    assert [stage.depth for stage in made.spec.stages] == depths
    assert [stage.width for stage in made.spec.stages] == widths
    assert (made.spec.stem.widths, made.spec.head_width) == ((stem,), head)
    assert abs(made.resolution - resolution) <= 2  # pycls takes multiples of 4
    own = made.at(resolution).cost
    assert (own.params, own.activations) == (params, activations)
