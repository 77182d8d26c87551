"""The catalog is what other projects build: the same weights in the same shapes."""

from collections import Counter

import pytest
import torch

from phiscale.architecture.catalog import design, list_networks, row, rows
from phiscale.architecture.layout import layout
from phiscale.architecture.spec import NetworkSpec

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

TIMM = {
    **{f"efficientnet_b{n}": f"tf_efficientnet_b{n}" for n in range(9)},
    **{f"efficientnet_lite{n}": f"tf_efficientnet_lite{n}" for n in range(5)},
    **{f"efficientnetv2_{n}": f"tf_efficientnetv2_{n}" for n in ("s", "m", "l", "xl", "b0", "b1", "b2", "b3")},
    **{f"efficientnet_edgetpu_{n}": f"tf_efficientnet_e{n}" for n in "sml"},
    **{f"efficientnet_cc_{n}": f"tf_efficientnet_cc_{n}" for n in ("b0_4e", "b0_8e", "b1_8e")},
    "efficientnet_l2": "tf_efficientnet_l2",
    "efficientnet_x_b3": "efficientnet_x_b3",
    "efficientnet_x_b5": "efficientnet_x_b5",
    "efficientnet_h_b5": "efficientnet_h_b5",
    "mobilenet_v1": "mobilenetv1_100",
    "mobilenet_v2": "mobilenetv2_100",
    "mnasnet_a1": "semnasnet_100",
    "mnasnet_b1": "mnasnet_100",
    "seresnet50": "seresnet50",
    "xresnet50": "resnet50d",
}
TORCHVISION = ("resnet50", "resnet101", "resnet152", "wide_resnet50_2")


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
        peer = torchvision.models.get_model(name)
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
    assert len(rows()) == 69
    for name, each in rows().items():
        assert each.name == name == each.design.name
        assert each.preprocess.crop == each.design.resolution
        assert each.top1 is None or 60 < each.top1 < 90
        assert each.source


def test_names_are_found_by_pattern() -> None:
    assert list_networks("efficientnet_lite*") == [f"efficientnet_lite{n}" for n in range(5)]
    assert list_networks("V2_S") == ["efficientnetv2_s"]
    assert list_networks("nothing") == []
