"""MobileNetV1: depthwise-separable convolutions, no residuals, no head.

Source: arXiv 1704.04861 table 8; numerics of tensorflow/models research/slim (mobilenet_v1.py): SAME padding, eps 1e-3, ReLU6.
"""

from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import HALF, Preprocess
from phiscale.architecture.spec import NetworkSpec, Stage


def _stage(depth: int, width: int, stride: int) -> Stage:
    return Stage(kind="separable", depth=depth, width=width, stride=stride, skip=False)


SPEC = NetworkSpec(
    activation="relu6",
    head_width=0,
    stages=(_stage(1, 64, 1), _stage(2, 128, 2), _stage(2, 256, 2), _stage(6, 512, 2), _stage(2, 1024, 2)),
)

ROWS = (
    Row(
        name="mobilenet_v1",
        family="mobilenet",
        design=Design(spec=SPEC, resolution=224, origin=Origin(baseline="mobilenet_v1")),
        params=4_231_976,
        top1=70.6,
        source="arXiv 1704.04861, table 8",
        preprocess=Preprocess(crop=224, resize=256, interpolation="bilinear", mean=HALF, std=HALF),
        dropout=0.001,
        drop_path=0.0,
        bn_momentum=0.003,
    ),
)
