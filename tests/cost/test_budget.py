"""Budgets: the largest design that keeps every limit, what binds, and what can't be kept."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiscale.architecture import Coefficients, policy, scale
from phiscale.architecture.catalog import design
from phiscale.cost import Budget, cost, fit_budget, search_budget
from phiscale.errors import ArgumentError, BudgetError

B0, LITE0 = design("efficientnet_b0"), design("efficientnet_lite0")
GRID = 1 / 256
BASES = [design(f"efficientnet{name}") for name in ("_b0", "_lite0", "v2_b0", "_edgetpu_s")] + [design("mobilenet_v2"), design("resnet50")]


@given(
    base=st.sampled_from(BASES),
    how=st.sampled_from([policy(name) for name in ("compound", "fast", "width", "depth")]),
    macs=st.none() | st.floats(2e7, 3e10),
    params=st.none() | st.floats(1e6, 1e8),
    memory=st.none() | st.floats(1e7, 5e8),
)
@settings(max_examples=25, deadline=None)
def test_no_larger_phi_keeps_the_limits(base, how: Coefficients, macs: float | None, params: float | None, memory: float | None) -> None:
    budget = Budget(macs=macs, params=params, memory=memory)
    if not budget:
        return
    try:
        made = fit_budget(base, macs=macs, params=params, memory=memory, coefficients=how)
    except BudgetError:
        smallest = scale(base, phi=-24, coefficients=how)
        assert max(budget.shares(cost(smallest)).values()) > 1
        return
    assert max(budget.shares(cost(made)).values()) <= 1
    phi = made.origin.phi
    assert phi is not None
    for step in range(1, 200):
        larger = scale(base, phi=phi + step * GRID, coefficients=how)
        if larger.spec != made.spec or larger.resolution != made.resolution:
            assert max(budget.shares(cost(larger)).values()) > 1, f"phi {phi + step * GRID} keeps the limits too"


def test_a_budget_of_its_own_cost_gives_the_design_back() -> None:
    made = fit_budget(B0, macs=B0.cost.macs, params=B0.cost.params, memory=B0.cost.peak_bytes)
    assert (made.spec, made.resolution) == (B0.spec, B0.resolution)


def test_one_byte_less_gives_a_smaller_one() -> None:
    assert fit_budget(B0, macs=B0.cost.macs - 1).cost.macs < B0.cost.macs


def test_coefficients_choose_the_direction() -> None:
    deep = fit_budget(B0, macs="1G", coefficients=Coefficients(alpha=2, beta=1, gamma=1))
    assert deep.resolution == 224
    assert [stage.width for stage in deep.spec.stages] == [stage.width for stage in B0.spec.stages]


def test_a_design_remembers_what_was_asked() -> None:
    assert fit_budget(B0, macs="1G", memory="64MB").origin.budget == "1G MACs, 64MB memory"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "at least one limit"),
        ({"macs": "1X"}, r"macs: can't read '1X'.*300M"),
        ({"params": "-3"}, "params: can't read '-3'"),
        ({"memory": "64M"}, "memory: can't read '64M'.*64MB"),
        ({"macs": "nan"}, "macs: can't read"),
        ({"macs": "0"}, "macs: can't read"),
        ({"macs": "1e999"}, "macs: can't read"),
        ({"macs": "10K", "memory": "1GB"}, r"a budget of 10K macs is below the smallest design of efficientnet_b0 \(.*\); raise --macs"),
        ({"params": "10K", "macs": "100G"}, r"a budget of 10K params is below .*raise --params"),
    ],
)
def test_impossible_budgets_say_why(asked: dict[str, str], says: str) -> None:
    with pytest.raises(BudgetError, match=says):
        fit_budget(B0, **asked)


@pytest.mark.parametrize(
    ("fixed", "same"),
    [
        ({"resolution": 1.0}, lambda made: made.resolution == 224),
        ({"width": 1.0}, lambda made: [stage.width for stage in made.spec.stages] == [stage.width for stage in B0.spec.stages]),
        ({"depth": 1.0, "width": 1.0}, lambda made: made.spec == B0.spec),
    ],
)
def test_what_is_fixed_by_hand_stays_and_phi_decides_the_rest(fixed: dict[str, float], same) -> None:
    found = search_budget(B0, Budget.parse(macs="1.5G"), **fixed)
    assert same(found.design)
    assert found.shares["macs"] <= 1
    larger = scale(B0, phi=found.phi + 1e-4, **fixed)
    assert cost(larger).macs > 1.5e9


def test_a_fit_says_what_binds_and_what_is_left() -> None:
    by_macs = search_budget(B0, Budget.parse(macs="1G", params="1G", memory="1000GB"))
    assert by_macs.binds == ("macs",)
    assert by_macs.left["macs"] == pytest.approx(1e9 - by_macs.design.cost.macs)
    assert by_macs.left["params"] == pytest.approx(1e9 - by_macs.design.cost.params)
    assert "macs allow no larger one" in str(by_macs)
    assert search_budget(B0, Budget.parse(macs="1T", params="8M")).binds == ("params",)
    assert search_budget(B0, Budget.parse(macs="1T", memory="50MB")).binds == ("memory",)


@pytest.mark.parametrize("name", ["width", "depth", "resolution"])
def test_a_policy_of_one_dimension_leaves_the_others(name: str) -> None:
    made = fit_budget(B0, macs="1.6G", coefficients=policy(name))
    grows = {
        "depth": sum(stage.depth for stage in made.spec.stages) > 16,
        "width": made.spec.stages[-1].width > 320,
        "resolution": made.resolution > 224,
    }
    assert grows == {dimension: dimension == name for dimension in grows}


def test_the_fast_policy_grows_activations_least() -> None:
    activations = {name: fit_budget(B0, macs="3G", coefficients=policy(name)).cost.activations for name in ("compound", "depth", "fast")}
    assert activations["fast"] < 0.7 * activations["compound"] < 0.7 * activations["depth"]


def test_a_family_keeps_its_own_coefficients() -> None:
    own = scale(B0, phi=0, coefficients=(1.1, 1.2, 1.1))
    assert fit_budget(own, macs="1G") == fit_budget(own, macs="1G", coefficients=Coefficients(alpha=1.1, beta=1.2, gamma=1.1))
    assert fit_budget(own, macs="1G").resolution != fit_budget(B0, macs="1G").resolution


@pytest.mark.parametrize(
    ("limits", "how", "says"),
    [
        ({"params": "50M"}, {"coefficients": policy("resolution")}, "params don't grow with the resolution"),
        ({"macs": "1e30"}, {}, "puts no end to this family"),
        ({"macs": "10M"}, {"resolution": 2.0, "width": 1.0}, r"resolution fixed at 2.*or free the width or resolution"),
        ({"macs": "1G"}, {"depth": 1.0, "width": 1.0, "resolution": 1.0}, "all fixed"),
        ({"macs": "1G"}, {"coefficients": Coefficients(alpha=0.5)}, "coefficients below 1"),
        ({"latency": "5ms"}, {}, "at least one limit"),
    ],
)
def test_contradictions_say_what_would_do(limits: dict[str, str], how: dict, says: str) -> None:
    with pytest.raises(BudgetError, match=says):
        search_budget(B0, Budget.parse(**limits), **how)


def test_an_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(ArgumentError, match="'both'; known: compound, depth, width, resolution, fast"):
        policy("both")
