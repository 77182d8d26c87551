"""Which design a budget gives: whole weights where they fit, the whole budget where that is worth it."""

from pathlib import Path

import pytest

from phiscale.architecture import scale
from phiscale.architecture.catalog import design
from phiscale.cost import Budget
from phiscale.errors import ArgumentError, BudgetError
from phiscale.jobs.choose import LEAST_USEFUL, choose_design, keeps, scaled_design

LITE0 = design("efficientnet_lite0")
LITE = [f"efficientnet_lite{number}" for number in range(3)]


@pytest.fixture(autouse=True)
def lite_is_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phiscale.jobs.choose._trained", lambda name: name in LITE)


def chosen(network: str | None = None, *, side: int = 0, **limits: str):
    budget = Budget.parse(**limits)
    made, said = choose_design(network, budget, typical_side=side)
    assert keeps(made, budget)
    return made, " ".join(said)


def test_without_a_budget_it_is_lite0() -> None:
    made, said = chosen()
    assert (made, said) == (LITE0, "")


@pytest.mark.parametrize(("macs", "name"), [("400M", "efficientnet_lite0"), ("620M", "efficientnet_lite1"), ("870M", "efficientnet_lite2")])
def test_a_member_that_uses_the_budget_is_taken_as_it_was_trained(macs: str, name: str) -> None:
    made, _ = chosen(macs=macs)
    assert (made.spec, made.resolution) == (design(name).spec, design(name).resolution)


def test_a_budget_far_beyond_a_member_is_used_whole() -> None:
    made, said = chosen(macs="1.5G")
    assert made.cost.macs > 1.3e9
    assert made.origin.baseline == "efficientnet_lite0"
    assert made.origin.phi is not None
    assert "instead of the published efficientnet_lite2" in said


def test_below_the_smallest_member_pixels_go_first_then_the_network_shrinks() -> None:
    made, said = chosen(macs="200M")
    assert made.spec == LITE0.spec
    assert LEAST_USEFUL <= made.resolution < LITE0.resolution
    assert "px instead of 224" in said
    made, said = chosen(macs="30M")
    assert made.spec != LITE0.spec
    assert "below the smallest published network" in said
    made, _ = chosen(params="3M")  # fewer pixels are no fewer params
    assert made.spec != LITE0.spec


def test_small_images_grow_the_network_and_not_the_pixels() -> None:
    made, said = chosen(macs="600M", side=32)
    assert made.resolution == 128
    assert made.cost.macs > 0.5e9
    assert "about 32 px" in said


def test_a_named_network_keeps_its_weights_whole() -> None:
    made, _ = chosen("efficientnet_lite0", macs="1.5G")
    assert (made.spec, made.resolution) == (LITE0.spec, LITE0.resolution)
    assert made.origin.budget == "1.5G MACs"
    made, said = chosen("efficientnet_lite0", macs="100M")
    assert made.spec == LITE0.spec
    assert "instead of 224" in said
    with pytest.raises(BudgetError, match=r"params don't shrink with the resolution.*leave --network out"):
        chosen("efficientnet_lite0", params="3M")


def test_a_latency_is_measured_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """With a clock that counts 20 ms a GMAC."""
    from phiscale.deploy import latency_budget
    from phiscale.deploy.latency import LatencyStats, setting

    def clocked(things, **_):
        times = ((name, made.cost.macs / 1e9 * 20) for name, made in things.items())
        return [(name, LatencyStats(p50=ms, p90=ms, p99=ms, images_per_second=1e3 / ms, n=5, setting=setting())) for name, ms in times]

    monkeypatch.setattr(latency_budget, "bench", clocked)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made, _ = chosen(latency="25ms")
    assert 20 < made.cost.macs / 1e9 * 20 <= 25
    assert made.origin.budget == "25 ms"
    made, _ = chosen("efficientnet_lite0", latency="4ms")
    assert made.spec == LITE0.spec
    assert 3 < made.cost.macs / 1e9 * 20 <= 4
    made, _ = chosen("efficientnet_lite0", latency="400ms")
    assert made.resolution == 224


FOUND = 'baseline = "efficientnet_b0"\n[coefficients]\nalpha = 1.4\nbeta = 1.0\ngamma = 1.2\n'


def test_a_searchs_file_grows_the_baseline_that_it_names(tmp_path: Path) -> None:
    file, b0 = tmp_path / "coefficients.toml", design("efficientnet_b0")
    file.write_text(FOUND)
    made, said = scaled_design(str(file), None, Budget())
    assert made == scale(b0, phi=1, coefficients=(1.4, 1.0, 1.2))
    assert said == ["efficientnet_b0 grown by α 1.4, β 1, γ 1.2 and φ 1"]
    larger, _ = scaled_design(str(file), None, Budget.parse(macs="2G"))
    assert 1.7e9 < larger.cost.macs <= 2e9  # depth grows in steps
    assert [stage.width for stage in larger.spec.stages] == [stage.width for stage in b0.spec.stages]  # beta is 1


def test_coefficients_without_a_known_baseline_want_a_network(tmp_path: Path) -> None:
    file = tmp_path / "coefficients.toml"
    file.write_text(FOUND.replace("efficientnet_b0", "mine"))
    for given, about in ((str(file), "those of 'mine'"), ("1.2,1.1,1.15", "no baseline's")):
        with pytest.raises(ArgumentError, match=f"{about}; name the network that they scale with --network"):
            scaled_design(given, None, Budget())
    assert scaled_design(str(file), "efficientnet_lite0", Budget())[0].origin.baseline == "efficientnet_lite0"
