"""A run and its bundle on labelled images: training's numbers, temperature, resolutions, several views, tables."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phiscale.architecture import Design, NetworkSpec, Stage, Stem
from phiscale.cli import main
from phiscale.errors import ArgumentError, MissingExtraError
from phiscale.jobs.evaluate import evaluate, seen_as
from phiscale.jobs.export import export
from phiscale.jobs.fit import fit
from phiscale.jobs.run import Run
from phiscale.jobs.table import check_table, write_table
from phiscale.runtime.predictor import load

NAMES = ("across", "down", "plain")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy stripes across and down, and noise alone, in train, val and test."""
    root, chance = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6), ("test", 5)):
        for name in NAMES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                wave = 60 * np.sin(np.arange(40) * chance.uniform(0.8, 1.6)) * (name != "plain")
                grey = np.broadcast_to(wave[:, None] if name == "across" else wave[None, :], (40, 40))
                pixels = np.clip(128 + grey + chance.normal(0, 30, (40, 40)), 0, 255).astype(np.uint8)
                Image.fromarray(np.stack([pixels] * 3, 2)).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    stage = Stage(kind="mbconv", depth=1, width=16, stride=2, expand=2)
    design = Design(spec=NetworkSpec(stem=Stem(widths=(8,)), stages=(stage,), head_width=32, num_classes=3), resolution=32)
    path = tmp_path_factory.mktemp("design") / "tiny.toml"
    path.write_text(design.to_toml())
    out = tmp_path_factory.mktemp("runs") / "run"
    return fit(images, network=path, weights="none", epochs=3, batch=9, learning_rate=0.1, threads=1, out=out)


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_numbers_of_training_come_again(run: Run, images: Path, split: str) -> None:
    said, told = run.evaluate(images, split=split).to_dict(), run.about["result" if split == "val" else "test"]
    for name in ("top1", "top5", "n", "loss", "ece"):
        assert said[name] == pytest.approx(told[name], rel=1e-6), name
    assert said["calibration"]["ece_at_temperature_1"] == pytest.approx(told["ece_before"], rel=1e-6)


def test_run_and_bundle_agree(run: Run, images: Path) -> None:
    one, other = evaluate(run.folder, images), evaluate(run.bundle, images)
    assert one.split == other.split == "test"
    torch.testing.assert_close(one.scores.logits, other.scores.logits, rtol=1e-4, atol=1e-4)  # float32, another order of sums
    assert one.ece == pytest.approx(other.ece, abs=1e-3)


def test_the_temperature_travels_with_the_model_and_the_predictor_applies_it(run: Run, images: Path, tmp_path: Path) -> None:
    temperature = run.output.temperature
    assert temperature == run.about["output"]["temperature"] != 1.0
    again = export(run.folder, out=tmp_path / "bundle")
    for bundle in (run.bundle, again):
        predictor = load(bundle, runtime="onnxruntime")
        assert predictor.output == run.output
        ((_, chances),) = predictor.scores([images / "val" / "down" / "0.png"])
        ((_, logits),) = predictor.all_logits([images / "val" / "down" / "0.png"])
        assert isinstance(logits, np.ndarray)
        want = torch.from_numpy(logits).double().div(temperature).softmax(0)
        np.testing.assert_allclose(chances, want, atol=1e-6)
    rows = list(csv.DictReader((run.folder / "predictions.csv").read_text().splitlines()))
    held = evaluate(run.folder, images, split="val")
    assert float(rows[0]["confidence"]) == pytest.approx(held.scores.probabilities(run.output)[0].max().item(), rel=1e-4)


def test_the_report_shows_the_error_before_and_after(run: Run) -> None:
    page = (run.folder / "report.html").read_text()
    assert f"temperature of {run.output.temperature:.3g}" in page
    assert f"{run.about['test']['ece_before'] * 100:.1f}%" in page
    assert f"at temperature {run.output.temperature:.3g}" in (run.folder / "README.md").read_text()


def test_another_resolution_is_another_input(run: Run, images: Path) -> None:
    plain, larger = run.evaluate(images), run.evaluate(images, resolution=48)
    assert (plain.resolution, larger.resolution) == (32, 48)
    assert not torch.equal(plain.scores.logits, larger.scores.logits)
    assert torch.equal(plain.scores.logits, run.evaluate(images, resolution=32).scores.logits)


def test_several_resolutions_are_compared_with_the_own_one(
    run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(run.folder), str(images), "--split", "val", "--resolution", "48,24"]
    assert main([*command, "--json", "--chart", str(tmp_path / "sizes.svg")]) == 0
    rows = json.loads(capsys.readouterr().out)["resolutions"]
    assert [(row["resolution"], row["own"]) for row in rows] == [(24, False), (32, True), (48, False)]
    for row in rows:
        alone = run.evaluate(images, split="val", resolution=row["resolution"]).to_dict()
        assert {name: row[name] for name in ("top1", "loss", "ece", "n")} == {name: alone[name] for name in ("top1", "loss", "ece", "n")}
    assert rows[1]["macs"] == run.design.cost.macs < rows[2]["macs"]
    figure = (tmp_path / "sizes.svg").read_text()
    assert figure.count('<circle class="dot') == 3
    assert "its own: 32 px" in figure
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert len([line for line in printed.splitlines() if line.startswith(("24 ", "32 ", "48 "))]) == 3
    assert next(line for line in printed.splitlines() if line.endswith("its own")).startswith("32 ")
    for wrong in (["--table", "x.csv"], ["--runtime", "onnxruntime"]):
        assert main([*command, *wrong]) == 2
    assert main([*command[:-1], "forty"]) == 2
    assert main([*command[:-1], "48", "--chart", str(tmp_path / "one.svg")]) == 2
    assert main(["evaluate", str(run.bundle), str(images), "--resolution", "48,24"]) == 2
    assert "a bundle runs at one size alone" in capsys.readouterr().err


