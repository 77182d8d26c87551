"""The files for other programs compute what the bundle computes, and carry labels and preprocessing with them."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from phiscale.architecture import Design, NetworkSpec, Output, Preprocess, Stage
from phiscale.deploy.bundle import metadata
from phiscale.deploy.formats import export_onnx, export_openvino
from phiscale.deploy.graph import graph, random_weights
from phiscale.errors import ArgumentError, BundleError, MissingExtraError
from phiscale.runtime.bundle import Bundle
from phiscale.runtime.engines import open_engine

SPEC = NetworkSpec(stages=(Stage(kind="mbconv", depth=2, width=16, stride=2, expand=2, se=0.25),), head_width=32, num_classes=3)
DESIGN, PRE, LABELS = Design(spec=SPEC, resolution=32), Preprocess(crop=32, resize=36), ("ant", "bee\n", "wäsp")
OUTPUT = Output(temperature=1.5)
X = np.random.default_rng(0).standard_normal((12, 3, 32, 32), np.float32)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    model = graph(DESIGN, random_weights(SPEC), metadata=metadata(DESIGN, PRE, LABELS, OUTPUT)).SerializeToString()
    return Bundle(path=Path(), model=model, design=DESIGN, preprocess=PRE, labels=LABELS, output=OUTPUT, parity={}, bench={})


def test_the_onnx_file_is_the_bundles(tmp_path: Path, bundle: Bundle) -> None:
    out = export_onnx(tmp_path / "onnx", bundle=bundle)
    assert (out / "model.onnx").read_bytes() == bundle.model
    with pytest.raises(ArgumentError, match="exists"):
        export_onnx(out, bundle=bundle)


def test_openvinos_pair_computes_the_same_and_carries_labels(tmp_path: Path, bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    from phiscale.runtime.engines.openvino import core

    out = export_openvino(tmp_path / "ov", bundle=bundle)
    model = core().read_model(out / "model.xml")
    got = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(X)[0]
    np.testing.assert_allclose(got, open_engine(bundle.model, runtime="onnxruntime")(X), atol=1e-5)
    assert model.get_rt_info(["phiscale", "labels"]).astype(str) == 'ant\n"bee\\n"\nwäsp\n'
    assert json.loads(model.get_rt_info(["phiscale", "preprocess"]).astype(str))["crop"] == 32
    assert float(model.get_rt_info(["phiscale", "temperature"]).astype(str)) == 1.5
    assert Design.from_toml(model.get_rt_info(["phiscale", "design"]).astype(str)) == DESIGN


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_int8_is_near_and_smaller(tmp_path: Path, bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    from phiscale.runtime.engines.openvino import core

    with pytest.raises(ArgumentError, match="at least 8 images"):
        export_openvino(tmp_path / "few", bundle=bundle, calibrate=X[:2])
    out = export_openvino(tmp_path / "int8", bundle=bundle, calibrate=X)
    model = core().read_model(out / "model.xml")
    assert any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    got = np.concatenate([np.array(compiled(x[None])[0]) for x in X])
    want = open_engine(bundle.model, runtime="onnxruntime")(X)
    assert 0 < np.abs(got - want).max() < 0.3 * np.ptp(want)  # eight bits of random weights, on the images it was calibrated with
    assert model.get_rt_info(["phiscale", "labels"]).astype(str).startswith("ant\n")


def test_an_int8_model_that_gives_zeros_is_refused(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenVINO 2026.4.1 does at a free batch: seen, which is why what was compiled is compared."""
    pytest.importorskip("openvino")

    def zeros(model: Any, *_: object, **__: object) -> Any:
        last = next(tensor for tensor in model.get_ops() if tensor.get_type_name() == "Result").input_value(0)
        empty = ov.multiply(last, np.float32(0))
        return openvino.Model([empty], model.get_parameters())

    import openvino
    from openvino import opset13 as ov

    monkeypatch.setitem(sys.modules, "nncf", SimpleNamespace(quantize=zeros, Dataset=list))
    with pytest.raises(BundleError, match="off by 100%"):
        export_openvino(tmp_path / "out", bundle=bundle, calibrate=X)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("missing", "calibrate", "says"), [("openvino", None, r"phiscale\[openvino\]"), ("nncf", X, r"phiscale\[int8\]")])
def test_what_is_not_installed_is_said(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, missing: str, calibrate: np.ndarray | None, says: str
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=says):
        export_openvino(tmp_path / "out", bundle=bundle, calibrate=calibrate)
    assert not (tmp_path / "out").exists()
