"""Milliseconds measured on this machine: never guessed. Candidates of one question are interleaved, because machines drift."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiscale.architecture.design import Design
from phiscale.cost import cost
from phiscale.cost.count import weight_bytes
from phiscale.deploy.graph import graph, random_weights
from phiscale.errors import ArgumentError
from phiscale.runtime.bundle import Bundle, read_bundle
from phiscale.runtime.engines import Engine, Precision, choose, open_engine
from phiscale.runtime.machine import available_threads, free_bytes

Measurable = Design | Bundle | str | Path  # a design is measured with random weights, which run as fast as any
SLICE = 0.05  # seconds that a candidate runs before the next has its turn
FEWEST = 5  # calls of each candidate, unless they take longer than `PATIENCE` in all
PATIENCE = 2.0  # seconds, or twice what was asked: a crowded machine must not keep anyone waiting
SPARED = 0.8  # of the free memory is ours to take
WORKING = 4  # times a design's peak bytes: the graph, its serialised form, and the runtime's own copy
LARGEST_FILE = 2**31 - 2**24  # bytes of weights that one ONNX file can hold, with some room for the nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How something is run. `setting` fills in what this machine decides. runtime: None is the default of each network."""

    runtime: str | None
    precision: Precision
    threads: int
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyStats:
    """Milliseconds of one call with `setting.batch` images, n calls; images_per_second at the median. Without decoding."""

    p50: float
    p90: float
    p99: float
    images_per_second: float
    n: int
    setting: Setting

    def to_dict(self) -> dict[str, Any]:
        """Plain values as `bench --json` and bench.json hold them."""
        return {
            "runtime": self.setting.runtime,
            "precision": self.setting.precision,
            "threads": self.setting.threads,
            "batch": self.setting.batch,
            "latency_ms": {"p50": round(self.p50, 4), "p90": round(self.p90, 4), "p99": round(self.p99, 4)},
            "images_per_second": round(self.images_per_second, 2),
            "n": self.n,
        }

    def at_pace(self, slower: float) -> "LatencyStats":
        """As it would be on a machine that takes `slower` times as long."""
        times = (self.p50 * slower, self.p90 * slower, self.p99 * slower)
        return replace(self, p50=times[0], p90=times[1], p99=times[2], images_per_second=self.images_per_second / slower)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LatencyStats":
        """Read `to_dict`'s form; KeyError, TypeError or ValueError for anything else."""
        p50, p90, p99 = (float(values["latency_ms"][name]) for name in ("p50", "p90", "p99"))
        where = Setting(**{name: values[name] for name in ("runtime", "precision", "threads", "batch")})
        return cls(p50=p50, p90=p90, p99=p99, images_per_second=float(values["images_per_second"]), n=int(values["n"]), setting=where)


def setting(*, runtime: str | None = None, threads: int | None = None, batch: int = 1, precision: Precision = "f32") -> Setting:
    """A Setting with all usable threads where none are given.

    runtime: "native", "openvino", "onnxruntime" or "torch" (designs only); None: what would predict. MissingExtraError
    where it is not installed.
    """
    for name, value in (("threads", threads), ("batch", batch)):
        if value is not None and value < 1:
            raise ArgumentError(f"{name} must be at least 1, got {value}")
    name = runtime if runtime in (None, "torch") else choose(runtime)
    if name == "torch" and precision in ("bf16", "int8"):
        raise ArgumentError("the torch runtime is measured in f32, as the network is evaluated")
    return Setting(runtime=name, precision=precision, threads=threads or available_threads(), batch=batch)


def measure(
    thing: Measurable,
    *,
    runtime: str | None = None,
    threads: int | None = None,
    batch: int = 1,
    precision: Precision = "f32",
    seconds: float = 1.0,
) -> LatencyStats:
    """Latency of a bundle, or of a design with random weights; see `setting`."""
    where = setting(runtime=runtime, threads=threads, batch=batch, precision=precision)
    return bench({"": thing}, settings=(where,), seconds=seconds)[0][1]


