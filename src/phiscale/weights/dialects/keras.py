"""Keras Applications, by the names of their layers (`.h5`): published files, `model.save("x.h5")`, and qubvel's, alike.

Its networks normalise inside; those layers are left out: phiscale's input is normalised outside, as the weights' record says.
Source: keras-team/keras keras/src/applications/efficientnet.py, efficientnet_v2.py; qubvel/efficientnet efficientnet/model.py.
"""

from torch import Tensor

from phiscale.architecture import NetworkSpec, blocks
from phiscale.weights.dialects.dialect import Dialect, Leaves, from_hwio, tf_leaf, to_hwio
from phiscale.weights.numerics import TF


def modules(spec: NetworkSpec) -> dict[str, str]:
    """`block2b_expand_conv` is the expansion of the second block of the second stage; V2's depthwise is `dwconv2`."""
    plan = blocks(spec)
    depthwise = "dwconv2" if any(block.kind == "fused" for block in plan) else "dwconv"
    names = {"stem.0.conv": "stem_conv", "stem.0.bn": "stem_bn"}
    for block in plan:
        if block.kind not in ("mbconv", "fused"):
            continue
        theirs = f"block{block.stage + 1}{letters(block.position)}"
        for part, conv, norm in (
            ("expand", "expand_conv", "expand_bn"),
            ("depthwise", depthwise, "bn"),
            ("project", "project_conv", "project_bn"),
        ):
            names[f"{block.name}.{part}.conv"] = f"{theirs}_{conv}"
            names[f"{block.name}.{part}.bn"] = f"{theirs}_{norm}"
        names[f"{block.name}.se.reduce"] = f"{theirs}_se_reduce"
        names[f"{block.name}.se.expand"] = f"{theirs}_se_expand"
    return names | {"head.conv": "top_conv", "head.bn": "top_bn", "classifier": "predictions"}


def letters(position: int) -> str:
    """The project writes chr(position + 97), beyond `z` too (V2-XL has stages of 32 blocks: `block6{a`)."""
    return chr(position + 97)


def clean(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the layers that normalise the input; old and new names of the depthwise kernel and the classifier made one."""
    cleaned: dict[str, Tensor] = {}
    for key, value in state.items():
        layer, _, leaf = key.partition("/")
        if not layer.startswith(("normalization", "rescaling")):
            leaf = "kernel" if leaf == "depthwise_kernel" else leaf
            cleaned[f"{'predictions' if layer == 'probs' else layer}/{leaf}"] = value
    return cleaned


DIALECT = Dialect(
    name="keras",
    mark=lambda keys: "stem_conv/kernel" in keys,
    modules=modules,
    numerics=lambda _: TF,
    leaves=Leaves(name=tf_leaf, read=from_hwio, write=to_hwio, joint="/"),
    clean=clean,
)
