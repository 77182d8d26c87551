"""Latency is measured in turns, a budget of it is kept in few measurements, and a table stands in for a device one doesn't hold."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from phiscale.architecture import Design, NetworkSpec, Stage, scale
from phiscale.architecture.catalog import design as published
from phiscale.cost import Budget, cost, fit_budget
from phiscale.cost.budget import largest_phi
from phiscale.deploy import latency
from phiscale.deploy.graph import graph, random_weights, to_onnx
from phiscale.deploy.latency import LatencyStats, Setting, bench, interleaved, measure, setting
from phiscale.deploy.latency_budget import CLOSE, HEADROOM, MOST, SURE, fit_latency, fit_table, measured_in, search_latency, write_table
from phiscale.errors import ArgumentError, BudgetError
from phiscale.nn import Network
from phiscale.runtime.engines import installed

TINY = Design(spec=NetworkSpec(stages=(Stage(kind="mbconv", depth=2, width=16, stride=2, expand=2),), head_width=32), resolution=32)
HERE = Setting(runtime="openvino", precision="f32", threads=2, batch=1)
B0 = published("efficientnet_b0")
MINI = Design(
    spec=NetworkSpec(
        stages=(
            Stage(kind="mbconv", depth=2, width=32, stride=2, expand=4, se=0.25),
            Stage(kind="mbconv", depth=3, width=64, kernel=5, stride=2, expand=4),
        )
    ),
    resolution=192,
)


def machine_of(power: float, overhead: float) -> tuple[Callable[[Design], LatencyStats], list[Design]]:
    """A machine whose latency is overhead + (MACs / 50M)^power milliseconds, and what it was asked to run."""
    asked: list[Design] = []

    def run(design: Design) -> LatencyStats:
        asked.append(design)
        ms = overhead + (cost(design).macs / 5e7) ** power
        return LatencyStats(p50=ms, p90=ms, p99=ms, images_per_second=1e3 / ms, n=9, setting=HERE)

    return run, asked


@settings(max_examples=10, deadline=None)
@given(some.floats(0.5, 1.3), some.floats(0, 0.5), some.floats(0.8, 60))
def test_a_latency_budget_is_kept_and_used_within_ten_measurements(power: float, overhead: float, limit: float) -> None:
    run, asked = machine_of(power, overhead)
    found = search_latency(MINI, limit, measure=run)
    assert len(asked) <= MOST
    assert found.stats.p50 <= limit
    assert found.stats == run(found.design)
    # nearly all of the limit is used, or no design that the rounding rules allow lies between the answer and 95 % of it
    best = largest_phi(MINI, lambda made: run(made).p50 <= limit * 0.98 * HEADROOM)
    assert best is not None
    assert found.stats.p50 > CLOSE * limit or cost(scale(MINI, phi=best)).macs <= cost(found.design).macs


@pytest.mark.parametrize("pace", [1.3, 1.08, 0.99, 0.6])
def test_the_chosen_design_is_measured_again_and_the_search_goes_on_where_that_differs(pace: float) -> None:
    """The machine is `pace` times as slow as when the search (or an earlier one, which was remembered) measured."""
    run, _ = machine_of(1, 0)
    asked: list[Design] = []

    def now(made: Design) -> LatencyStats:
        asked.append(made)
        return run(made).at_pace(pace)

    found = search_latency(MINI, 20, measure=run, confirm=now)
    assert found.stats == now(found.design)
    assert CLOSE * 20 <= found.stats.p50 <= SURE * 20
    assert len(found.tried) <= MOST
    assert found.tried[-1] == (found.design, found.stats)
    assert len(asked) - 1 <= 3


@pytest.mark.parametrize("disturbed", [0, 1, 2, 3])
def test_a_measurement_that_sizes_do_not_explain_is_made_again(disturbed: int) -> None:
    run, asked = machine_of(0.9, 0.1)

    def measure(made: Design) -> LatencyStats:
        return run(made).at_pace(30.0 if len(asked) == disturbed else 1.0)

    found = search_latency(MINI, 20, measure=measure, confirm=run)
    assert CLOSE * 20 <= found.stats.p50 <= SURE * 20
    assert len(asked) <= MOST


def test_a_machine_that_is_too_busy_to_measure_is_said() -> None:
    run, _ = machine_of(1, 0)
    times = iter(range(1, 99))
    with pytest.raises(BudgetError, match=r"came to no answer for 20 ms"):
        search_latency(MINI, 20, measure=run, confirm=lambda made: run(made).at_pace(1.5 ** next(times)))


def test_the_analytic_limits_hold_beside_latency() -> None:
    run, asked = machine_of(1, 0)
    found = search_latency(B0, 1000, measure=run, budget=Budget.parse(macs="300M"))
    assert cost(found.design) == cost(fit_budget(B0, macs="300M"))
    assert all(cost(made).macs <= 300e6 for made in asked)
    with pytest.raises(BudgetError, match="1K params is below the smallest"):
        search_latency(B0, 1000, measure=run, budget=Budget.parse(params="1K"))


def test_an_impossible_latency_says_what_is_possible() -> None:
    run, asked = machine_of(1, 2.5)
    with pytest.raises(BudgetError, match=r"1 ms is below the smallest design tried of efficientnet_b0: 2\.5"):
        search_latency(B0, 1, measure=run)
    assert len(asked) <= MOST
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(BudgetError, match="positive number of milliseconds"):
            search_latency(B0, wrong, measure=run)


def test_what_the_machine_cannot_hold_is_never_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phiscale.deploy.latency.free_bytes", lambda: 125e6)
    run, asked = machine_of(0.01, 0)
    found = search_latency(B0, 1e6, measure=run)
    assert found.binds == "memory of this machine"
    with pytest.raises(ArgumentError, match=r"at 300 px is too large: running it takes about .* GB free"):
        measure(B0.at(300))
    assert all(cost(made).peak_bytes < 25e6 for made in asked)
    assert cost(found.design).params > 1e6


def test_bench_measures_every_thing_in_every_setting() -> None:
    where = [setting(runtime=name, threads=1, batch=batch) for name in (*installed(), "torch") for batch in (1, 3)]
    rows = bench({"small": TINY, "large": TINY.at(48)}, settings=where, seconds=0.001)
    assert [(name, stats.setting) for name, stats in rows] == [(name, each) for name in ("small", "large") for each in where]
    for _, stats in rows:
        assert 0 < stats.p50 <= stats.p90 <= stats.p99
        assert stats.n >= 5
        back = LatencyStats.from_dict(json.loads(json.dumps(stats.to_dict())))
        assert (back.setting, back.n) == (stats.setting, stats.n)
        assert back.p50 == pytest.approx(stats.p50, abs=1e-4)


def test_more_than_one_file_can_hold_is_refused_before_it_is_allocated() -> None:
    huge = scale(B0, phi=18)
    with pytest.raises(ArgumentError, match="efficientnet_b0_phi18 at 2772 px is too large"):
        measure(huge)


def test_candidates_take_turns() -> None:
    order: list[int] = []
    interleaved([lambda: (time.sleep(0.02), order.append(0)), lambda: (time.sleep(0.02), order.append(1))], seconds=0.15)
    turns = [number for number, _ in groupby(order[2:])]  # after the first calls, which don't count
    assert turns[:4] == [0, 1, 0, 1]


def test_a_crowded_machine_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "PATIENCE", 0.05)
    (times,) = interleaved([lambda: time.sleep(0.03)], seconds=0.001)
    assert 1 < len(times) < latency.FEWEST


def test_a_real_fit_on_this_machine_remembers_its_measurements(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "latency.json"
    limit = 3 * measure(TINY, threads=1, seconds=0.01).p50 + 0.2
    made = fit_latency(TINY, limit, threads=1, cache=cache, budget=Budget.parse(macs=3 * cost(TINY).macs))
    assert f"{limit:g} ms" in made.origin.budget
    known = json.loads(cache.read_text())
    assert 1 <= len(known) <= MOST
    assert fit_latency(TINY, limit, threads=1, cache=cache, budget=Budget.parse(macs=3 * cost(TINY).macs)) == made
    assert json.loads(cache.read_text()) == known  # nothing was measured again
    assert [path.name for path in cache.parent.iterdir()] == ["latency.json"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}'])
def test_a_broken_cache_is_measured_anew(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "latency.json"
    cache.write_text(content)
    where = setting(threads=1)
    stats = measured_in(where, cache=cache, seconds=0.001)(TINY)
    assert measured_in(where, cache=cache, seconds=0.001)(TINY).p50 == pytest.approx(stats.p50, abs=1e-4)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert measured_in(setting(threads=1), cache=tmp_path / "file" / "latency.json", seconds=0.001)(TINY).p50 > 0


def test_a_table_answers_for_a_device_that_is_not_here(tmp_path: Path) -> None:
    run, _ = machine_of(0.8, 0)
    table = tmp_path / "phone.csv"
    table.write_text(write_table(B0, measures=(run,), phis=(-3, -1, 1, 3)))
    made = fit_latency(B0, 6.0, table=table)
    best = largest_phi(B0, lambda made: run(made).p50 <= 6.0)
    assert made.spec == scale(B0, phi=best).spec  # between the rows a power law is assumed, which this machine is
    assert run(made).p50 <= 6.0
    assert made.origin.budget == "6 ms"
    assert cost(fit_latency(B0, 6.0, table=table, budget=Budget.parse(macs="100M"))).macs <= 100e6
    slowest = run(scale(B0, phi=3)).p50
    assert cost(fit_latency(B0, 10 * slowest, table=table)).macs <= cost(scale(B0, phi=3)).macs  # nothing is claimed beyond the rows
    with pytest.raises(BudgetError, match=r"below the fastest row of .*phone.csv \(1\.\d+ ms\)"):
        fit_latency(B0, 0.1, table=table)


def test_a_table_that_does_not_apply_is_said(tmp_path: Path) -> None:
    run, _ = machine_of(1, 0)
    table = tmp_path / "table.csv"
    table.write_text(write_table(B0, measures=(run,), phis=(0, 1)))
    with pytest.raises(
        ArgumentError, match=r"fewer than two usable rows for efficientnet_lite0 at .*has: efficientnet_b0, openvino, 2 threads"
    ):
        fit_table(published("efficientnet_lite0"), 5, table=table)
    with pytest.raises(ArgumentError, match="at batch 8"):
        fit_table(B0, 5, table=table, batch=8)
    with pytest.raises(ArgumentError, match="fewer than two usable rows"):
        fit_table(B0, 5, table=table, runtime="native")
    other, _ = machine_of(0.9, 1)
    slow = replace(HERE, runtime="onnxruntime")
    table.write_text(write_table(B0, measures=(run, lambda made: replace(other(made), setting=slow)), phis=(0, 1)))
    with pytest.raises(ArgumentError, match=r"measured more than once .onnxruntime, 2 threads; openvino, 2 threads.; say which"):
        fit_table(B0, 9, table=table)
    assert fit_table(B0, 12, table=table, runtime="onnx")[1] == pytest.approx(12, rel=0.05)
    table.write_text("a,b\n1,2\n")
    with pytest.raises(ArgumentError, match="is no latency table"):
        fit_table(B0, 5, table=table)
    with pytest.raises(ArgumentError, match="can't read the latency table"):
        fit_table(B0, 5, table=tmp_path / "nowhere.csv")


def test_random_weights_make_the_same_graph_as_trained_ones() -> None:
    """Same nodes, same shapes: nothing but numbers differs, so speed can't (benchmarks/ measures that it doesn't)."""
    state = {key: value.numpy() for key, value in Network(TINY.spec).state_dict().items()}
    one, other = to_onnx(TINY, state), graph(TINY, random_weights(TINY.spec))
    assert one.graph.node == other.graph.node
    assert [(t.name, t.dims, t.data_type) for t in one.graph.initializer] == [
        (t.name, t.dims, t.data_type) for t in other.graph.initializer
    ]


@pytest.mark.parametrize(
    ("asked", "says"), [({"threads": 0}, "threads"), ({"batch": 0}, "batch"), ({"runtime": "tpu"}, "no runtime 'tpu'")]
)
def test_settings_that_make_no_sense_are_refused(asked: dict[str, object], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        setting(**asked)
