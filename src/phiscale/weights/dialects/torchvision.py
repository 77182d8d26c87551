"""torchvision's EfficientNets. Always symmetric padding; its ports of TF weights (B5-B7, V2) keep TF's epsilon.

Source: pytorch/vision torchvision/models/efficientnet.py.
"""

from phiscale.architecture import NetworkSpec, blocks
from phiscale.weights.dialects.dialect import Dialect, names_of
from phiscale.weights.numerics import TF_PORT, TORCH, Numerics

B0_TO_B4 = frozenset(f"efficientnet_b{number}" for number in range(5))
PORTS = frozenset([f"efficientnet_b{number}" for number in range(5, 8)] + [f"efficientnetv2_{size}" for size in "sml"])


def modules(spec: NetworkSpec) -> dict[str, str]:
    """`features.0` is the stem, `features.STAGE + 1.POSITION.block.N` the N-th part of a block; squeeze-excite is a part."""
    names = {"stem.0.conv": "features.0.0", "stem.0.bn": "features.0.1"}
    for block in blocks(spec):
        theirs = f"features.{block.stage + 1}.{block.position}.block"
        parts: tuple[str, ...]
        match block.kind:
            case "mbconv":
                parts = ("expand", "depthwise", "se", "project") if block.expands else ("depthwise", "se", "project")
            case "fused":
                parts = ("expand", "project") if block.expands else ("project",)
            case _:
                continue
        for number, part in enumerate(part for part in parts if part != "se" or block.w_se):
            if part == "se":
                names[f"{block.name}.se.reduce"] = f"{theirs}.{number}.fc1"
                names[f"{block.name}.se.expand"] = f"{theirs}.{number}.fc2"
            else:
                names[f"{block.name}.{part}.conv"] = f"{theirs}.{number}.0"
                names[f"{block.name}.{part}.bn"] = f"{theirs}.{number}.1"
    head = f"features.{len(spec.stages) + 1}"
    return names | {"head.conv": f"{head}.0", "head.bn": f"{head}.1", "classifier": "classifier.1"}


def numerics(spec: NetworkSpec) -> Numerics | None:
    names = names_of(spec)
    if B0_TO_B4.intersection(names):
        return TORCH
    return TF_PORT if PORTS.intersection(names) else None


DIALECT = Dialect(
    name="torchvision",
    mark=lambda keys: "features.0.0.weight" in keys and any(".block." in key for key in keys),
    modules=modules,
    numerics=numerics,
    could_be=lambda _: "a torchvision model with its own epsilon (1e-5) or one ported from TF (1e-3)",
    writes=True,
)
