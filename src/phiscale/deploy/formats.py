"""A bundle's model for other programs: one ONNX file, or OpenVINO's pair, with labels and preprocessing inside; and in int8.

ONNX's metadata is lost where OpenVINO converts a model, so each format gets it by its own means.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiscale.deploy.bundle import metadata, write_folder
from phiscale.deploy.int8 import FEWEST_IMAGES
from phiscale.errors import ArgumentError, BundleError, MissingExtraError
from phiscale.runtime.bundle import Bundle

WORST_INT8 = 0.5  # of the largest logit; seen 0.10 on Lite0 and 0.15 on a tiny network. A broken graph (all zeros) is 1


def export_onnx(out: str | Path, *, bundle: Bundle) -> Path:
    """The folder `out` with `model.onnx`, whose metadata_props hold design, preprocessing, labels and temperature."""
    write_folder(_new(out), {"model.onnx": bundle.model})
    return Path(out)


def export_openvino(out: str | Path, *, bundle: Bundle, calibrate: Iterable[NDArray[np.float32]] | None = None) -> Path:
    """The folder `out` with `model.xml` and `model.bin`; rt_info's `phiscale` holds design, preprocessing, labels and temperature.

    calibrate   preprocessed images (3, crop, crop); given, weights and activations become int8 by post-training quantisation, for
                one image at a time: at a free batch OpenVINO 2026.4.1 silently gives zeros for a quantised graph with SiLU
    MissingExtraError without OpenVINO, or for int8 without NNCF. ArgumentError for fewer than `FEWEST_IMAGES` images. BundleError
    where the int8 model, run, is further than `WORST_INT8` from the float32 one.
    """
    folder = _new(out)
    try:
        import openvino

        from phiscale.runtime.engines.openvino import core
    except ImportError:
        raise MissingExtraError("the OpenVINO format needs the package openvino: pip install 'phiscale[openvino]'") from None
    model: Any = core().read_model(bundle.model)
    if calibrate is not None:
        model = _quantised(model, calibrate)
    for key, value in metadata(bundle.design, bundle.preprocess, bundle.labels, bundle.output).items():
        model.set_rt_info(value, key.split("."))
    with tempfile.TemporaryDirectory() as scratch:
        openvino.save_model(model, Path(scratch) / "model.xml", compress_to_fp16=False)
        files = {name: (Path(scratch) / name).read_bytes() for name in ("model.bin", "model.xml")}
    write_folder(folder, files)
    return folder


def _quantised(model: Any, images: Iterable[NDArray[np.float32]]) -> Any:
    try:
        import nncf  # pyright: ignore[reportMissingImports] (an extra)
    except ImportError:
        raise MissingExtraError("int8 needs the package nncf: pip install 'phiscale[int8]'") from None
    batches = [image[None] for image in images]
    if len(batches) < FEWEST_IMAGES:
        raise ArgumentError(f"int8 needs at least {FEWEST_IMAGES} images to calibrate with, got {len(batches)}; a few hundred are better")
    model.reshape({model.input(0): batches[0].shape})
    want = _run(model, batches)
    made = nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))
    off = np.abs(_run(made, batches) - want).max() / np.abs(want).max()
    if not off <= WORST_INT8:
        raise BundleError(f"the int8 model gives other answers than the float32 one: a logit is off by {off:.0%} of the largest")
    return made


def _run(model: Any, batches: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits of the batches, as OpenVINO computes them when it is loaded: what the graph says is not what has to be right."""
    from phiscale.runtime.engines.openvino import core

    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([np.array(compiled(batch)[0]) for batch in batches])


def _new(out: str | Path) -> Path:
    folder = Path(out)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ArgumentError(f"{folder} exists; give a folder that doesn't, or delete it")
    return folder
