"""Design and folded weights out of a bundle's model.onnx, as deploy/graph.py writes it; without the onnx package."""

import json
from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray

from phiscale.architecture.design import Design
from phiscale.errors import BundleError, SpecError
from phiscale.runtime.native.program import Range

DESIGN, INT8 = "phiscale.design", "phiscale.int8"  # in the model's metadata; the second only where it was calibrated
FLOAT = 1  # TensorProto.DataType
CONSTANTS = ("zero", "six")  # of ReLU6, beside the weights
Value = int | memoryview


def read_model(model: bytes) -> tuple[Design, dict[str, NDArray[np.float32]]]:
    """The design and the weights by layer, `stages.0.0.expand.weight`. BundleError where the file is not one of ours or is broken."""
    try:
        return design_of(model), dict(_weights(model))
    except (ValueError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise BundleError(f"the native engine can't load the model: {error}") from None


def not_finite(model: bytes) -> str | None:
    """The first weight that holds NaN or an infinity; None where none does. BundleError where the file is broken."""
    try:
        return next((name for name, values in _weights(model) if not np.isfinite(values).all()), None)
    except (ValueError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise BundleError(f"the model can't be read: {error}; export it again") from None


def design_of(model: bytes) -> Design:
    """The design that the model carries."""
    text = _metadata(model, DESIGN)
    if text is None:
        raise BundleError("the native engine can't load the model: it carries no design; export it again")
    try:
        return Design.from_toml(text)
    except SpecError as error:
        raise BundleError(f"the native engine can't load the model, whose design is wrong: {error}") from None


def ranges_of(model: bytes) -> dict[str, Range]:
    """What its layers read that can run in int8, by layer; empty where the model was not calibrated. BundleError for anything else."""
    text = _metadata(model, INT8)
    if text is None:
        return {}
    try:
        read = json.loads(text)
        return {layer: Range(float(own["low"]), float(own["high"]), tuple(map(float, own["means"]))) for layer, own in read.items()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError) as error:
        raise BundleError(f"the model's ranges for int8 can't be read ({type(error).__name__}: {error}); export it again") from None


def _metadata(model: bytes, name: str) -> str | None:
    for number, value in _fields(memoryview(model)):
        if number == 14:  # ModelProto.metadata_props
            entry = {key: bytes(cast(memoryview, text)).decode() for key, text in _fields(cast(memoryview, value))}
            if entry.get(1) == name:
                return entry.get(2, "")
    return None


def _weights(model: bytes) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for number, value in _fields(memoryview(model)):
        if number == 7:  # ModelProto.graph
            for inner, tensor in _fields(cast(memoryview, value)):
                if inner == 5:  # GraphProto.initializer
                    name, array = _tensor(cast(memoryview, tensor))
                    if name not in CONSTANTS:
                        yield name, array


def _tensor(content: memoryview) -> tuple[str, NDArray[np.float32]]:
    shape: list[int] = []
    name, kind, raw = "", FLOAT, memoryview(b"")
    for number, value in _fields(content):
        match number:
            case 1 if isinstance(value, int):
                shape.append(value)
            case 1:  # packed
                packed, at = cast(memoryview, value), 0
                while at < len(packed):
                    size, at = _varint(packed, at)
                    shape.append(size)
            case 2:
                kind = cast(int, value)
            case 8:
                name = bytes(cast(memoryview, value)).decode()
            case 9:
                raw = cast(memoryview, value)
            case _:
                pass
    if kind != FLOAT:
        raise ValueError(f"{name} is no float32 tensor")
    return name, np.frombuffer(raw, "<f4").reshape(shape)


def _fields(content: memoryview) -> Iterator[tuple[int, Value]]:
    """Number and value of each field of a protocol buffer message."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        match key & 7:
            case 0:
                value, at = _varint(content, at)
                yield key >> 3, value
            case 2:
                size, at = _varint(content, at)
                if at + size > len(content):
                    raise ValueError("it ends too early")
                yield key >> 3, content[at : at + size]
                at += size
            case 1 | 5:
                at += 8 if key & 7 == 1 else 4
            case kind:
                raise ValueError(f"field of unknown kind {kind}")


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number has no end")
