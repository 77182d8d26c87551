"""EfficientNet-EdgeTPU S, M, L: fused stages, no squeeze-excite, ReLU; made for an accelerator.

Source: tensorflow/tpu models/official/efficientnet/edgetpu (builder and README). The authors' logits have a class 0 for
background before ImageNet's 1000; the rows here have the 1000.
"""

from dataclasses import replace

from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import P127, P128, Preprocess
from phiscale.architecture.rounding import round_width
from phiscale.architecture.scaling import scale_spec
from phiscale.architecture.spec import NetworkSpec, Stage

S = NetworkSpec(
    activation="relu",
    stages=(
        # the reference expands 4 times from the 24 channels that it writes down, where the stem gives 32: 96, three times the stem
        Stage(kind="fused", depth=1, width=24, kernel=3, stride=1, expand=3, skip=False),
        Stage(kind="fused", depth=2, width=32, kernel=3, stride=2, expand=8),
        Stage(kind="fused", depth=4, width=48, kernel=3, stride=2, expand=8),
        Stage(kind="mbconv", depth=5, width=96, kernel=5, stride=2, expand=8),
        Stage(kind="mbconv", depth=4, width=144, kernel=5, stride=1, expand=8),
        Stage(kind="mbconv", depth=2, width=192, kernel=5, stride=2, expand=8),
    ),
)


def _row(name: str, width: float, depth: float, resolution: int, dropout: float, params: int, top1: float) -> Row:
    spec = scale_spec(S, depth=depth, width=width)
    first, *others = spec.stages
    start = replace(first, depth=1, expand=4 * round_width(24 * width) / spec.stem.widths[-1])
    rest = (replace(first, depth=first.depth - 1, expand=4),) if first.depth > 1 else ()
    return Row(
        name=f"efficientnet_edgetpu_{name}",
        family="efficientnet_edgetpu",
        design=Design(
            spec=replace(spec, stages=(start, *rest, *others)),
            resolution=resolution,
            origin=Origin(baseline=f"efficientnet_edgetpu_{name}"),
        ),
        params=params,
        top1=top1,
        source="tensorflow/tpu efficientnet/edgetpu README, float",
        timm=f"efficientnet_e{name}",
        dropout=dropout,
        preprocess=Preprocess(crop=resolution, resize=resolution + 32, mean=P127, std=P128),
    )


ROWS = (
    _row("s", 1.0, 1.0, 224, 0.2, 5_438_392, 77.23),
    _row("m", 1.0, 1.1, 240, 0.2, 6_899_496, 78.69),
    _row("l", 1.2, 1.4, 300, 0.3, 10_589_712, 80.62),
)
