"""The catalog is what other projects build: the same weights in the same shapes."""

from collections import Counter

import pytest
import torch

from phiscale.architecture.catalog import design, list_networks, row, rows
from phiscale.architecture.layout import layout
from phiscale.architecture.spec import NetworkSpec
from phiscale.errors import UnknownNetworkError

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

TIMM = {
    **{f"efficientnet_b{n}": f"tf_efficientnet_b{n}" for n in range(9)},
    **{f"efficientnet_lite{n}": f"tf_efficientnet_lite{n}" for n in range(5)},
    **{f"efficientnetv2_{n}": f"tf_efficientnetv2_{n}" for n in ("s", "m", "l", "xl", "b0", "b1", "b2", "b3")},
    **{f"efficientnet_edgetpu_{n}": f"tf_efficientnet_e{n}" for n in "sml"},
    **{f"efficientnet_cc_{n}": f"tf_efficientnet_cc_{n}" for n in ("b0_4e", "b0_8e", "b1_8e")},
    **{f"efficientnet_{n}_pruned": f"efficientnet_{n}_pruned" for n in ("b1", "b2", "b3")},
    **{f"efficientnetv2_rw_{n}": f"efficientnetv2_rw_{n}" for n in "tsm"},
    "efficientnet_test": "test_efficientnet",
    "efficientnet_l2": "tf_efficientnet_l2",
    "efficientnet_x_b3": "efficientnet_x_b3",
    "efficientnet_x_b5": "efficientnet_x_b5",
    "efficientnet_h_b5": "efficientnet_h_b5",
    "mobilenet_v1": "mobilenetv1_100",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v1_h": "mobilenetv1_100h",
    "mobilenet_v1_w125": "mobilenetv1_125",
    **{f"mobilenet_v2_w{n}": f"mobilenetv2_{n}" for n in ("050", "110d", "120d", "140")},
    "mnasnet_a1_w075": "semnasnet_075",
    "mnasnet_b1_w050": "mnasnet_050",
    "mnasnet_b1_w075": "mnasnet_075",
    "mnasnet_small": "mnasnet_small",
    "mnasnet_a1": "semnasnet_100",
    "mnasnet_b1": "mnasnet_100",
    "seresnet50": "seresnet50",
    "xresnet50": "resnet50d",
}
TORCHVISION = {name: name for name in ("resnet50", "resnet101", "resnet152", "wide_resnet50_2")} | {"mnasnet_b1_w130": "mnasnet1_3"}


def shapes(model: torch.nn.Module) -> Counter[tuple[int, ...]]:
    """How often each weight shape occurs; mixed convolutions flat, as timm keeps them."""
    return Counter(tuple(p.shape) for p in model.parameters())


def own_shapes(spec: NetworkSpec) -> Counter[tuple[int, ...]]:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    made = (shape for key, shape in layout(spec).items() if not key.endswith(buffers))
    return Counter((shape[0], torch.Size(shape[1:]).numel()) if len(shape) == 5 else shape for shape in made)


@pytest.mark.parametrize("name", TIMM)
def test_weight_shapes_are_timms(name: str) -> None:
    with torch.device("meta"):
        peer = timm.create_model(TIMM[name])
    assert own_shapes(design(name).spec) == shapes(peer)


@pytest.mark.parametrize("name", TORCHVISION)
def test_weight_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        peer = torchvision.models.get_model(TORCHVISION[name])
    assert own_shapes(design(name).spec) == shapes(peer)


def test_every_x_and_h_has_timms_parameters() -> None:
    from timm.models.efficientnet import _gen_efficientnet_x

    found: dict[str, int] = {}
    for name, (width, depth) in {"x_gpu_b2": (1.13, 1.24), "h_tpu_b5": (2.3, 2.76), "x_b0": (1.0, 1.0)}.items():
        with torch.device("meta"):
            peer = _gen_efficientnet_x("efficientnet_x_b3", width, depth, version=2 if name.startswith("h") else 1)
        found[f"efficientnet_{name}"] = sum(p.numel() for p in peer.parameters())
    assert found == {name: row(name).params for name in found}


def test_rows_are_whole() -> None:
    assert len(rows()) == 87
    for name, each in rows().items():
        assert each.name == name == each.design.name
        assert each.preprocess.crop == each.design.resolution
        assert each.source


def test_every_row_has_a_published_top1_but_those_of_x_and_h_that_say_why() -> None:
    """arXiv 2102.05610 has them for the reference's build, but no figure could be checked against a source; nobody published weights."""
    without = {name for name, each in rows().items() if each.top1 is None}
    known = {"efficientnet_x_b5", "efficientnet_x_b7", "efficientnet_h_b5"}
    assert without == {name for name in rows() if name.startswith(("efficientnet_x_", "efficientnet_h_"))} - known
    assert {row(name).source for name in without} == {"tensorflow/tpu efficientnet_x_builder.py, no top-1"}
    tops = {name: each.top1 for name, each in rows().items() if each.top1 is not None}
    small = {name for name, top1 in tops.items() if not 70 < top1 < 89}
    assert small == {"efficientnet_test", "mobilenet_v2_w050", "mnasnet_b1_w050", "mnasnet_small"}


def test_names_of_other_projects_are_understood_or_answered_with_ours() -> None:
    assert [row(name).name for name in ("EfficientNetB0", "efficientnet-b0", "efficientnet_v2_s", "EfficientNetV2B3", "mobilenetv2")] == [
        "efficientnet_b0",
        "efficientnet_b0",
        "efficientnetv2_s",
        "efficientnetv2_b3",
        "mobilenet_v2",
    ]
    theirs = {
        "tf_efficientnet_b0": "efficientnet_b0",
        "tf_efficientnetv2_s.in21k_ft_in1k": "efficientnetv2_s",
        "efficientnet_es": "efficientnet_edgetpu_s",
        "tf_efficientnet_el": "efficientnet_edgetpu_l",
        "efficientnet_b0.ra_in1k": "efficientnet_b0",
        "mobilenetv2_100": "mobilenet_v2",
        "semnasnet_100": "mnasnet_a1",
        "resnet50d": "xresnet50",
    }
    for name, ours in theirs.items():
        with pytest.raises(UnknownNetworkError, match=rf"as timm's it is {ours} here, .*list --weights {ours}$"):
            row(name)
    with pytest.raises(UnknownNetworkError, match="did you mean efficientnet_b8, efficientnet_b7"):
        row("efficientnet_b9")


def test_no_two_names_are_one_without_their_underscores() -> None:
    assert len({"".join(c for c in name if c.isalnum()) for name in rows()}) == len(rows())
    assert not {each.timm for each in rows().values() if each.timm} & set(rows())


def test_names_are_found_by_pattern() -> None:
    assert list_networks("efficientnet_lite*") == [f"efficientnet_lite{n}" for n in range(5)]
    assert list_networks("V2_S") == ["efficientnetv2_s"]
    assert list_networks("nothing") == []
