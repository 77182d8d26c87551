"""What is asked before a training: which rate, how large a batch."""

import io
import json
from pathlib import Path

import pytest
import torch

from phiscale.cli import main
from phiscale.errors import ArgumentError
from phiscale.jobs import tune
from phiscale.jobs.asked import Asked
from phiscale.jobs.tune import largest
from phiscale.jobs.watch import Watcher
from phiscale.training import RECIPES, trial
from tiny import TINY


@pytest.fixture
def options(stripes: Path, tiny: Path) -> list[str]:
    return ["fit", str(stripes), "--network", str(tiny), "--weights", "none", "--batch", "8", "--threads", "1"]


def test_find_batch_tries_real_steps(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """All images fit: the largest multiple of eight below their number, after one try in a process of its own."""
    assert main([*options, "--resolution", "160", "--find-batch", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["batch"] == 32  # of 39
    assert 0 < said["peak_bytes"] <= said["limit_bytes"]
    assert said["estimated_bytes"] > 0


@pytest.mark.parametrize(("each", "limit"), [(1e6, 50e6), (3e6, 50e6), (0.01e6, 50e6), (12e6, 50e6), (1e6, 9e6)])
@pytest.mark.parametrize("runs_out", [False, True])
def test_the_largest_batch_is_found_wherever_the_estimate_begins(
    each: float, limit: float, runs_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine whose steps take `each` bytes an image: the largest that fits, to a fifth, and one that was tried."""

    def peak(*given: object) -> int | None:
        took = round(each * int(given[-1]))  # type: ignore[call-overload]
        return None if runs_out and took > limit else took

    monkeypatch.setattr(tune, "tried_peak", peak)
    found = largest(TINY, RECIPES["scratch"](500), Asked(images=""), round(limit), 500, Watcher())
    best = max(batch for batch in range(2, 501) if batch == tune.whole(batch) and each * batch <= limit)
    assert dict(found.tried)[found.batch] == found.measured_bytes <= limit
    assert found.batch <= best
    assert found.batch >= 0.8 * best


def test_a_network_that_is_too_large_for_two_images_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "tried_peak", lambda *_: None)
    with pytest.raises(ArgumentError, match=r"not even a batch of 2 fits 0\.05 GB; lower --resolution"):
        largest(TINY, RECIPES["scratch"](500), Asked(images=""), 50_000_000, 500, Watcher())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), MemoryError(), RuntimeError("[enforce fail] can't allocate memory: 9 GB")])
def test_a_try_that_runs_out_of_memory_says_so_by_its_status(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter([None, error])  # the first is of what torch loads

    def take_steps(*_: object) -> None:
        if (raised := next(steps)) is not None:
            raise raised

    recipe = RECIPES["scratch"](9).to_dict()
    given = {"design": TINY.to_toml(), "recipe": recipe, "batch": 2, "threads": None, "compute": {"precision": "float32"}}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(given)))
    monkeypatch.setattr(trial, "take_steps", take_steps)
    assert trial.main() == trial.OUT_OF_MEMORY


def test_find_lr_draws_and_suggests(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options, "--find-lr", "-o", str(tmp_path / "lr"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    rows = (tmp_path / "lr" / "rates.csv").read_text().splitlines()
    assert rows[0] == "learning_rate,loss,smoothed"
    assert len(rows) == 1 + said["steps"]
    assert said["learning_rate"] == pytest.approx(said["lowest_loss_at"] / 10, rel=0.05)
    assert "<svg" in Path(said["page"]).read_text()
    assert not (tmp_path / "lr" / "run.json").exists()
