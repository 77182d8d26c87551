"""A bundle is whole or absent, proves what it computes, and refuses what doesn't fit together."""

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from phiscale.architecture import Design, NetworkSpec, Output, Preprocess, Stage
from phiscale.deploy import parity as parity_room
from phiscale.deploy.bundle import export_bundle, write_folder
from phiscale.deploy.graph import graph
from phiscale.errors import ArgumentError, BundleError, RunError, WeightsError
from phiscale.nn import Network
from phiscale.runtime.bundle import FILES, MANIFEST, MODEL, read_bundle
from phiscale.runtime.fold import folded
from phiscale.runtime.native.model import ranges_of
from phiscale.runtime.native.support import levels, machine_lacks
from phiscale.runtime.predictor import load

SPEC = NetworkSpec(stages=(Stage(kind="mbconv", depth=2, width=16, stride=2, expand=2, se=0.25),), head_width=32, num_classes=3)
DESIGN = Design(spec=SPEC, resolution=32)
LABELS = ("ant", "bee\n", "\udcff wasp")


def parts(**changes: Any) -> dict[str, Any]:
    state = {key: value.numpy() for key, value in Network(SPEC).state_dict().items()}
    preprocess = Preprocess(crop=32, resize=36)
    return {"design": DESIGN, "state": state, "preprocess": preprocess, "labels": LABELS, "seconds": 0.001, **changes}


def test_a_bundle_reads_back_what_was_given(tmp_path: Path) -> None:
    out = export_bundle(tmp_path / "bundle", output=Output(temperature=1.5), **parts())
    assert sorted(path.name for path in out.iterdir()) == sorted((*FILES, MANIFEST))
    bundle = read_bundle(out)
    assert (bundle.design, bundle.labels, bundle.output.temperature) == (DESIGN, LABELS, 1.5)
    assert bundle.preprocess == Preprocess(crop=32, resize=36)
    assert read_bundle(tmp_path) == bundle  # a run folder stands for its bundle
    assert os.listdir(tmp_path) == ["bundle"]
    props = {prop.key: prop.value for prop in onnx.load(str(out / "model.onnx")).metadata_props}
    assert json.loads(props["phiscale.preprocess"])["crop"] == 32
    assert props["phiscale.labels"] == (out / "labels.txt").read_text()


def test_parity_and_speed_are_measured_on_every_runtime(tmp_path: Path) -> None:
    reference = np.random.default_rng(1).standard_normal((3, 3, 32, 32), np.float32)
    bundle = read_bundle(export_bundle(tmp_path / "bundle", reference=reference, **parts()))
    assert bundle.parity["images"] == 3
    runtimes = {(row["runtime"], row["precision"]): row for row in bundle.parity["rows"]}
    assert ("onnxruntime", "f32") in runtimes
    for (_, precision), row in runtimes.items():
        assert row["probability"] < (1e-5 if precision == "f32" else 0.02)  # f32 re-association; bf16 has 8 bits
        assert 0 < row["logit"] < 1
    rows = bundle.bench["rows"]
    assert {row["batch"] for row in rows} == {1, 4}
    for row in rows:
        figures = row["latency_ms"]
        assert 0 < figures["p50"] <= figures["p90"] <= figures["p99"]
        assert row["images_per_second"] == pytest.approx(row["batch"] / figures["p50"] * 1e3, rel=0.01)
        assert row["n"] >= 5
    assert bundle.bench["machine"]["threads"] >= 1


def test_a_calibrated_bundle_runs_in_int8_and_says_how_far_off_it_is(tmp_path: Path) -> None:
    images = np.random.default_rng(1).standard_normal((9, 3, 32, 32), np.float32)
    given = parts()
    bundle = read_bundle(export_bundle(tmp_path / "bundle", reference=images[:3], calibrate=iter(images), **given))
    ranges = ranges_of(bundle.model)
    assert set(ranges) == {f"stages.0.{i}.{layer}" for i in (0, 1) for layer in ("expand", "project", "se")} | {"head"}
    plain = read_bundle(export_bundle(tmp_path / "plain", **given))
    np.testing.assert_array_equal(load(bundle.path).logits(images), load(plain.path).logits(images))  # f32 is what it was
    if not levels("int8"):
        pytest.skip(str(machine_lacks("int8")))
    row = next(row for row in bundle.parity["rows"] if row["precision"] == "int8")
    assert row["runtime"] == "native"
    assert row["probability"] < 0.05
    assert {(row["runtime"], row["batch"]) for row in bundle.bench["rows"] if row["precision"] == "int8"} == {("native", 1), ("native", 4)}
    predictor = load(bundle.path, precision="int8")
    assert (predictor.runtime, predictor.engine.precision) == ("native", "int8")
    want = load(plain.path).logits(images)
    assert 1e-4 < np.linalg.norm(predictor.logits(images) - want) / np.linalg.norm(want) < 0.1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_before_any_runtime_sees_them(value: float, tmp_path: Path) -> None:
    out = export_bundle(tmp_path / "bundle", **parts())
    model = onnx.load(str(out / MODEL))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[7] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, "head.bias"))
    (out / MODEL).write_bytes(model.SerializeToString())
    manifest = json.loads((out / MANIFEST).read_text())
    manifest["files"][MODEL] = hashlib.sha256((out / MODEL).read_bytes()).hexdigest()
    (out / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"head\.bias is not finite"):
        read_bundle(out)
    with pytest.raises(BundleError, match=r"head\.bias is not finite"):
        load(out, runtime="onnxruntime")


