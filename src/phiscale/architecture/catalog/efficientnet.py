"""EfficientNet B0-B8, L2 and Lite0-4: the named table, not alpha^phi.

Source: tensorflow/tpu models/official/efficientnet/efficientnet_builder.py and lite/efficientnet_lite_builder.py;
figures from their READMEs (B0-B7: arXiv 1905.11946 v5 table 2; B8: AdvProp, arXiv 1911.09665; L2: arXiv 1911.04252).
The published multipliers are near phi = 0.5, 1, 2, 3.5, 5, 6, 7, rounded by hand; `scale(b0, phi=...)` is the literal rule.
"""

from dataclasses import replace

from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import HALF, P127, P128, Preprocess
from phiscale.architecture.rounding import Rounding
from phiscale.architecture.scaling import scale_spec
from phiscale.architecture.spec import NetworkSpec, Stage

B0 = NetworkSpec(
    stages=(
        Stage(kind="mbconv", depth=1, width=16, kernel=3, stride=1, expand=1, se=0.25),
        Stage(kind="mbconv", depth=2, width=24, kernel=3, stride=2, expand=6, se=0.25),
        Stage(kind="mbconv", depth=2, width=40, kernel=5, stride=2, expand=6, se=0.25),
        Stage(kind="mbconv", depth=3, width=80, kernel=3, stride=2, expand=6, se=0.25),
        Stage(kind="mbconv", depth=3, width=112, kernel=5, stride=1, expand=6, se=0.25),
        Stage(kind="mbconv", depth=4, width=192, kernel=5, stride=2, expand=6, se=0.25),
        Stage(kind="mbconv", depth=1, width=320, kernel=3, stride=1, expand=6, se=0.25),
    ),
)
# Lite: no squeeze-excite, ReLU6, and stem, head and the end stages' depths do not scale
LITE0 = replace(B0, activation="relu6", stages=tuple(replace(stage, se=0.0) for stage in B0.stages))

V1_ROUNDING = Rounding()
LITE_ROUNDING = Rounding(ends=False)


def _b(name: str, width: float, depth: float, resolution: int, dropout: float, params: int, top1: float, source: str) -> Row:
    # the reference's eval crop keeps resolution / (resolution + 32) of the shorter side (its CROP_PADDING)
    return Row(
        name=f"efficientnet_{name}",
        family="efficientnet",
        design=Design(
            spec=scale_spec(B0, depth=depth, width=width, rounding=V1_ROUNDING),
            resolution=resolution,
            rounding=V1_ROUNDING,
            origin=Origin(baseline=f"efficientnet_{name}"),
        ),
        params=params,
        top1=top1,
        source=source,
        dropout=dropout,
        preprocess=Preprocess(crop=resolution, resize=resolution + 32),
    )


def _lite(name: str, width: float, depth: float, resolution: int, dropout: float, params: int, top1: float) -> Row:
    return Row(
        name=f"efficientnet_{name}",
        family="efficientnet_lite",
        design=Design(
            spec=scale_spec(LITE0, depth=depth, width=width, rounding=LITE_ROUNDING),
            resolution=resolution,
            rounding=LITE_ROUNDING,
            origin=Origin(baseline=f"efficientnet_{name}"),
        ),
        params=params,
        top1=top1,
        source="tensorflow/tpu efficientnet/lite README, FP32",
        dropout=dropout,
        preprocess=Preprocess(crop=resolution, resize=resolution + 32, mean=P127, std=P128),
    )


_V5 = "arXiv 1905.11946 v5, table 2"
ROWS = (
    _b("b0", 1.0, 1.0, 224, 0.2, 5_288_548, 77.1, _V5),
    _b("b1", 1.0, 1.1, 240, 0.2, 7_794_184, 79.1, _V5),
    _b("b2", 1.1, 1.2, 260, 0.3, 9_109_994, 80.1, _V5),
    _b("b3", 1.2, 1.4, 300, 0.3, 12_233_232, 81.6, _V5),
    _b("b4", 1.4, 1.8, 380, 0.4, 19_341_616, 82.9, _V5),
    _b("b5", 1.6, 2.2, 456, 0.4, 30_389_784, 83.6, _V5),
    _b("b6", 1.8, 2.6, 528, 0.5, 43_040_704, 84.0, _V5),
    _b("b7", 2.0, 3.1, 600, 0.5, 66_347_960, 84.3, _V5),
    replace(
        _b("b8", 2.2, 3.6, 672, 0.5, 87_413_142, 85.5, "arXiv 1911.09665 (AdvProp)"),
        preprocess=Preprocess(crop=672, resize=704, mean=HALF, std=HALF),  # AdvProp's
    ),
    _b("l2", 4.3, 5.3, 800, 0.5, 480_309_308, 88.4, "arXiv 1911.04252 (Noisy Student)"),
    _lite("lite0", 1.0, 1.0, 224, 0.2, 4_652_008, 75.1),
    _lite("lite1", 1.0, 1.1, 240, 0.2, 5_416_680, 76.7),
    _lite("lite2", 1.1, 1.2, 260, 0.3, 6_092_072, 77.6),
    _lite("lite3", 1.2, 1.4, 280, 0.3, 8_197_096, 79.8),
    _lite("lite4", 1.4, 1.8, 300, 0.3, 13_006_568, 81.5),
)
