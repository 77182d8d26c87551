"""Budgets: the largest design that keeps every limit, what binds, and what can't be kept."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiscale.architecture import Coefficients, scale
from phiscale.architecture.catalog import design
from phiscale.cost import Budget, cost, fit_budget
from phiscale.errors import BudgetError

B0, LITE0 = design("efficientnet_b0"), design("efficientnet_lite0")
GRID = 1 / 256


@given(
    base=st.sampled_from((B0, LITE0)),
    macs=st.none() | st.floats(2e7, 3e10),
    params=st.none() | st.floats(1e6, 1e8),
    memory=st.none() | st.floats(1e7, 5e8),
)
@settings(max_examples=25, deadline=None)
def test_no_larger_phi_keeps_the_limits(base, macs: float | None, params: float | None, memory: float | None) -> None:
    budget = Budget(macs=macs, params=params, memory=memory)
    if not budget:
        return
    try:
        made = fit_budget(base, macs=macs, params=params, memory=memory)
    except BudgetError:
        smallest = scale(base, phi=-24)
        assert max(budget.shares(cost(smallest)).values()) > 1
        return
    assert max(budget.shares(cost(made)).values()) <= 1
    phi = made.origin.phi
    assert phi is not None
    for step in range(1, 200):
        larger = scale(base, phi=phi + step * GRID)
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
