"""Does int8 pay?   python benchmarks/int8.py IMAGENET_SAMPLE CALIBRATION [--networks NAMES] [--batches 1,32] [--seconds 3] > int8.csv

Each network through OpenVINO in float32, bfloat16, int8 (NNCF, all layers) and mixed (1x1 convolutions in int8, the rest in bfloat16),
and through the native engine in float32, bfloat16 and int8 (1x1 convolutions), calibrated on photos of CALIBRATION (any folder of photos;
not those that are scored). EfficientNet-Lite has its ImageNet weights; another network, whose weights can't be had, random ones, of which
only speed counts.

A row a way and batch: top-1 of the photos of IMAGENET_SAMPLE, how many labels agree with the same runtime's float32, median milliseconds
and quartiles of one call (all ways in turns), how many times as fast as OpenVINO's and as the native bfloat16, median against median,
calls; and for one image where OpenVINO's time goes, by kind of layer, as its own profile has it.
"""

import argparse
import contextlib
import csv
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
from numpy.typing import NDArray

import phiscale
from phiscale.architecture.catalog import design as published
from phiscale.architecture.catalog import rows
from phiscale.deploy.graph import graph as random_graph
from phiscale.deploy.graph import random_weights, to_onnx
from phiscale.deploy.int8 import calibrated
from phiscale.deploy.latency import interleaved
from phiscale.runtime.engines.openvino import core
from phiscale.runtime.image import read_image
from phiscale.runtime.machine import available_threads, machine
from phiscale.runtime.native import Native
from phiscale.runtime.native.model import read_model
from phiscale.runtime.native.support import machine_lacks
from phiscale.runtime.transform import normalise, to_pixels

CALIBRATED_ON = 200
COLUMNS = (
    *("network", "way", "batch", "photos", "top1", "agree_with_float32", "median_ms", "lower_quartile", "upper_quartile"),
    *("times_openvino_bfloat16", "times_native_bfloat16", "calls", "profile_ms"),
)


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


def compiled(model: Any, precision: str, *, batch: int = 1, profiled: bool = False) -> Any:
    fixed = model.clone()
    fixed.reshape([batch, *list(model.input(0).shape)[1:]])
    options = {
        "INFERENCE_NUM_THREADS": available_threads(),
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    return core().compile_model(fixed, "CPU", options | ({"PERF_COUNT": True} if profiled else {}))


def profile(model: Any, precision: str, image: NDArray[np.float32], runs: int = 50) -> str:
    """Mean milliseconds by kind of layer and by what computed it, the five largest."""
    request = compiled(model, precision, profiled=True).create_infer_request()
    spent: Counter[str] = Counter()
    for _ in range(runs):
        request.infer({0: image})
        for row in request.profiling_info:
            spent[f"{row.node_type} {row.exec_type}"] += row.real_time.total_seconds() * 1e3 / runs
    return "; ".join(f"{name} {ms:.3f}" for name, ms in spent.most_common(6))


def measured(name: str, photos: Path, calibration: Path, batches: list[int], seconds: float) -> Iterator[tuple[object, ...]]:
    paths = sorted(photos.rglob("*.jpg"))
    labels = np.array([int(path.name.split("_")[0]) for path in paths])  # the sample's names begin with the number of the class
    images = preprocessed(photos, name)
    some = preprocessed(calibration, name)[:CALIBRATED_ON]
    trained = name.startswith("efficientnet_lite")
    if trained:
        state = {key: value.numpy() for key, value in phiscale.create_model(name, weights="auto").state_dict().items()}
        graph = to_onnx(published(name), state, metadata={})
    else:
        graph = random_graph(published(name), random_weights(published(name).spec))
    design, weights = read_model(graph.SerializeToString())
    plain = core().read_model(graph.SerializeToString())
    plain.reshape([1, *images[0].shape[1:]])
    models: dict[str, tuple[Any, str]] = {
        "openvino float32": (plain, "f32"),
        "openvino bfloat16": (plain, "bf16"),
        "openvino int8": (quantised(plain, some, pointwise_only=False), "bf16"),
        "openvino int8 in 1x1 convolutions": (quantised(plain, some, pointwise_only=True), "bf16"),
    }
    ranges = calibrated(graph, (image[0] for image in some))
    ours = {
        f"native {said}": Native(design.spec, weights, threads=available_threads(), precision=precision, ranges=ranges)
        for said, precision in (("float32", "f32"), ("bfloat16", "bf16"), ("int8", "int8"))
    }
    answers: dict[str, NDArray[np.intp]] = {}
    if trained:
        runs = {way: compiled(model, precision) for way, (model, precision) in models.items()}
        answers = {way: np.array([int(np.argmax(run(image)[0])) for image in images]) for way, run in runs.items()}
        answers |= {way: np.array([int(np.argmax(engine(image))) for image in images]) for way, engine in ours.items()}
    for batch in batches:
        given = np.concatenate(images[:batch])
        calls: dict[str, Callable[[], object]] = {
            way: partial(compiled(model, precision, batch=batch), given) for way, (model, precision) in models.items()
        }
        calls |= {way: partial(engine, given) for way, engine in ours.items()}
        times = dict(zip(calls, interleaved(list(calls.values()), seconds=seconds), strict=True))
        middle = {way: float(np.median(own)) for way, own in times.items()}
        for way, own in times.items():
            scored = ("", "")
            if trained:
                exact = answers[f"{way.split()[0]} float32"]
                scored = (f"{(answers[way] == labels).mean():.4f}", f"{(answers[way] == exact).mean():.4f}")
            lower, median, upper = (f"{value * 1e3:.3f}" for value in np.percentile(own, (25, 50, 75)))
            ratios = (f"{middle[f'{runtime} bfloat16'] / middle[way]:.2f}" for runtime in ("openvino", "native"))
            parts = profile(*models[way], images[0]) if batch == 1 and way in models else ""
            yield (name, way, batch, len(images) if trained else "", *scored, median, lower, upper, *ratios, len(own), parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("--networks", default="efficientnet_lite0,efficientnet_b0")
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each way")
    asked = parser.parse_args()
    if lacks := machine_lacks("int8"):
        parser.error(lacks)
    versions = f"OpenVINO {openvino.__version__}, NNCF {nncf.__version__}"
    print(f"# {machine()['processor']} ({', '.join(machine()['instructions'])}), {available_threads()} threads; {versions}")
    print(f"# {time.strftime('%Y-%m-%d')}: python {' '.join(sys.argv)}")
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    for name in asked.networks.split(","):
        for row in measured(name, asked.photos, asked.calibration, [int(batch) for batch in asked.batches.split(",")], asked.seconds):
            table.writerow(row)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
