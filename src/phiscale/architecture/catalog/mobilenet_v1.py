"""MobileNetV1: depthwise-separable convolutions, no residuals, no head. Wider, and with a head: timm's, with torch's numerics.

Source: arXiv 1704.04861 table 8; numerics of tensorflow/models research/slim (mobilenet_v1.py): SAME padding, eps 1e-3, ReLU6.
"""

from dataclasses import replace

from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import HALF, Preprocess
from phiscale.architecture.scaling import scale_spec
from phiscale.architecture.spec import NetworkSpec, Stage


def _stage(depth: int, width: int, stride: int) -> Stage:
    return Stage(kind="separable", depth=depth, width=width, stride=stride, skip=False)


SPEC = NetworkSpec(
    activation="relu6",
    head_width=0,
    stages=(_stage(1, 64, 1), _stage(2, 128, 2), _stage(2, 256, 2), _stage(6, 512, 2), _stage(2, 1024, 2)),
)
TIMM = replace(SPEC, bn_eps=1e-5, padding="symmetric")


def _timm(name: str, spec: NetworkSpec, resize: int, params: int, top1: float, timm: str) -> Row:
    return Row(
        name=f"mobilenet_v1_{name}",
        family="mobilenet",
        design=Design(spec=spec, resolution=256, origin=Origin(baseline=f"mobilenet_v1_{name}")),
        params=params,
        top1=top1,
        source="timm 1.0.31 results",
        train_resolution=224,
        timm=timm,
        preprocess=Preprocess(crop=256, resize=resize, mean=HALF, std=HALF),
        drop_path=0.0,
        bn_momentum=0.1,
    )


ROWS = (
    Row(
        name="mobilenet_v1",
        family="mobilenet",
        design=Design(spec=SPEC, resolution=224, origin=Origin(baseline="mobilenet_v1")),
        params=4_231_976,
        top1=70.6,
        source="arXiv 1704.04861, table 8",
        timm="mobilenetv1_100",
        preprocess=Preprocess(crop=224, resize=256, interpolation="bilinear", mean=HALF, std=HALF),
        dropout=0.001,
        drop_path=0.0,
        bn_momentum=0.003,
    ),
    _timm("h", replace(TIMM, head_width=1024), 269, 5_282_600, 76.598, "mobilenetv1_100h"),
    _timm("w125", scale_spec(TIMM, width=1.25), 256, 6_270_840, 77.612, "mobilenetv1_125"),
)
