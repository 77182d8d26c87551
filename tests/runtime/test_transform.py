"""Two hands, one description: Pillow + numpy here, torchvision there, equal to the last bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from phiscale.architecture.preprocess import Preprocess
from phiscale.data.transform import eval_transform, normalise
from phiscale.runtime.transform import crop_box, resized_size, to_array, to_pixels


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@st.composite
def preprocesses(draw: st.DrawFn) -> Preprocess:
    crop = draw(st.integers(1, 96))
    number = st.floats(0.05, 0.95)
    return Preprocess(
        crop=crop,
        resize=crop + draw(st.integers(0, 40)),
        interpolation=draw(st.sampled_from(["bilinear", "bicubic", "lanczos"])),
        mean=draw(st.tuples(number, number, number)),
        std=draw(st.tuples(number, number, number)),
    )


@settings(max_examples=150, deadline=None)
@given(preprocesses(), st.integers(2, 160), st.integers(2, 160), st.integers(0, 9))
def test_numpy_and_torchvision_agree_bit_for_bit(pre: Preprocess, width: int, height: int, seed: int) -> None:
    image = noise(width, height, seed)
    ours, theirs = to_array(image, pre), eval_transform(pre)(image).numpy()
    assert ours.shape == (3, pre.crop, pre.crop)
    assert ours.dtype == theirs.dtype == np.float32
    assert np.array_equal(ours, theirs)


def test_equal_to_the_classic_torchvision_pipeline() -> None:
    pre = Preprocess(crop=224, resize=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    classic = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        ]
    )
    for number, size in enumerate([(500, 375), (375, 500), (257, 256), (300, 1023), (31, 32)]):
        image = noise(*size, number)
        assert np.array_equal(to_array(image, pre), classic(image).numpy())


def test_normalising_a_batch_is_normalising_each_image() -> None:
    import torch

    pre = Preprocess(crop=17, resize=20)
    images = [noise(40, 30, seed) for seed in range(3)]
    batch = torch.from_numpy(np.stack([to_pixels(image, pre).transpose(2, 0, 1) for image in images]))
    assert np.array_equal(normalise(batch, pre).numpy(), np.stack([to_array(image, pre) for image in images]))


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    image = noise(32, 32)
    assert np.array_equal(to_pixels(image, Preprocess(crop=32, resize=32)), np.asarray(image))


def test_the_longer_side_is_rounded_down_and_a_half_crop_to_even() -> None:
    assert resized_size((3, 2), 5) == (7, 5)
    assert resized_size((2, 3), 5) == (5, 7)
    assert crop_box((7, 5), 4) == (2, 0, 6, 4)  # 1.5 -> 2, 0.5 -> 0
