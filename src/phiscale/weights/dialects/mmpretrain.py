"""mmpretrain (mmcls): TF's epsilon and padding.

Source: open-mmlab/mmpretrain mmpretrain/models/backbones/efficientnet.py, efficientnet_v2.py, models/utils/inverted_residual.py.
"""

from torch import Tensor

from phiscale.architecture import NetworkSpec, blocks
from phiscale.weights.dialects.dialect import Dialect
from phiscale.weights.numerics import TF


def modules(spec: NetworkSpec) -> dict[str, str]:
    """`layers.0` is the stem, the last the head. V1 joins a stage of stride 1 to the one before it; V2 doesn't."""
    plan = blocks(spec)
    version2 = plan[0].kind == "fused" and not plan[0].expands
    names = {"stem.0.conv": "backbone.layers.0.conv", "stem.0.bn": "backbone.layers.0.bn"}
    layer, position = 0, 0
    for block in plan:
        if block.position == 0 and (version2 or block.index == 0 or block.stride > 1):
            layer, position = layer + 1, 0
        theirs = f"backbone.layers.{layer}.{position}"
        position += 1
        match block.kind:
            case "mbconv":
                parts = {"expand": ".expand_conv", "depthwise": ".depthwise_conv", "project": ".linear_conv"}
            case "fused":
                parts = {"expand": ".conv1", "project": ".conv2"} if block.expands else {"project": ""}
            case _:
                continue
        for part, conv in parts.items():
            names[f"{block.name}.{part}.conv"] = f"{theirs}{conv}.conv"
            names[f"{block.name}.{part}.bn"] = f"{theirs}{conv}.bn"
        names[f"{block.name}.se.reduce"] = f"{theirs}.se.conv1.conv"
        names[f"{block.name}.se.expand"] = f"{theirs}.se.conv2.conv"
    head = f"backbone.layers.{layer + 1}"
    return names | {"head.conv": f"{head}.conv", "head.bn": f"{head}.bn", "classifier": "head.fc"}


def clean(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the preprocessor's mean and std, which some checkpoints carry."""
    return {key: value for key, value in state.items() if not key.startswith("data_preprocessor.")}


DIALECT = Dialect(
    name="mmpretrain",
    mark=lambda keys: "backbone.layers.0.conv.weight" in keys,
    modules=modules,
    numerics=lambda _: TF,
    clean=clean,
)
