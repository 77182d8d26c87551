"""A spec and its folded weights in the form that source/engine.h takes. Mirrors that header field for field."""

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, Structure, c_float, c_int32
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiscale.architecture.plan import Block, blocks, feature_width
from phiscale.architecture.spec import NetworkSpec
from phiscale.errors import WeightsError

ABI = 2
Weights = Mapping[str, NDArray[np.float32]]
ACTIVATIONS = {"silu": 1, "relu": 2, "relu6": 3, "hardswish": 4}
DEPTHWISE, FULL = 0, 1
LARGEST = 1e18  # end of a range that is no mistake
STEM_CHANNELS = 4  # that the engine's stem reads; more go through a full block
Floats: Any = POINTER(c_float)


@dataclass(frozen=True, slots=True)
class Range:
    """Of the numbers that a layer reads: the smallest and the largest that it tells apart, and each channel's mean."""

    low: float
    high: float
    means: tuple[float, ...]


Ranges = Mapping[str, Range]


class RangeStruct(Structure):
    _fields_ = (("low", c_float), ("high", c_float), ("means", Floats))


class RangesStruct(Structure):
    _fields_ = tuple((layer, RangeStruct) for layer in ("expand", "project", "se"))


class BlockStruct(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("kind", "w_in", "w_mid", "w_out", "w_se", "kernel", "stride", "skips", "project_acts", "wide")),
        *((f"{layer}_{part}", Floats) for layer in ("expand", "depthwise", "reduce", "gate", "project") for part in "wb"),
    )


class NetworkStruct(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("in_channels", "stem_width", "stem_kernel", "stem_stride", "activation", "symmetric")),
        *((name, c_int32) for name in ("block_count", "head_width", "num_classes", "threads")),
        *((f"{layer}_{part}", Floats) for layer in ("stem", "head", "classifier") for part in "wb"),
        ("blocks", POINTER(BlockStruct)),
        ("ranges", POINTER(RangesStruct)),
    )


