"""The native engine side by side with the others.   python benchmarks/native.py [--networks NAMES] [--batches 1,4,32] > native.csv

One interleaved run a network with random weights: every candidate takes short turns on the same threads, so that a machine that drifts
or is shared slows all alike. One row a candidate and batch: median and fastest milliseconds, images a second at the median, and how
many times OpenVINO's default (bf16 where the processor has it, one stream) it is. Only ratios inside one run mean anything.
"""

import argparse
import csv
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import openvino

from phiscale.architecture.catalog import design as published
from phiscale.deploy.graph import graph, random_weights
from phiscale.deploy.latency import interleaved
from phiscale.runtime.engines import available_threads, open_engine

COLUMNS = ("network", "resolution", "threads", "candidate", "batch", "median_ms", "fastest_ms", "images_per_second", "times_openvino")
STREAM_BATCH = 4  # images a request where OpenVINO runs several requests side by side


def openvino_streams(model: bytes, images: np.ndarray, threads: int) -> Callable[[], None]:
    """`images` through one request a thread, `STREAM_BATCH` at a time."""
    core = openvino.Core()
    read = core.read_model(model)
    read.reshape(openvino.PartialShape([STREAM_BATCH, *images.shape[1:]]))
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads, "PERFORMANCE_HINT": "THROUGHPUT"}
    queue = openvino.AsyncInferQueue(core.compile_model(read, "CPU", options), threads)

    def run() -> None:
        for start in range(0, len(images), STREAM_BATCH):
            queue.start_async({0: images[start : start + STREAM_BATCH]})
        queue.wait_all()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="efficientnet_b0,efficientnet_lite0,efficientnet_b4,efficientnet_v2_s")
    parser.add_argument("--batches", default="1,4,32")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each candidate")
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--without", default="", help="candidates to leave out: onnxruntime, streams")
    given = parser.parse_args()
    rows = csv.DictWriter(sys.stdout, COLUMNS)
    rows.writeheader()
    for name in given.networks.split(","):
        design = published(name)
        model = graph(design, random_weights(design.spec)).SerializeToString()
        cases: list[tuple[str, int]] = []
        calls: list[Callable[[], object]] = []
        for batch in map(int, given.batches.split(",")):
            shape = (batch, design.spec.in_channels, design.resolution, design.resolution)
            images = np.random.default_rng(0).standard_normal(shape, np.float32)
            made = {
                engine: partial(open_engine(model, runtime=engine, threads=given.threads, precision="auto", batch=batch), images)
                for engine in ("native", "openvino", "onnxruntime")
                if engine not in given.without
            }
            if "streams" not in given.without and batch % (STREAM_BATCH * given.threads) == 0:
                made["openvino streams"] = openvino_streams(model, images, given.threads)
            cases += [(candidate, batch) for candidate in made]
            calls += made.values()
        medians: dict[tuple[str, int], float] = {}
        fastest: dict[tuple[str, int], float] = {}
        for case, times in zip(cases, interleaved(calls, seconds=given.seconds), strict=True):
            medians[case], fastest[case] = float(np.median(times)), min(times)
        for candidate, batch in cases:
            median = medians[candidate, batch]
            values = (
                name,
                design.resolution,
                given.threads,
                candidate,
                batch,
                f"{median * 1e3:.3f}",
                f"{fastest[candidate, batch] * 1e3:.3f}",
            )
            rows.writerow(dict(zip(COLUMNS, (*values, f"{batch / median:.1f}", f"{medians['openvino', batch] / median:.2f}"), strict=True)))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
