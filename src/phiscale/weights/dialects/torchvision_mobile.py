"""torchvision's MobileNetV2 and MnasNet: torch's numerics.

Source: pytorch/vision torchvision/models/mobilenetv2.py, mnasnet.py.
"""

from phiscale.architecture import NetworkSpec, blocks
from phiscale.weights.dialects.dialect import Dialect
from phiscale.weights.numerics import TORCH


def mobilenet_v2(spec: NetworkSpec) -> dict[str, str]:
    """`features.N` counts the stem, the blocks and the head; inside a block a norm stands beside its convolution but for the last."""
    names = {"stem.0.conv": "features.0.0", "stem.0.bn": "features.0.1"}
    plan = blocks(spec)
    for block in plan:
        if block.kind != "mbconv":
            continue
        theirs = f"features.{block.index + 1}.conv"
        widening = ("expand", "depthwise") if block.expands else ("depthwise",)
        for number, part in enumerate(widening):
            names[f"{block.name}.{part}.conv"] = f"{theirs}.{number}.0"
            names[f"{block.name}.{part}.bn"] = f"{theirs}.{number}.1"
        names[f"{block.name}.project.conv"] = f"{theirs}.{len(widening)}"
        names[f"{block.name}.project.bn"] = f"{theirs}.{len(widening) + 1}"
    head = f"features.{len(plan) + 1}"
    return names | {"head.conv": f"{head}.0", "head.bn": f"{head}.1", "classifier": "classifier.1"}


def mnasnet(spec: NetworkSpec) -> dict[str, str]:
    """One Sequential: stem 0-1, the block that doesn't expand 3-7, then a Sequential a stage, and the head."""
    names = {"stem.0.conv": "layers.0", "stem.0.bn": "layers.1"}
    for block in blocks(spec):
        if block.kind != "mbconv":
            continue
        inside = f"layers.{7 + block.stage}.{block.position}.layers"
        places = {"expand": (inside, 0), "depthwise": (inside, 3), "project": (inside, 6)}
        if not block.expands:
            places = {"depthwise": ("layers", 3), "project": ("layers", 6)}
        for part, (theirs, number) in places.items():
            names[f"{block.name}.{part}.conv"] = f"{theirs}.{number}"
            names[f"{block.name}.{part}.bn"] = f"{theirs}.{number + 1}"
    head = 7 + len(spec.stages)
    return names | {"head.conv": f"layers.{head}", "head.bn": f"layers.{head + 1}", "classifier": "classifier.1"}


MOBILENET_V2 = Dialect(
    name="torchvision_mobilenet",
    mark=lambda keys: "features.1.conv.0.0.weight" in keys,
    modules=mobilenet_v2,
    numerics=lambda _: TORCH,
    writes=True,
)
MNASNET = Dialect(
    name="torchvision_mnasnet",
    mark=lambda keys: "layers.8.0.layers.0.weight" in keys,
    modules=mnasnet,
    numerics=lambda _: TORCH,
    writes=True,
)
