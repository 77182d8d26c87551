"""Augmentation policies: what they do, and that a seed decides all of it in any process."""

from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from phiscale.architecture.preprocess import Preprocess
from phiscale.data.find import ImageSet, Item
from phiscale.data.load import EpochBatches, ImageDataset, balanced_order, make_loader
from phiscale.data.policies import RAND, V0, auto_augment, operate, rand_augment
from phiscale.data.transform import Augment, vary
from phiscale.errors import SpecError

PRE = Preprocess(crop=32, resize=32)
STILL = {"scale": (1, 1), "ratio": (1, 1), "flip": False, "jitter": 0}
POLICIES = ("auto", "rand", "trivial", "augmix")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
    return smooth.convert("RGB")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(1)
    items = []
    for number in range(9):
        Image.fromarray(random.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(root / f"{number}.png")
        items.append(Item(root / f"{number}.png", 0 if number < 7 else 1))
    return ImageSet(root=root, classes=("a", "b"), splits={"train": tuple(items)})


def apply(image: Image.Image, policy: str, seed: int, **values: object) -> np.ndarray:
    augment = Augment(**STILL, policy=policy, **values)  # type: ignore[arg-type]
    return vary(np.asarray(image), preprocess=PRE, augment=augment, seed=seed).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_seed_decides_all_and_the_global_generators_nothing(picture: Image.Image, policy: str) -> None:
    made = [apply(picture, policy, seed) for seed in range(40)]
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    again = [apply(picture, policy, seed) for seed in range(40)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
    assert len({one.tobytes() for one in made}) > 20
    assert all(one.shape == (32, 32, 3) for one in made)


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_the_same_whatever_the_worker_count(images: ImageSet, policy: str) -> None:
    augment = Augment(policy=policy, erase=0.5)  # type: ignore[arg-type]
    dataset = ImageDataset(images, "train", preprocess=PRE, augment=augment, seed=3)
    expected = [pixels for pixels, *_ in make_loader(dataset, batch=4, shuffle=True, epoch=2)]
    for workers in (1, 2):
        torch.manual_seed(workers)
        seen = [pixels for pixels, *_ in make_loader(dataset, batch=4, shuffle=True, epoch=2, workers=workers)]
        assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))
    other = [pixels for pixels, *_ in make_loader(dataset, batch=4, shuffle=True, epoch=3)]
    assert not torch.equal(other[0], expected[0])


def test_v0_is_the_reference_table() -> None:
    """25 pairs; sums over the table in tensorflow/tpu, counted there by a script."""
    assert len(V0) == 25
    names = Counter(name for pair in V0 for name, _, _ in pair)
    assert names == {
        "equalize": 12, "solarize": 8, "color": 9, "rotate": 7, "shear_y": 4, "shear_x": 2, "solarize_add": 2, "posterize": 2,
        "invert": 1, "auto_contrast": 2, "translate_y": 1,
    }  # fmt: skip
    assert sum(probability for pair in V0 for _, probability, _ in pair) == pytest.approx(29.8)
    assert sum(level for pair in V0 for _, _, level in pair) == 240


def test_auto_augment_uses_every_pair(picture: Image.Image) -> None:
    seen = {auto_augment(picture, Random(seed)).tobytes() for seed in range(400)}
    assert len(seen) > 40


def test_rand_augment_draws_its_operations_evenly_and_obeys_chance(picture: Image.Image) -> None:
    plain = np.asarray(picture)
    assert all(np.array_equal(np.asarray(rand_augment(picture, Random(seed), magnitude=9, chance=0)), plain) for seed in range(20))
    assert np.array_equal(np.asarray(rand_augment(picture, Random(0), magnitude=9, operations=0)), plain)
    once = [
        sum(
            not np.array_equal(np.asarray(rand_augment(picture, Random(seed), magnitude=9, operations=1, chance=chance)), plain)
            for seed in range(400)
        )
        for chance in (0.5, 1.0)
    ]
    assert once[0] == pytest.approx(once[1] / 2, abs=40)


