"""The feasible grid: costs are those of the rounded networks, nothing is listed twice, and an empty grid says how near it was."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

from phiscale.architecture import Design, scale
from phiscale.architecture.catalog import design
from phiscale.cost import Budget, cost
from phiscale.errors import ArgumentError, BudgetError
from phiscale.search import Candidate, Grid, Range, feasible

B0 = design("efficientnet_b0")


@pytest.fixture(scope="module")
def points() -> tuple[Candidate, ...]:
    return feasible(B0)


def test_every_point_really_costs_the_ratio_after_rounding(points: tuple[Candidate, ...]) -> None:
    assert len(points) >= 10
    for point in points:
        c = point.coefficients
        made = scale(B0, depth=c.alpha, width=c.beta, resolution=c.gamma)
        assert 1.9 <= cost(made).macs / 385_814_752 <= 2.1
        assert (made.spec, made.resolution) == (point.design.spec, point.design.resolution)


def test_points_that_round_to_one_network_are_one_point(points: tuple[Candidate, ...]) -> None:
    assert len({(point.design.spec, point.design.resolution) for point in points}) == len({point.key for point in points}) == len(points)
    shared = next(point for point in points if len(point.aliases) > 1)
    networks = {(m.spec, m.resolution) for m in (scale(B0, depth=a, width=b, resolution=g) for a, b, g in shared.aliases)}
    assert networks == {(shared.design.spec, shared.design.resolution)}


def test_no_feasible_point_of_the_grid_is_left_out(points: tuple[Candidate, ...]) -> None:
    listed = {triple for point in points for triple in point.aliases}
    small = Grid(
        alpha=Range(low=1.0, high=1.3, step=0.1), beta=Range(low=1.0, high=1.2, step=0.1), gamma=Range(low=1.0, high=1.2, step=0.1)
    )
    near = {t for t in small if abs(cost(scale(B0, depth=t[0], width=t[1], resolution=t[2])).macs / 385_814_752 / 2 - 1) <= 0.05}
    assert near == listed & set(small)


def test_limits_leave_out_what_breaks_them(points: tuple[Candidate, ...]) -> None:
    limit = sorted(point.cost.params for point in points)[len(points) // 2]
    assert {point.key for point in feasible(B0, budget=Budget(params=limit))} == {p.key for p in points if p.cost.params <= limit}


def test_latency_is_measured_only_where_all_else_is_kept() -> None:
    asked: list[Design] = []

    def measure(designs: Sequence[Design]) -> list[float]:
        asked.extend(designs)
        return [made.cost.params * 1e-9 for made in designs]

    kept = feasible(B0, budget=Budget(params=9e6, latency=8e-3), latency=measure)
    assert all(made.cost.params <= 9e6 for made in asked)
    assert {point.design for point in kept} == {made for made in asked if made.cost.params <= 8e6}


def test_an_empty_grid_says_how_near_the_nearest_comes() -> None:
    one = Grid(alpha=Range(low=1.2, high=1.2), beta=Range(low=1.1, high=1.1), gamma=Range(low=1.15, high=1.15))
    with pytest.raises(
        BudgetError, match=r"within 0\.05 of 2 .* α 1\.2, β 1\.1, γ 1\.15, costs 2\.\d+ times \(\+\d+\.\d%\); raise --tol"
    ) as said:
        feasible(B0, grid=one)
    wider = float(str(said.value).rpartition("--tolerance to ")[2].split(",")[0])
    assert len(feasible(B0, grid=one, tolerance=wider)) == 1  # the advice is right
    with pytest.raises(BudgetError, match=r"needs 5\.29M of params where 1M are allowed; raise --params"):
        feasible(B0, budget=Budget(params=1e6))


@pytest.mark.parametrize("text", ["", "a", "1:2:3:4", "1.4:1.0", "1:2:0", "1:2:nan", "0:1", "1:1.5:1e-9"])
def test_ranges_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="alpha: "):
        Range.parse(text, "alpha")


def test_listing_the_grid_imports_only_the_standard_library() -> None:
    code = """
import sys
for name in ("torch", "numpy", "optuna"):
    sys.modules[name] = None
from phiscale.architecture.catalog import design
from phiscale.search import feasible
assert feasible(design("efficientnet_b0"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
