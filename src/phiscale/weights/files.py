"""Read a stranger's weight file into a flat dict of tensors, without running any of its code."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from phiscale.errors import WeightsError
from phiscale.weights.keras_file import is_keras, read_keras
from phiscale.weights.tf_checkpoint import is_checkpoint, read_checkpoint

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model", "ema")  # the averaged weights first
PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a file, by name, on the CPU: safetensors, torch, Keras, or a TensorFlow checkpoint (prefix, folder, archive).

    WeightsError for anything else, or anything unsafe.
    """
    path = Path(path)
    if is_checkpoint(path):
        return read_checkpoint(path)
    if not path.is_file():
        raise WeightsError(f"no weight file {path}")
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return read_checkpoint(path)
    if is_keras(path):
        return read_keras(path)
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path} holds more than tensors, and loading it could run code; refused ({_first(error)})") from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
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


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """WeightsError names the first tensor that has a value which is not a number."""
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{where}: {key} holds values that are not finite (a diverged training or a damaged file)")
