"""Put the compiled operators into a built model, and take them out again."""

from torch import nn

from phiscale.kernels.depthwise import FastDepthwise, replaceable
from phiscale.kernels.library import library
from phiscale.nn.layers import Conv2d


def accelerate(model: nn.Module) -> nn.Module:
    """Let `model` compute its depthwise convolutions with phiscale's kernels, where they are compiled; else nothing changes.

    The state_dict, the parameters and the function stay what they are. `restore` before export.
    """
    if library() is not None:
        for module in model.modules():
            if replaceable(module):
                module.__class__ = FastDepthwise
    return model


def restore(model: nn.Module) -> nn.Module:
    """Take `accelerate` off again."""
    for module in model.modules():
        if type(module) is FastDepthwise:
            module.__class__ = Conv2d  # pyright: ignore[reportAttributeAccessIssue]
    return model