def bench(things: Mapping[str, Measurable], *, settings: Iterable[Setting] = (), seconds: float = 1.0) -> list[tuple[str, LatencyStats]]:
    """Name and figures of everything in `things` in each setting, all in turns, for `seconds` each."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ArgumentError(f"seconds must be positive, got {seconds}")
    settings = tuple(settings) or (setting(),)
    rows: list[tuple[str, Setting]] = []
    calls: list[Callable[[], object]] = []
    for name, thing in things.items():
        design, model = _model(thing)
        for where in settings:
            engine = _engine(design, model, where)
            images = _images(design, where.batch)
            used = Setting(runtime=engine.name, precision=engine.precision, threads=engine.threads, batch=where.batch)
            rows.append((name, used))
            calls.append(lambda engine=engine, images=images: engine(images))
    return [(name, _stats(times, where)) for (name, where), times in zip(rows, interleaved(calls, seconds=seconds), strict=True)]


def interleaved(calls: list[Callable[[], object]], *, seconds: float) -> list[list[float]]:
    """Seconds of each call of each candidate. They take turns of `SLICE` until each has run for `seconds`; first calls don't count."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]

    def finished(own: list[float]) -> bool:
        return sum(own) >= (seconds if len(own) >= FEWEST else max(PATIENCE, 2 * seconds))

    while unfinished := [number for number, own in enumerate(times) if not finished(own)]:
        for number in unfinished:
            if len(calls) > 1 and (not times[number] or times[number][-1] < SLICE):
                calls[number]()  # the caches still hold the candidate before, which a long call doesn't notice
            turn = 0.0
            while turn < min(SLICE, seconds):
                start = time.perf_counter()
                calls[number]()
                times[number].append(time.perf_counter() - start)
                turn += times[number][-1]
    return times


def _stats(times: list[float], where: Setting) -> LatencyStats:
    p50, p90, p99 = (float(value) * 1e3 for value in np.percentile(times, (50, 90, 99)))
    return LatencyStats(p50=p50, p90=p90, p99=p99, images_per_second=where.batch / p50 * 1e3, n=len(times), setting=where)


def why_too_large(design: Design) -> str | None:
    """What keeps this machine from running a design, before anything of it is allocated; None where nothing does."""
    weights, needed, free = weight_bytes(design.spec), WORKING * cost(design).peak_bytes, SPARED * free_bytes()
    if weights > LARGEST_FILE:
        return f"its weights are {weights / 1e9:,.1f} GB, and an ONNX file holds {LARGEST_FILE / 1e9:.1f}"
    return f"running it takes about {needed / 1e9:,.1f} GB, and this machine has {free / 1e9:,.1f} GB free" if needed > free else None


def _model(thing: Measurable) -> tuple[Design, bytes]:
    if isinstance(thing, Design):
        if why := why_too_large(thing):
            raise ArgumentError(f"{thing.name} at {thing.resolution} px is too large: {why}; a smaller φ, width or resolution fits")
        return thing, graph(thing, random_weights(thing.spec)).SerializeToString()
    bundle = thing if isinstance(thing, Bundle) else read_bundle(thing)
    return bundle.design, bundle.model


def _images(design: Design, batch: int) -> NDArray[np.float32]:
    shape = (batch, design.spec.in_channels, design.resolution, design.resolution)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _engine(design: Design, model: bytes, where: Setting) -> Engine:
    if where.runtime == "torch":
        return TorchEngine(design, threads=where.threads)
    return open_engine(model, runtime=where.runtime, threads=where.threads, precision=where.precision, batch=where.batch)


class TorchEngine:
    """The module itself, eager and in float32, as an Engine: what the others are compared with."""

    name: str = "torch"
    precision: Precision = "f32"

    def __init__(self, design: Design, *, threads: int, state: Mapping[str, NDArray[np.generic]] | None = None) -> None:
        import torch

        from phiscale.nn import Network

        self.threads, self._torch = threads, torch
        self._network = Network(design.spec).eval()
        if state is not None:
            self._network.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        before = self._torch.get_num_threads()
        self._torch.set_num_threads(self.threads)
        try:
            with self._torch.inference_mode():
                return self._network(self._torch.from_numpy(images)).numpy()
        finally:
            self._torch.set_num_threads(before)
