"""Does int8 pay?   python benchmarks/int8.py IMAGENET_SAMPLE CALIBRATION [--network efficientnet_lite0] [--seconds 3] > int8.csv

EfficientNet-Lite with its ImageNet weights through OpenVINO in float32, bfloat16, int8 (NNCF, all layers) and mixed (1x1 convolutions in
int8, the rest in bfloat16), calibrated on photos of CALIBRATION (any folder of photos; not those that are scored).

A row a way: top-1 of the photos of IMAGENET_SAMPLE, how many labels agree with float32's, median milliseconds of one image (interleaved),
how many times as fast as bfloat16, calls; then where the time of one image goes, by kind of layer, as OpenVINO's own profile has it.
"""

import argparse
import contextlib
import csv
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
from numpy.typing import NDArray

import phiscale
from phiscale.architecture.catalog import design as published
from phiscale.architecture.catalog import rows
from phiscale.deploy.graph import to_onnx
from phiscale.deploy.latency import interleaved
from phiscale.runtime.engines.openvino import core
from phiscale.runtime.image import read_image
from phiscale.runtime.machine import available_threads, machine
from phiscale.runtime.transform import normalise, to_pixels

CALIBRATED_ON = 200


def preprocessed(folder: Path, name: str) -> list[NDArray[np.float32]]:
    """(1, 3, crop, crop) of each photo, in the order of their names."""
    pre = rows()[name].preprocess
    return [normalise(to_pixels(read_image(path), pre), pre)[None] for path in sorted(folder.rglob("*.jpg"))]


def quantised(model: Any, images: list[NDArray[np.float32]], *, pointwise_only: bool) -> Any:
    left: Any = None
    if pointwise_only:
        keep = [
            node.get_friendly_name()
            for node in model.get_ordered_ops()
            if not (node.get_type_name() == "Convolution" and list(node.input(1).get_shape())[2:] == [1, 1])
        ]
        left = nncf.IgnoredScope(names=keep, validate=False)
    logging.getLogger("nncf").setLevel(logging.WARNING)  # it tells on standard output what it does
    with contextlib.redirect_stdout(sys.stderr):
        return nncf.quantize(model, nncf.Dataset(images), subset_size=len(images), ignored_scope=left)


def compiled(model: Any, precision: str, *, profiled: bool = False) -> Any:
    options = {"INFERENCE_NUM_THREADS": available_threads(), "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    return core().compile_model(model, "CPU", options | ({"PERF_COUNT": True} if profiled else {}))


def profile(model: Any, precision: str, image: NDArray[np.float32], runs: int = 50) -> str:
    """Mean milliseconds by kind of layer and by what computed it, the five largest."""
    request = compiled(model, precision, profiled=True).create_infer_request()
    spent: Counter[str] = Counter()
    for _ in range(runs):
        request.infer({0: image})
        for row in request.profiling_info:
            spent[f"{row.node_type} {row.exec_type}"] += row.real_time.total_seconds() * 1e3 / runs
    return "; ".join(f"{name} {ms:.3f}" for name, ms in spent.most_common(6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--seconds", type=float, default=3.0)
    asked = parser.parse_args()
    # the sample's names begin with the number of the class
    labels = np.array([int(path.name.split("_")[0]) for path in sorted(asked.photos.rglob("*.jpg"))])
    images = preprocessed(asked.photos, asked.network)
    some = preprocessed(asked.calibration, asked.network)[:CALIBRATED_ON]
    state = {key: value.numpy() for key, value in phiscale.create_model(asked.network, weights="auto").state_dict().items()}
    plain = core().read_model(to_onnx(published(asked.network), state, metadata={}).SerializeToString())
    plain.reshape([1, *images[0].shape[1:]])
    models: dict[str, tuple[Any, str]] = {
        "float32": (plain, "f32"),
        "bfloat16": (plain, "bf16"),
        "int8": (quantised(plain, some, pointwise_only=False), "bf16"),
        "int8 in 1x1 convolutions": (quantised(plain, some, pointwise_only=True), "bf16"),
    }
    runs = {name: compiled(model, precision) for name, (model, precision) in models.items()}
    answers = {name: np.array([int(np.argmax(run(image)[0])) for image in images]) for name, run in runs.items()}
    times = interleaved([lambda run=run: run(images[0]) for run in runs.values()], seconds=asked.seconds)
    middle = {name: float(np.median(own)) * 1e3 for name, own in zip(runs, times, strict=True)}
    versions = f"OpenVINO {openvino.__version__}, NNCF {nncf.__version__}"
    print(f"# {machine()['processor']} ({', '.join(machine()['instructions'])}), {available_threads()} threads; {versions}")
    print(f"# python {' '.join(sys.argv)}")
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(("network", "way", "photos", "top1", "agree_with_float32", "median_ms", "times_bfloat16", "calls", "profile_ms"))
    for (name, found), own in zip(answers.items(), times, strict=True):
        right, same = (found == labels).mean(), (found == answers["float32"]).mean()
        ratio, parts = f"{middle['bfloat16'] / middle[name]:.2f}", profile(*models[name], images[0])
        row = (asked.network, name, len(images), f"{right:.4f}", f"{same:.4f}", f"{middle[name]:.3f}", ratio, len(own), parts)
        table.writerow(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
