"""Read a TensorFlow checkpoint (`model.ckpt.index`, `model.ckpt.data-00000-of-00001`) without TensorFlow.

The index is a sorted string table (as LevelDB's) from variable name to a BundleEntryProto that says dtype, shape and where
the bytes are in the data file. Source: tensorflow/core/util/tensor_bundle, core/protobuf/tensor_bundle.proto, core/lib/io/table.
"""

import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phiscale.errors import WeightsError

MAGIC = 0xDB4775248B80FB57
FOOTER, TRAILER = 48, 5  # bytes; a block is followed by its compression and its checksum
DTYPES: dict[int, str] = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # tensorflow/core/framework/types.proto
MAX_INDEX = 1 << 26

Fields = dict[int, list[int | bytes]]


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """All numeric variables by name. `path`: prefix, `.index` file, folder, or `.tar.gz` of one. WeightsError for anything else."""
    path = Path(path)
    if path.is_file() and path.suffix != ".index":
        return _from_tar(path)
    index = _index_of(path)
    prefix = index.with_suffix("")

    def shard(number: int, count: int) -> bytes:
        data = prefix.with_name(f"{prefix.name}.data-{number:05d}-of-{count:05d}")
        try:
            return data.read_bytes()
        except OSError as error:
            raise WeightsError(f"the checkpoint's {data.name} can't be read: {error}") from None

    return read_bundle(index.read_bytes(), shard, str(path))


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is a checkpoint's prefix, index or folder."""
    return path.suffix == ".index" or path.with_name(path.name + ".index").is_file() or (path.is_dir() and any(path.glob("*.index")))


def _index_of(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        if len(found) != 1:
            raise WeightsError(f"{path} holds {len(found)} checkpoints (*.index); name one of them")
        return found[0]
    return path if path.suffix == ".index" else path.with_name(path.name + ".index")


def _from_tar(path: Path) -> dict[str, Tensor]:
    """Read in memory: nothing of the archive is written to disk."""
    try:
        with tarfile.open(path) as archive:
            files = {member.name: member for member in archive.getmembers() if member.isfile()}
            indexes = [name for name in files if name.endswith(".index")]
            if len(indexes) != 1:
                raise WeightsError(f"{path} holds {len(indexes)} checkpoints (*.index), expected one")

            def content(name: str) -> bytes:
                if name not in files:
                    raise WeightsError(f"{path} lacks {name}")
                reader = archive.extractfile(files[name])
                return reader.read() if reader else b""

            prefix = indexes[0].removesuffix(".index")
            return read_bundle(content(indexes[0]), lambda n, count: content(f"{prefix}.data-{n:05d}-of-{count:05d}"), str(path))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise WeightsError(f"{path} is not a readable archive; truncated? ({error})") from None


def read_bundle(index: bytes, shard: Callable[[int, int], bytes], where: str) -> dict[str, Tensor]:
    """Variables from the bytes of the index and of the data shards (number, count) -> bytes."""
    if len(index) > MAX_INDEX:
        raise WeightsError(f"{where}: an index of {len(index)} bytes is no index of variables")
    try:
        entries = dict(_table(index))
        header = _fields(entries.pop(b"", b""))
        shards = _whole(header, 1, 1)
        if _whole(header, 2, 0) != 0:
            raise WeightsError(f"{where}: a big-endian checkpoint; convert it on the machine that wrote it")
        data: dict[int, bytes] = {}
        variables: dict[str, Tensor] = {}
        for name, entry in entries.items():
            variable = _variable(_fields(entry), shards, shard, data)
            if variable is not None:
                variables[name.decode()] = variable
    except (ValueError, IndexError, struct.error) as error:
        raise WeightsError(f"{where}: not a readable TensorFlow checkpoint; truncated? ({error})") from None
    return variables


def _variable(entry: Fields, shards: int, shard: Callable[[int, int], bytes], data: dict[int, bytes]) -> Tensor | None:
    dtype = DTYPES.get(_whole(entry, 1, 0))
    if dtype is None or 7 in entry:  # strings, resources; slices of partitioned variables
        return None
    number, offset, size = _whole(entry, 3, 0), _whole(entry, 4, 0), _whole(entry, 5, 0)
    shape = tuple(_whole(_fields(dimension), 1, 0) for dimension in _messages(_messages(entry, 2)[0], 2)) if 2 in entry else ()
    if not 0 <= number < shards:
        raise ValueError(f"shard {number} of {shards}")
    if number not in data:
        data[number] = shard(number, shards)
    raw = data[number][offset : offset + size]
    if len(raw) != size or size != int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize:
        raise ValueError(f"a variable of shape {shape} has {len(raw)} bytes")
    return torch.from_numpy(np.frombuffer(raw, dtype).reshape(shape).copy())


def _table(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Entries of a sorted string table."""
    if len(raw) < FOOTER or struct.unpack("<Q", raw[-8:])[0] != MAGIC:
        raise ValueError("no table footer")
    position = 0
    _, position = _varint(raw[-FOOTER:], position)  # the meta index, unused
    _, position = _varint(raw[-FOOTER:], position)
    offset, position = _varint(raw[-FOOTER:], position)
    size, _ = _varint(raw[-FOOTER:], position)
    for _, handle in _block(raw, offset, size):
        offset, position = _varint(handle, 0)
        size, _ = _varint(handle, position)
        yield from _block(raw, offset, size)


def _block(raw: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of one block: keys share their beginning with the one before."""
    block, trailer = raw[offset : offset + size], raw[offset + size : offset + size + TRAILER]
    if len(block) != size or size < 4 or len(trailer) != TRAILER:
        raise ValueError("a block ends early")
    if trailer[0] != 0:
        raise ValueError("compressed tables are not written by TensorFlow's own saver, and not read here")
    if struct.unpack("<I", trailer[1:])[0] != _masked_crc(block + trailer[:1]):
        raise ValueError("a checksum of the index is wrong")
    restarts = struct.unpack("<I", block[-4:])[0]
    end, position, key = size - 4 - 4 * restarts, 0, b""
    while position < end:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("a number is too long")


def _fields(message: bytes) -> Fields:
    """Fields of a protocol buffer message: number -> values."""
    fields: Fields = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        value: int | bytes
        match tag & 7:
            case 0:
                value, position = _varint(message, position)
            case 1 | 5 as wire:
                width = 8 if wire == 1 else 4
                value, position = int.from_bytes(message[position : position + width], "little"), position + width
            case 2:
                length, position = _varint(message, position)
                value, position = message[position : position + length], position + length
                if len(value) != length:
                    raise ValueError("a message ends early")
            case wire:
                raise ValueError(f"wire type {wire}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _whole(fields: Fields, number: int, default: int) -> int:
    value = fields.get(number, [default])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is no number")
    return value


def _messages(fields: Fields | bytes, number: int) -> list[bytes]:
    values = (_fields(fields) if isinstance(fields, bytes) else fields).get(number, [])
    return [value for value in values if isinstance(value, bytes)]


def _crc_table() -> list[int]:
    table: list[int] = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli, reflected
        table.append(crc)
    return table


_CRC = _crc_table()


def _masked_crc(raw: bytes) -> int:
    """CRC-32C, rotated and offset as tables store it."""
    crc = 0xFFFFFFFF
    for byte in raw:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
