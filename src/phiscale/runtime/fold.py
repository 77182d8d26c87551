"""Batch norms folded into the convolutions before them: the weights that every runtime's graph holds."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from phiscale.architecture.layout import difference, layout
from phiscale.architecture.spec import NetworkSpec
from phiscale.errors import ArgumentError, WeightsError


def check_foldable(spec: NetworkSpec) -> None:
    """ArgumentError says which stage mixes its convolutions for each image (`experts`): those can't be folded."""
    for number, stage in enumerate(spec.stages, 1):
        if stage.experts:
            raise ArgumentError(
                f"stage {number}: experts = {stage.experts} (CondConv) mixes kernels for each image, which a bundle can't hold; "
                "take a network without experts"
            )


def folded(spec: NetworkSpec, state: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
    """Weight and bias of every convolution and linear layer, under the layer's name: `stem.0.weight`, `stem.0.bias`.

    Computed in float64, returned as new float32 arrays; `state` (the keys of `layout(spec)`) stays as it is.
    WeightsError names the first key that is missing, has no place, has another shape, or is not finite; ArgumentError as `check_foldable`.
    """
    check_foldable(spec)
    if said := difference({key: np.shape(value) for key, value in state.items()}, spec):
        raise WeightsError(f"these weights are not this network's: {said}")
    made: dict[str, NDArray[np.float32]] = {}
    for key in layout(spec):
        if key.endswith(".conv.weight"):
            name = key.removesuffix(".conv.weight")
            gamma, beta, mean, variance = (
                np.asarray(state[f"{name}.bn.{part}"], np.float64) for part in ("weight", "bias", "running_mean", "running_var")
            )
            with np.errstate(invalid="ignore"):  # a negative variance becomes NaN and is refused below
                factor = gamma / np.sqrt(variance + spec.bn_eps)
            made[f"{name}.weight"] = (np.asarray(state[key], np.float64) * factor[:, None, None, None]).astype(np.float32)
            made[f"{name}.bias"] = (beta - mean * factor).astype(np.float32)
        elif ".bn." not in key:
            made[key] = np.array(state[key], np.float32)
    for name, values in made.items():
        if not np.isfinite(values).all():
            raise WeightsError(f"the weights of {name.rpartition('.')[0]} are not finite (with its batch norm folded in): a broken file?")
    return made
