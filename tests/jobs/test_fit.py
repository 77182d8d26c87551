"""The whole job on small pictures that the test makes."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from phiscale.errors import ArgumentError, BudgetError, DataError, UnknownNetworkError
from phiscale.jobs.asked import Asked
from phiscale.jobs.evaluate import evaluate
from phiscale.jobs.fit import _Fit, fit, resume
from phiscale.jobs.watch import Watcher
from phiscale.training import compute
from phiscale.training.processes import Processes
from tiny import dying_at


@pytest.fixture(scope="session")
def done(stripes: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "stripes"
    return fit(stripes, network=tiny, weights="none", epochs=6, batch=8, learning_rate=0.2, flip=True, out=out).folder


def test_run_folder_is_complete_and_says_what_happened(done: Path) -> None:
    about = json.loads((done / "run.json").read_text())
    assert about["status"] == "done"
    assert about["result"]["n"] == about["data"]["counts"]["val"] > 0
    assert about["data"]["skipped"] == 1
    for name in [
        "design.toml",
        "recipe.toml",
        "metrics.csv",
        "predictions.csv",
        "skipped.csv",
        "model.safetensors",
        "config.json",
        "labels.txt",
        "report.html",
        "README.md",
    ]:
        assert (done / name).stat().st_size > 0, name
    assert (done / "bundle" / "model.onnx").is_file()
    assert len((done / "metrics.csv").read_text().splitlines()[1:]) == 6


def test_it_learns(done: Path) -> None:
    assert json.loads((done / "run.json").read_text())["result"]["top1"] >= 0.9


def test_evaluate_gives_the_numbers_of_training(done: Path, stripes: Path) -> None:
    """On the training images' folder as a whole: run and bundle agree with each other; on val, with run.json."""
    by_torch, by_bundle = evaluate(done, stripes).to_dict(), evaluate(done / "bundle", stripes).to_dict()
    assert by_torch["n"] == by_bundle["n"] == 48
    assert by_torch["skipped"] == 1
    assert by_torch["top1"] == by_bundle["top1"]
    rows = list(csv.DictReader((done / "predictions.csv").read_text().splitlines()))
    right = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    assert right == json.loads((done / "run.json").read_text())["result"]["top1"]


def test_same_seed_same_weights(done: Path, stripes: Path, tiny: Path, tmp_path: Path) -> None:
    again = fit(stripes, network=tiny, weights="none", epochs=6, batch=8, learning_rate=0.2, flip=True, out=tmp_path / "again").folder
    assert (again / "model.safetensors").read_bytes() == (done / "model.safetensors").read_bytes()
    assert (again / "metrics.csv").read_text() == (done / "metrics.csv").read_text()


def test_killed_run_resumes_bit_for_bit(done: Path, stripes: Path, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt), dying_at(13):
        fit(stripes, network=tiny, weights="none", epochs=6, batch=8, learning_rate=0.2, flip=True, out=out)
    assert not (out / "bundle").exists()
    run = resume(out)
    assert (run.folder / "model.safetensors").read_bytes() == (done / "model.safetensors").read_bytes()
    assert (run.folder / "metrics.csv").read_text() == (done / "metrics.csv").read_text()


def test_a_run_goes_on_in_the_precision_that_it_was_begun_in(
    stripes: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun where bfloat16 is quicker, gone on with where float32 is."""
    options: dict[str, Any] = {"network": tiny, "weights": "none", "epochs": 2, "batch": 8}
    whole = fit(stripes, **options, precision="bfloat16", out=tmp_path / "whole").folder
    monkeypatch.setattr(compute, "best_precision", lambda: ("bfloat16", "this processor multiplies it"))
    with pytest.raises(KeyboardInterrupt), dying_at(7):
        fit(stripes, **options, out=tmp_path / "moved")
    monkeypatch.setattr(compute, "best_precision", lambda: ("float32", "bfloat16 was measured 0.50 times as fast"))
    moved = resume(tmp_path / "moved").folder
    assert json.loads((moved / "run.json").read_text())["precision"] == "bfloat16"
    for name in ("model.safetensors", "metrics.csv"):
        assert (moved / name).read_bytes() == (whole / name).read_bytes()
    other = fit(stripes, **options, out=tmp_path / "other").folder  # a run that is begun there
    assert json.loads((other / "run.json").read_text())["precision"] == "float32"
    assert (other / "metrics.csv").read_bytes() != (whole / "metrics.csv").read_bytes()


@pytest.mark.parametrize(("load", "kept"), [(0.5, 10.0), (3.0, 30.0), (100.0, 100.0)])
def test_minutes_leave_more_for_the_bundle_on_a_crowded_machine(
    load: float, kept: float, stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load` processes wait for each core; at most a third of the time is left."""
    cores = os.cpu_count() or 1
    monkeypatch.setattr(os, "getloadavg", lambda: (load * cores, 0.0, 0.0), raising=False)
    asked = Asked(images=str(stripes), minutes=5)
    seconds = _Fit(asked, tmp_path, Watcher(), Processes()).seconds_to_train()
    assert seconds == pytest.approx(300 - kept, abs=1)


def test_a_folder_that_has_a_run_is_refused(done: Path, stripes: Path) -> None:
    with pytest.raises(ArgumentError, match="--resume"):
        fit(stripes, out=done)


def test_resuming_a_finished_run_changes_nothing(done: Path) -> None:
    before = (done / "run.json").read_bytes()
    assert resume(done).folder == done
    assert (done / "run.json").read_bytes() == before


def test_impossible_budget_names_the_limit_and_writes_nothing(stripes: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="raise --macs"):
        fit(stripes, network="efficientnet_lite0", macs="1M", out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_unknown_network_names_the_nearest(stripes: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNetworkError, match="efficientnet_b0"):
        fit(stripes, network="eficientnet_b0", out=tmp_path / "x")


@pytest.mark.parametrize("names", [(), ("one",)])
def test_fewer_than_two_classes_are_an_error(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "set" / name / "a.png")
    (tmp_path / "set").mkdir(exist_ok=True)
    with pytest.raises(DataError):
        fit(tmp_path / "set", out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_images_are_normalised_as_the_weights_say(stripes: Path, tiny: Path, tmp_path: Path) -> None:
    """Not as the network was published: weights of one network were trained with several means."""
    from phiscale.architecture import Design, Preprocess
    from phiscale.weights import create_model, save_model

    own = Preprocess(crop=32, resize=36, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bilinear")
    design = Design.read(tiny)
    save_model(tmp_path / "weights", model_or_state=create_model(design, seed=0), design=design, preprocess=own)
    made = fit(stripes, network=tiny, weights=tmp_path / "weights", epochs=1, batch=8, out=tmp_path / "run").folder
    for file in (made / "config.json", made / "bundle" / "preprocess.json"):
        said = json.loads(file.read_text())
        said = said.get("preprocess", said)
        assert (said["mean"], said["std"], said["interpolation"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], "bilinear")
