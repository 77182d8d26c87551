"""What the commands print: results alone on standard output, one JSON value with the keys that are promised, exit status 0."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import phiscale as package
from phiscale.cli import console
from phiscale.errors import ArgumentError
from phiscale.runtime.engines import installed, quickest
from phiscale.runtime.native.support import levels, machine_lacks

Phiscale = Callable[..., tuple[int, str, str]]


def test_fit_ends_with_accuracy_latency_report_and_bundle(trained: tuple[Path, str]) -> None:
    run, printed = trained
    lines = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert lines["accuracy"].endswith("val images")
    assert lines["latency"].split()[1:3] == ["ms", "an"]
    assert Path(lines["report"]) == run / "report.html"
    assert (Path(lines["bundle"]) / "model.onnx").is_file()


def test_a_finished_run_is_said_again(run: Path, phiscale: Phiscale) -> None:
    status, out, _ = phiscale("fit", "--resume", run, "--json")
    said = json.loads(out)
    assert status == 0
    assert said["run"] == str(run)
    assert 0 <= said["result"]["top1"] <= 1


def test_resume_goes_on_with_what_was_asked_and_nothing_else(run: Path, pictures: Path, phiscale: Phiscale) -> None:
    assert phiscale("fit", pictures, "--resume", run)[0] == 2
    status, _, said = phiscale("fit", "--resume", run, "--epochs", "3", "--macs", "1G")
    assert status == 2
    assert "--epochs" in said
    assert "--macs" in said


def test_evaluate_by_run_and_by_bundle(run: Path, pictures: Path, tmp_path: Path, phiscale: Phiscale) -> None:
    by_torch = json.loads(phiscale("evaluate", run, pictures, "--json")[1])
    status, out, _ = phiscale("evaluate", run / "bundle", pictures, "--json", "--table", tmp_path / "all.csv")
    by_bundle = json.loads(out)
    assert status == 0
    assert set(by_torch) >= {"top1", "top5", "n", "skipped", "classes", "confusions", "ece"}
    assert by_torch["n"] == by_bundle["n"] == 24
    assert by_torch["top1"] == by_bundle["top1"]
    wrong = sum(pair["n"] for pair in by_bundle["confusions"])
    assert wrong == round((1 - by_bundle["top1"]) * 24)
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert sum(row["label"] != row["predicted"] for row in rows) == wrong


def test_predict_takes_files_folders_patterns_and_names_on_standard_input(
    run: Path, pictures: Path, phiscale: Phiscale, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = pictures / "across" / "00.png"
    monkeypatch.setattr(sys, "stdin", [f"{one}\n", "\n"])
    status, out, said = phiscale("predict", run, one, pictures / "down", pictures / "**" / "01.png", "-", "--top", "1", "--json")
    rows = json.loads(out)
    assert status == 0
    assert [Path(row["path"]).relative_to(pictures).as_posix() for row in rows] == [
        "across/00.png",
        *(f"down/{number:02}.png" for number in range(12)),
        *("across/01.png", "down/01.png"),
        "across/00.png",
    ]
    assert all(len(row["top"]) == 1 and row["top"][0][0] in ("across", "down") for row in rows)
    assert rows[0]["runtime"] in said


def test_a_few_named_files_are_answered_by_the_engine_that_starts_first(run: Path, pictures: Path, phiscale: Phiscale) -> None:
    picture = pictures / "down" / "00.png"
    few, folder = (json.loads(phiscale("predict", run, *files, "--json")[1]) for files in ((picture,), (pictures / "down",)))
    assert few[0]["runtime"] == quickest()
    assert folder[0]["runtime"] in (installed()[0], "native")  # the default where both run is the faster one here
    assert dict(few[0]["top"]) == pytest.approx(dict(folder[0]["top"]), abs=1e-4)


def test_predict_as_a_process_leaves_at_once_but_prints_all(run: Path, pictures: Path) -> None:
    files = [str(pictures / "down" / f"{number:02}.png") for number in range(12)]
    done = subprocess.run(
        [sys.executable, "-m", "phiscale", "predict", str(run), *files, "no.jpg", "--csv"], capture_output=True, timeout=60
    )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1 + 2 * 12 + 1
    assert b"1 of 13 files" in done.stderr
    assert (
        subprocess.run([sys.executable, "-m", "phiscale", "predict", str(run), "no.jpg"], capture_output=True, timeout=60).returncode == 1
    )


def test_a_file_that_can_not_be_read_is_a_row_and_stops_nothing(run: Path, pictures: Path, tmp_path: Path, phiscale: Phiscale) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    good = pictures / "down" / "00.png"
    status, out, said = phiscale("predict", run, tmp_path / "text.jpg", good, "--csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert status == 0
    assert rows[0]["error"] == "not_an_image"
    assert [row["path"] for row in rows[1:]] == [str(good)] * 2
    assert "1 of 2 files" in said
    status, out, _ = phiscale("predict", run, tmp_path / "text.jpg", "--json")
    assert (status, json.loads(out)[0]["error"]) == (1, "not_an_image")


@pytest.mark.parametrize(("to", "files"), [("bundle", {"model.onnx", "manifest.json"}), ("onnx", {"model.onnx"})])
def test_export(to: str, files: set[str], run: Path, tmp_path: Path, phiscale: Phiscale) -> None:
    status, out, _ = phiscale("export", run, "--to", to, "-o", tmp_path / "out")
    assert status == 0
    assert Path(out.strip()) == tmp_path / "out"
    assert files <= {path.name for path in (tmp_path / "out").iterdir()}


def test_int8_and_its_images_go_together(run: Path, pictures: Path, phiscale: Phiscale) -> None:
    assert phiscale("export", run, "--to", "openvino", "--int8")[0] == 2
    assert phiscale("export", run, "--to", "onnx", "--int8", "--calibrate", pictures)[0] == 2


@pytest.mark.skipif(not levels("int8"), reason=str(machine_lacks("int8")))
def test_a_bundle_in_int8_is_written_predicts_and_is_measured(run: Path, pictures: Path, tmp_path: Path, phiscale: Phiscale) -> None:
    good = pictures / "down" / "00.png"
    status, _, said = phiscale("predict", run, good, "--precision", "int8")
    assert status == 2
    assert "--int8 --calibrate" in said
    assert phiscale("export", run, "--int8", "--calibrate", pictures, "-o", tmp_path / "int8")[0] == 0
    status, out, said = phiscale("predict", tmp_path / "int8", good, "--precision", "int8", "--json")
    row = json.loads(out)[0]
    assert (status, row["runtime"], row["precision"]) == (0, "native", "int8")
    assert "native (int8" in said
    given = ("--precision", "f32", "--precision", "int8", "--seconds", "0.01", "--json")
    rows = json.loads(phiscale("bench", tmp_path / "int8", *given)[1])
    assert [row["precision"] for row in rows] == ["f32", "int8"]


def test_bench_has_a_row_for_each_thing_and_setting(run: Path, phiscale: Phiscale) -> None:
    design = run / "design.toml"
    status, out, _ = phiscale("bench", run, design, "--runtime", "onnx", "--batch", "1", "--batch", "2", "--seconds", "0.01", "--json")
    rows = json.loads(out)
    assert status == 0
    assert [(row["name"], row["batch"]) for row in rows] == [(str(name), batch) for name in (run, design) for batch in (1, 2)]
    assert all(0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"] and row["images_per_second"] > 0 for row in rows)


def test_show_and_list(phiscale: Phiscale) -> None:
    said = json.loads(phiscale("show", "efficientnet_b0", "--json")[1])
    assert (said["params"], said["macs"], said["resolution"]) == (5_288_548, 385_814_752, 224)
    layers = json.loads(phiscale("show", "efficientnet_b0", "--layers", "--json")[1])["layers"]
    assert sum(layer["MACs"] for layer in layers) == said["macs"]
    assert phiscale("show", "efficientnet_b0", "--markdown")[1].count("\n|") == 12
    names = [row["name"] for row in json.loads(phiscale("list", "efficientnet_b?", "--json")[1])]
    assert names[:2] == ["efficientnet_b0", "efficientnet_b1"]
    files = json.loads(phiscale("list", "lite0", "--weights", "--json")[1])
    assert "efficientnet_lite_pytorch/efficientnet_lite0" in [row["name"] for row in files]


def test_a_design_is_written_shown_and_read_again(tmp_path: Path, phiscale: Phiscale) -> None:
    path = tmp_path / "mine.toml"
    made = json.loads(phiscale("design", "efficientnet_b0", "--phi", "0.5", "--coefficients", "1.2,1.1,1.15", "-o", path, "--json")[1])
    assert json.loads(phiscale("show", path, "--json")[1])["macs"] == made["macs"]
    by_hand = json.loads(phiscale("design", path, "--width", "1.5", "--resolution", "96px", "--json")[1])
    assert by_hand["resolution"] == 96
    for wrong in (("--resolution", "260"), ("--coefficients", "1,2"), ("--macs", "1G", "--phi", "1")):
        assert phiscale("design", "efficientnet_b0", *wrong)[0] == 2


def test_wrong_words_bring_the_nearest_right_ones(phiscale: Phiscale) -> None:
    for given, meant in ((("fti",), '"fit"'), (("list", "--jso"), "--json"), (("predict", "x", "y", "--runtme", "onnx"), "--runtime")):
        status, out, said = phiscale(*given)
        assert (status, out) == (2, "")
        assert f"Did you mean {meant}" in said


def test_the_commands_that_look_and_predict_need_no_torch(run: Path, pictures: Path) -> None:
    """One process in which torch can't be imported."""
    code = """if True:
        import sys
        sys.modules["torch"] = None
        from phiscale.cli import main
        run, picture = sys.argv[1:]
        asked = ["--help", "--version", "list", "list lite --weights", "show efficientnet_b0 --layers", "design efficientnet_b0 --macs 1G",
                 "doctor", "predict --help", "fit --help", f"predict {run} {picture}", f"predict {run} {picture} --runtime onnx --json"]
        sys.exit(max(main(words.split()) for words in asked))
    """
    done = subprocess.run([sys.executable, "-c", code, run, pictures / "down" / "00.png"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_reader_who_has_enough_is_no_fault(run: Path) -> None:
    code = "import sys; from phiscale.cli import main; sys.exit(main())"
    shell = f"{sys.executable} -c '{code}' list | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_progress_is_told_of_long_steps_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((0.0, 1.0, 0.0, 5.0, 6.0, 10.0))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with console.Steps() as steps:
        for what, done in (("short", 1), ("short", 2), ("long", 0), ("long", 40), ("long", 50), ("long", 100)):
            steps.progress(what, done, 100)
    assert capsys.readouterr().err.splitlines() == ["long: 40/100 images, 8 a second, 8 s left", "long: 100/100 images, 10 a second, 10 s"]


def test_public_names_exist_and_are_all_listed() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert {"fit", "load", "Run"} <= set(package.__all__) == set(dir(package))
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = package.nothing_such
    with pytest.raises(ArgumentError, match="no run folder"):
        package.Run(Path("nothing"))


def test_doctor_says_what_is_here(phiscale: Phiscale) -> None:
    status, out, _ = phiscale("doctor", "--json")
    said = json.loads(out)
    assert status == 0
    assert said["runtimes"]["onnxruntime"] is True
    assert said["packages"]["torch"]
    assert said["machine"]["threads"] >= 1
    assert (said["native"] is None) == said["runtimes"]["native"]
