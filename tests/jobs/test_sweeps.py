"""Sweeps: the paper's networks, each trained once, with a figure, a page and a table."""

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from test_search import folder  # noqa: F401 (a fixture)

from phiscale.architecture.catalog import design
from phiscale.cli import main
from phiscale.errors import ArgumentError, RunError
from phiscale.jobs.sweeps import TITLES, networks, sweep

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


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ArgumentError, match="can't sweep 'fig9'; possible: fig3, fig4, fig8, table7"):
        networks("fig9", B0)


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
