"""report.html and the model card: what a person reads, from a run folder's files alone."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image
from reading import Page, words
from run_folder import MakeRun, write_csv

from phiscale.architecture.catalog import design
from phiscale.cost import Budget, layers
from phiscale.errors import RunError
from phiscale.report import write_card, write_report
from phiscale.report.folder import read_budget, read_run
from phiscale.report.page import stage_rows, thumbnail

PAYLOAD = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def test_page_says_what_was_asked_and_what_came_out(make_run: MakeRun, tiny_images: list[Path]) -> None:
    text = page_of(make_run(images=tiny_images, n=150, command="phiscale fit 'my photos' --macs 300M"))
    said = words(text)
    assert "phiscale fit 'my photos' --macs 300M" in said
    assert "budget 300M MACs" in said
    assert "multiply-adds 300M 253M 253M 84% kept" in said
    assert "2.48M" in said
    assert "4.21 ms" in said
    assert "3 pictures appear twice" in said
    assert "not_an_image" in said
    assert "Confusion matrix" in said
    assert "Expected calibration error" in said
    assert "torch 2.14.1" in said
    assert "processor Xeon E5 instructions avx2, fma threads 2 cores 4 memory 8.59GB" in said
    assert "phiscale predict" in said
    assert re.search(r"5 finetune 0.003 .* 56.5 4.1", said)  # the last epoch, with its speed


def test_page_is_whole_html_and_loads_nothing(make_run: MakeRun, tiny_images: list[Path]) -> None:
    text = page_of(make_run(images=tiny_images))
    page = Page(text)
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        assert (attrs.get("src") or "data:").startswith("data:image/jpeg;base64,") or "src" not in attrs, tag
        assert "href" not in attrs
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "url(" not in text
    assert "–" not in "".join(attrs.get("class") or "" for _, attrs in page.tags)


def test_pictures_and_charts_have_words_and_tables_have_headers(make_run: MakeRun, tiny_images: list[Path]) -> None:
    text = page_of(make_run(images=tiny_images, accuracy=0.8))
    pictures = [attrs for tag, attrs in Page(text).tags if tag == "img"]
    assert pictures
    assert all("taken for" in (attrs["alt"] or "") for attrs in pictures)
    charts = re.findall(r"<svg.*?</svg>", text, flags=re.S)
    assert len(charts) == 3
    for chart in charts:
        tree = ET.fromstring(chart)
        assert tree.get("role") == "img"
        assert [child.tag for child in tree][:2] == ["title", "desc"]
        assert all(tree[number].text for number in (0, 1))
    for table in re.findall(r"<table.*?</table>", text, flags=re.S):
        assert "<th scope=" in table


@pytest.mark.parametrize("write", [write_report, write_card])
def test_strangers_text_never_becomes_markup(make_run: MakeRun, write: object) -> None:
    folder = make_run(
        labels=(PAYLOAD, "bees"),
        skipped=[(PAYLOAD, PAYLOAD, PAYLOAD)],
        notes=[PAYLOAD],
        command=PAYLOAD,
        asked={PAYLOAD: PAYLOAD, "budget": PAYLOAD},
        network=PAYLOAD,
        weights={"name": PAYLOAD, "source": PAYLOAD, "top1": PAYLOAD},
        machine={PAYLOAD: PAYLOAD, "processor": PAYLOAD},
        versions={PAYLOAD: PAYLOAD},
        created=PAYLOAD,
    )
    write_csv(
        folder / "predictions.csv",
        ("split", "path", "label", "predicted", "confidence", "p_label"),
        [("val", f"val/{PAYLOAD}.jpg", PAYLOAD, "bees", 0.9, 0.1), ("val", "b.jpg", "bees", "bees", 0.8, 0.8)],
    )
    (folder / "bundle" / "bench.json").write_text(
        json.dumps({"rows": [{"runtime": PAYLOAD, "batch": 1, "threads": PAYLOAD, "precision": PAYLOAD}]})
    )
    (folder / "recipe.toml").write_text(f"{json.dumps(PAYLOAD)} = {json.dumps(PAYLOAD)}\n")
    text = (write_report if write is write_report else write_card)(folder).read_text(encoding="utf-8")
    body = text.split("---", 2)[-1] if write is write_card else text
    assert "<script" not in body
    assert "<img src=x" not in body
    assert "alert(1)" in body  # it is shown, as text


def test_control_and_direction_characters_are_made_visible(make_run: MakeRun) -> None:
    folder = make_run(skipped=[("evil\u202egpj.exe\x1b[31m", "corrupt", "a\x00b")])
    said = page_of(folder)
    assert not re.search("[\u202e\x1b\x00]", said)
    assert "evil\\u202egpj.exe\\x1b[31m" in said


def test_names_that_are_not_utf8_are_shown_and_found(make_run: MakeRun, tiny_images: list[Path]) -> None:
    odd = tiny_images[0].with_name(os.fsdecode(b"caf\xe9.jpg"))
    try:
        os.rename(tiny_images[0], odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    folder = make_run()
    write_csv(
        folder / "predictions.csv",
        ("split", "path", "label", "predicted", "confidence", "p_label"),
        [("val", str(odd), "ants", "bees", 0.9, 0.1)],
    )
    text = page_of(folder)
    assert "caf\\xe9.jpg" in text
    assert "data:image/jpeg;base64," in text


def test_pictures_are_found_inside_the_data_folder(make_run: MakeRun, tiny_images: list[Path]) -> None:
    source = tiny_images[0].parents[2]
    folder = make_run(data={"source": str(source), "classes": 2})
    row = ("val", str(tiny_images[0].relative_to(source)), "ants", "bees", 0.9, 0.1)
    write_csv(folder / "predictions.csv", ("split", "path", "label", "predicted", "confidence", "p_label"), [row])
    assert page_of(folder).count("data:image/jpeg;base64,") == 1


def test_a_picture_that_is_gone_leaves_its_words(make_run: MakeRun, tiny_images: list[Path]) -> None:
    gone = tiny_images[0].with_name("gone.jpg")
    text = page_of(make_run(images=[*tiny_images, gone], accuracy=0.5, n=21))
    assert "no picture: the file can" in text
    assert "<img" in text


def test_mistakes_of_several_labels_are_shown_the_worst_missed_first(make_run: MakeRun, tiny_images: list[Path]) -> None:
    folder = make_run(labels=("ants", "bees", "sky"), output={"multi_label": True, "threshold": 0.5, "temperature": 1.0})
    rows = [
        ("val", str(tiny_images[0]), "ants|sky", "ants|sky", 0.9, 0.8),
        ("val", str(tiny_images[1]), "ants|sky", "ants", 0.9, 0.31),
        ("val", str(tiny_images[2]), "", "bees", 0.7, 1.0),
        ("val", str(tiny_images[3]), "bees", "", 0.3, 0.02),
    ]
    write_csv(folder / "predictions.csv", ("split", "path", "label", "predicted", "confidence", "p_label"), rows)
    text = page_of(folder)
    assert "Of 3 of 4 validation images it doesn't say exactly the labels" in words(text)
    gallery = words(text[text.index('<ul class="gallery">') : text.index("</ul>", text.index('<ul class="gallery">'))])
    said = ["said none of them is bees gave it 2%", "said ants is ants, sky gave one of them 31%", "said bees is none of them"]
    places = [gallery.index(line) for line in said]
    assert places == sorted(places)
    assert text.count("data:image/jpeg;base64,") == 3
    assert "taken for none of them" in text


def test_pseudo_labels_are_counted_by_class(make_run: MakeRun) -> None:
    told = {
        "source": "more",
        "teacher": "teacher",
        "teacher_network": "tiny",
        "teacher_result": {"top1": 0.9, "split": "val"},
        "classes": {"ants": {"seen": 1200, "images": 40, "taken": 40}, "bees": {"seen": 25, "images": 20, "taken": 40}},
    }
    folder = make_run(pseudo_labels=told)
    (folder / "recipe.toml").write_text("[pseudo]\nconfidence = 0.3\n")
    said = words(page_of(folder))
    assert "Its teacher, tiny (teacher, 90.0% right on validation), looked at 1,225 images in more." in said
    assert "learned from 60 of them" in said
    assert "less sure of than 30%" in said
    assert "ants 1,200 40 40 bees 25 20 40 all 1,225 60 80" in said
    for broken in ({"classes": {"ants": {"seen": "many"}}}, {"classes": 3}, "none"):
        assert "without labels" not in words(page_of(make_run(pseudo_labels=broken, name=str(len(str(broken))))))


def test_pictures_of_a_few_pixels_keep_them(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / "digit.png")
    Image.new("RGB", (800, 400), (200, 10, 10)).save(tmp_path / "photo.jpg")
    for name, size in (("digit.png", (96, 96)), ("photo.jpg", (192, 96))):
        uri = thumbnail(tmp_path / name)
        assert uri is not None
        assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size == size


def test_speed_is_of_the_runtime_that_was_asked_for(make_run: MakeRun) -> None:
    assert read_run(make_run(name="a")).speed["runtime"] == "openvino"
    folder = make_run(name="b", asked={"runtime": "onnxruntime", "budget": "5 ms"})
    assert read_run(folder).speed["runtime"] == "onnxruntime"
    assert "114% exceeded" in words(page_of(folder))


def test_images_that_are_no_files_are_listed(make_run: MakeRun) -> None:
    text = page_of(make_run(accuracy=0.5))
    assert len(re.findall(r"val/\d+.jpg", words(text))) == 18
    assert "no picture" not in text


@pytest.mark.parametrize(
    "name", ["recipe.toml", "metrics.csv", "predictions.csv", "skipped.csv", "labels.txt", "bundle/bench.json", "bundle/parity.json"]
)
@pytest.mark.parametrize("how", ["gone", "empty", "broken"])
def test_what_is_missing_or_broken_is_said(make_run: MakeRun, name: str, how: str) -> None:
    folder = make_run()
    if how == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(b"" if how == "empty" else b'"\x00]]\xff,"')
    said = words(page_of(folder))
    write_card(folder)
    if how == "gone" or (how == "broken" and name.endswith((".json", ".toml"))):
        assert re.search(rf"{re.escape(name)} (is not in the run folder|can't be read)", said)


def test_a_run_that_only_began_has_a_page(make_run: MakeRun) -> None:
    folder = make_run()
    for path in folder.glob("**/*"):
        if path.is_file() and path.name not in ("design.toml", "run.json"):
            path.unlink()
    (folder / "run.json").write_text('{"asked": {}}')
    assert "A run without a result yet" in page_of(folder)
    assert "accuracy on val" not in write_card(folder).read_text(encoding="utf-8")


KEYS = ["asked", "command", "created", "data", "machine", "network", "result", "seconds", "seed", "test", "versions", "weights"]


@pytest.mark.parametrize("key", KEYS)
def test_a_run_that_does_not_know_something_has_a_page(make_run: MakeRun, key: str) -> None:
    folder = make_run(**{key: None})
    assert Page(page_of(folder)).open == []
    assert "None" not in words(page_of(folder))
    assert "None" not in write_card(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("gone", ["run.json", "design.toml"])
def test_a_folder_that_is_no_run_is_refused(make_run: MakeRun, gone: str) -> None:
    folder = make_run()
    (folder / gone).unlink()
    with pytest.raises(RunError, match=re.escape(gone)):
        write_report(folder)
    with pytest.raises(RunError, match="no such directory"):
        write_card(folder / "nowhere")


def test_a_page_that_cannot_be_written_leaves_the_old_one(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run()
    write_report(folder)
    before = (folder / "report.html").read_bytes()

    def full(self: Path, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match=r"disk of .* is full"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert not list(folder.glob(".*"))


def test_writing_twice_gives_the_same_bytes(make_run: MakeRun, tiny_images: list[Path]) -> None:
    folder = make_run(images=tiny_images)
    first = write_report(folder).read_bytes(), write_card(folder).read_bytes()
    assert (write_report(folder).read_bytes(), write_card(folder).read_bytes()) == first


def test_many_classes_show_the_most_confused_pairs(make_run: MakeRun) -> None:
    text = page_of(make_run(labels=[f"class {n}" for n in range(1000)], n=5000, accuracy=0.8))
    said = words(text)
    assert "Confusion matrix" not in said
    assert "Most confused: 12 of" in said
    assert "The 12 of 1000 classes it finds least" in said
    assert "All 1,000 classes" in said
    assert len(text) < 1_500_000


@pytest.mark.parametrize(("budget", "said"), [("80M MACs", "exceeded"), ("10M params, 4 ms", "exceeded"), ("10M params, 5 ms", "kept")])
def test_a_budget_that_was_not_kept_is_said(make_run: MakeRun, budget: str, said: str) -> None:
    text = words(page_of(make_run(asked={"budget": budget})))
    assert said in text
    assert ("exceeded" in text) == (said == "exceeded")


def test_an_accuracy_that_the_predictions_deny_is_pointed_out(make_run: MakeRun) -> None:
    result = {"split": "val", "top1": 0.999, "n": 153, "stage": "finetune", "epoch": 4}
    assert "are not of the same evaluation" in page_of(make_run(result=result))


def test_a_test_split_is_what_the_page_looks_into(make_run: MakeRun) -> None:
    folder = make_run(test={"split": "test", "top1": 0.5, "n": 2, "loss": 1.0})
    rows = [
        ("val", "a.jpg", "ants", "ants", 0.9, 0.9),
        ("test", "b.jpg", "ants", "bees", 0.7, 0.3),
        ("test", "c.jpg", "bees", "bees", 0.7, 0.7),
    ]
    write_csv(folder / "predictions.csv", ("split", "path", "label", "predicted", "confidence", "p_label"), rows)
    said = words(page_of(folder))
    assert "50.0% right on test" in said
    assert "1 of 2 test images" in said
    assert "by which the best epoch was chosen" in said


def test_stage_table_adds_up_to_the_layers() -> None:
    for name in ("efficientnet_b0", "efficientnet_b3", "efficientnet_lite2"):
        made = design(name)
        rows, all_layers = stage_rows(made), layers(made.spec, made.resolution)
        assert sum(row.macs for row in rows) == sum(layer.macs for layer in all_layers) == made.cost.macs
        assert sum(row.params for row in rows) == made.cost.params
    b0 = stage_rows(design("efficientnet_b0"))
    # arXiv 1905.11946 v5, table 1: operators, channels and layers of every stage
    assert [row.operator.split(",")[0] for row in b0[1:8]] == [
        f"MBConv{expand} {k}×{k}" for expand, k in ((1, 3), (6, 3), (6, 5), (6, 3), (6, 5), (6, 5), (6, 3))
    ]
    assert [row.width for row in b0[:9]] == [32, 16, 24, 40, 80, 112, 192, 320, 1280]
    assert [row.depth for row in b0[1:8]] == [1, 2, 2, 3, 3, 4, 1]


@pytest.mark.parametrize(
    "budget", [Budget(macs=80e6), Budget(macs=1.5e9, params=8e6, memory=64e6, latency=0.015), Budget(memory=1.5e9), Budget(latency=0.0125)]
)
def test_a_budget_as_written_is_read_back(budget: Budget) -> None:
    assert read_budget(str(budget)) == budget


@pytest.mark.parametrize("text", ["", "cheap", "80M MACs or so", "80Q MACs", "-3 params"])
def test_what_is_no_budget_is_not_read_as_one(text: str) -> None:
    assert read_budget(text) is None


def test_card_has_front_matter_that_a_hub_reads(make_run: MakeRun) -> None:
    yaml = pytest.importorskip("yaml")
    folder = make_run(data={"source": "/home/someone/secret: photos", "classes": 2, "counts": {"train": 245, "val": 153}})
    text = write_card(folder).read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["pipeline_tag"] == "image-classification"
    assert "efficientnet" in told["tags"]
    assert "license" not in told  # the user's to choose
    results = told["model-index"][0]["results"][0]
    assert results["dataset"]["name"] == "secret: photos"
    assert results["metrics"][0]["value"] == json.loads((folder / "run.json").read_text())["result"]["top1"]
    assert "/home/someone" not in text
    assert "245 train, 153 val images" in body
    assert "licence of those weights: Apache-2.0" in body
    assert "–" not in body


def test_report_does_not_import_torch_or_a_plotting_library(make_run: MakeRun) -> None:
    folder = make_run()
    code = "import sys; from phiscale.report import write_report; write_report(sys.argv[1]); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True).stdout.split()
    assert "jinja2" in modules
    assert not {"torch", "matplotlib", "torchvision"} & set(modules)
