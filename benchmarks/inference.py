"""A bundle's network through the runtimes, beside the same network exported from timm.   python benchmarks/inference.py > inference.csv

    python benchmarks/inference.py [--networks NAMES] [--seconds 1] > inference.csv

One interleaved run a network, random weights (they run as fast as any), all usable threads. Batch 1 is latency; for throughput the
same 64 images are answered in every combination of streams and batch. Candidates: timm's module in torch (channels-last, float32); timm's
network exported to ONNX and run by OpenVINO and ONNX Runtime as they come; ours by the engines behind `phiscale predict`, in float32
(PyTorch's answers) and in what each engine likes best ("auto"). int8 has a benchmark of its own, int8.py.

One row a candidate, streams and batch: how many times as fast as OpenVINO's own default on timm's export is at that job (for throughput its
best combination), median milliseconds of a call, images a second, calls.
"""

import argparse
import csv
import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import timm
import torch

from phiscale.architecture.catalog import design as published
from phiscale.deploy.graph import graph, random_weights
from phiscale.deploy.latency import interleaved
from phiscale.runtime.engines import installed, open_engine, usable
from phiscale.runtime.engines.openvino import core
from phiscale.runtime.machine import available_threads, machine

Job = Callable[[], object]
IMAGES = 64
COMBINATIONS = ((1, 1), (1, 4), (1, 16), (2, 1), (2, 4), (2, 16))  # streams, batch


def timm_export(name: str, resolution: int) -> bytes:
    network = timm.create_model({"efficientnet_b0": "tf_efficientnet_b0"}.get(name, f"tf_{name}"), exportable=True).eval()
    data = io.BytesIO()
    image = torch.zeros(1, 3, resolution, resolution)
    torch.onnx.export(network, (image,), data, dynamo=False, input_names=["images"], dynamic_axes={"images": {0: "batch"}})
    return data.getvalue()


def by_openvino(model: Any, shape: tuple[int, ...], *, streams: int, batch: int, precision: str | None = None) -> Job:
    """IMAGES images (one, where both streams and batch are 1) through `streams` requests of `batch` at a time."""
    read = core().read_model(model) if isinstance(model, bytes) else model.clone()
    read.reshape(openvino.PartialShape([batch, *shape]))
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": available_threads(), "NUM_STREAMS": streams}
    options["PERFORMANCE_HINT"] = "THROUGHPUT" if streams > 1 else "LATENCY"
    if precision:
        options["INFERENCE_PRECISION_HINT"] = precision
    queue = openvino.AsyncInferQueue(core().compile_model(read, "CPU", options), streams)
    images = np.random.default_rng(0).standard_normal((batch, *shape), np.float32)
    calls = 1 if (streams, batch) == (1, 1) else IMAGES // batch

    def run() -> None:
        for _ in range(calls):
            queue.start_async({0: images}, share_inputs=True)
        queue.wait_all()

    return run


def jobs(name: str) -> dict[tuple[str, int, int], tuple[Job, int]]:
    """(candidate, streams, batch) -> the job and its number of images."""
    made = published(name)
    shape = (3, made.resolution, made.resolution)
    theirs, ours = timm_export(name, made.resolution), graph(made, random_weights(made.spec)).SerializeToString()
    found: dict[tuple[str, int, int], tuple[Job, int]] = {}
    models: dict[str, tuple[Any, str | None]] = {"timm's export, OpenVINO default": (theirs, None), "ours, OpenVINO auto": (ours, None)}
    models["ours, OpenVINO f32"] = (ours, "f32")
    for label, (model, precision) in models.items():
        for streams, batch in COMBINATIONS:
            job = by_openvino(model, shape, streams=streams, batch=batch, precision=precision)
            found[label, streams, batch] = (job, 1 if (streams, batch) == (1, 1) else IMAGES)
    rng = np.random.default_rng(0)
    network = timm.create_model(f"tf_{name}").eval().to(memory_format=torch.channels_last)
    for batch in (1, 16):
        images = rng.standard_normal((batch, *shape), np.float32)
        tensor = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)

        def eager(tensor: torch.Tensor = tensor) -> None:
            with torch.inference_mode():
                network(tensor)

        found["timm in torch, f32 channels-last", 1, batch] = (eager, batch)
        engines = [("onnxruntime", "f32", theirs, "timm's export, ONNX Runtime"), ("onnxruntime", "f32", ours, "ours, ONNX Runtime")]
        if "native" in installed():
            engines += [("native", how, ours, f"ours, native {how}") for how in ("f32", "auto") if "native" in usable(ours, how)]
        for engine, precision, model, label in engines:
            run = open_engine(model, runtime=engine, precision=precision, batch=batch) if model is ours else onnx_session(model)
            found[label, 1, batch] = (lambda run=run, images=images: run(images), batch)
    return found


def onnx_session(model: bytes) -> Callable[[np.ndarray], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_threads()
    session = onnxruntime.InferenceSession(model, options)
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="efficientnet_b0,efficientnet_lite0,efficientnet_b4")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each candidate")
    given = parser.parse_args()
    versions = f"torch {torch.__version__}, timm {timm.__version__}, OpenVINO {openvino.__version__}"
    print(f"# {machine()['processor']} ({', '.join(machine()['instructions'])}), {available_threads()} threads; {versions}")
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("network", "job", "candidate", "streams", "batch", "times_openvino", "median_ms", "images_per_second", "calls"))
    for name in given.networks.split(","):
        made = jobs(name)
        times = interleaved([job for job, _ in made.values()], seconds=given.seconds)
        speeds = {key: images / float(np.median(own)) for (key, (_, images)), own in zip(made.items(), times, strict=True)}
        default = "timm's export, OpenVINO default"
        base = {"latency": speeds[default, 1, 1], "throughput": max(speed for (label, *_), speed in speeds.items() if label == default)}
        for (key, speed), own in zip(speeds.items(), times, strict=True):
            job = "latency" if key[1:] == (1, 1) else "throughput"
            ratio, median = f"{speed / base[job]:.2f}", f"{float(np.median(own)) * 1e3:.2f}"
            out.writerow((name, job, *key, ratio, median, f"{speed:.1f}", len(own)))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
