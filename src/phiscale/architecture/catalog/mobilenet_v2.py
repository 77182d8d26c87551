"""MobileNetV2: inverted residuals with linear bottlenecks, the block that EfficientNet is made of.

Source: arXiv 1801.04381 table 2; numerics of tensorflow/models research/slim (mobilenet_v2.py): SAME padding, eps 1e-3, ReLU6.
Other sizes: timm's (1.0.31), with torch's numerics.
"""

from dataclasses import replace

from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import HALF, Preprocess
from phiscale.architecture.rounding import Rounding
from phiscale.architecture.scaling import scale_spec
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
TIMM = replace(SPEC, bn_eps=1e-5, padding="symmetric")
ENDS_STAY = Rounding(ends=False)  # timm's `d`: deeper too, but stem and head as they are


def _timm(name: str, spec: NetworkSpec, params: int, top1: float) -> Row:
    return Row(
        name=f"mobilenet_v2_{name}",
        family="mobilenet",
        design=Design(spec=spec, resolution=224, origin=Origin(baseline=f"mobilenet_v2_{name}")),
        params=params,
        top1=top1,
        source="timm 1.0.31 results",
        timm=f"mobilenetv2_{name.removeprefix('w')}",
        preprocess=Preprocess(crop=224, resize=256),
        drop_path=0.0,
        bn_momentum=0.1,
    )


ROWS = (
    Row(
        name="mobilenet_v2",
        family="mobilenet",
        design=Design(spec=SPEC, resolution=224, origin=Origin(baseline="mobilenet_v2")),
        params=3_504_872,
        top1=72.0,
        source="arXiv 1801.04381, table 4",
        timm="mobilenetv2_100",
        preprocess=Preprocess(crop=224, resize=256, interpolation="bilinear", mean=HALF, std=HALF),
        drop_path=0.0,
        bn_momentum=0.003,
    ),
    _timm("w050", replace(scale_spec(TIMM, width=0.5), head_width=1280), 1_968_680, 65.928),  # the head never shrinks
    _timm("w110d", scale_spec(TIMM, depth=1.2, width=1.1, rounding=ENDS_STAY), 4_516_520, 75.056),
    _timm("w120d", scale_spec(TIMM, depth=1.4, width=1.2, rounding=ENDS_STAY), 5_831_144, 77.3),
    _timm("w140", scale_spec(TIMM, width=1.4), 6_108_776, 76.528),
)