def test_a_network_that_the_native_engine_has_not_is_not_quantised(tmp_path: Path) -> None:
    spec = replace(SPEC, stages=(Stage(kind="bottleneck", depth=1, width=16, expand=0.5),))
    state = {key: value.numpy() for key, value in Network(spec).state_dict().items()}
    with pytest.raises(ArgumentError, match="bottleneck"):
        export_bundle(tmp_path / "bundle", calibrate=[], **parts(design=Design(spec=spec, resolution=32), state=state))
    assert not (tmp_path / "bundle").exists()


def test_a_graph_of_other_weights_is_never_bundled() -> None:
    given = parts()
    weights = folded(SPEC, given["state"])
    weights["classifier.bias"] = weights["classifier.bias"] + np.arange(3, dtype=np.float32)
    wrong = graph(DESIGN, weights).SerializeToString()
    with pytest.raises(BundleError, match="gives other answers than PyTorch"):
        parity_room.parity(DESIGN, given["state"], wrong)


def test_an_old_bundle_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    out = export_bundle(tmp_path / "bundle", **parts())
    before = read_bundle(out)
    export_bundle(out, output=Output(temperature=2.0), **parts())
    assert read_bundle(out).output.temperature == 2.0 != before.output.temperature
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for taken in (mine, mine / "thesis.tex"):
        with pytest.raises(ArgumentError, match="is no bundle"):
            export_bundle(taken, **parts())
    assert (mine / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool, fails_at: int) -> None:
    out = tmp_path / "bundle"
    if existing:
        write_folder(out, {"one": b"old"})
    calls = 0
    sync = os.fsync

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"bundle: No space left on device"):
        write_folder(out, {"one": b"new", "two": b"new"})
    renamed = fails_at == 4  # two files and the folder were written and renamed; only the parent's entry may not be on the disk yet
    assert os.listdir(tmp_path) == (["bundle"] if existing or renamed else [])
    if existing or renamed:
        assert (out / "one").read_bytes() == (b"new" if renamed else b"old")


def test_an_interrupted_rename_brings_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bundle"
    write_folder(out, {"one": b"old"})
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(out, {"one": b"new"})
    assert (out / "one").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"labels": ("a", "b")}, ArgumentError, "2 labels for 3 classes"),
        ({"preprocess": Preprocess(crop=48, resize=48)}, ArgumentError, "48 px, but the design runs at 32 px"),
        ({"design": replace(DESIGN, spec=replace(SPEC, in_channels=1))}, ArgumentError, "1 channels"),
        ({"design": replace(DESIGN, spec=replace(SPEC, head_width=64))}, WeightsError, r"head.conv.weight: \(32, 16, 1, 1\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        export_bundle(tmp_path / "bundle", **parts(**changes))
    assert os.listdir(tmp_path) == []


def test_a_changed_or_missing_file_is_named(tmp_path: Path) -> None:
    out = export_bundle(tmp_path / "bundle", **parts())
    for name in FILES:
        path = out / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        with pytest.raises(BundleError, match=rf"{name} was changed"):
            read_bundle(out)
        path.unlink()
        with pytest.raises(BundleError, match=rf"{name} can't be read"):
            read_bundle(out)
        path.write_bytes(content)
    assert read_bundle(out).labels == LABELS


def test_what_is_no_bundle_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no such folder"):
        read_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="no manifest"):
        read_bundle(tmp_path)
    for text in ("", "[]", "{}", '{"schema": 1, "temperature": 1, "files": {}}', '{"schema": 9, "temperature": 1, "files": {}}'):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(BundleError, match=MANIFEST):
            read_bundle(tmp_path)
