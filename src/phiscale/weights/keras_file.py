"""Read a Keras file (`.h5`, `.weights.h5`, `.keras`) into `layer/weight` -> tensor. Only data sets are read; no layer is ever built."""

import io
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from phiscale.errors import MissingExtraError, WeightsError

HDF5 = b"\x89HDF\r\n\x1a\n"
INSIDE = "model.weights.h5"
MAX_BYTES = 1 << 33


def is_keras(path: Path) -> bool:
    """Whether the file is HDF5, or a zip with Keras's weights in it."""
    with path.open("rb") as file:
        if file.read(8) == HDF5:
            return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return INSIDE in archive.namelist()


def read_keras(path: Path) -> dict[str, Tensor]:
    """Tensors by `layer/weight` (`stem_conv/kernel`), or by path where Keras 3 counted its layers (`layers/conv2d/vars/0`)."""
    try:
        import h5py
    except ImportError:
        raise MissingExtraError(f"{path} is a Keras file; pip install 'phiscale[keras]' to read it (TensorFlow isn't needed)") from None
    state: dict[str, Tensor] = {}

    def visit(name: str, found: Any) -> None:
        if not isinstance(found, h5py.Dataset) or name.startswith(("optimizer", "_")):
            return
        if found.external or found.is_virtual:
            raise WeightsError(f"{path}: {name} is kept in another file; refused")
        if found.dtype.kind in "fi":
            parts = name.split("/")
            key = name if parts[0] == "layers" else "/".join(parts[-2:]).removesuffix(":0")
            state[key] = torch.from_numpy(np.asarray(found[()], np.float32 if found.dtype.kind == "f" else np.int64))

    try:
        with h5py.File(_content(path), "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is not a readable Keras file; truncated? ({error})") from None
    return state


def _content(path: Path) -> Path | IO[bytes]:
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(INSIDE).file_size > MAX_BYTES:
            raise WeightsError(f"{path}: its weights unpack to more than {MAX_BYTES >> 30} GiB; refused")
        return io.BytesIO(archive.read(INSIDE))
