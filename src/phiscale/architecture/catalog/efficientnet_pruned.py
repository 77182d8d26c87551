"""EfficientNet-B1, B2 and B3 with channels pruned away: every block has widths of its own.

Source: arXiv 2002.08258; widths of timm 1.0.31 (models/_pruned/*.txt), which pruned and published them; TF's numerics.
"""

from dataclasses import replace

from phiscale.architecture.catalog.efficientnet import B0
from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import HALF, Preprocess
from phiscale.architecture.spec import NetworkSpec, Stage

Widths = tuple[int, tuple[tuple[int, int], ...]]  # of one of B0's stages: out, and (inner, squeeze-excite) of each block

B1: tuple[Widths, ...] = (
    (16, ((32, 8), (16, 4))),
    (12, ((48, 4), (62, 6), (48, 6))),
    (35, ((70, 6), (61, 10), (51, 10))),
    (74, ((175, 10), (188, 20), (137, 20), (164, 20))),
    (67, ((399, 20), (201, 28), (160, 28), (213, 28))),
    (192, ((637, 27), (806, 48), (798, 48), (891, 48), (990, 48))),
    (320, ((1152, 48), (1912, 80))),
)
B2: tuple[Widths, ...] = (
    (16, ((32, 8), (16, 4))),
    (17, ((54, 4), (69, 6), (61, 6))),
    (42, ((86, 6), (72, 12), (98, 12))),
    (85, ((245, 12), (274, 22), (254, 22), (292, 22))),
    (116, ((502, 22), (315, 30), (354, 30), (443, 30))),
    (208, ((719, 30), (1148, 52), (1160, 52), (1182, 52), (1228, 52))),
    (352, ((1248, 52), (2112, 88))),
)
B3: tuple[Widths, ...] = (
    (24, ((40, 10), (24, 6))),
    (12, ((27, 6), (49, 8), (48, 8))),
    (40, ((83, 8), (90, 12), (85, 12))),
    (93, ((215, 12), (261, 24), (219, 24), (254, 24), (236, 24))),
    (120, ((480, 24), (235, 34), (217, 34), (226, 33), (340, 34))),
    (232, ((802, 34), (1030, 58), (924, 58), (1016, 58), (1130, 58), (1266, 58))),
    (384, ((1392, 58), (2301, 96))),
)


def _spec(stem: int, head: int, widths: tuple[Widths, ...]) -> NetworkSpec:
    """A stage a block: its expansion and squeeze-excite are shares of what comes in."""
    stages: list[Stage] = []
    w_in = stem
    for whole, (w_out, blocks) in zip(B0.stages, widths, strict=True):
        for number, (w_mid, w_se) in enumerate(blocks):
            stride = 1 if number else whole.stride
            stages.append(replace(whole, depth=1, width=w_out, stride=stride, expand=w_mid / w_in, se=w_se / w_in))
            w_in = w_out
    return replace(B0, stages=tuple(stages), stem=replace(B0.stem, widths=(stem,)), head_width=head)


def _row(name: str, spec: NetworkSpec, resolution: int, resize: int, dropout: float, params: int, top1: float) -> Row:
    return Row(
        name=f"efficientnet_{name}_pruned",
        family="efficientnet_pruned",
        design=Design(spec=spec, resolution=resolution, origin=Origin(baseline=f"efficientnet_{name}_pruned")),
        params=params,
        top1=top1,
        source="timm 1.0.31 results",
        dropout=dropout,
        preprocess=Preprocess(crop=resolution, resize=resize, mean=HALF, std=HALF),
    )


ROWS = (
    _row("b1", _spec(32, 1280, B1), 240, 272, 0.2, 6_331_916, 78.252),
    _row("b2", _spec(32, 1408, B2), 260, 292, 0.3, 8_309_737, 79.904),
    _row("b3", _spec(40, 1536, B3), 300, 331, 0.3, 9_855_020, 80.864),
)
