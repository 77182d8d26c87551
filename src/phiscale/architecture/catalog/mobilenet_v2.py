"""MobileNetV2: inverted residuals with linear bottlenecks, the block that EfficientNet is made of.

Source: arXiv 1801.04381 table 2; numerics of tensorflow/models research/slim (mobilenet_v2.py): SAME padding, eps 1e-3, ReLU6.
"""

from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import HALF, Preprocess
from phiscale.architecture.spec import NetworkSpec, Stage


def _stage(depth: int, width: int, stride: int, expand: int = 6) -> Stage:
    return Stage(kind="mbconv", depth=depth, width=width, stride=stride, expand=expand)


SPEC = NetworkSpec(
    activation="relu6",
    stages=(
        _stage(1, 16, 1, 1),
        _stage(2, 24, 2),
        _stage(3, 32, 2),
        _stage(4, 64, 2),
        _stage(3, 96, 1),
        _stage(3, 160, 2),
        _stage(1, 320, 1),
    ),
)

ROWS = (
    Row(
        name="mobilenet_v2",
        family="mobilenet",
        design=Design(spec=SPEC, resolution=224, origin=Origin(baseline="mobilenet_v2")),
        params=3_504_872,
        top1=72.0,
        source="arXiv 1801.04381, table 4",
        preprocess=Preprocess(crop=224, resize=256, interpolation="bilinear", mean=HALF, std=HALF),
        drop_path=0.0,
        bn_momentum=0.003,
    ),
)
