"""EfficientNet-X and -H: a learned space-to-depth convolution and fused stages, for TPUs and GPUs.

Source: coefficients of tensorflow/tpu models/official/efficientnet/tpu/efficientnet_x_builder.py (arXiv 2102.05610); the
network as timm builds it (1.0.31, `_gen_efficientnet_x`: SiLU but ReLU in fused stages, eps 1e-5, symmetric padding) and
trained X-B5 and H-B5, because no weights of the reference's own build were published. The reference differs from it in the
kernel and squeeze-excite of blocks around the space-to-depth, in activations, and in wider squeeze-excite for B0 and B1.

Top-1: of timm's weights for X-B5 and H-B5; X-B7's is the paper's, as arXiv 2404.07236 (table 1, with 73 M parameters and 91 G
multiply-adds, which are this row's) quotes it. For the others no figure could be checked against a source, and none is shown.
"""

from dataclasses import replace

from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design, Origin
from phiscale.architecture.preprocess import Preprocess
from phiscale.architecture.rounding import round_depth, round_width
from phiscale.architecture.spec import Kind, NetworkSpec, Stage, Stem


def _spec(width: float, depth: float, early: int) -> NetworkSpec:
    """`early`: expansion of the second to the fourth of the paper's stages (X: 6, H: 4)."""

    def stage(kind: Kind, repeats: int, channels: int, kernel: int, stride: int, expand: int) -> Stage:
        return Stage(
            kind=kind,
            depth=round_depth(repeats * depth),
            width=round_width(channels * width),
            kernel=kernel,
            stride=stride,
            expand=expand,
            se=0.25,
            activation="relu" if kind == "fused" else None,
        )

    def with_first(whole: Stage, first: Stage) -> tuple[Stage, ...]:
        """A stage whose first block is another."""
        return (first, replace(whole, depth=whole.depth - 1, stride=1)) if whole.depth > 1 else (first,)

    one, two = stage("mbconv", 1, 16, 3, 1, 1), stage("fused", 2, 24, 3, 2, early)
    # space is folded into depth from the stem to the second stage: four times the channels, and a stride already taken
    one = replace(one, width=4 * one.width)
    return NetworkSpec(
        bn_eps=1e-5,
        padding="symmetric",
        stem=Stem(widths=(round_width(32 * width),), space_to_depth=True),
        head_width=round_width(1280 * width),
        stages=(
            *with_first(one, replace(one, depth=1, kernel=2, se=one.se / 4)),
            *with_first(two, replace(two, depth=1, stride=1, expand=early / 4)),
            stage("fused", 2, 40, 5, 2, early),
            stage("mbconv", 3, 80, 3, 2, early),
            stage("mbconv", 3, 112, 5, 1, 6),
            stage("mbconv", 4, 192, 5, 2, 6),
            stage("mbconv", 1, 320, 3, 1, 6),
        ),
    )


def _row(
    name: str,
    width: float,
    depth: float,
    resolution: int,
    dropout: float,
    params: int,
    top1: float | None = None,
    source: str = "tensorflow/tpu efficientnet_x_builder.py, no top-1",
) -> Row:
    return Row(
        name=f"efficientnet_{name}",
        family="efficientnet_x",
        design=Design(
            spec=_spec(width, depth, 4 if name.startswith("h_") else 6),
            resolution=resolution,
            origin=Origin(baseline=f"efficientnet_{name}"),
        ),
        params=params,
        top1=top1,
        source=source,
        dropout=dropout,
        preprocess=Preprocess(crop=resolution, resize=resolution + 32),
    )


ROWS = (
    _row("x_b0", 1.0, 1.0, 224, 0.2, 5_699_072),
    _row("x_b1", 1.0, 1.1, 240, 0.2, 8_461_136),
    _row("x_b2", 1.1, 1.2, 260, 0.3, 9_977_106),
    _row("x_b3", 1.2, 1.4, 300, 0.3, 13_299_652),
    _row("x_b4", 1.4, 1.8, 380, 0.4, 21_150_004),
    _row("x_b5", 1.6, 2.2, 456, 0.4, 33_439_614, 84.928, "timm 1.0.31 results, at 576 px"),
    _row("x_b6", 1.8, 2.6, 528, 0.5, 47_663_864),
    _row("x_b7", 2.0, 3.1, 600, 0.5, 73_167_864, 84.7, "arXiv 2102.05610, quoted in arXiv 2404.07236"),
    _row("h_b5", 1.92, 2.2, 456, 0.4, 45_884_172, 84.942, "timm 1.0.31 results, at 576 px"),
    _row("h_b6", 2.16, 2.6, 528, 0.5, 64_660_350),
    _row("h_b7", 2.4, 3.1, 600, 0.5, 99_757_906),
    _row("x_tpu_b0", 1.0, 1.0, 224, 0.2, 5_699_072),
    _row("x_tpu_b1", 1.05, 1.09, 229, 0.2, 9_192_222),
    _row("x_tpu_b2", 1.13, 1.29, 244, 0.3, 11_498_812),
    _row("x_tpu_b3", 1.27, 1.62, 263, 0.3, 15_774_538),
    _row("x_tpu_b4", 1.54, 2.38, 299, 0.4, 33_985_098),
    _row("x_tpu_b5", 1.96, 2.76, 332, 0.4, 59_930_166),
    _row("x_tpu_b6", 2.75, 3.01, 328, 0.5, 137_227_918),
    _row("x_tpu_b7", 3.26, 3.44, 350, 0.5, 198_670_356),
    _row("h_tpu_b5", 2.3, 2.76, 332, 0.4, 77_517_476),
    _row("h_tpu_b6", 3.0, 3.01, 328, 0.5, 153_015_760),
    _row("h_tpu_b7", 3.6, 3.44, 350, 0.5, 228_165_478),
    _row("x_gpu_b0", 1.0, 1.0, 224, 0.2, 5_699_072),
    _row("x_gpu_b1", 1.05, 1.09, 229, 0.2, 9_192_222),
    _row("x_gpu_b2", 1.13, 1.24, 237, 0.3, 10_759_606),
    _row("x_gpu_b3", 1.31, 1.63, 255, 0.3, 16_812_914),
    _row("x_gpu_b4", 1.63, 2.4, 282, 0.4, 37_112_232),
    _row("x_gpu_b5", 1.94, 3.29, 306, 0.4, 72_098_376),
    _row("x_gpu_b6", 2.25, 4.28, 328, 0.5, 122_211_964),
    _row("x_gpu_b7", 2.58, 5.46, 350, 0.5, 196_748_580),
)
