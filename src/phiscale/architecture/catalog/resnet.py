"""ResNet-50, 101, 152, and three of their kin: Wide ResNet-50-2, SE-ResNet-50, XResNet-50 (ResNet-50-D).

Source: arXiv 1512.03385, with the stride in the 3x3 convolution (v1.5) and the numerics of torchvision (symmetric padding,
eps 1e-5); Wide 1605.07146, SE 1709.01507, XResNet 1812.01187 and fastai xresnet.py.
"""

from dataclasses import replace

from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import Preprocess
from phiscale.architecture.spec import NetworkSpec, Stage, Stem


def _spec(*depths: int) -> NetworkSpec:
    return NetworkSpec(
        activation="relu",
        bn_eps=1e-5,
        padding="symmetric",
        stem=Stem(widths=(64,), kernel=7, pool=True),
        head_width=0,
        stages=tuple(
            Stage(kind="bottleneck", depth=depth, width=256 << number, stride=1 if number == 0 else 2, expand=0.25)
            for number, depth in enumerate(depths)
        ),
    )


R50, R101, R152 = _spec(3, 4, 6, 3), _spec(3, 4, 23, 3), _spec(3, 8, 36, 3)
WIDE = replace(R50, stages=tuple(replace(stage, expand=0.5) for stage in R50.stages))
SE = replace(R50, stages=tuple(replace(stage, se=1 / 16) for stage in R50.stages))
X50 = replace(
    R50,
    stem=Stem(widths=(32, 32, 64), pool=True),
    stages=tuple(replace(stage, shortcut="pool") for stage in R50.stages),
)


def _row(name: str, spec: NetworkSpec, params: int, top1: float, source: str, timm: str = "") -> Row:
    return Row(
        name=name,
        family="resnet",
        design=Design(spec=spec, resolution=224, origin=Origin(baseline=name)),
        params=params,
        top1=top1,
        source=source,
        timm=timm,
        preprocess=Preprocess(crop=224, resize=256, interpolation="bilinear"),
        dropout=0.0,
        drop_path=0.0,
        bn_momentum=0.1,
    )


_TORCHVISION = "torchvision 0.29, IMAGENET1K_V1"
ROWS = (
    _row("resnet50", R50, 25_557_032, 76.13, _TORCHVISION),
    _row("resnet101", R101, 44_549_160, 77.374, _TORCHVISION),
    _row("resnet152", R152, 60_192_808, 78.312, _TORCHVISION),
    _row("wide_resnet50_2", WIDE, 68_883_240, 78.468, _TORCHVISION),
    _row("seresnet50", SE, 28_088_024, 76.71, "arXiv 1709.01507, table 2"),
    _row("xresnet50", X50, 25_576_264, 77.16, "arXiv 1812.01187, table 5 (ResNet-50-D)", timm="resnet50d"),
)