@pytest.mark.parametrize("resolution", [0, -8])
def test_a_resolution_below_one_is_refused(run: Run, images: Path, resolution: int) -> None:
    with pytest.raises(ArgumentError, match=f"at least 1 pixel, got {resolution}"):
        run.evaluate(images, resolution=resolution)
    assert main(["evaluate", str(run.folder), str(images), "--resolution", str(resolution)]) == 2


def test_a_bundle_has_one_resolution(run: Run, images: Path) -> None:
    with pytest.raises(ArgumentError, match="a bundle runs at 32 px alone; give the run"):
        evaluate(run.bundle, images, resolution=48)


def test_views_are_the_parts_they_are_named_for() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    flip, crops, both = (list(seen_as(image, 2, views)) for views in ("flip", "crops", "all"))
    assert [view.flatten().tolist() for view in flip] == [[5, 6, 9, 10], [6, 5, 10, 9]]
    assert [view[0, 0, 0, 0].item() for view in crops] == [0, 2, 8, 10, 5]
    assert len(both) == 10
    assert torch.equal(both[1], both[0].flip(3))


@pytest.mark.parametrize("views", ["flip", "crops", "all"])
def test_the_probabilities_of_views_are_averaged_by_run_and_bundle_alike(run: Run, images: Path, views: str) -> None:
    one, other = evaluate(run.folder, images, views=views), evaluate(run.bundle, images, views=views)  # type: ignore[arg-type]
    torch.testing.assert_close(one.scores.logits, other.scores.logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(one.scores.logits.softmax(1), run.evaluate(images).scores.logits.softmax(1), atol=1e-4)


def test_mirrored_views_are_the_mean_of_both(run: Run, images: Path) -> None:
    network, preprocess = run.model()
    from phiscale.data.find import find_labelled
    from phiscale.data.load import eval_batches

    found = find_labelled(images, classes=run.labels, split="test")
    with torch.no_grad():
        pixels = torch.cat([pixels for pixels, _, _ in eval_batches(found, "test", preprocess=preprocess, batch=4)])
        want = (network(pixels).softmax(1) + network(pixels.flip(3)).softmax(1)) / 2
    torch.testing.assert_close(run.evaluate(images, views="flip").scores.logits.softmax(1), want, rtol=1e-4, atol=1e-6)


def test_unknown_views_and_a_threshold_of_one_class_are_refused(run: Run, images: Path) -> None:
    with pytest.raises(ArgumentError, match="flip, crops, all; got 'twelve'"):
        evaluate(run.folder, images, views="twelve")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="multi-label"):
        evaluate(run.folder, images, threshold=0.3)
    with pytest.raises(ArgumentError, match="multi-label"):
        load(run.bundle).predict([], threshold=0.3)


# --- tables


def test_a_table_has_every_image_and_every_class(run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "all.csv"
    assert main(["evaluate", str(run.folder), str(images), "--table", str(file), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert list(rows[0]) == ["split", "path", "label", "predicted", "confidence", "p_across", "p_down", "p_plain"]
    assert len(rows) == said["n"] == 15
    assert sum(row["label"] == row["predicted"] for row in rows) / 15 == pytest.approx(said["top1"])
    for row in rows:
        chances = {name: float(row[f"p_{name}"]) for name in NAMES}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
        assert Path(row["path"]).is_file()
        assert chances[row["predicted"]] == max(chances.values()) == float(row["confidence"])


def test_parquet_holds_the_same(run: Run, images: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    made = run.evaluate(images)
    write_table(tmp_path / "all.parquet", made)
    write_table(tmp_path / "all.csv", made)
    held = parquet.read_table(tmp_path / "all.parquet").to_pylist()
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert [row["path"] for row in held] == [row["path"] for row in rows]
    assert [row["p_down"] for row in held] == pytest.approx([float(row["p_down"]) for row in rows], abs=1e-5)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'phiscale\[parquet\]'"):
        check_table(tmp_path / "all.parquet")


@pytest.mark.parametrize(("name", "said"), [("no/all.csv", "no folder"), ("all.xlsx", "a .csv or a .parquet"), (".", "a .csv")])
def test_a_table_that_cannot_be_written_is_said_before_anything_is_computed(
    run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phiscale.jobs.evaluate.evaluate", None)  # would be a bug if it were called
    assert main(["evaluate", str(run.folder), str(images), "--table", str(tmp_path / name)]) == 2
    assert said in capsys.readouterr().err
