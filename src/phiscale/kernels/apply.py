"""Put the fused operators into a built model, and take them out again."""

from torch import nn

from phiscale.kernels.library import library
from phiscale.kernels.modules import FAST
from phiscale.kernels.pure import PureConv2d
from phiscale.nn.layers import Conv2d

PURE: dict[type[nn.Module], type[nn.Module]] = {Conv2d: PureConv2d}  # without compiled kernels


def accelerate(model: nn.Module) -> nn.Module:
    """Let `model` compute with phiscale's kernels where they are compiled, else with what pure PyTorch gains.

    The state_dict, the parameters and the function stay what they are. `restore` before export.
    """
    return swapped(model, PURE if library() is None else FAST)


def restore(model: nn.Module) -> nn.Module:
    """Take `accelerate` off again."""
    return swapped(model, {fast: plain for plain, fast in (FAST | PURE).items()})


def swapped(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> nn.Module:
    for module in model.modules():
        module.__class__ = classes.get(type(module), type(module))
    return model
