"""A search from images to coefficients, with a worker process of its own."""

import csv
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("optuna")

from phiscale.architecture import Coefficients, Design, NetworkSpec, Origin, Stage, Stem, scale
from phiscale.architecture.catalog import design
from phiscale.cli import main
from phiscale.cost import Budget, cost
from phiscale.errors import ArgumentError, RunError
from phiscale.jobs.choose import scaled_design
from phiscale.jobs.search import Asked, Result, coefficients_toml, join, plan, search
from phiscale.search import Grid, Range, feasible
from phiscale.search.evidence import standings
from phiscale.search.setup import Setup
from phiscale.search.study import Findings, Run

GRID = Grid(alpha=Range(low=1.0, high=2.0, step=1.0), beta=Range(low=1.0, high=1.5, step=0.5), gamma=Range(low=1.0, high=1.5, step=0.25))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline's file and three classes of plain colours with noise."""
    root, random = tmp_path_factory.mktemp("search"), np.random.default_rng(0)
    for split, n in (("train", 8), ("val", 4)):
        for number, name in enumerate(("red", "green", "blue")):
            for image in range(n):
                pixels = random.integers(0, 120, (24, 24, 3), np.uint8)
                pixels[..., number] += 120
                path = root / "images" / split / name / f"{image}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    stages = (Stage(kind="mbconv", depth=1, width=8, stride=2, expand=2), Stage(kind="mbconv", depth=1, width=16, stride=2, expand=2))
    spec = NetworkSpec(stages=stages, stem=Stem(widths=(8,)), head_width=32, num_classes=3)
    (root / "tiny.toml").write_text(Design(spec=spec, resolution=24, origin=Origin(baseline="tiny")).to_toml())
    return root


def asked(folder: Path) -> Asked:
    return Asked(
        baseline=str(folder / "tiny.toml"), images=str(folder / "images"), grid=GRID, ratio=2.0, tolerance=0.3, epochs=2, finalists=2,
        seeds=2, resolution=24,
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(folder: Path) -> Result:
    seen: list[int] = []

    def show(runs: "list[Run]") -> None:
        seen.append(len(runs))

    made = search(asked(folder), out=folder / "study", threads=1, show=show)  # type: ignore[arg-type]
    assert seen
    return made


@pytest.mark.slow
def test_a_search_ends_in_coefficients_that_design_takes(result: Result, capsys: pytest.CaptureFixture[str]) -> None:
    file = result.folder / "coefficients.toml"
    assert Coefficients.read(file) == result.findings.winner.coefficients
    assert main(["design", str(result.folder.parent / "tiny.toml"), "--phi", "1", "--coefficients", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["macs"] == cost(result.findings.winner.design).macs
    made, _ = scaled_design(str(file), str(result.folder.parent / "tiny.toml"), Budget())  # what `fit --coefficients` trains
    assert made.spec == result.findings.winner.design.spec


@pytest.mark.slow
def test_the_folder_holds_every_run_and_a_page(result: Result) -> None:
    with (result.folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["key"], int(row["seed"])) for row in rows] == [(run.point.key, run.seed) for run in result.runs]
    assert {row["state"] for row in rows} <= {"done", "pruned"}
    assert sum(row["state"] == "done" and row["seed"] != "0" for row in rows) == 4  # two finalists, two fresh seeds
    page = (result.folder / "report.html").read_text()
    assert page.count("<svg") == 5
    assert ("no better than guessing among 3 classes" in page) != result.findings.learned
    assert "<script" not in page
    for name in (
        "Parallel coordinates",
        "Learning curves",
        "The surface of equal cost",
        "Accuracy against multiply-adds",
        "Accuracy against latency",
    ):
        assert name in page
    assert not any((result.folder / "work").iterdir())  # checkpoints of finished runs are gone


@pytest.mark.slow
def test_a_finished_study_is_read_not_run_again(result: Result) -> None:
    again = join(str(result.folder), threads=1)
    assert again is not None
    assert again.findings == result.findings


@pytest.mark.slow
def test_other_images_are_refused_with_the_difference(result: Result, folder: Path) -> None:
    (folder / "fewer" / "train").mkdir(parents=True)
    for split in ("train", "val"):
        (folder / "fewer" / split).mkdir(exist_ok=True)
        for name in ("red", "green"):
            (folder / "fewer" / split / name).symlink_to(folder / "images" / split / name)
    with pytest.raises(RunError, match=r"made for something else: images\.fingerprint"):
        join(str(result.folder), images=str(folder / "fewer"))


def test_a_plan_lists_points_without_training(folder: Path) -> None:
    made = plan(asked(folder))
    assert 2 <= len(made.points) < len(GRID)
    assert all(1.4 <= point.ratio <= 2.6 for point in made.points)


@pytest.mark.parametrize(
    ("baseline", "name"),
    [
        (design("efficientnet_b0").at(96).with_classes(10), "efficientnet_b0"),
        (scale(design("efficientnet_b0"), width=0.5), "efficientnet_b0_w0.5"),  # which `fit --coefficients` must not take for B0
    ],
)
def test_the_coefficients_name_a_published_baseline_only_where_it_is_that(baseline: Design, name: str) -> None:
    point = feasible(baseline, tolerance=0.2)[0]
    found = Findings(winner=point, standings=standings({point.key: [0.5, 0.6]}), surface=None, surface_epoch=1, unsure=())
    held = tomllib.loads(coefficients_toml(Setup(baseline=baseline), found))
    assert held["baseline"] == name
    assert (held["search"]["top1"], held["search"]["seeds"]) == (0.55, 2)


def test_a_folder_that_is_no_study_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"is no study: it has no readable study\.json"):
        join(str(tmp_path))


def test_coefficients_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[coefficients]\nalpha = 1.2\n")
    with pytest.raises(ArgumentError, match=r"has no \[coefficients\] table with alpha, beta and gamma"):
        Coefficients.read(tmp_path / "c.toml")
    with pytest.raises(ArgumentError, match="can't read coefficients"):
        Coefficients.read(tmp_path / "none.toml")
