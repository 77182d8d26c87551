"""The native engine side by side with the others:   python benchmarks/native.py --csv benchmarks/native.csv   (ten minutes on two cores)

One interleaved run a network and batch, with random weights: every candidate takes short turns on the same threads, so that a machine
that drifts or is shared slows all alike. One row a candidate and batch: median, fastest and quartiles in milliseconds, calls, images a
second at the median, and how many times as fast as OpenVINO (one stream) and as the best that isn't ours (itself left out) it is, in
the same precision, median against median. Only ratios inside one run mean anything. A network is a published name, or one scaled from
it: `efficientnet_b0@1.5` is B0 at phi 1.5. OpenVINO's streams: a request a thread side by side, up to `REQUEST` images each.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino

from phiscale.architecture import Design, scale
from phiscale.architecture.catalog import design as published
from phiscale.deploy.graph import graph, random_weights
from phiscale.deploy.latency import interleaved
from phiscale.runtime.engines import Precision, open_engine
from phiscale.runtime.engines.openvino import core
from phiscale.runtime.machine import available_threads, machine
from phiscale.runtime.native import Native
from phiscale.runtime.native.support import levels

COLUMNS = (
    *("network", "resolution", "threads", "candidate", "precision", "batch", "median_ms", "fastest_ms", "lower_quartile", "upper_quartile"),
    *("n", "images_per_second", "times_openvino", "times_best_other"),
)
NETWORKS = (
    *("efficientnet_b0", "efficientnet_lite0", "efficientnet_b4", "efficientnetv2_s"),
    *("efficientnet_b0@-2", "efficientnet_lite0@1.5", "efficientnet_b0@2"),
)
REQUEST = 4  # images of a request, of OpenVINO's streams
COMPILED = (1, 32)  # batches that timm is compiled for: each takes half a minute
Candidate = tuple[str, str]  # name, precision


def network(name: str) -> Design:
    base, _, phi = name.partition("@")
    return scale(published(base), phi=float(phi)) if phi else published(base)


def openvino_streams(model: bytes, images: np.ndarray, threads: int, precision: str) -> Callable[[], None]:
    """`images` through one request a thread, side by side."""
    size = min(REQUEST, len(images) // threads)
    read = core().read_model(model)
    read.reshape(openvino.PartialShape([size, *images.shape[1:]]))
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": precision,
    }
    queue = openvino.AsyncInferQueue(core().compile_model(read, "CPU", options), threads)

    def run() -> None:
        for start in range(0, len(images), size):
            queue.start_async({0: images[start : start + size]})
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
        torch.compiler.reset()  # else a second batch size is compiled for any
        yield "timm compiled", partial(call, torch.compile(made))


def candidates(
    name: str, images: np.ndarray, model: bytes, engines: dict[Candidate, Callable[[np.ndarray], object]], threads: int, without: str
) -> Iterator[tuple[Candidate, Callable[[], object]]]:
    for candidate, engine in engines.items():
        yield candidate, partial(engine, images)
    for precision in sorted({precision for _, precision in engines}):
        given: Precision = "bf16" if precision == "bf16" else "f32"
        yield (
            ("openvino", precision),
            partial(open_engine(model, runtime="openvino", threads=threads, precision=given, batch=len(images)), images),
        )
        if "streams" not in without and len(images) >= 2 * threads:
            yield ("openvino streams", precision), openvino_streams(model, images, threads, precision)
    if "timm" not in without:
        compiled = "compiled" not in without and len(images) in COMPILED
        for candidate, call in timm_engines(name, images, threads, compiled=compiled):
            yield (candidate, "f32"), call


def measured(
    name: str, batches: list[int], threads: int, precisions: list[str], without: str, seconds: float
) -> Iterator[dict[str, object]]:
    design = network(name)
    weights = random_weights(design.spec)
    model = graph(design, weights).SerializeToString()
    engines: dict[Candidate, Callable[[np.ndarray], object]] = {
        (f"native {level.name}", level.computes): Native(design.spec, weights, threads=threads, level=level.name)
        for level in levels()
        if level.computes in precisions and level.name not in without.split(",")
    }
    if "f32" in precisions and "onnxruntime" not in without:
        engines["onnxruntime", "f32"] = open_engine(model, runtime="onnxruntime", threads=threads)
    for batch in batches:
        shape = (batch, design.spec.in_channels, design.resolution, design.resolution)
        images = np.random.default_rng(0).standard_normal(shape, np.float32)
        made = dict(candidates(name, images, model, engines, threads, without))
        times = dict(zip(made, interleaved(list(made.values()), seconds=seconds), strict=True))
        medians = {candidate: float(np.median(own)) for candidate, own in times.items()}
        for candidate, own in times.items():
            lower, median, upper = (float(value) for value in np.percentile(own, (25, 50, 75)))
            others = [
                value
                for other, value in medians.items()
                if other != candidate and other[1] == candidate[1] and not other[0].startswith("native")
            ]
            figures = (
                *(f"{value * 1e3:.3f}" for value in (median, min(own), lower, upper)),
                *(len(own), f"{batch / median:.1f}"),
                *(f"{value / median:.2f}" for value in (medians["openvino", candidate[1]], min(others, default=median))),
            )
            yield dict(zip(COLUMNS, (name, design.resolution, threads, *candidate, batch, *figures), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="where the rows go; default: standard output")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--batches", default="1,4,32")
    parser.add_argument("--precisions", default="f32,bf16")
    parser.add_argument("--seconds", type=float, default=0.4, help="of each candidate")
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--without", default="", help="what to leave out: onnxruntime, streams, timm, compiled, a level's name")
    given = parser.parse_args()
    precisions = [name for name in given.precisions.split(",") if name == "f32" or levels("bf16")]
    start = time.monotonic()
    with open(given.csv, "w", encoding="utf-8", newline="") if given.csv else sys.stdout as out:
        versions = ", ".join(f"{name} {version(name)}" for name in ("openvino", "onnxruntime", "timm", "torch"))
        out.write(f"# {machine()['processor']} ({', '.join(machine()['instructions'])}), {given.threads} threads; {versions}\n")
        out.write(f"# {time.strftime('%Y-%m-%d')}: python {' '.join(sys.argv)}\n")
        rows = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        rows.writeheader()
        for name in given.networks.split(","):
            for row in measured(
                name, [int(batch) for batch in given.batches.split(",")], given.threads, precisions, given.without, given.seconds
            ):
                rows.writerow(row)
                out.flush()
            print(f"{name}: done after {time.monotonic() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
