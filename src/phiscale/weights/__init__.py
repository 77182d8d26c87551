"""Floor 2 · weights: published files, the key names of other projects, and phiscale's own folder.

Comes in: a network (name, Design, NetworkSpec), a weight file of any project, a Record.
Goes out: a Network with weights in it, a state_dict under phiscale's names, `model.safetensors` + `config.json`.
Never: trains; unpickles code; guesses numerics (batch norm epsilon, padding, preprocessing travel with the record).
Start reading: models.py (create_model), sources.py (what exists), dialects/ (key names), store.py (our own folder),
inherit.py (sizes that nobody trained).
"""

from phiscale.weights.inherit import Inheritance
from phiscale.weights.models import create_model, inherit, load_weights, pretrained
from phiscale.weights.sources import Record, find, records
from phiscale.weights.store import load_folder, save_model

__all__ = ["Inheritance", "Record", "create_model", "find", "inherit", "load_folder", "load_weights", "pretrained", "records", "save_model"]
