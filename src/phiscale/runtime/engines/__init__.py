"""What computes a bundle's graph, one file an engine; imported only when it is opened.

Comes in: an ONNX model's bytes.  Goes out: an Engine: images in, logits out.
Never: imports torch; falls back to another engine than the one that was asked for.
Start reading: `open_engine` below.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, Protocol, assert_never, get_args

import numpy as np
from numpy.typing import NDArray

from phiscale.errors import ArgumentError, MissingExtraError
from phiscale.runtime.machine import available_threads
from phiscale.runtime.native.model import design_of, ranges_of, read_model
from phiscale.runtime.native.support import levels, machine_lacks, why_not
from phiscale.version import VERSION

Runtime = Literal["openvino", "onnxruntime", "native"]
Precision = Literal["auto", "f32", "bf16", "int8"]
# the first that is installed is the default; where native can run a network, the fastest of all is
RUNTIMES: tuple[Runtime, ...] = ("openvino", "onnxruntime", "native")
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


def usable(model: bytes, precision: Precision = "auto") -> tuple[Runtime, ...]:
    """The installed engines that can run this model in this precision."""

    def can(name: Runtime) -> bool:
        match name:
            case "openvino":
                return precision != "int8"
            case "onnxruntime":
                return precision not in ("bf16", "int8")
            case "native":
                return (precision != "int8" or bool(ranges_of(model))) and why_not(design_of(model).spec, precision) is None
            case _:
                assert_never(name)

    return tuple(name for name in installed() if can(name))


def choose(runtime: str) -> Runtime:
    """The engine that `runtime` names. ArgumentError for an unknown name; MissingExtraError where it is not installed."""
    known = installed()
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


def open_engine(
    model: bytes, *, runtime: str | None = None, threads: int | None = None, precision: Precision = "f32", batch: int = 1
) -> Engine:
    """The engine that runs `model`. threads: all that this process may use, unless given.

    runtime      by default OpenVINO where it is installed, else ONNX Runtime; where our own engine can run the network too, whichever was
                 fastest when all were tried, once, with one image and with `batch` (choice.py)
    batch        the number of images that is going to come most often; others work too
    precision    "f32" gives the PyTorch model's answers. "auto" leaves it to the engine: both OpenVINO and the native one compute in bf16
                 where the processor has instructions for it, up to twice as fast; of 500 photos, Lite0 in OpenVINO then labels 6
                 differently, and a probability is off by up to 0.095 (in f32: none, and 3e-6). "int8" is the native engine's, for models
                 that were calibrated, and never chosen by itself
    """
    if threads is not None and threads < 1:
        raise ArgumentError(f"threads must be at least 1, got {threads}")
    if precision not in get_args(Precision):
        raise ArgumentError(f"precision must be auto, f32, bf16 or int8, got {precision!r}")
    if precision == "int8" and runtime is None:
        runtime = "native"
    count = threads or available_threads()

    def open_one(name: Runtime) -> Engine:
        return _open(name, model, threads=count, precision=precision, batch=batch)

    return _default(model, open_one, count, precision, batch) if runtime is None else open_one(choose(runtime))


def _default(model: bytes, open_one: Callable[[Runtime], Engine], threads: int, precision: Precision, batch: int) -> Engine:
    known = installed()
    if not known:
        raise MissingExtraError("predicting needs ONNX Runtime or OpenVINO: pip install onnxruntime, or 'phiscale[openvino]'")
    can = usable(model, precision)
    if "native" not in can or len(can) == 1:
        return open_one((can or known)[0])
    from phiscale.runtime.engines.choice import fastest
    from phiscale.runtime.machine import machine

    design, here = design_of(model), machine()
    # by what is computed alone, so that a design's measurement and its bundle's choose alike
    able = [level.name for level in levels(precision)]
    about = (threads, precision, repr(design.spec), here["processor"], here["threads"], able, VERSION, *map(_version, can))
    image = (design.spec.in_channels, design.resolution, design.resolution)
    return fastest(can, open_one, [np.zeros((count, *image), np.float32) for count in sorted({1, batch})], about=about)


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and most processes don't ask

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _open(name: Runtime, model: bytes, *, threads: int, precision: Precision, batch: int) -> Engine:
    if precision == "int8" and name != "native":
        raise ArgumentError(
            f"int8 is for the runtime native, not for {name}; `phiscale export --to openvino --int8` writes a model for that"
        )
    match name:
        case "openvino":
            from phiscale.runtime.engines.openvino import OpenVino

            return OpenVino(model, threads=threads, precision=precision, batch=batch)
        case "onnxruntime":
            from phiscale.runtime.engines.onnxruntime import OnnxRuntime

            return OnnxRuntime(model, threads=threads, precision=precision)
        case "native":
            from phiscale.runtime.native import Native

            design, weights = read_model(model)
            return Native(
                design.spec, weights, threads=threads, precision=precision, ranges=ranges_of(model) if precision == "int8" else None
            )
        case _:
            assert_never(name)
