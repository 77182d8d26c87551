"""The native engine side by side with the others.   python benchmarks/native.py [--networks NAMES] [--batches 1,4,32] > native.csv

One interleaved run a network with random weights: every candidate takes short turns on the same threads, so that a machine that drifts
or is shared slows all alike. One row a candidate and batch: median and fastest milliseconds, images a second at the median, and how
many times OpenVINO in the same precision (one stream) it is. Only ratios inside one run mean anything. A network is a published name,
or one scaled from it: `efficientnet_b0@1.5` is B0 at phi 1.5.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import openvino

from phiscale.architecture import Design, scale
from phiscale.architecture.catalog import design as published
from phiscale.deploy.graph import graph, random_weights
from phiscale.deploy.latency import TorchEngine, interleaved
from phiscale.runtime.engines import Precision, open_engine
from phiscale.runtime.machine import available_threads
from phiscale.runtime.native import Native
from phiscale.runtime.native.support import levels

COLUMNS = (
    "network",
    "resolution",
    "threads",
    "candidate",
    "precision",
    "batch",
    "median_ms",
    "fastest_ms",
    "n",
    "images_per_second",
    "times",
)
NETWORKS = (
    *("efficientnet_b0", "efficientnet_lite0", "efficientnet_b4", "efficientnetv2_s"),
    *("efficientnet_b0@-2", "efficientnet_lite0@1.5", "efficientnet_b0@2"),
)
STREAM_BATCH = 4  # images a request where OpenVINO runs several requests side by side
Case = tuple[str, str, int]  # candidate, precision, batch


def network(name: str) -> Design:
    base, _, phi = name.partition("@")
    return scale(published(base), phi=float(phi)) if phi else published(base)


def openvino_streams(model: bytes, images: np.ndarray, threads: int, precision: str) -> Callable[[], None]:
    """`images` through one request a thread, `STREAM_BATCH` at a time."""
    core = openvino.Core()
    read = core.read_model(model)
    read.reshape(openvino.PartialShape([STREAM_BATCH, *images.shape[1:]]))
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": precision,
    }
    queue = openvino.AsyncInferQueue(core.compile_model(read, "CPU", options), threads)

    def run() -> None:
        for start in range(0, len(images), STREAM_BATCH):
            queue.start_async({0: images[start : start + STREAM_BATCH]})
        queue.wait_all()

    return run


def timm_engines(name: str, images: np.ndarray, threads: int, *, compiled: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """timm's own network of that name, eager, and compiled where asked; in float32."""
    import timm
    import torch

    if name not in timm.list_models():
        return
    torch.set_num_threads(threads)
    made, given = timm.create_model(name).eval(), torch.from_numpy(images)

    def call(module: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            return module(given)

    yield "timm eager", partial(call, made)
    if compiled:
        yield "timm compiled", partial(call, torch.compile(made))


def candidates(
    name: str, batch: int, threads: int, precisions: list[Precision], without: str
) -> Iterator[tuple[Case, Callable[[], object]]]:
    design = network(name)
    weights = random_weights(design.spec)
    model = graph(design, weights).SerializeToString()
    shape = (batch, design.spec.in_channels, design.resolution, design.resolution)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    for precision in precisions:
        for level in levels(precision):
            if level.name not in without:
                yield (
                    (f"native {level.name}", precision, batch),
                    partial(Native(design.spec, weights, threads=threads, level=level.name), images),
                )
        engine = open_engine(model, runtime="openvino", threads=threads, precision=precision, batch=batch)
        yield ("openvino", precision, batch), partial(engine, images)
        if "streams" not in without and batch % (STREAM_BATCH * threads) == 0:
            yield ("openvino streams", precision, batch), openvino_streams(model, images, threads, precision)
    if "f32" in precisions:
        if "onnxruntime" not in without:
            yield ("onnxruntime", "f32", batch), partial(open_engine(model, runtime="onnxruntime", threads=threads), images)
        if "phiscale" not in without:
            yield ("phiscale eager", "f32", batch), partial(TorchEngine(design, threads=threads), images)
        if "timm" not in without:
            for candidate, call in timm_engines(name, images, threads, compiled="compiled" not in without):
                yield (candidate, "f32", batch), call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--batches", default="1,4,32")
    parser.add_argument("--precisions", default="f32,bf16")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each candidate")
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--without", default="", help="what to leave out: onnxruntime, streams, phiscale, timm, compiled, a level's name")
    given = parser.parse_args()
    rows = csv.DictWriter(sys.stdout, COLUMNS)
    rows.writeheader()
    for name in given.networks.split(","):
        for batch in map(int, given.batches.split(",")):
            made = dict(candidates(name, batch, given.threads, given.precisions.split(","), given.without))
            times = dict(zip(made, interleaved(list(made.values()), seconds=given.seconds), strict=True))
            for (candidate, precision, _), own in times.items():
                median, rival = float(np.median(own)), float(np.median(times["openvino", precision, batch]))
                figures = (f"{median * 1e3:.3f}", f"{min(own) * 1e3:.3f}", len(own), f"{batch / median:.1f}", f"{rival / median:.2f}")
                values = (name, network(name).resolution, given.threads, candidate, precision, batch, *figures)
                rows.writerow(dict(zip(COLUMNS, values, strict=True)))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
