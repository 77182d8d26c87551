"""Inheritance: growing keeps the function, shrinking keeps what matters, and every size of a family can start from weights."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from phiscale.architecture import NetworkSpec, Stage, Stem, scale, scale_spec
from phiscale.architecture.catalog import design
from phiscale.architecture.layout import difference, layout
from phiscale.architecture.rounding import Rounding
from phiscale.errors import WeightsError
from phiscale.nn import Network
from phiscale.weights.inherit import Inheritance, carry_over, fits_inside, kin
from random_specs import specs

RTOL = 1e-5  # of the largest logit; a changed order of summation leaves about 1e-6 in float32
EIGHT = Rounding()


def trained(spec: NetworkSpec, seed: int = 0) -> dict[str, Tensor]:
    """Weights as training leaves them: no two batch norms alike, none at its start."""
    random = torch.Generator().manual_seed(seed)
    state = Network(spec).state_dict()
    for key, value in state.items():
        if key.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=random) + 0.5)
        elif key.endswith("num_batches_tracked"):
            value.fill_(7)
        elif value.ndim == 1:
            value.copy_(torch.randn(value.shape, generator=random) * 0.5 + (1.0 if key.endswith("bn.weight") else 0.0))
        else:
            value.copy_(torch.randn(value.shape, generator=random) / value[0].numel() ** 0.5)
    return state


def carried(spec: NetworkSpec, target: NetworkSpec) -> tuple[dict[str, Tensor], dict[str, Tensor], Inheritance]:
    state = trained(spec)
    made, how = carry_over(state, spec, target, name="these", network="this")
    assert not difference({key: tuple(value.shape) for key, value in made.items()}, target)
    assert list(made) == list(layout(target))
    return state, made, how


@torch.no_grad()
def logits(spec: NetworkSpec, state: dict[str, Tensor], side: int = 33, dtype: torch.dtype = torch.float64) -> Tensor:
    model = Network(spec)
    model.load_state_dict(state)
    images = torch.randn((2, spec.in_channels, side, side), generator=torch.Generator().manual_seed(1))
    return model.to(dtype).eval()(images.to(dtype))


def assert_same_answers(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() <= RTOL * a.abs().max().clamp_min(1e-30)


# an even kernel's own pixel is before its middle; a channel that widens to two has an expansion that it had not
EVEN = NetworkSpec(
    stages=(
        Stage(kind="fused", depth=1, width=1, kernel=1, expand=0.5),
        Stage(kind="fused", depth=1, width=1, kernel=2, expand=0.5, skip=False),
    ),
    stem=Stem(widths=(1,), kernel=1, stride=1), head_width=0, activation="relu",
)  # fmt: skip


@given(spec=specs, width=st.floats(1, 3), depth=st.floats(1, 3))
@example(spec=EVEN, width=1.0, depth=2.0)
@example(spec=EVEN, width=2.0, depth=1.0)
@settings(max_examples=20, deadline=None)
def test_what_is_said_to_be_exact_is(spec: NetworkSpec, width: float, depth: float) -> None:
    spec = replace(spec, num_classes=spec.num_classes or 2)
    target = scale_spec(spec, width=width, depth=depth, rounding=Rounding(divisor=4))
    state, made, how = carried(spec, target)
    before = logits(spec, state)
    assume(bool(torch.isfinite(before).all()))
    if how.exact:
        assert_same_answers(before, logits(target, made))


def mobile(*, se: float, skip: bool, activation: str) -> NetworkSpec:
    return NetworkSpec(
        stem=Stem(widths=(8,)),
        stages=(
            Stage(kind="mbconv", depth=1, width=8, expand=1, se=se, skip=skip),
            Stage(kind="mbconv", depth=2, width=12, stride=2, expand=4, se=se, skip=skip),
            Stage(kind="fused", depth=2, width=20, stride=2, expand=3, se=se, skip=skip),
        ),
        head_width=24,
        num_classes=7,
        activation=activation,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("se", [0.0, 0.25])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("activation", ["silu", "relu6"])
@pytest.mark.parametrize("width", [1.0, 1.3, 2.0])
def test_wider_networks_answer_the_same(se: float, skip: bool, activation: str, width: float) -> None:
    spec = mobile(se=se, skip=skip, activation=activation)
    target = scale_spec(spec, width=width, rounding=Rounding(divisor=4))
    state, made, how = carried(spec, target)
    assert how.exact, how
    assert_same_answers(logits(spec, state), logits(target, made))


@pytest.mark.parametrize("se", [0.0, 0.25])
@pytest.mark.parametrize("depth", [1.1, 2.0])
def test_deeper_residual_networks_answer_the_same(se: float, depth: float) -> None:
    spec = mobile(se=se, skip=True, activation="silu")
    target = scale_spec(spec, width=1.4, depth=depth, rounding=EIGHT)
    state, made, how = carried(spec, target)
    assert how.exact, how
    assert how.blocks_added == sum(stage.depth for stage in target.stages) - 5
    assert_same_answers(logits(spec, state), logits(target, made))


def test_a_plain_stack_of_relu_blocks_grows_deeper_exactly() -> None:
    """MobileNetV1 has no residuals: its new blocks pass on what an activation has already bounded."""
    spec = NetworkSpec(
        stem=Stem(widths=(8,)),
        stages=(
            Stage(kind="separable", depth=1, width=16, skip=False, se=0.5),
            Stage(kind="separable", depth=2, width=24, stride=2, skip=False),
        ),
        head_width=0,
        num_classes=5,
        activation="relu6",
    )
    target = scale_spec(spec, depth=2, width=1.5)
    state, made, how = carried(spec, target)
    assert how.exact, how
    assert_same_answers(logits(spec, state), logits(target, made))


def test_resnets_grow_exactly() -> None:
    spec = NetworkSpec(
        stem=Stem(widths=(8,), kernel=7, pool=True),
        stages=(
            Stage(kind="bottleneck", depth=2, width=16, expand=0.25),
            Stage(kind="bottleneck", depth=2, width=32, stride=2, expand=0.25),
        ),
        head_width=0,
        num_classes=5,
        activation="relu",
    )
    target = scale_spec(spec, depth=1.5, width=1.5)
    state, made, how = carried(spec, target)
    assert how.exact, how
    assert_same_answers(logits(spec, state), logits(target, made))


def test_what_cannot_be_exact_says_why() -> None:
    """A silu block without residual can't pass its input on; a stage whose widths meet becomes residual."""
    deeper = mobile(se=0, skip=False, activation="silu")
    _, _, how = carried(deeper, scale_spec(deeper, depth=2))
    assert not how.exact
    assert "not residual" in str(how)
    meets = replace(deeper, stages=(Stage(kind="mbconv", depth=1, width=9, expand=1),), stem=Stem(widths=(8,)))
    _, _, how = carried(meets, replace(meets, stages=(replace(meets.stages[0], width=16),), stem=Stem(widths=(16,))))
    assert how.why == ("stages.0.0 skips",)


