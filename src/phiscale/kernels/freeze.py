"""Norms that keep their statistics, in a built model and out again; accelerated or not."""

from torch import nn

from phiscale.kernels.apply import swapped
from phiscale.kernels.frozen_norm import FrozenConvNorm
from phiscale.kernels.modules import FastConvNorm, FastFrozenConvNorm
from phiscale.nn.layers import ConvNorm

_FROZEN: dict[type[nn.Module], type[nn.Module]] = {ConvNorm: FrozenConvNorm, FastConvNorm: FastFrozenConvNorm}


def freeze_norms(model: nn.Module) -> nn.Module:
    """Make every ConvNorm of `model` keep its statistics; the state_dict stays as it is."""
    return swapped(model, _FROZEN)


def unfreeze_norms(model: nn.Module) -> nn.Module:
    """Take `freeze_norms` off again."""
    return swapped(model, {frozen: plain for plain, frozen in _FROZEN.items()})
