"""Noisy Student: balance, a table that keeps the labels, and the whole job on stripes."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from phiscale.data.find import Item, find_images
from phiscale.errors import ArgumentError, RunError
from phiscale.jobs import fit as job
from phiscale.jobs.fit import fit, resume
from phiscale.jobs.noisy_student import TABLE, PseudoLabels, balanced, read, targets, unlabelled_files, with_labels, write
from phiscale.training.recipe import Pseudo
from tiny import draw


@pytest.fixture(autouse=True)
def no_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundle and report of every student take longer than all training here; test_fit.py looks at them."""
    monkeypatch.setattr(job._Fit, "export", lambda *_: None)
    monkeypatch.setattr(job, "write_report", lambda _: None)


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stripes")
    for split, count in (("train", 16), ("val", 10)):
        for name in ("across", "down"):
            draw(root / split / name, count, across=name == "across", seed=len(split))
    return root


@pytest.fixture(scope="module")
def unlabelled(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("unlabelled")
    draw(root, 20, across=True, seed=50, name="across-")
    draw(root / "below", 8, across=False, seed=50, name="down-")
    shutil.copy(next((stripes / "val" / "down").iterdir()), root / "a-validation-image.png")
    (root / "broken.png").write_bytes(b"no picture")
    return root


def test_every_class_is_taken_equally_often_the_surest_first() -> None:
    torch.manual_seed(0)
    shares = torch.softmax(torch.randn(300, 3) * torch.tensor([1.0, 1.0, 1.0]) + torch.tensor([2.0, 0.5, 0.0]), 1)
    for a_class in (0, 10, 200):
        times = balanced(shares, Pseudo(rounds=1, confidence=0.5, a_class=a_class))
        sure, found = shares.max(1)
        assert all(sure[index] > 0.5 for index, often in enumerate(times) if often)
        totals = [sum(often for often, label in zip(times, found.tolist(), strict=True) if label == c) for c in range(3)]
        assert len(set(totals)) == 1
        assert totals[0] == (a_class or -(-int((sure > 0.5).sum()) // 3))
        for c in range(3):
            members = [index for index in range(300) if found[index] == c and sure[index] > 0.5]
            taken = [times[index] for index in sorted(members, key=lambda index: -sure[index].item())]
            assert taken == sorted(taken, reverse=True)
            assert max(taken) - min(taken) <= 1


def test_a_class_that_the_teacher_never_finds_stays_empty() -> None:
    assert balanced(torch.tensor([[0.9, 0.1, 0.0]] * 4), Pseudo(rounds=1)) == [1, 1, 1, 1]
    assert balanced(torch.tensor([[0.4, 0.3, 0.3]]), Pseudo(rounds=1, confidence=0.5)) == [0]


def test_a_table_of_labels_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    shares = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    labels = PseudoLabels(files=tuple(tmp_path / f"{n}, odd.png" for n in range(5)), times=(1, 2, 0, 3, 1), shares=shares)
    write(tmp_path / TABLE, labels, ("a", "b,c", "d"))
    back = read(tmp_path / TABLE, ("a", "b,c", "d"))
    assert (back.files, back.times) == (labels.files, labels.times)
    assert torch.equal(back.shares, shares)
    with pytest.raises(RunError, match="no table of pseudo-labels"):
        read(tmp_path / TABLE, ("a", "b", "d"))


def test_students_learn_labels_as_they_are_and_pseudo_labels_as_shares(stripes: Path, tmp_path: Path) -> None:
    found = find_images(stripes)
    files = tuple(tmp_path / f"{name}.png" for name in ("x", "y", "unsure"))
    labels = PseudoLabels(files=files, times=(2, 1, 0), shares=torch.tensor([[0.8, 0.2], [0.1, 0.9], [0.5, 0.5]]))
    more = with_labels(found, labels)
    items = more.splits["train"]
    assert items[:32] == found.splits["train"]
    assert items[32:] == (Item(tmp_path / "x.png", 0), Item(tmp_path / "x.png", 0), Item(tmp_path / "y.png", 1))
    assert more.splits["val"] == found.splits["val"]
    table = targets(items, labels, 2)
    assert table[:32].argmax(1).tolist() == [item.label for item in found.splits["train"]]
    assert table[:32].max(1).values.eq(1).all()
    assert torch.equal(table[32:], labels.shares[[0, 0, 1]])


def test_images_to_validate_on_are_not_learned_from(stripes: Path, unlabelled: Path) -> None:
    files = unlabelled_files(unlabelled, find_images(stripes))
    assert len(files) == 29  # 28 and the broken one
    assert "a-validation-image.png" not in {path.name for path in files}
    with pytest.raises(ArgumentError, match="no folder"):
        unlabelled_files(unlabelled / "none", find_images(stripes))


def test_noisy_student_trains_teacher_and_students_and_resumes(stripes: Path, unlabelled: Path, tiny: Path, tmp_path: Path) -> None:
    def start(out: Path) -> Path:
        return fit(
            stripes, network=tiny, weights="none", recipe="noisy_student", unlabelled=unlabelled, epochs=6, batch=8, learning_rate=0.1,
            ema_decay=0.9, dropout=0.1, magnitude=2, confidence=0.6, out=out,
        ).folder  # fmt: skip

    run = start(tmp_path / "run")
    for folder in (run, run / "teacher", run / "teacher" / "teacher"):
        assert json.loads((folder / "run.json").read_text())["status"] == "done"
    assert not (run / "teacher" / "teacher" / TABLE).exists()
    assert 'policy = "rand"' in (run / "teacher" / "recipe.toml").read_text()
    assert 'policy = "rand"' not in (run / "teacher" / "teacher" / "recipe.toml").read_text()
    everything = list(csv.DictReader((run / TABLE).read_text().splitlines()))
    assert len(everything) == 28
    rows = [row for row in everything if row["times"] != "0"]
    names = [Path(row["path"]).name for row in rows]
    assert names
    assert "broken.png" not in names
    right = [name.startswith("across") == (float(row["p_across"]) > 0.5) for name, row in zip(names, rows, strict=True)]
    assert sum(right) / len(right) >= 0.9
    counted = {c: sum(int(row["times"]) for row in rows if float(row[f"p_{c}"]) > 0.5) for c in ("across", "down")}
    assert counted["across"] == counted["down"] > 0
    told = json.loads((run / "run.json").read_text())["pseudo_labels"]
    assert told["teacher"] == "teacher"
    assert told["teacher_result"]["top1"] == json.loads((run / "teacher" / "run.json").read_text())["result"]["top1"]
    assert {name: row["taken"] for name, row in told["classes"].items()} == counted
    assert sum(row["images"] for row in told["classes"].values()) == len(rows)
    assert sum(row["seen"] for row in told["classes"].values()) == 28
    assert json.loads((run / "run.json").read_text())["result"]["top1"] >= 0.8

    from phiscale.training import loop

    steps, one_step = iter(range(10**6)), loop._Training.one_step

    def dying(self: loop._Training, *args: object) -> None:
        if next(steps) == 45:  # in the first student: the teacher takes 24 steps
            raise KeyboardInterrupt
        one_step(self, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Training, "one_step", dying)
        with pytest.raises(KeyboardInterrupt, match=f"--resume {tmp_path / 'killed'}$"):
            start(tmp_path / "killed")
    resumed = resume(tmp_path / "killed").folder
    assert (resumed / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_finished_run_can_be_the_teacher(stripes: Path, unlabelled: Path, tiny: Path, tmp_path: Path) -> None:
    teacher = fit(stripes, network=tiny, weights="none", epochs=6, batch=8, ema_decay=0.9, out=tmp_path / "teacher").folder
    student = fit(
        stripes, network=tiny, weights="none", recipe="noisy_student", rounds=1, teacher=teacher, unlabelled=unlabelled, epochs=1,
        confidence=0.5, out=tmp_path / "student",
    ).folder  # fmt: skip
    assert (student / TABLE).is_file()
    assert not (student / "teacher").exists()


def test_noisy_student_and_its_images_need_each_other(stripes: Path, unlabelled: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="--unlabelled"):
        fit(stripes, network="efficientnet_b0", weights="none", recipe="noisy_student", out=tmp_path / "x")
    with pytest.raises(ArgumentError, match="need each other"):
        fit(stripes, network="efficientnet_b0", weights="none", unlabelled=unlabelled, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()
