"""MnasNet-A1 (squeeze-excite in three stages), B1 (none) and small: the search that EfficientNet-B0 came from.

Source: arXiv 1807.11626 and tensorflow/tpu models/official/mnasnet (mnasnet_models.py, README). Other widths, and small as it was
trained: timm's and torchvision's, with torch's numerics.
"""

from dataclasses import replace

from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import Preprocess
from phiscale.architecture.scaling import scale_spec
from phiscale.architecture.spec import NetworkSpec, Stage, Stem


def _spec(*rows: tuple[int, int, int, int, int, float]) -> NetworkSpec:
    """Stages from (depth, width, kernel, stride, expand, se)."""
    return NetworkSpec(
        activation="relu",
        stages=tuple(
            Stage(kind="mbconv", depth=depth, width=width, kernel=kernel, stride=stride, expand=expand, se=se)
            for depth, width, kernel, stride, expand, se in rows
        ),
    )


A1 = _spec(
    (1, 16, 3, 1, 1, 0),
    (2, 24, 3, 2, 6, 0),
    (3, 40, 5, 2, 3, 0.25),
    (4, 80, 3, 2, 6, 0),
    (2, 112, 3, 1, 6, 0.25),
    (3, 160, 5, 2, 6, 0.25),
    (1, 320, 3, 1, 6, 0),
)
B1 = _spec(
    (1, 16, 3, 1, 1, 0),
    (3, 24, 3, 2, 3, 0),
    (3, 40, 5, 2, 3, 0),
    (3, 80, 5, 2, 6, 0),
    (2, 96, 3, 1, 6, 0),
    (4, 192, 5, 2, 6, 0),
    (1, 320, 3, 1, 6, 0),
)
SMALL = replace(
    _spec(
        (1, 8, 3, 1, 1, 0),
        (1, 16, 3, 2, 3, 0),
        (2, 16, 3, 2, 6, 0),
        (4, 32, 5, 2, 6, 0.25),
        (3, 32, 3, 1, 6, 0.25),
        (3, 88, 5, 2, 6, 0.25),
        (1, 144, 3, 1, 6, 0),
    ),
    stem=Stem(widths=(8,)),
)


def _as_torch(spec: NetworkSpec, width: float = 1.0) -> NetworkSpec:
    """Another width, with torch's numerics; the head stays."""
    return replace(scale_spec(spec, width=width), head_width=1280, bn_eps=1e-5, padding="symmetric")


def _row(
    name: str,
    spec: NetworkSpec,
    params: int,
    top1: float,
    source: str = "arXiv 1807.11626, table 1",
    *,
    timm: str = "",
    preprocess: Preprocess = Preprocess(crop=224, resize=256),  # noqa: B008 (frozen)
    bn_momentum: float = 0.01,
) -> Row:
    return Row(
        name=f"mnasnet_{name}",
        family="mnasnet",
        design=Design(spec=spec, resolution=224, origin=Origin(baseline=f"mnasnet_{name}")),
        params=params,
        top1=top1,
        source=source,
        timm=timm,
        preprocess=preprocess,
        drop_path=0.0,
        bn_momentum=bn_momentum,
    )


_TORCHVISION, _TIMM = "torchvision 0.29, IMAGENET1K_V1", "timm 1.0.31 results"
_FIRST, _LATER = (Preprocess(crop=224, resize=resize, interpolation="bilinear") for resize in (256, 232))
ROWS = (
    _row("a1", A1, 3_887_038, 75.2, timm="semnasnet_100"),
    _row("b1", B1, 4_383_312, 74.5, timm="mnasnet_100"),
    _row("a1_w075", _as_torch(A1, 0.75), 2_912_278, 73.0, _TIMM, timm="semnasnet_075", bn_momentum=0.1),
    _row("b1_w050", _as_torch(B1, 0.5), 2_218_512, 67.734, _TORCHVISION, timm="mnasnet_050", preprocess=_FIRST, bn_momentum=0.0003),
    _row("b1_w075", _as_torch(B1, 0.75), 3_170_208, 71.18, _TORCHVISION, timm="mnasnet_075", preprocess=_LATER, bn_momentum=0.0003),
    _row("b1_w130", _as_torch(B1, 1.3), 6_282_256, 76.506, _TORCHVISION, preprocess=_LATER, bn_momentum=0.0003),
    _row("small", _as_torch(SMALL), 2_030_264, 66.204, _TIMM, bn_momentum=0.1),
)
