"""MnasNet-A1 (squeeze-excite in three stages) and B1 (none): the search that EfficientNet-B0 came from.

Source: arXiv 1807.11626 and tensorflow/tpu models/official/mnasnet (mnasnet_models.py, README).
"""

from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import Preprocess
from phiscale.architecture.spec import NetworkSpec, Stage


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


def _row(name: str, spec: NetworkSpec, params: int, top1: float) -> Row:
    return Row(
        name=f"mnasnet_{name}",
        family="mnasnet",
        design=Design(spec=spec, resolution=224, origin=Origin(baseline=f"mnasnet_{name}")),
        params=params,
        top1=top1,
        source="arXiv 1807.11626, table 1",
        preprocess=Preprocess(crop=224, resize=256),
        drop_path=0.0,
    )


ROWS = (_row("a1", A1, 3_887_038, 75.2), _row("b1", B1, 4_383_312, 74.5))
