"""Design files: what is written is read back equal; what is wrong is a SpecError that names the part and the field."""

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiscale.architecture import Design, NetworkSpec, Origin, Preprocess, Rounding, scale
from phiscale.architecture.catalog import design, rows
from phiscale.architecture.toml import dumps
from phiscale.errors import ArgumentError, SpecError
from random_specs import specs

B0 = design("efficientnet_b0")

designs = st.builds(
    Design,
    spec=specs,
    resolution=st.integers(1, 4096),
    rounding=st.builds(
        Rounding, divisor=st.integers(1, 32), guard=st.floats(0, 1), depth=st.sampled_from(("ceil", "nearest")), ends=st.booleans()
    ),
    origin=st.builds(
        Origin,
        baseline=st.text(),
        phi=st.none() | st.floats(-64, 64),
        coefficients=st.none() | st.tuples(*[st.floats(0.1, 10)] * 3),
        depth=st.floats(0.1, 10),
        budget=st.text(),
    ),
)


@given(made=designs)
@settings(deadline=None)
def test_a_design_file_is_read_back_equal(made: Design) -> None:
    assert Design.from_toml(made.to_toml()) == made


@given(spec=specs)
@settings(deadline=None)
def test_a_spec_survives_its_plain_form(spec: NetworkSpec) -> None:
    assert NetworkSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("name", rows())
def test_every_published_design_can_be_written(name: str) -> None:
    assert Design.from_toml(design(name).to_toml()) == design(name)
    preprocess = rows()[name].preprocess
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


def test_a_scaled_design_keeps_how_it_came_about() -> None:
    made = scale(B0, phi=1.5)
    assert Design.from_toml(made.to_toml()).origin == made.origin


def changed(old: str, new: str, nth: int = 1) -> str:
    parts = B0.to_toml().split(old)
    assert len(parts) > nth
    return old.join(parts[:nth]) + new + old.join(parts[nth:])


