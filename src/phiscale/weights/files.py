"""Read a stranger's weight file into a flat dict of tensors, without running any of its code."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from phiscale.errors import WeightsError
from phiscale.weights.keras_file import HDF5, is_keras, read_keras
from phiscale.weights.tf_checkpoint import is_checkpoint, read_checkpoint

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model", "ema")  # the averaged weights first
MAX_RATIO = 4  # torch stores tensors as they are; a file that unpacks to more is a bomb
PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a file, by name, on the CPU: safetensors, torch, Keras, or a TensorFlow checkpoint (prefix, folder, archive).

    WeightsError for anything else, or anything unsafe.
    """
    path = Path(path)
    if is_checkpoint(path):
        return read_checkpoint(path)
    if path.is_dir():
        raise WeightsError(f"{path} is a folder without a saved model or a TensorFlow checkpoint in it")
    if not path.is_file():
        raise WeightsError(f"no weight file {path}")
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return read_checkpoint(path)
    with path.open("rb") as file:
        first = file.read(9)
    if _is_safetensors(first, path):
        return _read_safetensors(path)
    if not first.startswith((b"PK", b"\x80", HDF5[:4])):
        raise WeightsError(f"{path} is no weight file: it begins with {first!r}" if first else f"{path} is empty")
    if is_keras(path):
        return read_keras(path)
    return _read_torch(path)


def _is_safetensors(first: bytes, path: Path) -> bool:
    """A header's length and the brace that it begins with, or a name that says so."""
    return path.suffix == ".safetensors" or (first[8:] == b"{" and int.from_bytes(first[:8], "little") < path.stat().st_size)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file; truncated? ({_first(error)})") from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                claimed = sum(member.file_size for member in archive.infolist())
            if claimed > MAX_RATIO * path.stat().st_size:
                raise WeightsError(f"{path} would unpack to {claimed >> 20} MiB, {MAX_RATIO} times its size or more; refused")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what matters is an error
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" not in str(error) or "invalid load key" in str(error):
            raise WeightsError(f"{path} is not a readable weight file; truncated? ({_first(error)})") from None
        raise WeightsError(
            f"{path} holds more than tensors, and loading it could run code; refused. Where it comes from somebody you trust, "
            "save its state_dict() alone, best as safetensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is not a readable weight file; truncated? ({_first(error)})") from None
    return flatten(loaded, path)


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def flatten(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The state_dict inside a checkpoint, without the prefixes that wrappers leave."""
    while isinstance(loaded, Mapping):
        inside = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inside is None:
            break
        loaded = cast("Mapping[str, Any]", loaded)[inside]
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, not a state_dict")
    state = {str(key): value for key, value in cast("Mapping[Any, Any]", loaded).items() if isinstance(value, Tensor)}
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    if not state:
        raise WeightsError(f"{path} holds no tensors")
    return state


def in_float32(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half and double precision as single; the rest as it is."""
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """WeightsError names the first tensor that has a value which is not a number."""
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{where}: {key} holds values that are not finite (a diverged training or a damaged file)")
