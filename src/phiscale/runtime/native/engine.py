"""The native engine behind the engines' protocol."""

import ctypes
import weakref
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from phiscale.architecture.plan import blocks, feature_width, out_size
from phiscale.architecture.spec import NetworkSpec
from phiscale.errors import ArgumentError, PhiscaleError
from phiscale.runtime.native.program import ABI, Floats, Program, Ranges, Weights, bind
from phiscale.runtime.native.support import Level, levels, library, why_not

MAX_THREADS = 256
MAX_PIXELS = 1 << 26  # of one image: above what any decoder here lets through
Array = NDArray[np.float32]
Precision = Literal["auto", "f32", "bf16", "int8"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """logits (N, num_classes); embedding (N, feature_width) and features (N, feature_width, H', W') where they were asked for."""

    logits: Array
    embedding: Array | None = None
    features: Array | None = None


class Native:
    """An Engine. Any image size and batch; calls from several threads take turns; not to be used in a fork of the process that made it.

    weights  folded, `stages.0.0.expand.weight`, `….bias`, as runtime/fold.py makes them and a bundle's graph carries them
    threads    batches are split over them by images, what is left of a batch by rows and channels
    precision  "f32", "bf16" or "int8" (1x1 convolutions, the rest in bf16); "auto" is the faster of the first two that this processor has
    ranges     of int8: of what each 1x1 convolution is going to read; one without runs in bf16
    level      the name of one of support.LEVELS, to compare them; None: the fastest that has the precision
    """

    name: str = "native"
    precision: Precision
    level: str

    def __init__(
        self,
        spec: NetworkSpec,
        weights: Weights,
        *,
        threads: int,
        precision: str = "auto",
        level: str | None = None,
        ranges: Ranges | None = None,
    ) -> None:
        """ArgumentError where `why_not(spec, precision)` says why; WeightsError for weights that don't fit or aren't finite."""
        if not 1 <= threads <= MAX_THREADS:
            raise ArgumentError(f"threads must be from 1 to {MAX_THREADS}, got {threads}")
        if said := why_not(spec, precision):
            raise ArgumentError(said)
        if precision == "int8" and not ranges:
            raise ArgumentError("int8 needs the range of what each layer reads: `phiscale export RUN --int8 --calibrate IMAGES` finds them")
        self.spec, self.threads = spec, threads
        found, self._library = _open(tuple(each for each in levels(precision) if level in (None, each.name)))
        self.level, self.precision = found.name, found.computes
        program = Program(
            spec, weights, threads, ranges if self.precision == "int8" else None
        )  # its arrays must live until the library has packed them
        error = ctypes.create_string_buffer(512)
        handle = self._library.phi_create(ctypes.byref(program.struct), error, len(error))
        if not handle:
            raise ArgumentError(f"the native engine can't start: {error.value.decode()}")
        self._handle = ctypes.c_void_p(handle)
        self._close = weakref.finalize(self, self._library.phi_destroy, self._handle)

    def __call__(self, images: Array) -> Array:
        """(N, in_channels, H, W) normalised -> (N, num_classes) logits, or (N, feature_width) of a network without classes."""
        if self.spec.num_classes:
            return self.outputs(images).logits
        embedding = self.outputs(images, embedding=True).embedding
        assert embedding is not None
        return embedding

    def outputs(self, images: Array, *, embedding: bool = False, features: bool = False) -> Outputs:
        """Logits and, where asked for, the pooled features and the last feature map. ArgumentError for another shape."""
        if images.ndim != 4 or images.shape[1] != self.spec.in_channels or 0 in images.shape[2:]:
            raise ArgumentError(f"images must have the shape (N, {self.spec.in_channels}, H, W), got {images.shape}")
        count, _, height, width = images.shape
        if height * width > MAX_PIXELS:
            raise ArgumentError(f"an image may have {MAX_PIXELS} pixels at most, got {height} x {width}")
        if not self._close.alive:
            raise ArgumentError("this engine was closed")
        size = map_size(self.spec, height, width)
        if min(size) < 1:
            raise ArgumentError(f"{height} x {width} pixels are too few for this network: a feature map would be {size[0]} x {size[1]}")
        channels = feature_width(self.spec)
        logits = np.empty((count, self.spec.num_classes), np.float32)
        pooled = np.empty((count, channels), np.float32) if embedding else None
        maps = np.empty((count, channels, *size), np.float32) if features else None
        if count:
            images = np.require(images, np.float32, ["C", "A"])
            error = ctypes.create_string_buffer(512)
            into = [None if array is None or not array.size else array.ctypes.data_as(Floats) for array in (logits, pooled, maps)]
            if self._library.phi_run(self._handle, images.ctypes.data_as(Floats), count, height, width, *into, error, len(error)):
                raise PhiscaleError(f"the native engine stopped: {error.value.decode()}")
        return Outputs(logits, pooled, maps)

    @property
    def memory_bytes(self) -> int:
        """Prepacked weights and the working memory of the last image size."""
        return int(self._library.phi_bytes(self._handle))

    @property
    def wide_blocks(self) -> int:
        """Blocks that run in fp32 because half precision overflowed in them."""
        return int(self._library.phi_wide_blocks(self._handle))

    def close(self) -> None:
        """Ends the threads and frees the memory now rather than with the object."""
        self._close()


def map_size(spec: NetworkSpec, height: int, width: int) -> tuple[int, int]:
    """Height and width of the last feature map; a side below 1 where the network is too deep for the image."""

    def after(size: int) -> int:
        size = out_size(size, spec.stem.kernel, spec.stem.stride, spec.padding)
        for block in blocks(spec):
            size = out_size(size, block.kernel, block.stride, spec.padding) if size > 0 else 0
        return size

    return after(height), after(width)


def _open(candidates: tuple[Level, ...]) -> tuple[Level, ctypes.CDLL]:
    """The first level that the system permits: a kernel may know of AMX and refuse it."""
    error = ctypes.create_string_buffer(b"no such level here", 512)
    for level in candidates:
        path = library(level)
        try:
            lib = bind(str(path))
        except OSError as failed:
            raise ArgumentError(f"the native engine can't be loaded: {failed}; install phiscale again") from None
        if lib.phi_abi() != ABI:
            raise ArgumentError(f"{path} is of another version of phiscale; install phiscale again")
        if not lib.phi_permit(error, len(error)):
            return level, lib
    raise ArgumentError(f"the native engine can't start: {error.value.decode()}")
