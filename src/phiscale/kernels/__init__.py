"""Floor 1 · faster ways to compute the same, applied to a built model from outside and taken off again.

Comes in: a model of nn/.  Goes out: the same model, same state_dict, same function, fewer passes over memory.
Never: changes a weight's name, shape or meaning; is known to nn/; is needed (without a compiler all works, slower).
Start reading: modules.py, then norm.py and depthwise.py; source/ is compiled with the package.
"""

from phiscale.kernels.apply import accelerate, restore
from phiscale.kernels.freeze import freeze_norms, unfreeze_norms
from phiscale.kernels.inference import inference
from phiscale.kernels.library import status
from phiscale.kernels.precision import best_precision

__all__ = [
    "accelerate",
    "best_precision",
    "freeze_norms",
    "inference",
    "restore",
    "status",
    "unfreeze_norms",
]