class Program:
    """The structs of one network; keeps the arrays that they point into."""

    def __init__(self, spec: NetworkSpec, weights: Weights, threads: int, ranges: Ranges | None = None) -> None:
        """ranges: of what a layer reads, by the layer's name, of those that run in int8."""
        self._weights, self._kept, self._used, self._ranges = weights, [], set[str](), ranges or {}
        has_stem = spec.in_channels <= STEM_CHANNELS
        made = [self._stem_block(spec, number) for number in range(1 if has_stem else 0, len(spec.stem.widths))]
        stems = len(made)
        made += [self._block(block) for block in blocks(spec)]
        self.struct = NetworkStruct(
            in_channels=spec.in_channels,
            stem_width=spec.stem.widths[0] if has_stem else 0,
            stem_kernel=spec.stem.kernel,
            stem_stride=spec.stem.stride,
            activation=ACTIVATIONS[spec.activation],
            symmetric=spec.padding == "symmetric",
            block_count=len(made),
            head_width=spec.head_width,
            num_classes=spec.num_classes,
            threads=threads,
            blocks=(BlockStruct * len(made))(*made),
            ranges=self._all_ranges(spec, stems) if ranges else None,
        )
        if has_stem:
            k = spec.stem.kernel
            self._layer(self.struct, "stem", "stem.0", (spec.stem.widths[0], spec.in_channels, k, k))
        if spec.head_width:
            self._layer(self.struct, "head", "head", (spec.head_width, spec.stages[-1].width, 1, 1))
        if spec.num_classes:
            self._layer(self.struct, "classifier", "classifier", (spec.num_classes, feature_width(spec)))
        if extra := sorted(set(self._ranges) - self._used):
            raise WeightsError(
                f"these ranges are not this network's: {len(extra)} have no place, e.g. {extra[0]}; calibrate and export again"
            )
        if extra := sorted(set(weights) - self._used):
            raise WeightsError(f"these weights are not this network's: {len(extra)} keys have no place, e.g. {extra[0]}")

    def _stem_block(self, spec: NetworkSpec, number: int) -> BlockStruct:
        # a later stem convolution, or one of many channels, is a full block without expansion
        w_in, k, stride = (spec.stem.widths[number - 1], 3, 1) if number else (spec.in_channels, spec.stem.kernel, spec.stem.stride)
        w_out = spec.stem.widths[number]
        struct = BlockStruct(kind=FULL, w_in=w_in, w_mid=w_in, w_out=w_out, kernel=k, stride=stride)
        self._layer(struct, "project", f"stem.{number}", (w_out, w_in, k, k))
        return struct

    def _block(self, block: Block) -> BlockStruct:
        b, k, fused = block, block.kernel, block.kind == "fused"
        struct = BlockStruct(
            kind=FULL if fused else DEPTHWISE,
            w_in=b.w_in,
            w_mid=b.w_mid,
            w_out=b.w_out,
            w_se=0 if fused and not b.expands else b.w_se,  # nn/blocks.py: nothing to squeeze without an expansion
            kernel=k,
            stride=b.stride,
            skips=b.skips,
            project_acts=b.kind == "separable",
        )
        if b.expands and b.kind != "separable":
            self._layer(struct, "expand", f"{b.name}.expand", (b.w_mid, b.w_in, k, k) if fused else (b.w_mid, b.w_in, 1, 1))
        if not fused:
            self._layer(struct, "depthwise", f"{b.name}.depthwise", (b.w_mid, 1, k, k))
        if struct.w_se:
            self._layer(struct, "reduce", f"{b.name}.se.reduce", (b.w_se, b.w_mid, 1, 1))
            self._layer(struct, "gate", f"{b.name}.se.expand", (b.w_mid, b.w_se, 1, 1))
        full_project = fused and not b.expands
        self._layer(struct, "project", f"{b.name}.project", (b.w_out, b.w_mid, k, k) if full_project else (b.w_out, b.w_mid, 1, 1))
        return struct

    def _all_ranges(self, spec: NetworkSpec, stems: int) -> Any:
        """One a block, the stem's blocks too, and one for the head."""
        made = [RangesStruct() for _ in range(stems)]
        for b in blocks(spec):
            widths = (("expand", b.w_in), ("project", b.w_mid), ("se", b.w_mid))
            made.append(RangesStruct(*(self._range(f"{b.name}.{layer}", width) for layer, width in widths)))
        made.append(RangesStruct(project=self._range("head", spec.stages[-1].width) if spec.head_width else RangeStruct()))
        return (RangesStruct * len(made))(*made)

    def _range(self, key: str, width: int) -> RangeStruct:
        if key not in self._ranges:
            return RangeStruct()
        low, high, means = (given := self._ranges[key]).low, given.high, np.asarray(given.means, np.float64)
        if not (abs(low) <= LARGEST and abs(high) <= LARGEST and high - low >= 1 / LARGEST):  # NaN is no such number either
            raise WeightsError(f"the range of what {key} reads can't be one: from {low} to {high}; calibrate and export again")
        if means.shape != (width,) or not (np.abs(means) <= LARGEST).all():
            raise WeightsError(f"the means of what {key} reads must be {width} finite numbers; calibrate and export again")
        self._used.add(key)
        self._kept.append(means.astype(np.float32))
        return RangeStruct(low, high, self._kept[-1].ctypes.data_as(Floats))

    def _layer(self, struct: Structure, field: str, key: str, shape: tuple[int, ...]) -> None:
        for part, name, wanted in (("w", f"{key}.weight", shape), ("b", f"{key}.bias", shape[:1])):
            if name not in self._weights:
                raise WeightsError(f"these weights are not this network's: {name} is missing")
            values = np.require(self._weights[name], np.float32, ["C", "A"])  # a model file holds them at any byte
            if values.shape != wanted:
                raise WeightsError(f"these weights are not this network's: {name} is {values.shape}, expected {wanted}")
            if not np.isfinite(values).all():
                raise WeightsError(f"{name} is not finite: a broken file?")
            self._used.add(name)
            self._kept.append(values)
            setattr(struct, f"{field}_{part}", values.ctypes.data_as(Floats))


def bind(path: str) -> ctypes.CDLL:
    """The compiled library with its functions' types."""
    lib = ctypes.CDLL(path)
    lib.phi_abi.restype = ctypes.c_int
    lib.phi_permit.argtypes = [ctypes.c_char_p, ctypes.c_int]
    lib.phi_permit.restype = ctypes.c_int
    lib.phi_create.argtypes = [POINTER(NetworkStruct), ctypes.c_char_p, ctypes.c_int]
    lib.phi_create.restype = ctypes.c_void_p
    lib.phi_run.argtypes = [ctypes.c_void_p, Floats, *[ctypes.c_int] * 3, Floats, Floats, Floats, ctypes.c_char_p, ctypes.c_int]
    lib.phi_run.restype = ctypes.c_int
    lib.phi_bytes.argtypes = [ctypes.c_void_p]
    lib.phi_bytes.restype = ctypes.c_int64
    lib.phi_wide_blocks.argtypes = [ctypes.c_void_p]
    lib.phi_wide_blocks.restype = ctypes.c_int
    lib.phi_destroy.argtypes = [ctypes.c_void_p]
    lib.phi_destroy.restype = None
    return lib
