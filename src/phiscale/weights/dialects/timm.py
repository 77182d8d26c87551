"""timm, and geffnet, whose names are the same. Each network exists twice: as `NAME` with torch's numerics and as `tf_NAME` with TF's.

Source: huggingface/pytorch-image-models timm/models/efficientnet.py and _efficientnet_blocks.py.
"""

from phiscale.architecture import NetworkSpec, blocks
from phiscale.weights.dialects.dialect import TF, Dialect, Numerics, names_of

# timm has these as tf_ models alone
ONLY_TF = frozenset(f"efficientnetv2_b{number}" for number in range(4))


def modules(spec: NetworkSpec) -> dict[str, str]:
    """Norms count up in order of execution, so that a block that doesn't expand begins with `conv_dw, bn1`."""
    names = {"stem.0.conv": "conv_stem", "stem.0.bn": "bn1"}
    for block in blocks(spec):
        theirs = f"blocks.{block.stage}.{block.position}"
        match block.kind:
            case "mbconv" if block.expands:
                parts = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
            case "mbconv" | "separable":
                parts = {"depthwise": "conv_dw", "project": "conv_pw"}
            case "fused":
                parts = {"expand": "conv_exp", "project": "conv_pwl"} if block.expands else {"project": "conv"}
            case _:
                continue  # ResNets have their own names: resnet.py
        for number, (part, conv) in enumerate(parts.items(), 1):
            names[f"{block.name}.{part}.conv"] = f"{theirs}.{conv}"
            names[f"{block.name}.{part}.bn"] = f"{theirs}.bn{number}"
        names[f"{block.name}.se.reduce"] = f"{theirs}.se.conv_reduce"
        names[f"{block.name}.se.expand"] = f"{theirs}.se.conv_expand"
    return names | {"head.conv": "conv_head", "head.bn": "bn2", "classifier": "classifier"}


def numerics(spec: NetworkSpec) -> Numerics | None:
    return TF if ONLY_TF.intersection(names_of(spec)) else None


def could_be(spec: NetworkSpec) -> str:
    name = next(iter(names_of(spec)), "model")
    return f"timm's {name} (torch's numerics) or tf_{name} (TF's)"


DIALECT = Dialect(
    name="timm",
    mark=lambda keys: "conv_stem.weight" in keys and any(key.startswith("blocks.0.0.") for key in keys),
    modules=modules,
    numerics=numerics,
    could_be=could_be,
    writes=True,
)
