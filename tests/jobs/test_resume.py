"""A run that is killed, however and whenever, ends as one that is not."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phiscale.report import write_card, write_report
from phiscale.training import RECIPES

LATE = ["predictions.csv", "model.safetensors", "bundle", "report.html", "README.md"]  # what is written when training is over
MOMENTS = random.Random(0)


def run_cases(images: Path, design: Path, out: Path, cases: list[dict[str, Any]]) -> dict[str, int]:
    given = {"images": str(images), "design": str(design), "out": str(out), "cases": cases}
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "killing.py"], input=json.dumps(given), capture_output=True, text=True, timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def same(folder: Path, tmp_path: Path) -> None:
    """Weights, metrics, predictions and pages are the same bytes. Of the pages' sources what the clock said is made equal first."""
    whole, killed = folder / "whole", folder / "killed"
    for name in ("model.safetensors", "metrics.csv", "predictions.csv", "design.toml", "recipe.toml", "labels.txt", "bundle/model.onnx"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    pages = []
    for run in (whole, killed):
        there = tmp_path / "same place"
        shutil.copytree(run, there)
        about = json.loads((there / "run.json").read_text())
        assert about["status"] == "done"
        for name in ("created", "seconds"):
            del about[name]
        (there / "run.json").write_text(json.dumps(about))
        shutil.copy(whole / "timings.csv", there)
        shutil.copy(whole / "bundle" / "bench.json", there / "bundle")
        pages.append((write_report(there).read_bytes(), write_card(there).read_bytes(), (there / "run.json").read_bytes()))
        shutil.rmtree(there)
    assert pages[0] == pages[1]
    assert not list(killed.rglob("*.tmp"))
    assert not (killed / ".lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "resumed_workers", "kills"), [(0, 0, 10), (2, 2, 2), (2, 0, 2)])
def test_killed_at_random_moments_ends_as_if_it_had_not_been(
    workers: int, resumed_workers: int, kills: int, stripes: Path, tiny: Path, tmp_path: Path
) -> None:
    """Ten kills: at file operations of training (every step writes a checkpoint), at instants, and at each kind of file after it."""
    early = [MOMENTS.randrange(1, 60) if number % 3 else {"seconds": MOMENTS.uniform(0.05, 1)} for number in range(min(kills, 5))]
    case = {"name": "run", "workers": workers, "resumed_workers": resumed_workers, "recipe": "scratch"}
    hits = run_cases(stripes, tiny, tmp_path / "runs", [case | {"kills": early + LATE[: kills - len(early)]}])
    assert hits["run"] >= kills - sum(isinstance(kill, dict) for kill in early)  # an instant may come too late
    same(tmp_path / "runs" / "run", tmp_path)


@pytest.mark.slow
def test_every_recipe_goes_on_where_it_was_killed(stripes: Path, tiny: Path, tmp_path: Path) -> None:
    """Once each, in the middle of training; with and without readers, before and after in every combination."""
    cases = [
        {
            "name": name,
            "workers": number % 2 * 2,
            "resumed_workers": number // 2 % 2 * 2,
            "recipe": name,
            "kills": [MOMENTS.randrange(40, 70)],
        }
        for number, name in enumerate(RECIPES)
    ]
    assert run_cases(stripes, tiny, tmp_path / "runs", cases) == dict.fromkeys(RECIPES, 1)
    for name in RECIPES:
        same(tmp_path / "runs" / name, tmp_path)
