"""ResNets of torchvision and timm, whose names are the same; squeeze-excite and deep stems are timm's.

Source: pytorch/vision torchvision/models/resnet.py; huggingface/pytorch-image-models timm/models/resnet.py.
"""

from phiscale.architecture import NetworkSpec, blocks
from phiscale.weights.dialects.dialect import Dialect
from phiscale.weights.numerics import TORCH

PARTS = {"reduce": "1", "spatial": "2", "expand": "3"}


def modules(spec: NetworkSpec) -> dict[str, str]:
    """`layerS.B`: convolutions and norms 1 to 3; the shortcut's are 0 and 1, or 1 and 2 where it averages first."""
    deep = len(spec.stem.widths) > 1
    names: dict[str, str] = {}
    for number in range(len(spec.stem.widths)):
        # a deep stem is a Sequential of convolution, norm, activation; the last norm stands outside
        last = number == len(spec.stem.widths) - 1
        names[f"stem.{number}.conv"] = f"conv1.{3 * number}" if deep else "conv1"
        names[f"stem.{number}.bn"] = "bn1" if last else f"conv1.{3 * number + 1}"
    for block in blocks(spec):
        theirs = f"layer{block.stage + 1}.{block.position}"
        for part, number in PARTS.items():
            names[f"{block.name}.{part}.conv"] = f"{theirs}.conv{number}"
            names[f"{block.name}.{part}.bn"] = f"{theirs}.bn{number}"
        first = 1 if spec.stages[block.stage].shortcut == "pool" else 0
        names[f"{block.name}.shortcut.conv"] = f"{theirs}.downsample.{first}"
        names[f"{block.name}.shortcut.bn"] = f"{theirs}.downsample.{first + 1}"
        names[f"{block.name}.se.reduce"] = f"{theirs}.se.fc1"
        names[f"{block.name}.se.expand"] = f"{theirs}.se.fc2"
    return names | {"classifier": "fc"}


DIALECT = Dialect(
    name="resnet",
    mark=lambda keys: "layer1.0.conv3.weight" in keys,
    modules=modules,
    numerics=lambda _: TORCH,
    writes=True,
)
