"""The network in torch: numerics of the reference, exports with any size, and a spec of which every field matters."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from phiscale.architecture import NetworkSpec, Stage, Stem
from phiscale.architecture.catalog import design
from phiscale.architecture.layout import layout
from phiscale.architecture.plan import blocks
from phiscale.nn import Network
from phiscale.nn.layers import DropPath
from random_specs import sizes, specs

SPEC = NetworkSpec(
    stem=Stem(widths=(8, 12), pool=True),
    stages=(
        Stage(kind="mbconv", depth=2, width=16, kernel=5, stride=2, expand=4, se=0.25),
        Stage(kind="fused", depth=2, width=24, kernel=3, expand=2, se=0.25),
        Stage(kind="separable", depth=2, width=24, kernel=3, se=0.25),
        Stage(kind="fused", depth=1, width=24, kernel=3),
        Stage(kind="bottleneck", depth=2, width=32, kernel=3, stride=2, expand=0.25, se=0.25),
    ),
    head_width=40,
    num_classes=7,
)


def seeded(spec: NetworkSpec) -> Network:
    """Random weights and random batch norm statistics, the same numbers for the same layout."""
    model = Network(spec).eval()
    generator = torch.Generator().manual_seed(1)
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            drawn = torch.rand(value.shape, generator=generator)
            value.copy_(drawn + 0.5 if key.endswith(("running_var", "bn.weight")) else (drawn - 0.5) * 0.5)
    return model


@given(spec=specs, size=sizes)
@settings(max_examples=40, deadline=None)
def test_any_spec_runs_at_any_size(spec: NetworkSpec, size: tuple[int, int]) -> None:
    model = Network(spec).eval()
    with torch.no_grad():
        out = model(torch.zeros(1, spec.in_channels, *size))
    assert out.shape == (1, spec.num_classes or model.forward_features(torch.zeros(1, spec.in_channels, *size)).shape[1])
    assert out.isfinite().all()


CHANGES: dict[str, Any] = {
    "head_width": 48, "num_classes": 8, "in_channels": 4, "activation": "relu", "bn_eps": 1e-5, "padding": "symmetric",
    "stem.widths": (8, 16), "stem.kernel": 5, "stem.stride": 1, "stem.pool": False, "stem.space_to_depth": True,
}  # fmt: skip
STAGE_CHANGES: dict[str, Any] = {
    "depth": 3,
    "width": 20,
    "kernel": 7,
    "stride": 3,
    "expand": 3,
    "se": 0.5,
    "skip": False,
    "experts": 2,
    "shortcut": "pool",
    "split": True,
}
MEANT_FOR = {
    "experts": lambda stage: stage.kind == "mbconv",
    "shortcut": lambda stage: stage.kind == "bottleneck",
    "expand": lambda stage: stage.kind != "separable",
    "split": lambda stage: stage.kind == "fused" and stage.expand == 1,
}


def with_change(spec: NetworkSpec, name: str, value: Any) -> NetworkSpec:
    owner, _, field = name.rpartition(".")
    if owner == "stem":
        return replace(spec, stem=replace(spec.stem, **{field: value}))
    if owner:
        number = int(owner)
        stages = list(spec.stages)
        stages[number] = replace(stages[number], **{field: value})
        return replace(spec, stages=tuple(stages))
    return replace(spec, **{field: value})


CASES = {name: (name, value) for name, value in CHANGES.items()}
CASES |= {
    f"{number}.{field}": (f"{number}.{field}", value)
    for number, stage in enumerate(SPEC.stages)
    for field, value in STAGE_CHANGES.items()
    if MEANT_FOR.get(field, bool)(stage)
}


@pytest.mark.parametrize("case", CASES)
def test_every_field_of_a_spec_matters(case: str) -> None:
    other = with_change(SPEC, *CASES[case])
    assert other != SPEC
    if layout(other) == layout(SPEC):
        image = torch.rand(2, SPEC.in_channels, 64, 50, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert not torch.allclose(seeded(other)(image), seeded(SPEC)(image), rtol=1e-4, atol=1e-6)


def test_every_field_is_among_the_changes() -> None:
    assert {name.rpartition(".")[2] for name in CASES} == {
        *(set(NetworkSpec.__dataclass_fields__) - {"stages", "stem"}),
        *Stem.__dataclass_fields__,
        *(set(Stage.__dataclass_fields__) - {"kind"}),
    }


def test_stochastic_depth_grows_with_the_block_index() -> None:
    model = Network(design("efficientnet_b0").spec, drop_path=0.2)
    plan = blocks(model.spec)
    rates = {name: part.rate for name, part in model.named_modules() if isinstance(part, DropPath)}
    assert rates == {f"{block.name}.drop_path": pytest.approx(0.2 * block.index / 16) for block in plan if block.skips}
    assert len(rates) == 9


def test_squeeze_excite_is_a_quarter_of_the_block_input() -> None:
    spec = design("efficientnet_b0").spec
    assert [block.w_se for block in blocks(spec)] == [8, 4, 6, 6, 10, 10, 20, 20, 20, 28, 28, 28, 48, 48, 48, 48]


def test_every_batch_norm_has_the_specs_eps() -> None:
    norms = [part for part in Network(SPEC).modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}
    assert len(norms) == sum(key.endswith("num_batches_tracked") for key in layout(SPEC))


def test_drop_path_keeps_the_mean_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    out = drop(torch.ones(4000, 2, 1, 1))
    assert out.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert (out[:, 0] == out[:, 1]).all()
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert drop.eval()(torch.ones(8, 2, 1, 1)).eq(1).all()


def test_a_start_like_the_references() -> None:
    torch.manual_seed(0)
    state = Network(design("efficientnet_b0").spec).state_dict()
    assert state["head.conv.weight"].std().item() == pytest.approx((2 / 1280) ** 0.5, rel=0.02)
    assert state["stages.5.1.depthwise.conv.weight"].std().item() == pytest.approx((2 / 25) ** 0.5, rel=0.02), "fan-out of one channel"
    assert state["classifier.weight"].abs().max().item() == pytest.approx(1 / 1000**0.5, rel=0.01)
    assert not state["classifier.bias"].any()


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_exports_with_any_batch_height_and_width(padding: Any) -> None:
    model = seeded(replace(SPEC, padding=padding))
    dim = torch.export.Dim
    # torch.export takes a map of one pixel for a special case: at least 17 pixels, so that the last map has two
    exported = torch.export.export(
        model, (torch.rand(2, 3, 64, 50),), dynamic_shapes=({0: dim("batch", min=1), 2: dim("height", min=17), 3: dim("width", min=17)},)
    ).module()
    for size in ((1, 3, 33, 47), (3, 3, 70, 64)):
        image = torch.rand(size)
        torch.testing.assert_close(exported(image), model(image))


def test_every_parameter_is_used() -> None:
    model = Network(SPEC, drop_path=0.1).train()
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
