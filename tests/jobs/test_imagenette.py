"""EfficientNet against ResNets by one recipe, with tiny stand-ins: who is trained for how long, and what is kept."""

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from test_search import folder  # noqa: F401 (a fixture)

from phiscale.architecture import Design
from phiscale.cli import main
from phiscale.data.find import find_images
from phiscale.errors import ArgumentError
from phiscale.jobs import imagenette
from phiscale.training import loop


@pytest.fixture
def small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """Every network is the tiny one; the speeds are given, so that equal time means 4, 2 and 1 epochs for 2."""
    tiny = Design.read(folder / "tiny.toml")
    monkeypatch.setattr(imagenette, "design", dict.fromkeys(imagenette.NETWORKS, tiny).__getitem__)

    def speeds(file: Path, designs: object, tell: object) -> dict[str, float]:
        return {"efficientnet_b0": 10.0, "xresnet50": 20.0, "resnet50": 30.0}

    monkeypatch.setattr(imagenette, "_speeds", speeds)
    return folder / "images"


def compared(images: Path, out: Path) -> imagenette.Comparison:
    return imagenette.compare(str(images), epochs=2, seeds=1, resolution=16, out=out)


def test_equal_time_is_the_epochs_that_fit(small: Path, tmp_path: Path) -> None:
    made = compared(small, tmp_path)
    assert [(row.network, row.equal, row.epochs) for row in made.rows] == [
        ("efficientnet_b0", "epochs", 2),
        ("xresnet50", "epochs", 2),
        ("resnet50", "epochs", 2),
        ("efficientnet_b0", "time", 4),
        ("xresnet50", "time", 2),
        ("resnet50", "time", 1),
    ]
    with (tmp_path / "imagenette.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 5  # XResNet-50 sets the clock: trained once, shown twice
    assert [path.name for path in tmp_path.iterdir()] == ["imagenette.csv"]


def test_killed_inside_a_training_it_goes_on_there_to_the_same_figures(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared(small, tmp_path / "whole")
    one_epoch, epochs = loop._Training.one_epoch, iter(range(100))

    def dying(self: loop._Training) -> None:
        if next(epochs) == 3:  # the second epoch of the second training
            raise KeyboardInterrupt
        one_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "one_epoch", dying)
        with pytest.raises(KeyboardInterrupt):
            compared(small, tmp_path / "killed")
    trained: list[int] = []
    monkeypatch.setattr(loop._Training, "one_epoch", lambda self: (trained.append(self.epoch), one_epoch(self)))
    compared(small, tmp_path / "killed")
    assert trained[:3] == [1, 0, 1]  # its second epoch, then the third training

    def scores(out: Path) -> list[tuple[str, str, str]]:
        with (out / "imagenette.csv").open(newline="") as file:
            return [(row["network"], row["epochs"], row["top1"]) for row in csv.DictReader(file)]

    assert scores(tmp_path / "killed") == scores(tmp_path / "whole")


def test_a_set_that_was_split_off_trains_too_where_there_is_a_test(small: Path) -> None:
    found = find_images(small)
    assert set(found.splits) == {"train", "val"}
    asked = imagenette._learned_and_held_out(found, None)
    assert asked.splits == found.splits
    three = imagenette.replace(found, splits={**found.splits, "test": found.splits["val"][:2]})
    asked = imagenette._learned_and_held_out(three, None)
    assert (len(asked.splits["train"]), len(asked.splits["val"])) == (sum(map(len, found.splits.values())), 2)


def test_the_command_shows_the_leaderboard_beside(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "imagenette", "--images", str(small), "--quick", "--resolution", "16", "-o", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {row["network"] for row in said["rows"]} == set(imagenette.NETWORKS)
    assert {"epochs": 5, "resolution": 128, "top1": 0.8743} in said["leaderboard"]


def test_no_epochs_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least 1, got -1"):
        imagenette.compare(str(small), epochs=-1, out=tmp_path)


def test_speeds_are_measured_once_and_kept(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    tiny = Design.read(folder / "tiny.toml")
    first = imagenette._speeds(tmp_path / "speed.csv", {"a": tiny, "b": tiny}, imagenette.Watcher())
    assert all(ms > 0 for ms in first.values())
    monkeypatch.setattr(imagenette, "_Step", None)  # would fail if it measured again
    assert imagenette._speeds(tmp_path / "speed.csv", {"a": tiny, "b": tiny}, imagenette.Watcher()) == first
