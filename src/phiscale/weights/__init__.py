"""Floor 2 · weights: published files, the key names of other projects, and phiscale's own folder.

Comes in: a network (name, Design, NetworkSpec), a weight file of any project, a Record.
Goes out: a Network with weights in it, a state_dict under phiscale's names, `model.safetensors` + `config.json`.
Never: trains; unpickles code; guesses numerics (batch norm epsilon, padding, preprocessing travel with the record).
Start reading: models.py (create_model), sources.py (what exists; no torch), dialects/ (key names), store.py (our own folder),
inherit.py (sizes that nobody trained).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phiscale.weights.inherit import Inheritance
    from phiscale.weights.models import create_model, load_weights, pretrained
    from phiscale.weights.sources import Record, find, records
    from phiscale.weights.store import load_folder, load_output, save_model

__all__ = [
    "Inheritance",
    "Record",
    "create_model",
    "find",
    "load_folder",
    "load_output",
    "load_weights",
    "pretrained",
    "records",
    "save_model",
]

_HOMES = {  # imported on first use: sources.py does without torch
    "Inheritance": "phiscale.weights.inherit",
    **dict.fromkeys(("create_model", "load_weights", "pretrained"), "phiscale.weights.models"),
    **dict.fromkeys(("Record", "find", "records"), "phiscale.weights.sources"),
    **dict.fromkeys(("load_folder", "load_output", "save_model"), "phiscale.weights.store"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'phiscale.weights' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
