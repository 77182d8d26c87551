"""Several labels an image: lists in every form, training, figures, report, bundle."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phiscale.cli import main
from phiscale.data.find import find_images
from phiscale.errors import ArgumentError, DataError
from phiscale.jobs.evaluate import evaluate
from phiscale.jobs.fit import fit
from phiscale.jobs.run import Run
from phiscale.runtime.predictor import load

LABELS = ("across", "down")


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of stripes across, down, both or neither, and a list of them."""
    root, chance = tmp_path_factory.mktemp("several"), np.random.default_rng(0)
    rows = ["path,labels,split"]
    for number in range(64):
        has = (number % 2 == 1, number // 2 % 2 == 1)
        waves = [80 * np.sin(np.arange(40) * chance.uniform(0.8, 1.6)) * on for on in has]
        pixels = np.clip(128 + waves[0][:, None] + waves[1][None, :] + chance.normal(0, 10, (40, 40)), 0, 255).astype(np.uint8)
        Image.fromarray(np.stack([pixels] * 3, 2)).save(root / f"{number}.png")
        rows.append(f"{number}.png,{';'.join(name for name, on in zip(LABELS, has, strict=True) if on)},{'val' if number >= 48 else ''}")
    (root / "list.csv").write_text("\n".join(rows) + "\n")
    return root / "list.csv"


@pytest.fixture(scope="module")
def run(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    from phiscale.architecture import Design, NetworkSpec, Stage, Stem

    stage = Stage(kind="mbconv", depth=1, width=16, stride=2, expand=2)
    design = Design(spec=NetworkSpec(stem=Stem(widths=(8,)), stages=(stage,), head_width=32, num_classes=2), resolution=32)
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.toml").write_text(design.to_toml())
    return fit(
        listed, multi_label=True, network=folder / "tiny.toml", weights="none", epochs=8, batch=8, learning_rate=0.2, threads=1,
        out=folder / "run",
    )  # fmt: skip


def test_it_learns_and_says_so_everywhere(run: Run, listed: Path) -> None:
    told = run.about["result"]
    assert told["mean_ap"] > 0.8  # half of the images have each label
    assert run.output.multi_label
    page = (run.folder / "report.html").read_text()
    assert "mean average precision on" in page
    assert "Class by class" in page
    wrong = round((1 - told["exact"]) * told["n"])
    assert page.count("data:image/jpeg") == min(wrong, 18)
    assert ("whose own labels it gave least" in page) == (wrong > 0)
    assert "mean average precision" in (run.folder / "README.md").read_text()
    again = evaluate(run.folder, listed, split="val").to_dict()
    for name in ("mean_ap", "micro_f1", "exact", "top1", "loss", "ece"):
        assert again[name] == pytest.approx(told[name], rel=1e-6), name
    assert evaluate(run.bundle, listed, split="val").to_dict()["mean_ap"] == pytest.approx(told["mean_ap"], abs=1e-6)


def test_the_predictor_says_every_label_above_the_threshold(run: Run, listed: Path) -> None:
    predictor = load(run.bundle, runtime="onnxruntime")
    (said,) = predictor.predict([listed.parent / "3.png"])
    chances = dict(said.top)
    assert said.labels == tuple(name for name, chance in said.top if chance >= 0.5)
    assert set(chances) == set(LABELS)
    assert predictor.predict([listed.parent / "3.png"], threshold=0)[0].labels is not None
    assert len(predictor.predict([listed.parent / "3.png"], threshold=0)[0].labels or ()) == 2
    with pytest.raises(ArgumentError, match="from 0 to 1"):
        predictor.predict([], threshold=2)


def test_predictions_and_tables_join_the_labels(run: Run, listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader((run.folder / "predictions.csv").read_text().splitlines()))
    assert {row["label"] for row in rows} == {"", "across", "down", "across|down"}
    assert main(["evaluate", str(run.folder), str(listed), "--table", str(tmp_path / "t.csv"), "--threshold", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["threshold"] == 0
    assert {row["predicted"] for row in csv.DictReader((tmp_path / "t.csv").read_text().splitlines())} == {"across|down"}


# --- lists

FORMS = {
    "semicolons": "path,labels\n0.png,\n1.png,across\n2.png,down\n3.png,across;down\n",
    "bars": "path,label\n0.png,\n1.png,across\n2.png,down\n3.png,down | across\n",
    "a line each": "path,label\n0.png,\n1.png,across\n2.png,down\n3.png,across\n3.png,down\n",
    "columns": "path,across,down\n0.png,0,0\n1.png,1,0\n2.png,0,1\n3.png,1,true\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_list_says_the_same(listed: Path, form: str) -> None:
    path = listed.with_name(f"{form.replace(' ', '')}.csv")
    path.write_text(FORMS[form])
    found = find_images(path, multi_label=True)
    assert found.classes == LABELS
    items = {item.path.name: item.labels for split in found.splits.values() for item in split}
    assert items == {"0.png": (), "1.png": (0,), "2.png": (1,), "3.png": (0, 1)}


def test_a_split_has_every_class_on_both_sides(listed: Path) -> None:
    rows = listed.read_text().splitlines()[1:]
    path = listed.with_name("unsplit.csv")
    path.write_text("path,labels\n" + "\n".join(row.rsplit(",", 1)[0] for row in rows) + "\n")
    counts = find_images(path, multi_label=True).counts()
    assert all(counts["train"][name] >= 10 and 4 <= counts["val"][name] <= 12 for name in LABELS)  # a fifth of 32 each, some together


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,labels\n0.png,a\nno.png,a;b\n", "line 3: there is no file no.png"),
        ("path,across,author\n0.png,1,me\n", "the column 'author' must be 0 or 1, as it is taken for a class; got 'me'"),
        ("path,a,b\n0.png,1,0\n1.png,1,0\n", "no image has a 1 in the column b"),
        ("path,split\n0.png,train\n", "line 1 must name the columns path,labels"),
        ("path,a,a\n0.png,1,0\n", "names 'a' twice"),
        ("path,labels,split\n0.png,a,train\n0.png,b,val\n", "0.png was in train on line 2"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(listed: Path, text: str, said: str) -> None:
    path = listed.with_name("bad.csv")
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        find_images(path, multi_label=True)
    assert said in str(caught.value)


def test_what_needs_one_label_is_refused(listed: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="is a folder: several labels an image come from a CSV"):
        find_images(listed.parent, multi_label=True)
    with pytest.raises(DataError, match="give --multi-label"):
        find_images(listed)
    with pytest.raises(ArgumentError, match="need one label an image"):
        fit(listed, multi_label=True, network="efficientnet_lite0", weights="none", recipe="advprop", out=tmp_path / "x")
