"""Put the fused operators into a built model, and take them out again."""

from torch import nn

from phiscale.kernels.library import library
from phiscale.kernels.modules import FAST


def accelerate(model: nn.Module) -> nn.Module:
    """Let `model` compute with phiscale's kernels, where they are compiled; else nothing changes.

    The state_dict, the parameters and the function stay what they are. `restore` before export.
    """
    if library() is not None:
        swapped(model, FAST)
    return model


def restore(model: nn.Module) -> nn.Module:
    """Take `accelerate` off again."""
    return swapped(model, {fast: plain for plain, fast in FAST.items()})


def swapped(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> nn.Module:
    for module in model.modules():
        module.__class__ = classes.get(type(module), type(module))
    return model
