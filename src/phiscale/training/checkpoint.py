"""The whole state of a training in one file, atomic, checked by SHA-256; the last two are kept."""

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch

from phiscale.atomic import replacing, write_text
from phiscale.errors import RunError

KEPT = 2  # the newest may be the one being written when the power goes


def save(folder: Path, state: dict[str, Any], step: int) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts of them) as the checkpoint of `step`."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    name = f"step-{step:09d}"
    with replacing(folder / f"{name}.pt") as temporary:
        temporary.write_bytes(content)
    # written second: a checkpoint counts from the moment its sum is there
    write_text(folder / f"{name}.json", json.dumps({"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}) + "\n")
    for old in sorted(folder.glob("step-*.json"))[:-KEPT]:
        old.unlink(missing_ok=True)
        old.with_suffix(".pt").unlink(missing_ok=True)
    for stray in folder.glob(".step-*.tmp"):
        stray.unlink(missing_ok=True)


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole; None where there is none. RunError where there are some and all are broken."""
    sums = sorted(folder.glob("step-*.json"), reverse=True)
    for path in sums:
        try:
            expected = json.loads(path.read_text(encoding="utf-8"))
            content = path.with_suffix(".pt").read_bytes()
        except (OSError, ValueError):
            continue
        if isinstance(expected, dict) and hashlib.sha256(content).hexdigest() == expected.get("sha256"):
            try:
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError):  # the right sum of something else
                continue
    if sums:
        raise RunError(f"all {len(sums)} checkpoints in {folder} are broken or no checkpoints of phiscale; start again in another folder")
    return None
