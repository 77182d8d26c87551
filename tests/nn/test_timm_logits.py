"""Numerics against timm, weight by weight in order: every kind of block, padding, epsilon, experts and shortcut of the catalog."""

from dataclasses import replace

import pytest
import torch

from phiscale.architecture.catalog import design
from phiscale.nn import Network

timm = pytest.importorskip("timm")

# float32 sums in another order (grouped convolutions, means): seen 4e-6 of the largest logit
RTOL = 2e-5
PEERS = {
    "efficientnet_b0": "tf_efficientnet_b0",
    "efficientnet_edgetpu_m": "tf_efficientnet_em",
    "efficientnet_cc_b0_4e": "tf_efficientnet_cc_b0_4e",
    "efficientnetv2_b0": "tf_efficientnetv2_b0",
    "efficientnet_x_b3": "efficientnet_x_b3",
    "mobilenet_v1": "mobilenetv1_100",
    "mobilenet_v2": "mobilenetv2_100",
    "seresnet50": "seresnet50",
    "xresnet50": "resnet50d",
}


def ordered(state: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """timm's weights in phiscale's order: the routing of mixed convolutions stands before them."""
    place = {key: index for index, key in enumerate(state)}
    firsts: dict[str, int] = {}
    for key in state:
        firsts.setdefault(".".join(key.split(".")[:3]), place[key])
    return [state[key] for key in sorted(state, key=lambda k: firsts[".".join(k.split(".")[:3])] - 0.5 if "routing" in k else place[k])]


@pytest.mark.parametrize("name", PEERS)
@torch.no_grad()
def test_logits_are_timms(name: str) -> None:
    torch.manual_seed(0)
    peer = timm.create_model(PEERS[name]).eval()
    for key, value in peer.state_dict().items():
        if value.is_floating_point() and value.ndim == 1 and "bn" in key:
            value.copy_(torch.rand_like(value) + 0.5)
    spec = design(name).spec
    if not PEERS[name].startswith("tf_"):  # timm trained these with torch's numerics
        spec = replace(spec, bn_eps=1e-5, padding="symmetric")
    model = Network(spec).eval()
    state = model.state_dict()
    theirs = ordered(peer.state_dict())
    model.load_state_dict({key: value.reshape(state[key].shape) for key, value in zip(state, theirs, strict=True)})
    for size in ((96, 96), (97, 131)):
        image = torch.rand(2, 3, *size)
        expected = peer(image)
        torch.testing.assert_close(model(image), expected, rtol=0, atol=RTOL * expected.abs().max().item())
