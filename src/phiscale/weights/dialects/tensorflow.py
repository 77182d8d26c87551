"""The official TF checkpoints (tensorflow/tpu EfficientNet V1, Lite, EdgeTPU, CondConv; google/automl V2), read by tf_checkpoint.py.

Source: tensorflow/tpu models/official/efficientnet/efficientnet_model.py and condconv/condconv_layers.py; google/automl
efficientnetv2/effnetv2_model.py.
"""

import re

from torch import Tensor

from phiscale.architecture import NetworkSpec, blocks
from phiscale.errors import WeightsError
from phiscale.weights.dialects.dialect import Dialect, Leaves, from_hwio, tf_leaf, to_hwio
from phiscale.weights.numerics import TF

STEM = "stem/conv2d/kernel"
AVERAGE = "/ExponentialMovingAverage"
CLASSES_WITH_BACKGROUND = 1001  # class 0 is "background"
# Keras numbers these layers over the whole network, not inside a block
MIXED = re.compile(r"(?:.*/)?(blocks_\d+)/(?:.*/)?(?:depthwise_)?cond_conv2d(?:_(\d+))?/((?:depthwise_)?condconv_kernel)")


def modules(spec: NetworkSpec) -> dict[str, str]:
    """Inside a block, convolutions and norms are numbered apart, in order of execution, the first without a number."""
    norm = "tpu_batch_normalization"
    names = {"stem.0.conv": "stem/conv2d", "stem.0.bn": f"stem/{norm}"}
    for block in blocks(spec):
        theirs = f"blocks_{block.index}"
        match block.kind:
            case "mbconv":
                parts = ("expand", "depthwise", "project") if block.expands else ("depthwise", "project")
            case "fused":
                parts = ("expand", "project") if block.expands else ("project",)
            case _:
                continue
        convs = 0
        for norms, part in enumerate(parts):
            if part == "depthwise":
                names[f"{block.name}.{part}.conv"] = f"{theirs}/depthwise_conv2d"
            else:
                names[f"{block.name}.{part}.conv"] = f"{theirs}/conv2d" + (f"_{convs}" if convs else "")
                convs += 1
            names[f"{block.name}.{part}.bn"] = f"{theirs}/{norm}" + (f"_{norms}" if norms else "")
        names[f"{block.name}.routing"] = f"{theirs}/dense"
        names[f"{block.name}.se.reduce"] = f"{theirs}/se/conv2d"
        names[f"{block.name}.se.expand"] = f"{theirs}/se/conv2d_1"
    return names | {"head.conv": "head/conv2d", "head.bn": f"head/{norm}", "classifier": "head/dense"}


def leaf(module: str, ours: str) -> str | None:
    return "depthwise_kernel" if module.endswith("depthwise.conv") and ours == "weight" else tf_leaf(module, ours)


def clean(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averaged variables where there are any, without the network's own prefix, optimiser slots, and the background class."""
    prefix = next(key for key in state if key.endswith(STEM)).removesuffix(STEM)
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    last = {"kernel", "depthwise_kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"}
    last |= {"condconv_kernel", "depthwise_condconv_kernel"}
    plain = {key: value for key, value in inside.items() if key.rpartition("/")[2] in last}
    averaged = {key: inside[key + AVERAGE] for key in plain if key + AVERAGE in inside}
    if averaged:
        # the statistics of a norm may lack an average (TF then restores them plain); a kernel without one is a mixed-up file
        if lacks := [key for key in plain if key not in averaged and "/moving_" not in key]:
            raise WeightsError(f"the checkpoint has moving averages, but none of {prefix}{lacks[0]}")
        plain |= averaged
    if plain.get("head/dense/bias", Tensor()).shape == (CLASSES_WITH_BACKGROUND,):
        plain["head/dense/bias"] = plain["head/dense/bias"][1:]
        plain["head/dense/kernel"] = plain["head/dense/kernel"][:, 1:]
    return mixed(plain)


def mixed(plain: dict[str, Tensor]) -> dict[str, Tensor]:
    """Kernels that are mixed from experts, each a flat HWIO (experts, numbers) -> (experts, out, in, k, k), named as plain ones are."""
    found = [(match[1], match[3], int(match[2] or 0), key) for key in plain if (match := MIXED.fullmatch(key))]
    for block, leaf, _, key in sorted(found):
        flat, norms = plain.pop(key), f"{block}/tpu_batch_normalization"
        inner, out = plain.get(f"{norms}/gamma"), plain.get(f"{norms}_2/gamma")
        if inner is None or out is None:
            raise WeightsError(f"{key} has no batch norms beside it that say its width")
        experts, w_mid, w_out = flat.shape[0], len(inner), len(out)
        if leaf == "depthwise_condconv_kernel":
            kernel = round((flat.shape[1] / w_mid) ** 0.5)
            plain[f"{block}/depthwise_conv2d/depthwise_kernel"] = flat.reshape(experts, kernel, kernel, w_mid, 1).permute(0, 3, 4, 1, 2)
        else:  # the first is the expansion, the second the projection
            first = f"{block}/conv2d/kernel" not in plain
            name, shape = ("conv2d", (-1, w_mid)) if first else ("conv2d_1", (w_mid, w_out))
            plain[f"{block}/{name}/kernel"] = flat.reshape(experts, 1, 1, *shape).permute(0, 4, 3, 1, 2)
    return plain


DIALECT = Dialect(
    name="tensorflow",
    mark=lambda keys: any(key.endswith(STEM) for key in keys),
    modules=modules,
    numerics=lambda _: TF,
    leaves=Leaves(name=leaf, read=from_hwio, write=to_hwio, joint="/"),
    clean=clean,
)
