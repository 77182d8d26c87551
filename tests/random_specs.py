"""Random networks for property tests: all block kinds, kernels, strides, paddings, activations, and image sizes, odd and non-square too."""

from typing import get_args

from hypothesis import strategies as st

from phiscale.architecture import NetworkSpec, Stage, Stem
from phiscale.architecture.spec import Activation, Kind, Padding

WIDTHS = st.sampled_from((1, 3, 8, 12, 16, 24))
KERNELS = st.sampled_from((1, 2, 3, 5, 7))
ACTIVATIONS = st.sampled_from(get_args(Activation))


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    kind: Kind = draw(st.sampled_from(get_args(Kind)))
    expand = {
        "mbconv": st.sampled_from((0.5, 1, 1.1, 3, 6)),
        "fused": st.sampled_from((0.5, 1, 1.1, 4)),
        "separable": st.just(1),
        "bottleneck": st.sampled_from((0.25, 0.5, 1)),
    }[kind]
    ratio, se = draw(expand), draw(st.sampled_from((0.0, 0.1, 0.25, 1.0)))
    return Stage(
        kind=kind,
        depth=draw(st.integers(1, 3)),
        width=draw(WIDTHS),
        kernel=draw(KERNELS),
        stride=draw(st.integers(1, 3)),
        expand=ratio,
        se=se,
        skip=draw(st.booleans()),
        activation=draw(st.none() | ACTIVATIONS),
        experts=draw(st.sampled_from((0, 0, 3))) if kind == "mbconv" else 0,
        shortcut=draw(st.sampled_from(("conv", "pool"))) if kind == "bottleneck" else "conv",
        split=draw(st.booleans()) if kind == "fused" and ratio == 1 and not se else False,
    )


stems = st.builds(
    Stem,
    widths=st.lists(WIDTHS, min_size=1, max_size=3).map(tuple),
    kernel=KERNELS,
    stride=st.integers(1, 2),
    space_to_depth=st.booleans(),
    pool=st.booleans(),
)

specs = st.builds(
    NetworkSpec,
    stages=st.lists(stages(), min_size=1, max_size=4).map(tuple),
    stem=stems,
    head_width=st.sampled_from((0, 8, 20)),
    num_classes=st.sampled_from((0, 1, 10)),
    in_channels=st.sampled_from((1, 3, 4)),
    activation=ACTIVATIONS,
    bn_eps=st.sampled_from((1e-3, 1e-5)),
    padding=st.sampled_from(get_args(Padding)),
)

sizes = st.tuples(st.integers(1, 70), st.integers(1, 70))
