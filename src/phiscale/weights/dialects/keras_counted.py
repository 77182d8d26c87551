"""Keras 3's own file (`.weights.h5`, and the one inside `.keras`): layers by class and number, `layers/conv2d_12/vars/0`.

Layers of a class are numbered along the network. Source: keras-team/keras keras/src/saving/saving_lib.py.
"""

from collections import Counter

from torch import Tensor

from phiscale.architecture import NetworkSpec
from phiscale.architecture.layout import layout
from phiscale.weights.dialects.dialect import Dialect, Leaves, from_hwio, to_hwio
from phiscale.weights.numerics import TF

_NUMBERS = {"weight": "0", "bias": "1", "running_mean": "2", "running_var": "3"}


def modules(spec: NetworkSpec) -> dict[str, str]:
    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    for module in dict.fromkeys(key.rpartition(".")[0] for key in layout(spec)):
        if module.endswith(".bn"):
            kind = "batch_normalization"
        elif module.endswith("depthwise.conv"):
            kind = "depthwise_conv2d"
        else:
            kind = "dense" if module == "classifier" else "conv2d"
        names[module] = f"layers/{kind}" + (f"_{counts[kind]}" if counts[kind] else "") + "/vars"
        counts[kind] += 1
    return {"classifier": "layers/dense/vars"} | names


def clean(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.startswith("layers/") and not key.startswith("layers/normalization")}


DIALECT = Dialect(
    name="keras_counted",
    mark=lambda keys: "layers/conv2d/vars/0" in keys,
    modules=modules,
    numerics=lambda _: TF,
    leaves=Leaves(name=lambda _, leaf: _NUMBERS.get(leaf), read=from_hwio, write=to_hwio, joint="/"),
    clean=clean,
)
