"""The runtime's graph written from the plan, beside torch's exports of the same network with the same weights: made how fast, as fast?

    python benchmarks/graphs.py [NETWORK ...] [--seconds 2] > graphs.csv

Exports: `torch.export` read by OpenVINO, `torch.onnx.export` of the traced module, and, where onnxscript is installed, `torch.onnx.export`
of torch.export's program. Each goes through the engines that can read it, batch 1, float32, all
usable threads, the graphs of an engine in turns.

One row a graph and engine: seconds to make the graph, layers that the engine runs (OpenVINO says), median milliseconds of a call, and that
over the plan's own graph in the same engine (1: as fast), the largest difference of its logits from the plan's, calls.
"""

import argparse
import csv
import io
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch

from phiscale.architecture import Design
from phiscale.architecture.catalog import design as published
from phiscale.deploy.graph import to_onnx
from phiscale.deploy.latency import interleaved
from phiscale.nn import Network
from phiscale.runtime.engines.openvino import core
from phiscale.runtime.machine import available_threads

COLUMNS = ("network", "graph", "engine", "seconds_to_make", "layers", "ms", "times_the_plans", "largest_difference", "calls")
Engine = Callable[[np.ndarray], np.ndarray]


def graphs(design: Design) -> dict[str, tuple[Any, float]]:
    """The network under each name: ONNX bytes or an OpenVINO model, and the seconds that making it took."""
    network = Network(design.spec).eval()
    image = torch.zeros(1, design.spec.in_channels, design.resolution, design.resolution)
    state = {key: value.numpy() for key, value in network.state_dict().items()}

    def plan() -> bytes:
        return to_onnx(design, state, batch=1).SerializeToString()

    def exported() -> openvino.Model:
        model = openvino.convert_model(torch.export.export(network, (image,)))
        model.reshape(list(image.shape))
        return model

    def onnx(*, dynamo: bool) -> bytes:
        data = io.BytesIO()
        if dynamo:
            torch.onnx.export(network, (image,), dynamo=True, verbose=False).save(data)
        else:
            torch.onnx.export(network, (image,), data, dynamo=False)
        return data.getvalue()

    ways: dict[str, Callable[[], Any]] = {"plan": plan, "torch.export": exported, "torch.onnx traced": lambda: onnx(dynamo=False)}
    if find_spec("onnxscript"):
        ways["torch.onnx exported"] = lambda: onnx(dynamo=True)
    made: dict[str, tuple[Any, float]] = {}
    for name, make in ways.items():
        start = time.perf_counter()
        made[name] = (make(), time.perf_counter() - start)
    return made


def by_openvino(model: Any) -> tuple[Engine, int]:
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": available_threads(), "NUM_STREAMS": 1}
    read = core().read_model(model) if isinstance(model, bytes) else model
    compiled = core().compile_model(read, "CPU", options | {"PERFORMANCE_HINT": "LATENCY"})
    return lambda image: compiled(image)[0], len(layers(compiled))


def layers(compiled: openvino.CompiledModel) -> list[str]:
    """The kinds of what OpenVINO runs, after its own rewriting; without what it keeps for itself."""
    kinds = (op.get_rt_info()["layerType"].astype(str) for op in compiled.get_runtime_model().get_ordered_ops())
    return sorted(kind for kind in kinds if kind not in ("Const", "Input", "Output", "Reorder"))


def by_onnxruntime(model: bytes) -> Engine:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["efficientnet_b0", "efficientnet_lite0", "efficientnetv2_s"])
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    out = csv.writer(sys.stdout)
    out.writerow(COLUMNS)
    for name in asked.networks:
        design = published(name)
        image = np.random.default_rng(0).standard_normal((1, design.spec.in_channels, design.resolution, design.resolution), np.float32)
        rows: list[tuple[str, str, float, int | str, Engine]] = []
        for graph, (model, seconds) in graphs(design).items():
            engine, count = by_openvino(model)
            rows.append((graph, "openvino", seconds, count, engine))
            if isinstance(model, bytes):
                rows.append((graph, "onnxruntime", seconds, "", by_onnxruntime(model)))
        rows.sort(key=lambda row: row[1])  # an engine at a time: ONNX Runtime's threads still wait busily when another's turn begins
        times: list[list[float]] = []
        for _, same in groupby(rows, key=lambda row: row[1]):
            times += interleaved([partial(row[-1], image) for row in same], seconds=asked.seconds)
        ms = [1e3 * float(np.median(own)) for own in times]
        own = {row[1]: value for row, value in zip(rows, ms, strict=True) if row[0] == "plan"}
        logits = next(row[-1](image) for row in rows if row[:2] == ("plan", "openvino"))
        for (graph, kind, seconds, count, engine), value, calls in zip(rows, ms, times, strict=True):
            figures = (f"{value:.3f}", f"{value / own[kind]:.3f}", f"{np.abs(engine(image) - logits).max():.2g}", len(calls))
            out.writerow((name, graph, kind, f"{seconds:.2f}", count, *figures))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
