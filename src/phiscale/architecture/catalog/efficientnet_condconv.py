"""EfficientNet-CondConv: the last three stages mix their convolutions from 4 or 8 experts for each image.

Source: arXiv 1904.04971 and tensorflow/tpu models/official/efficientnet/condconv (builder and README). `cc_b1_8e` is the
reference's `b0-8e-depth`: B1's depths at B0's 224 px.
"""

from dataclasses import replace

from phiscale.architecture.catalog.efficientnet import B0
from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import P127, P128, Preprocess
from phiscale.architecture.scaling import scale_spec


def _row(name: str, depth: float, experts: int, params: int, top1: float) -> Row:
    spec = scale_spec(B0, depth=depth)
    stages = (*spec.stages[:4], *(replace(stage, experts=experts) for stage in spec.stages[4:]))
    return Row(
        name=f"efficientnet_cc_{name}",
        family="efficientnet_condconv",
        design=Design(spec=replace(spec, stages=stages), resolution=224, origin=Origin(baseline=f"efficientnet_cc_{name}")),
        params=params,
        top1=top1,
        source="tensorflow/tpu efficientnet/condconv README",
        dropout=0.25,
        preprocess=Preprocess(crop=224, resize=256, mean=P127, std=P128),
    )


ROWS = (
    _row("b0_4e", 1.0, 4, 13_314_116, 77.8),
    _row("b0_8e", 1.0, 8, 24_013_284, 78.3),
    _row("b1_8e", 1.1, 8, 39_715_968, 79.5),
)