def test_shrinking_back_what_was_grown_gives_the_same_network() -> None:
    """Channels that nobody reads, and blocks that add nothing, are the first to go."""
    spec = mobile(se=0.25, skip=True, activation="silu")
    large = scale_spec(spec, width=1.6, depth=2)
    state, grown, _ = carried(spec, large)
    back, how = carry_over(grown, large, spec, name="grown", network="large")
    assert how.dropped > 0
    assert how.blocks_dropped == 5
    assert_same_answers(logits(spec, state), logits(spec, back))


def test_channels_that_share_a_trunk_are_chosen_together() -> None:
    """A channel with no variance anywhere in a residual stage goes, whichever block writes it."""
    spec = mobile(se=0.25, skip=True, activation="relu6")
    state = trained(spec)
    for block in ("stages.1.0", "stages.1.1"):
        for dead in (0, 5, 6, 11):
            state[f"{block}.project.bn.weight"][dead] = 0
            state[f"{block}.project.bn.bias"][dead] = 0
    target = replace(spec, stages=(spec.stages[0], replace(spec.stages[1], width=8), spec.stages[2]))
    made, _ = carry_over(state, spec, target, name="these", network="this")
    left = [1, 2, 3, 4, 7, 8, 9, 10]
    assert torch.equal(made["stages.1.0.project.bn.bias"], state["stages.1.0.project.bn.bias"][left])
    assert torch.equal(made["stages.1.1.project.bn.bias"], state["stages.1.1.project.bn.bias"][left])


def test_same_size_is_the_same_weights() -> None:
    spec = mobile(se=0.25, skip=True, activation="silu")
    state, made, how = carried(spec, spec)
    assert all(torch.equal(state[key], made[key]) for key in state)
    assert (how.added, how.dropped, how.blocks_added, how.exact) == (0, 0, 0, True)


def test_families_keep_to_themselves() -> None:
    b0, b3, lite0 = (design(name).spec for name in ("efficientnet_b0", "efficientnet_b3", "efficientnet_lite0"))
    assert kin(b0) == kin(b3) != kin(lite0)
    assert fits_inside(b0, b3)
    assert not fits_inside(b3, b0)
    with pytest.raises(WeightsError, match="another family"):
        carry_over({}, b0, lite0, name="b0's", network="efficientnet_b0")


def test_a_grown_b0_answers_as_b0() -> None:
    b0 = design("efficientnet_b0")
    target = scale(b0, phi=0.7).spec
    state, made, how = carried(b0.spec, target)
    assert how.exact, how
    assert_same_answers(logits(b0.spec, state, 64, torch.float32), logits(target, made, 64, torch.float32))
