"""The reference's block strings are read as its networks, and written back."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiscale.architecture import NetworkSpec
from phiscale.architecture.block_strings import read, write
from phiscale.architecture.catalog import design, list_networks
from phiscale.errors import SpecError

B0 = (
    "r1_k3_s11_e1_i32_o16_se0.25 r2_k3_s22_e6_i16_o24_se0.25 r2_k5_s22_e6_i24_o40_se0.25 r3_k3_s22_e6_i40_o80_se0.25 "
    "r3_k5_s11_e6_i80_o112_se0.25 r4_k5_s22_e6_i112_o192_se0.25 r1_k3_s11_e6_i192_o320_se0.25"
)
V2_S = (
    "r2_k3_s1_e1_i24_o24_c1 r4_k3_s2_e4_i24_o48_c1 r4_k3_s2_e4_i48_o64_c1 "
    "r6_k3_s2_e4_i64_o128_se0.25 r9_k3_s1_e6_i128_o160_se0.25 r15_k3_s2_e6_i160_o256_se0.25"
)
EDGETPU = "['r1_k3_s11_e4_i24_o24_c1_noskip', 'r2_k3_s22_e8_i24_o32_c1', 'r4_k3_s22_e8_i32_o48_c1', 'r5_k5_s22_e8_i48_o96', 'r4_k5_s11_e8_i96_o144', 'r2_k5_s22_e8_i144_o192']"  # noqa: E501


def test_published_strings_are_the_catalogs_networks() -> None:
    assert read(B0) == design("efficientnet_b0").spec
    assert read(V2_S) == design("efficientnetv2_s").spec
    edgetpu = design("efficientnet_edgetpu_s").spec
    assert replace(read(EDGETPU, stem=32), activation="relu") == edgetpu
    assert write(design("efficientnet_b0").spec) == B0.split()


# X and H have activations, RW-S and RW-M blocks, of their own
BEYOND = ("efficientnet_x_", "efficientnet_h_", "efficientnetv2_rw_s", "efficientnetv2_rw_m")


@pytest.mark.parametrize("name", [name for name in list_networks("efficientnet*") if not name.startswith(BEYOND)])
def test_what_is_written_is_read_back(name: str) -> None:
    spec = design(name).spec
    assert read(" ".join(write(spec))).stages == spec.stages


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no block strings"),
        ("r1_k3_s11_e1_i32_o16 r1_k3_s11_e1_i16_x9", "stage 2: 'x9' in .* known: r, k"),
        ("r1_k3_s11_e1_o16", "stage 1: .* has no i"),
        ("r1_k3_s12_e1_i32_o16", "stage 1: height and width must stride alike, got s12"),
        ("r1_k4_s11_e1_i32_o16", "stage 1: kernel must be odd, got 4"),
        ("r0_k3_s11_e1_i32_o16", "stage 1: depth"),
        ("r1.5_k3_s11_e1_i32_o16", "stage 1: r must be a whole number"),
        ("r1_k3_s11_e1_i32_o16_f1_d2", "stage 1: 'f1'"),
        ("r1_k3_s11_e1_i0_o16", "stage 1: i must be at least 1"),
    ],
)
def test_a_wrong_string_is_named(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        read(text)


@given(text=st.lists(st.from_regex(r"[rkseio]{1,2}[0-9.]{0,4}", fullmatch=True), max_size=8).map("_".join))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_network_or_a_spec_error(text: str) -> None:
    try:
        made = read(text)
    except SpecError:
        return
    assert isinstance(made, NetworkSpec)


def test_what_the_form_has_no_word_for_is_refused() -> None:
    with pytest.raises(SpecError, match="stage 1: block strings have no word for bottleneck"):
        write(design("resnet50").spec)
    with pytest.raises(SpecError, match="stage 1: block strings have no word for a fused block in two convolutions"):
        write(design("efficientnetv2_rw_s").spec)
