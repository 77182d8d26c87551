"""A run's model in a form for somebody else: the bundle written anew from its weights, or its model for other programs."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from phiscale.architecture.preprocess import Preprocess
from phiscale.data.find import image_files
from phiscale.deploy.bundle import export_bundle
from phiscale.deploy.formats import export_onnx, export_openvino
from phiscale.errors import ArgumentError, ImageError
from phiscale.jobs.run import BUNDLE, Run
from phiscale.runtime.bundle import read_bundle
from phiscale.runtime.image import read_image
from phiscale.runtime.transform import to_array
from phiscale.weights.store import load_folder, load_output

Format = Literal["bundle", "onnx", "openvino"]
MOST_CALIBRATION = 300  # images: more change the ranges of activations little
FEW = 16  # of them, on which parity.json compares the precisions


def export(folder: str | Path, *, out: str | Path | None = None, calibrate: str | Path | None = None) -> Path:
    """Write the bundle of the run `folder` to `out` (None: FOLDER/bundle), replacing the one that is there; give back its folder.

    calibrate   a folder of images like those to come: the bundle can also be run in int8, by the native engine
    """
    run = Run(Path(folder))
    state, design, preprocess, labels = load_folder(run.folder)
    arrays = {key: value.numpy() for key, value in state.items()}
    return export_bundle(
        out or run.folder / BUNDLE,
        design=design,
        state=arrays,
        preprocess=preprocess,
        labels=labels or (),
        output=load_output(run.folder),
        calibrate=None if calibrate is None else _images(calibrate, preprocess),
        reference=None if calibrate is None else _few_images(calibrate, preprocess),
    )


def export_as(folder: str | Path, to: Format, *, out: str | Path | None = None, calibrate: str | Path | None = None) -> Path:
    """`export`, or the bundle's model for other programs, in the new folder `out` (None: FOLDER/TO, or FOLDER/openvino-int8).

    calibrate   a folder of images like those to come: OpenVINO's model becomes int8; a bundle can be run in int8 by the native engine
    """
    if calibrate is not None and to == "onnx":
        raise ArgumentError("int8 is for bundle and openvino, not for onnx; use --to bundle")
    match to:
        case "bundle":
            return export(folder, out=out, calibrate=calibrate)
        case "onnx":
            return export_onnx(out or Path(folder) / to, bundle=read_bundle(folder))
        case "openvino":
            bundle = read_bundle(folder)
            if calibrate is None:
                return export_openvino(out or Path(folder) / to, bundle=bundle)
            return export_openvino(out or Path(folder) / "openvino-int8", bundle=bundle, calibrate=_images(calibrate, bundle.preprocess))
        case _:
            assert_never(to)


def _few_images(folder: str | Path, preprocess: Preprocess) -> NDArray[np.float32] | None:
    few = list(islice(_images(folder, preprocess), FEW))
    return np.stack(few) if few else None


def _images(folder: str | Path, preprocess: Preprocess) -> Iterator[NDArray[np.float32]]:
    """Preprocessed images from all over the folder; what can't be read is left out."""
    files = image_files(folder)
    for path in files[:: max(1, len(files) // MOST_CALIBRATION)][:MOST_CALIBRATION]:
        with suppress(ImageError):
            yield to_array(read_image(path, background=preprocess.background), preprocess)
