"""What computes a bundle's graph, one file an engine; imported only when it is opened.

Comes in: an ONNX model's bytes.  Goes out: an Engine: images in, logits out.
Never: imports torch; falls back to another engine than the one that was asked for.
Start reading: `open_engine` below.
"""

import os
from importlib.util import find_spec
from typing import Literal, Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

from phiscale.errors import ArgumentError, MissingExtraError
from phiscale.runtime.native.model import design_of, read_model
from phiscale.runtime.native.support import machine_lacks, network_asks_for

Runtime = Literal["openvino", "onnxruntime", "native"]
Precision = Literal["auto", "f32", "bf16"]
RUNTIMES: tuple[Runtime, ...] = ("openvino", "onnxruntime", "native")  # the first that is installed is the default
SHORT: dict[str, Runtime] = {"onnx": "onnxruntime", "ort": "onnxruntime", "ov": "openvino"}


class Engine(Protocol):
    """A graph that is ready to run. name, precision (what it computes in) and threads say what was chosen."""

    name: str
    precision: Precision
    threads: int

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, in_channels, H, W) normalised -> (B, num_classes) logits."""
        ...


def installed() -> tuple[Runtime, ...]:
    """The engines that this Python can import, the default first."""
    return tuple(name for name in RUNTIMES if (machine_lacks() is None if name == "native" else find_spec(name) is not None))


def usable(model: bytes) -> tuple[Runtime, ...]:
    """The installed engines that can run this model: the native one knows its own kinds of blocks."""
    return tuple(name for name in installed() if name != "native" or network_asks_for(design_of(model).spec) is None)


def choose(runtime: str | None) -> Runtime:
    """The engine that `runtime` names, or the default. ArgumentError for an unknown name; MissingExtraError where it is not installed."""
    known = installed()
    if runtime is None:
        if not known:
            raise MissingExtraError("predicting needs ONNX Runtime or OpenVINO: pip install onnxruntime, or 'phiscale[openvino]'")
        return known[0]
    name = SHORT.get(runtime, runtime)
    if name not in RUNTIMES:
        raise ArgumentError(f"no runtime {runtime!r}; known: {', '.join(RUNTIMES)}")
    if name == "native" and (lacks := machine_lacks()):
        raise ArgumentError(f"{lacks}; installed: {', '.join(known) or 'none'}")
    if name not in known:
        brings = "'phiscale[openvino]'" if name == "openvino" else "onnxruntime"
        raise MissingExtraError(f"the runtime {name} is not installed: pip install {brings}; installed: {', '.join(known) or 'none'}")
    return name


def quickest() -> Runtime | None:
    """The installed engine that answers first: ONNX Runtime opens a model in a third of OpenVINO's time (benchmarks/startup.py)."""
    return "onnxruntime" if "onnxruntime" in installed() else None


def default_precision(runtime: str) -> Precision:
    """What an engine computes in unless told: the PyTorch model's answers, but for the native one, which is bf16 alone."""
    return "bf16" if runtime == "native" else "f32"


def available_threads() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_engine(
    model: bytes, *, runtime: str | None = None, threads: int | None = None, precision: Precision | None = None, batch: int = 1
) -> Engine:
    """The engine that runs `model`. threads: all that this process may use, unless given.

    runtime      by default the first that is installed; where bf16 is welcome ("auto", "bf16"), the native engine if it can run here
    batch        the number of images that is going to come most often; others work too
    precision    "f32" gives the PyTorch model's answers; it is the default, but for the native engine, which is bf16 alone. "auto"
                 leaves it to the engine: OpenVINO computes in bf16 where the processor has instructions for it, up to twice as
                 fast; of 500 photos, Lite0 then labels 6 differently, and a probability is off by up to 0.095 (in f32: none, and 3e-6)
    """
    name = choose(runtime)
    if runtime is None and precision in ("auto", "bf16") and "native" in usable(model):
        name = "native"  # the fastest, where it can run; f32 it can't
    if threads is not None and threads < 1:
        raise ArgumentError(f"threads must be at least 1, got {threads}")
    precision = precision or default_precision(name)
    if precision not in ("auto", "f32", "bf16"):
        raise ArgumentError(f"precision must be auto, f32 or bf16, got {precision!r}")
    count = threads or available_threads()
    match name:
        case "openvino":
            from phiscale.runtime.engines.openvino import OpenVino

            return OpenVino(model, threads=count, precision=precision, batch=batch)
        case "onnxruntime":
            from phiscale.runtime.engines.onnxruntime import OnnxRuntime

            return OnnxRuntime(model, threads=count, precision=precision)
        case "native":
            from phiscale.runtime.native import Native

            if precision == "f32":
                raise ArgumentError("the native engine computes in bf16; for f32 use runtime openvino or onnxruntime")
            design, weights = read_model(model)
            return Native(design.spec, weights, threads=count)
        case _:
            assert_never(name)
