"""efficientnet_pytorch (lukemelas), and efficientnet_lite_pytorch, which took over its names.

Source: lukemelas/EfficientNet-PyTorch efficientnet_pytorch/model.py: always TF's epsilon and padding.
"""

from phiscale.architecture import NetworkSpec, blocks
from phiscale.weights.dialects.dialect import Dialect
from phiscale.weights.numerics import TF


def modules(spec: NetworkSpec) -> dict[str, str]:
    """Blocks are numbered through; a block's norms are 0 expand, 1 depthwise, 2 project, also where it doesn't expand."""
    names = {"stem.0.conv": "_conv_stem", "stem.0.bn": "_bn0"}
    for block in blocks(spec):
        if block.kind != "mbconv":
            continue  # the project has no other kind
        theirs = f"_blocks.{block.index}"
        for number, part in enumerate(("expand", "depthwise", "project")):
            names[f"{block.name}.{part}.conv"] = f"{theirs}._{part}_conv"
            names[f"{block.name}.{part}.bn"] = f"{theirs}._bn{number}"
        names[f"{block.name}.se.reduce"] = f"{theirs}._se_reduce"
        names[f"{block.name}.se.expand"] = f"{theirs}._se_expand"
    return names | {"head.conv": "_conv_head", "head.bn": "_bn1", "classifier": "_fc"}


DIALECT = Dialect(
    name="efficientnet_pytorch",
    mark=lambda keys: "_conv_stem.weight" in keys,
    modules=modules,
    numerics=lambda _: TF,
    writes=True,
)
