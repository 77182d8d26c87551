"""EfficientNetV2 S, M, L, XL and B0-B3: fused early stages; trained at smaller images than tested. And timm's own of its kind.

Source: arXiv 2104.00298 and google/automl efficientnetv2 (effnetv2_configs.py, README). Unlike V1, widths are rounded
without the 90 % rule, and batch norm's decay is 0.9. RW: timm 1.0.31 (models/efficientnet.py), built from the paper's figure
before the reference came out, with torch's numerics and V1's rounding; `efficientnet_test` is its smallest, for tests.
"""

from dataclasses import replace

from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import P128, Preprocess
from phiscale.architecture.rounding import Rounding
from phiscale.architecture.scaling import scale_spec
from phiscale.architecture.spec import NetworkSpec, Stage, Stem

ROUNDING = Rounding(guard=0.0)


def _spec(stem: int, *rows: tuple[int, int, int, int]) -> NetworkSpec:
    """Stages from (depth, width, stride, expand): the first three fused, the others with depthwise convolution and SE."""
    return NetworkSpec(
        stem=Stem(widths=(stem,)),
        stages=tuple(
            Stage(kind="fused", depth=depth, width=width, stride=stride, expand=expand)
            if number < 3
            else Stage(kind="mbconv", depth=depth, width=width, stride=stride, expand=expand, se=0.25)
            for number, (depth, width, stride, expand) in enumerate(rows)
        ),
    )


BASE = _spec(32, (1, 16, 1, 1), (2, 32, 2, 4), (2, 48, 2, 4), (3, 96, 2, 4), (5, 112, 1, 6), (8, 192, 2, 6))
S = _spec(24, (2, 24, 1, 1), (4, 48, 2, 4), (4, 64, 2, 4), (6, 128, 2, 4), (9, 160, 1, 6), (15, 256, 2, 6))
M = _spec(24, (3, 24, 1, 1), (5, 48, 2, 4), (5, 80, 2, 4), (7, 160, 2, 4), (14, 176, 1, 6), (18, 304, 2, 6), (5, 512, 1, 6))
L = _spec(32, (4, 32, 1, 1), (7, 64, 2, 4), (7, 96, 2, 4), (10, 192, 2, 4), (19, 224, 1, 6), (25, 384, 2, 6), (7, 640, 1, 6))
XL = _spec(32, (4, 32, 1, 1), (8, 64, 2, 4), (8, 96, 2, 4), (16, 192, 2, 4), (24, 256, 1, 6), (32, 512, 2, 6), (8, 640, 1, 6))
RW = replace(
    S,
    bn_eps=1e-5,
    padding="symmetric",
    head_width=1792,
    stages=(replace(S.stages[0], split=True), *S.stages[1:5], replace(S.stages[5], width=272)),
)
_WIDER = scale_spec(RW, depth=1.2, width=1.2)
# depth 1.2, but 1.6 in the last two stages
RW_M = replace(_WIDER, stages=(*_WIDER.stages[:4], replace(_WIDER.stages[4], depth=15), replace(_WIDER.stages[5], depth=24)))
RW_T = replace(scale_spec(S, depth=0.9, width=0.8), bn_eps=1e-5, padding="symmetric")
TEST = replace(
    RW_T,
    stem=Stem(widths=(24,)),
    head_width=256,
    stages=(
        Stage(kind="fused", depth=1, width=16),
        Stage(kind="fused", depth=1, width=24, stride=2, expand=4),
        Stage(kind="fused", depth=1, width=32, stride=2, expand=4),
        Stage(kind="mbconv", depth=1, width=48, stride=2, expand=4, se=0.25),
        Stage(kind="mbconv", depth=1, width=64, stride=2, expand=4, se=0.25),
    ),
)


def _row(
    name: str, spec: NetworkSpec, train: int, resolution: int, dropout: float, params: int, top1: float, preprocess: Preprocess, source: str
) -> Row:
    return Row(
        name=f"efficientnetv2_{name}",
        family="efficientnetv2",
        design=Design(spec=spec, resolution=resolution, rounding=ROUNDING, origin=Origin(baseline=f"efficientnetv2_{name}")),
        params=params,
        top1=top1,
        source=source,
        train_resolution=train,
        dropout=dropout,
        bn_momentum=0.1,
        preprocess=preprocess,
    )


def _large(name: str, spec: NetworkSpec, train: int, resolution: int, dropout: float, params: int, top1: float, source: str) -> Row:
    # from 320 px on the reference tests whole images, squashed: no crop
    preprocess = Preprocess(crop=resolution, resize=resolution, interpolation="bilinear", mean=P128, std=P128)
    return _row(name, spec, train, resolution, dropout, params, top1, preprocess, source)


def _b(name: str, width: float, depth: float, train: int, resolution: int, dropout: float, params: int, top1: float) -> Row:
    spec = scale_spec(BASE, depth=depth, width=width, rounding=ROUNDING)
    preprocess = Preprocess(crop=resolution, resize=resolution + 32)
    return _row(name, spec, train, resolution, dropout, params, top1, preprocess, "google/automl efficientnetv2 README")


def _timm(
    name: str, spec: NetworkSpec, train: int, preprocess: Preprocess, dropout: float, params: int, top1: float, timm: str = ""
) -> Row:
    return Row(
        name=name,
        family="efficientnetv2_rw",
        design=Design(spec=spec, resolution=preprocess.crop, origin=Origin(baseline=name)),
        params=params,
        top1=top1,
        source="timm 1.0.31 results",
        train_resolution=train,
        timm=timm,
        dropout=dropout,
        bn_momentum=0.1,
        preprocess=preprocess,
    )


ROWS = (
    _large("s", S, 300, 384, 0.2, 21_458_488, 83.9, "arXiv 2104.00298, table 7"),
    _large("m", M, 384, 480, 0.3, 54_139_356, 85.2, "google/automl efficientnetv2 README"),
    _large("l", L, 384, 480, 0.4, 118_515_272, 85.7, "arXiv 2104.00298, table 7"),
    _large("xl", XL, 384, 512, 0.4, 208_119_808, 87.2, "google/automl efficientnetv2 README, ImageNet-21k first"),
    _b("b0", 1.0, 1.0, 192, 224, 0.2, 7_139_704, 78.7),
    _b("b1", 1.0, 1.1, 192, 240, 0.2, 8_141_052, 79.8),
    _b("b2", 1.1, 1.2, 208, 260, 0.3, 10_096_086, 80.5),
    _b("b3", 1.2, 1.4, 240, 300, 0.3, 14_358_406, 82.1),
    _timm("efficientnetv2_rw_t", RW_T, 224, Preprocess(crop=288, resize=288), 0.2, 13_649_388, 82.354),
    _timm("efficientnetv2_rw_s", RW, 288, Preprocess(crop=384, resize=384), 0.2, 23_941_296, 83.83),
    _timm("efficientnetv2_rw_m", RW_M, 320, Preprocess(crop=416, resize=416), 0.3, 53_236_442, 84.83),
    _timm("efficientnet_test", TEST, 160, Preprocess(crop=160, resize=168), 0.0, 356_196, 46.506, timm="test_efficientnet"),
)