WRONG = {
    "kernel of stage 4": (changed("kernel = 3", "kernel = 4", nth=3), "stage 4: kernel must be odd, got 4"),
    "typo in a stage": (changed("kernel =", "kernle ="), "stage 1: no field 'kernle'; did you mean 'kernel'?"),
    "typo in the network": (changed("bn_eps", "bn_epz"), "network: no field 'bn_epz'; did you mean 'bn_eps'?"),
    "unknown key": (changed("skip = true", "zzz = 1"), "stage 1: no field 'zzz'; known: kind, depth"),
    "unknown table": (B0.to_toml() + "\n[other]\n", "design: no field 'other'"),
    "missing width": (changed("width = 16\n", ""), "stage 1: .*width"),
    "width in quotes": (changed("width = 16", 'width = "16"'), "stage 1: width must be a whole number"),
    "float depth": (changed("depth = 1\n", "depth = 1.0\n"), "stage 1: depth must be a whole number"),
    "skip as a number": (changed("skip = true", "skip = 1"), "stage 1: skip must be true or false"),
    "kind": (changed('"mbconv"', '"mbkonv"'), "stage 1: kind must be one of mbconv, fused"),
    "experts": (changed('"mbconv"', '"fused"').replace("experts = 0", "experts = 4", 1), "stage 1: only mbconv has experts, got 4"),
    "split": (changed("split = false", "split = true"), "stage 1: split is of a fused stage with expand 1 and no squeeze-excite"),
    "shortcut": (changed('shortcut = "conv"', 'shortcut = "pool"'), "stage 1: only a bottleneck has a pooled shortcut, got mbconv"),
    "activation": (changed('"silu"', '"swish"'), "network: activation must be one of silu"),
    "padding": (changed('padding = "same"', 'padding = "valid"'), "network: padding must be one of same"),
    "stem widths": (changed("widths = [32]", "widths = 32"), "stem: widths must be a list"),
    "empty stem": (changed("widths = [32]", "widths = []"), "stem: widths must have 1 to 8"),
    "stem kernel": (changed("[network.stem]\nwidths = [32]\nkernel = 3", "[network.stem]\nkernel = 4"), "stem: kernel must be odd"),
    "resolution": (changed("resolution = 224", "resolution = true"), "design: resolution must be a whole number"),
    "no resolution": (changed("resolution = 224\n", ""), "design: needs `resolution`"),
    "later schema": (changed("schema = 1", "schema = 2"), "design: schema must be 1, got 2; written by a newer phiscale"),
    "no schema": (changed("schema = 1\n", ""), "design: schema must be 1, got None"),
    "rounding": (changed("divisor = 8", "divisor = 0"), "rounding: divisor"),
    "depth rule": (changed('depth = "ceil"', 'depth = "floor"'), "rounding: depth must be one of ceil, nearest"),
    "origin": (changed('baseline = "efficientnet_b0"', "baseline = 3"), "origin: baseline must be text"),
    "no stages": ('schema = 1\nresolution = 9\n[network]\nhead_width = 8\n', "network: stages is missing"),
    "stages as a table": ('schema = 1\nresolution = 9\n[network.stages]\nkind = "mbconv"\n', "network: stages"),
    "stages of numbers": ("schema = 1\nresolution = 9\n[network]\nstages = [1]\n", "stage 1: expected a table, got 1"),
    "network as a number": ("schema = 1\nresolution = 9\nnetwork = 1\n", "network: expected a table"),
    "not TOML": ("schema = = 1", "not TOML"),
    "thousands of digits": (changed("width = 16", "width = " + "9" * 5000), "not TOML|too large|digits"),
    "thousands of hexadecimal digits": (changed("width = 16", "width = 0x" + "f" * 5000), "SpecError|digits|width"),
    "nested too deeply": ("a = " + "[" * 100_000, "nested too deeply|not TOML"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_an_error_names_the_part_and_the_field(case: str) -> None:
    text, says = WRONG[case]
    with pytest.raises(SpecError, match=says):
        Design.from_toml(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(("mbconv", "same", "silu")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def paths(table: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for key, value in items:
        found += paths(value, (*path, key))
    return found


PLAIN = tomllib.loads(scale(B0, phi=1).to_toml())
PATHS = paths(PLAIN)


@given(path=st.sampled_from(PATHS), value=values)
@settings(max_examples=300, deadline=None)
def test_a_file_with_any_value_anywhere_is_a_design_or_a_spec_error(path: tuple[Any, ...], value: Any) -> None:
    table = tomllib.loads(dumps(PLAIN))
    at = table
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    try:
        made = Design.from_dict(table)
    except SpecError as error:
        part = str(error).split(":")[0].split()[0]
    else:
        part = "design"
        assert Design.from_toml(made.to_toml()) == made
    assert part in {"design", "origin", "rounding", "network", "stem", "stage"}


@given(text=st.text() | st.text(alphabet="[]{}=\"\n .0123456789aeinf_x'#", max_size=60))
@settings(max_examples=300)
def test_any_text_is_a_design_or_a_spec_error(text: str) -> None:
    with pytest.raises(SpecError):
        Design.from_toml(text)


def test_a_missing_file_and_a_wrong_one_are_named(tmp_path: Any) -> None:
    with pytest.raises(ArgumentError, match=r"can't read the design file .*gone\.toml"):
        Design.read(tmp_path / "gone.toml")
    (tmp_path / "wrong.toml").write_text("schema = 7")
    with pytest.raises(SpecError, match=r"wrong\.toml: design: schema"):
        Design.read(tmp_path / "wrong.toml")
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ArgumentError, match="can't read"):
        Design.read(tmp_path / "latin.toml")


def test_a_published_name_that_does_not_exist_brings_the_nearest() -> None:
    with pytest.raises(ArgumentError, match=r"no network 'efficientnet_b9'; did you mean efficientnet_b"):
        design("efficientnet_b9")
