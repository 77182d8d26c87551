"""Sweeps: the paper's networks, each trained once, with a figure, a page and a table."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("optuna")

from test_search import folder  # noqa: F401 (a fixture)

from phiscale.architecture import Design
from phiscale.architecture.catalog import design
from phiscale.cli import main
from phiscale.errors import ArgumentError, RunError
from phiscale.jobs.proxy import Proxy
from phiscale.jobs.sweeps import TABLE7, TITLES, networks, sweep
from phiscale.report.sweep import SweepPoint, sweep_svg
from phiscale.search.study import Score

B0 = design("efficientnet_b0")


def test_figure_8_compares_at_equal_real_cost() -> None:
    for series, made in networks("fig8", B0)[1:]:
        ratio = made.cost.macs / B0.cost.macs
        assert min(abs(ratio / wanted - 1) for wanted in (2, 4, 8)) < 0.1, (series, ratio)


def test_table_7_without_images_has_the_papers_points() -> None:
    made = sweep("table7")
    assert [(point.paper_macs, point.paper_top1) for point in made.points][-1] == (1.8e9, 0.811)
    assert all(not point.scores for point in made.points)


@pytest.mark.parametrize("what", TITLES)
def test_every_sweep_has_networks_that_are_all_different(what: str) -> None:
    made = networks(what, B0, quick=True)
    assert len({(series, one.spec, one.resolution) for series, one in made}) == len(made)


def test_the_command_prints_a_figures_networks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "fig8", "--quick", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["scaled_by"] for row in rows} == {"baseline", "depth", "width", "resolution", "compound"}
    assert main(["reproduce", "table1", "--images", "x"]) == 2
    assert "table1 is computed, not trained" in capsys.readouterr().err


@pytest.mark.parametrize(("what", "expected"), [("fig3", 6), ("fig4", 2), ("fig8", 5), ("table7", 5)])
@pytest.mark.parametrize("quick", [True, False])
def test_the_papers_figures_stand_beside_the_networks_they_are_of(what: str, expected: int, quick: bool) -> None:
    """Figure 3 has the baseline in each of its three series, figure 4 in one."""
    made = sweep(what, resolution=64, quick=quick)
    held = [point for point in made.points if point.paper_top1 is not None]
    assert len(held) == expected
    for point in held:
        name = "baseline" if point.ratio == 1 else "width" if what == "fig4" else point.series
        assert (point.paper_macs, point.paper_top1) == TABLE7[name]
        assert point.ratio == 1 or 3.4 < point.ratio < 5.2
    other = sweep(what, baseline="efficientnet_lite0", quick=quick)  # of which the paper prints nothing
    assert not any(point.paper_top1 for point in other.points)


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ArgumentError, match="can't sweep 'fig9'; possible: fig3, fig4, fig8, table7"):
        networks("fig9", B0)


def test_the_figure_has_the_papers_points_beside_ours() -> None:
    ours = {"network": "n", "macs": 1e6, "params": 10, "resolution": 64, "ratio": 1.0, "scores": (0.5, 0.6)}
    paper = {"paper_macs": 1.8e9, "paper_top1": 0.79}
    alone = sweep_svg("fig3", "Figure 3", [SweepPoint(series="depth", **ours)])  # type: ignore[arg-type]
    both = sweep_svg("fig3", "Figure 3", [SweepPoint(series="depth", **ours, **paper)])  # type: ignore[arg-type]
    for text, panels in ((alone, 1), (both, 2)):
        tree = ElementTree.fromstring(text)
        assert len([part for part in tree if part.tag.endswith("}g")]) == panels
    assert "depth, n: 1.8G, 79%" in both
    assert 'class="spread a"' in both


def test_a_network_of_several_series_is_trained_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    trained: list[tuple[int, str]] = []
    top1 = 0.5

    def instead(self: Proxy, design: Design, *, seed: int, folder: Path) -> Score:
        trained.append((seed, design.name))
        return Score(top1=top1)

    monkeypatch.setattr(Proxy, "trained", instead)
    made = sweep("fig3", baseline=str(folder / "tiny.toml"), images=str(folder / "images"), quick=True, seeds=2, out=tmp_path)
    assert len(made.points) == 9
    assert len(trained) == len(set(trained)) == 14  # the baseline is in three series
    assert all(len(point.scores) == 2 for point in made.points)
    assert "no network is better than guessing" in made.notes[-1]  # of 3 classes, on 12 images
    top1 = 0.9
    other = sweep("fig3", baseline=str(folder / "tiny.toml"), images=str(folder / "images"), quick=True, epochs=3, out=tmp_path)
    assert len(trained) == 14 + 7  # other epochs are another question
    assert all(len(point.scores) == 1 for point in other.points)
    assert not any("guessing" in note for note in other.notes)


def test_a_sweep_draws_what_it_trained_and_goes_on(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    given = {"baseline": str(folder / "tiny.toml"), "images": str(folder / "images"), "epochs": 1, "seeds": 1, "resolution": 16}
    made = sweep("table7", out=tmp_path, **given)  # type: ignore[arg-type]
    assert [len(point.scores) for point in made.points] == [1] * 5
    with (tmp_path / "table7.csv").open(newline="") as file:
        assert [row["series"] for row in csv.DictReader(file)] == ["baseline", "depth", "width", "resolution", "compound"]
    assert (tmp_path / "table7.svg").read_text().startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "<script" not in (tmp_path / "table7.html").read_text()
    before = (tmp_path / "table7.csv").read_bytes()
    again = sweep("table7", out=tmp_path, **given)  # type: ignore[arg-type]
    assert again.points == made.points
    assert (tmp_path / "table7.csv").read_bytes() == before
    (tmp_path / "table7.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match="is not a sweep's table"):
        sweep("table7", out=tmp_path, **given)  # type: ignore[arg-type]
