"""Cost in closed form against the module that torch builds, layer by layer, without allocating anything (meta device)."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from phiscale.architecture import Design, NetworkSpec
from phiscale.architecture.catalog import design, rows
from phiscale.architecture.layout import layout
from phiscale.cost import cost, layers
from phiscale.cost.count import peak_bytes, weight_bytes
from phiscale.nn import Network
from phiscale.nn.layers import CondConv2d
from random_specs import sizes, specs


def on_meta(spec: NetworkSpec) -> Network:
    with torch.device("meta"):
        return Network(spec).eval()


def torch_counts(model: Network, size: tuple[int, int], batch: int = 1) -> tuple[dict[str, int], dict[str, int]]:
    """By module path: multiply-adds as torch's own counter sees them ("" is the total), and numbers that each layer writes."""
    written: dict[str, int] = {}

    def hook(name: str):
        return lambda _module, _args, out: written.__setitem__(name, out.numel())

    hooks = [
        part.register_forward_hook(hook(name))
        for name, part in model.named_modules()
        if isinstance(part, nn.Conv2d | nn.Linear | CondConv2d)
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(batch, model.spec.in_channels, *size, device="meta"))
    for each in hooks:
        each.remove()
    counts = {name.removeprefix("Network").removeprefix("."): sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    return counts | {"": counter.get_total_flops() // 2}, written


@given(spec=specs, size=sizes)
@settings(max_examples=100, deadline=None)
def test_cost_is_what_the_module_does(spec: NetworkSpec, size: tuple[int, int]) -> None:
    model, rows = on_meta(spec), layers(spec, size)
    named = {name: part for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear | CondConv2d)}
    assert [row.name for row in rows] == list(named)
    counted, written = torch_counts(model, size)
    assert sum(row.macs for row in rows) == counted[""]
    assert {row.name: row.macs for row in rows} == {name: counted[name] for name in named}
    assert {row.name: row.activations for row in rows} == written
    assert sum(row.params for row in rows) == sum(p.numel() for p in model.parameters())
    for row in rows:
        # a convolution's row carries the batch norm behind it
        owner = named[row.name] if not row.name.endswith(".conv") else model.get_submodule(row.name.removesuffix(".conv"))
        assert row.params == sum(p.numel() for p in owner.parameters()), row.name


@given(spec=specs, resolution=st.integers(16, 300), depth=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_totals_from_two_blocks_a_stage_are_the_sums_over_all_layers(spec: NetworkSpec, resolution: int, depth: int) -> None:
    spec = replace(spec, stages=tuple(replace(stage, depth=depth) for stage in spec.stages))
    rows, total = layers(spec, resolution), cost(Design(spec=spec, resolution=resolution))
    assert total.macs == sum(row.macs for row in rows)
    assert total.params == sum(row.params for row in rows)
    assert total.activations == sum(row.activations for row in rows)
    scales = sum(shape[0] for key, shape in layout(spec).items() if key.endswith(".bn.weight"))
    assert weight_bytes(spec) == 4 * (total.params - scales)
    assert total.peak_bytes == peak_bytes(spec, resolution)


@given(spec=specs)
@settings(max_examples=100, deadline=None)
def test_layout_is_the_state_dict(spec: NetworkSpec) -> None:
    state = on_meta(spec).state_dict()
    assert list(layout(spec).items()) == [(key, tuple(value.shape)) for key, value in state.items()]


# larger ones only repeat the same stages and take seconds each to build
@pytest.mark.parametrize("name", [name for name, row in rows().items() if row.params < 70e6])
def test_catalog_costs_what_torch_counts(name: str) -> None:
    made = design(name)
    macs = torch_counts(on_meta(made.spec), (made.resolution, made.resolution))[0][""]
    assert cost(made).macs == macs


@given(spec=specs, size=sizes, batch=st.integers(2, 3))
@settings(max_examples=10, deadline=None)
def test_macs_are_for_one_image(spec: NetworkSpec, size: tuple[int, int], batch: int) -> None:
    assert sum(row.macs for row in layers(spec, size)) * batch == torch_counts(on_meta(spec), size, batch)[0][""]
