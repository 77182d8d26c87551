"""SAME padding and TF's eps against timm's port of the TF models, weight by weight in order."""

import pytest
import torch

from phiscale.architecture.catalog import design
from phiscale.nn import Network

timm = pytest.importorskip("timm")


@pytest.mark.parametrize("size", [(224, 224), (97, 130)])
def test_same_padding_is_that_of_timms_tf_models(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    peer = timm.create_model("tf_efficientnet_b0").eval()
    for value in peer.state_dict().values():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand_like(value) + 0.5)
    model = Network(design("efficientnet_b0").spec).eval()
    ours, theirs = model.state_dict(), peer.state_dict()
    assert [value.shape for value in ours.values()] == [value.shape for value in theirs.values()]
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(model(image), peer(image), rtol=1e-5, atol=1e-5 * peer(image).abs().max().item())