@pytest.mark.parametrize("name", RAND)
def test_an_operation_grows_with_its_level_or_has_none(picture: Image.Image, name: str) -> None:
    plain = np.asarray(picture).astype(float)
    moved = [np.abs(np.asarray(operate(picture, name, level, Random(0))) - plain).mean() for level in (0.0, 5.0, 10.0)]
    match name:
        case "rotate" | "shear_x" | "shear_y" | "cutout" | "solarize_add":
            assert 0 == moved[0] < moved[1] < moved[2]
        case "translate_x" | "translate_y":  # what moves away leaves grey, which can be nearer
            assert moved[0] == 0 < min(moved[1:])
        case "posterize" | "solarize":  # keeps more bits, or more pixels, as the level rises, as in the reference
            assert moved[0] > moved[1] > moved[2]
        case "color" | "contrast" | "brightness" | "sharpness":  # 5 is a factor of one
            assert moved[1] == pytest.approx(0, abs=1)
            assert min(moved[0], moved[2]) > moved[1]
        case _:
            assert len(set(moved)) == 1


def test_full_strength_is_what_the_reference_says() -> None:
    grey = Image.new("RGB", (100, 100), (100, 100, 100))
    assert operate(grey, "solarize_add", 10, Random(0)).getpixel((0, 0)) == (210, 210, 210)
    assert operate(grey, "brightness", 10, Random(0)).getpixel((0, 0)) == (190, 190, 190)
    assert operate(grey, "posterize", 5, Random(0)).getpixel((0, 0)) == (64, 64, 64)
    assert operate(grey, "solarize", 1, Random(0)).getpixel((0, 0)) == (155, 155, 155)
    shifted = np.asarray(operate(grey, "translate_x", 10, Random(0)))[50, :, 0]
    assert (shifted == 128).sum() == 45


def test_erasing_fills_a_box_with_noise_as_often_as_told(picture: Image.Image) -> None:
    plain = np.asarray(picture)
    shares = [(apply(picture, "none", seed, erase=0.4) != plain).any(2).mean() for seed in range(300)]
    erased = [share for share in shares if share]
    assert len(erased) == pytest.approx(120, abs=30)
    assert max(erased) <= 0.36
    assert min(erased) >= 0.01


@pytest.mark.parametrize("wrong", [{"policy": "autoaugment"}, {"magnitude": 31}, {"erase": 1.5}, {"operations": 1.5}, {"flip": 2}])
def test_a_policy_that_does_not_exist_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SpecError, match=f"augment: {next(iter(wrong))}"):
        Augment(**wrong)  # type: ignore[arg-type]


def test_a_smaller_crop_is_the_same_view_smaller(images: ImageSet) -> None:
    dataset = ImageDataset(images, "train", preprocess=PRE, augment=Augment(jitter=0), seed=0)
    whole = dataset[0, 1][0].float()
    dataset.vary_by(Augment(jitter=0), size=0.5)
    half = dataset[0, 1][0].float()
    assert half.shape == (3, 16, 16)
    pooled = torch.nn.functional.avg_pool2d(whole, 2)
    assert (pooled - half).abs().mean() < (pooled - half.flip(2)).abs().mean() / 2


# --- balanced sampling


def test_balanced_sampling_shows_every_class_equally_often_and_every_image_in_time() -> None:
    labels = [0] * 60 + [1] * 12 + [2] * 3
    seen: Counter[int] = Counter()
    for epoch in range(12):
        order = balanced_order(labels, seed=4, epoch=epoch)
        assert len(order) == len(labels)
        assert Counter(labels[index] for index in order) == {0: 25, 1: 25, 2: 25}
        seen.update(order)
    assert set(seen) == set(range(75))
    assert order == balanced_order(labels, seed=4, epoch=11)
    assert order != balanced_order(labels, seed=5, epoch=11)


def test_an_image_that_comes_twice_in_an_epoch_is_varied_twice(images: ImageSet) -> None:
    labels = [item.label for item in images.splits["train"]]
    keys = [key for batch in EpochBatches(9, batch=4, shuffle=True, labels=labels) for key in batch]
    assert len(set(keys)) == len(keys) == 9
    repeated = [key for key in keys if len(key) == 3]
    assert repeated
    dataset = ImageDataset(images, "train", preprocess=PRE, augment=Augment(), seed=0)
    assert not torch.equal(dataset[repeated[0]][0], dataset[repeated[0][:2]][0])


def test_a_policy_of_torchvision_is_imported_only_when_asked_for(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = """
import sys
import numpy as np
from phiscale.architecture import Preprocess
from phiscale.data.transform import Augment, vary
image = np.zeros((32, 32, 3), np.uint8)
vary(image, preprocess=Preprocess(crop=8, resize=8), augment=Augment(policy="auto"), seed=0)
assert "torchvision" not in sys.modules
vary(image, preprocess=Preprocess(crop=8, resize=8), augment=Augment(policy="trivial"), seed=0)
assert "torchvision" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
