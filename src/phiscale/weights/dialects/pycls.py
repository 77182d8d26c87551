"""pycls (`EN-B0_dds_8gpu.pyth` and kin): torch's epsilon, symmetric padding.

Source: facebookresearch/pycls pycls/models/effnet.py, blocks.py.
"""

from phiscale.architecture import NetworkSpec, blocks
from phiscale.weights.dialects.dialect import Dialect
from phiscale.weights.numerics import TORCH

PARTS = {"expand": "exp", "depthwise": "dwise", "project": "lin_proj"}


def modules(spec: NetworkSpec) -> dict[str, str]:
    """Stages and blocks count from 1; the norm of a convolution `x` is `x_bn`; the gate is a Sequential, its convolutions 0 and 2."""
    names = {"stem.0.conv": "stem.conv", "stem.0.bn": "stem.bn"}
    for block in blocks(spec):
        if block.kind != "mbconv":
            continue
        theirs = f"s{block.stage + 1}.b{block.position + 1}"
        for part, conv in PARTS.items():
            names[f"{block.name}.{part}.conv"] = f"{theirs}.{conv}"
            names[f"{block.name}.{part}.bn"] = f"{theirs}.{conv}_bn"
        names[f"{block.name}.se.reduce"] = f"{theirs}.se.f_ex.0"
        names[f"{block.name}.se.expand"] = f"{theirs}.se.f_ex.2"
    return names | {"head.conv": "head.conv", "head.bn": "head.conv_bn", "classifier": "head.fc"}


DIALECT = Dialect(
    name="pycls",
    mark=lambda keys: "stem.conv.weight" in keys and "s1.b1.dwise.weight" in keys,
    modules=modules,
    numerics=lambda _: TORCH,
)
