"""Every foreseeable fault has its message and exit status, and leaves nothing half-written."""

import csv
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tiny import draw

Phiscale = Callable[..., tuple[int, str, str]]
PROCESS = [sys.executable, "-c", "import sys; from phiscale.cli import main; sys.exit(main())"]


def set_of(root: Path, **classes: int) -> Path:
    for number, (name, count) in enumerate(classes.items()):
        draw(root / name, count, across=bool(number % 2), seed=number)
    root.mkdir(exist_ok=True)
    return root


@pytest.mark.parametrize(
    ("classes", "says"),
    [({}, "is empty"), ({"only": 3}, "class"), ({"a": 3, "b": 1}, "b"), ({"a": 3, "b": 0}, "no images in 1 of 2 classes: b")],
    ids=["empty folder", "one class", "one image in a class", "a class without images"],
)
def test_images_that_can_not_be_learned_from(
    classes: dict[str, int], says: str, train: list[str], tmp_path: Path, phiscale: Phiscale
) -> None:
    status, out, said = phiscale("fit", set_of(tmp_path / "set", **classes), *train, "-o", tmp_path / "run")
    assert status == 1
    assert says in said
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_a_class_in_val_that_train_lacks(train: list[str], tmp_path: Path, phiscale: Phiscale) -> None:
    set_of(tmp_path / "set" / "train", a=3, b=3)
    set_of(tmp_path / "set" / "val", a=2, c=2)
    status, _, said = phiscale("fit", tmp_path / "set", *train, "-o", tmp_path / "run")
    assert status == 1
    assert "c" in said
    assert "train" in said
    assert not (tmp_path / "run").exists()


def test_broken_files_are_left_out_and_listed(train: list[str], tmp_path: Path, phiscale: Phiscale) -> None:
    root = set_of(tmp_path / "set", a=6, b=6)
    whole = (root / "a" / "00.png").read_bytes()
    (root / "a" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (root / "b" / "text.jpg").write_text("no picture")
    (root / "b" / "nothing.jpg").touch()
    status, out, said = phiscale("fit", root, *train, "-o", tmp_path / "run")
    assert status == 0
    assert "accuracy" in out
    assert "left out 3 files" in said
    rows = list(csv.DictReader((tmp_path / "run" / "skipped.csv").read_text().splitlines()))
    assert {(Path(row["path"]).name, row["code"]) for row in rows} == {
        ("truncated.png", "truncated"),
        ("text.jpg", "not_an_image"),
        ("nothing.jpg", "empty"),
    }


def test_names_that_are_not_utf8(train: list[str], run: Path, tmp_path: Path, phiscale: Phiscale) -> None:
    """Of the set, a class and a file; in every format of output, and through a real process's pipes."""
    root = set_of(tmp_path / os.fsdecode(b"s\xe9t"), a=4, b=4)
    os.rename(root / "a", os.fsencode(root) + b"/caf\xe9")
    odd = os.fsencode(root) + b"/caf\xe9/\xff.png"
    os.rename(os.fsencode(root) + b"/caf\xe9/00.png", odd)
    status, _, said = phiscale("fit", root, *train, "-o", tmp_path / "run")
    assert status == 0, said
    name = os.fsdecode(odd)
    status, out, _ = phiscale("predict", tmp_path / "run", name, "--json")
    assert status == 0
    assert json.loads(out)[0]["path"] == name
    _, out, _ = phiscale("evaluate", tmp_path / "run", root, "--json")
    assert os.fsdecode(b"caf\xe9") in json.loads(out)["classes"]
    assert phiscale("evaluate", tmp_path / "run", root)[0] == 0
    for how in ("--csv", "--json"):
        done = subprocess.run([*PROCESS, "predict", run, "-", how], input=odd, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert (odd if how == "--csv" else b"\\udcff.png") in done.stdout


def test_impossible_budget(pictures: Path, tmp_path: Path, phiscale: Phiscale) -> None:
    status, _, said = phiscale("fit", pictures, "--network", "efficientnet_lite0", "--macs", "1M", "-o", tmp_path / "run")
    assert status == 2
    assert "raise --macs" in said
    assert not (tmp_path / "run").exists()
    assert phiscale("design", "efficientnet_b0", "--macs", "lots")[0] == 2


def test_unknown_network_names_the_nearest(pictures: Path, tmp_path: Path, phiscale: Phiscale) -> None:
    for command in (("fit", pictures, "--network", "eficientnet_b0", "-o", tmp_path / "run"), ("show", "eficientnet_b0")):
        status, _, said = phiscale(*command)
        assert status == 2
        assert "did you mean efficientnet_b0" in said
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists(run: Path, pictures: Path, phiscale: Phiscale) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    status, _, said = phiscale("fit", pictures, "-o", run)
    assert status == 2
    assert f"--resume {run}" in said
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 60 kB: room for a run's first files and not for its weights."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60k", "none", disk], capture_output=True).returncode:
        pytest.skip("a small disk can only be made by root (mount -t tmpfs)")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk(small_disk: Path, pictures: Path, train: list[str], phiscale: Phiscale) -> None:
    status, _, said = phiscale("fit", pictures, *train, "-o", small_disk / "run")
    assert status == 1
    assert "full" in said
    assert "Traceback" not in said
    left = {path.name for path in small_disk.rglob("*")}
    assert not {"bundle", "model.safetensors"} & left
    assert not [name for name in left if name.endswith(".tmp")]


@pytest.mark.parametrize("at", range(0, 12, 3))
def test_a_disk_that_fills_up_at_any_time(
    at: int, pictures: Path, train: list[str], tmp_path: Path, phiscale: Phiscale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was renamed into place before is whole; once there is room, the run is gone on with."""
    calls, replace = iter(range(10**6)), os.replace

    def full(*names: str) -> None:
        if next(calls) >= at:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*names)

    monkeypatch.setattr(os, "replace", full)
    status, _, said = phiscale("fit", pictures, *train, "-o", tmp_path / "run")
    monkeypatch.undo()
    assert status == 1
    assert "full" in said
    assert "Traceback" not in said
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    if (tmp_path / "run" / "run.json").exists():
        assert phiscale("fit", "--resume", tmp_path / "run")[0] == 0
    else:
        assert not (tmp_path / "run" / "metrics.csv").exists()


def test_nothing_there(tmp_path: Path, run: Path, phiscale: Phiscale) -> None:
    no = tmp_path / "no"
    for command in (("fit", no), ("evaluate", run, no), ("evaluate", no, tmp_path), ("show", "no.toml"), ("predict", no, "x.jpg")):
        status, out, said = phiscale(*command)
        assert status == 2, command
        assert out == ""
        assert said.startswith("phiscale: ")
    assert phiscale("predict", run, no)[0] == 1
