"""The whole state of a training in one file whose name carries its SHA-256: whole or not counted; the last two are kept."""

import hashlib
import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from phiscale.atomic import replacing, sweep
from phiscale.errors import RunError

FORMAT = 2
KEPT = 2  # the newest may be the one being written when the power goes
_NAME = re.compile(r"(\d{8})-([0-9a-f]{32})\.pt")


def save(folder: Path, state: dict[str, Any], number: int) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them) as the `number`-th checkpoint; those before the last go."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({**state, "format": FORMAT, "number": number}, buffer)
    content = buffer.getbuffer()
    written = folder / f"{number:08d}-{hashlib.sha256(content).hexdigest()[:32]}.pt"
    with replacing(written) as temporary:
        temporary.write_bytes(content)
    before = [path for path in _found(folder) if path != written and _number(path) < number]
    for path in _found(folder):
        if path != written and path not in before[: KEPT - 1]:  # a higher number is a broken one that was passed over
            path.unlink(missing_ok=True)
    sweep(folder)


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, with its `number`; None where there is none. RunError where all that there are are broken."""
    found = _found(folder)
    for path in found:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest()[:32] != path.stem.partition("-")[2]:
            continue
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError):  # the right sum of something else
            continue
        if isinstance(state, dict) and state.get("format") == FORMAT:
            return state
        raise RunError(f"{path} was written by another version of phiscale; finish the run with that one, or start again in another folder")
    if found:
        raise RunError(f"all {len(found)} checkpoints in {folder} are broken or no checkpoints of phiscale; start again in another folder")
    return None


def _found(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted((path for path in folder.glob("*.pt") if _NAME.fullmatch(path.name)), reverse=True)


def _number(path: Path) -> int:
    return int(path.name[:8])
