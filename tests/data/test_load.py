"""Batches: the same pixels for the same (seed, epoch, index), exact in evaluation, with and without the cache."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from phiscale.architecture.preprocess import Interpolation, Preprocess
from phiscale.data.find import ImageSet, Item, find_images
from phiscale.data.load import (
    EpochBatches,
    ImageCache,
    ImageDataset,
    check_images,
    epoch_order,
    eval_batches,
    make_loader,
    open_images,
    train_batches,
)
from phiscale.data.transform import Augment, _random_box, eval_transform, vary
from phiscale.errors import ArgumentError, DataError
from phiscale.runtime.image import read_image
from phiscale.runtime.transform import FILTERS, to_pixels

PRE = Preprocess(crop=24, resize=28)
SIZES = [(60, 40), (24, 24), (8, 8), (30, 90), (28, 28), (200, 150)]  # larger and smaller than the crop


def make(root: Path, classes: str = "ab", each: int = 6) -> ImageSet:
    random = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(each):
            width, height = SIZES[number % len(SIZES)]
            Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
    return find_images(root, val_share=0.34)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return make(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def cached(images: ImageSet) -> tuple[ImageSet, ImageCache]:
    return open_images(images, preprocess=PRE)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_the_reference_preprocessing_bit_for_bit(cached: tuple[ImageSet, ImageCache], split: str, workers: int) -> None:
    image_set, cache = cached
    reference = eval_transform(PRE)
    for kept in (cache, None):
        seen = 0
        for x, labels, indices in eval_batches(image_set, split, preprocess=PRE, batch=3, cache=kept, workers=workers):
            assert x.dtype == torch.float32
            assert labels.dtype == indices.dtype == torch.int64
            for image, label, index in zip(x, labels, indices, strict=True):
                item = image_set.splits[split][int(index)]
                assert torch.equal(image, reference(read_image(item.path)))
                assert item.label == label
                seen += 1
        assert seen == len(image_set.splits[split])


@pytest.mark.parametrize("max_bytes", [1 << 30, 20_000, 0])
def test_neither_cache_nor_workers_nor_a_resume_change_a_training_pixel(cached: tuple[ImageSet, ImageCache], max_bytes: int) -> None:
    image_set, full = cached
    _, cache = open_images(image_set, preprocess=PRE, max_bytes=max_bytes)
    assert cache.used_bytes <= max_bytes
    assert (len(cache.larger) == len(full.larger)) == (max_bytes == 1 << 30)
    dataset = ImageDataset(image_set, "train", preprocess=PRE, augment=Augment(), seed=3, cache=full)
    expected = list(make_loader(dataset, batch=3, shuffle=True, epoch=5))
    other = ImageDataset(image_set, "train", preprocess=PRE, augment=Augment(), seed=3, cache=cache)
    torch.manual_seed(99)
    loader = make_loader(other, batch=3, shuffle=True, epoch=5, workers=2)
    loader.batch_sampler.first = 1  # a resume in the middle of the epoch
    resumed = list(loader)
    assert len(resumed) == len(expected) - 1
    for mine, theirs in zip(resumed, expected[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_loading_leaves_the_global_generator_alone(cached: tuple[ImageSet, ImageCache]) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    for _ in train_batches(cached[0], preprocess=PRE, batch=3, seed=0, epoch=0, augment=Augment(), cache=cached[1]):
        pass
    assert torch.equal(before, torch.random.get_rng_state())


def test_seed_epoch_and_index_each_change_the_picture(cached: tuple[ImageSet, ImageCache]) -> None:
    def sample(seed: int, epoch: int, index: int) -> torch.Tensor:
        return ImageDataset(cached[0], "train", preprocess=PRE, augment=Augment(), seed=seed, cache=cached[1])[epoch, index][0]

    assert torch.equal(sample(0, 0, 0), sample(0, 0, 0))
    assert not torch.equal(sample(0, 0, 0), sample(1, 0, 0))
    assert not torch.equal(sample(0, 0, 0), sample(0, 1, 0))
    assert not torch.equal(sample(0, 0, 0), sample(0, 0, 1))


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    orders = {tuple(epoch_order(50, seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)


@pytest.mark.parametrize(("n", "batch", "sizes"), [(9, 4, [4, 5]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (1, 4, [1]), (3, 8, [3])])
def test_no_training_batch_has_a_single_image(n: int, batch: int, sizes: list[int]) -> None:
    batches = EpochBatches(n, batch=batch, shuffle=True, epoch=2)
    assert [len(keys) for keys in batches] == sizes
    assert len(batches) == len(sizes)
    assert sorted(key for keys in batches for key in keys) == [(2, index) for index in range(n)]


def test_a_cache_of_other_images_or_another_size_is_not_used(cached: tuple[ImageSet, ImageCache]) -> None:
    image_set, cache = cached
    turned = ImageSet(
        root=image_set.root, classes=image_set.classes, splits={name: items[::-1] for name, items in image_set.splits.items()}
    )
    for given, pre in ((turned, PRE), (image_set, PRE.at(16))):
        x, _, _ = next(eval_batches(given, "val", preprocess=pre, batch=1, cache=cache))
        assert torch.equal(x[0], eval_transform(pre)(read_image(given.splits["val"][0].path)))


# --- files that can't be read


def test_unreadable_files_are_left_out_and_told(tmp_path: Path) -> None:
    image_set = make(tmp_path)
    bad = image_set.splits["train"][1].path
    bad.write_text("not a picture")
    seen: list[tuple[int, int]] = []
    found, cache = open_images(image_set, preprocess=PRE, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 12) for number in range(1, 13)]
    assert [(skip.path, skip.code) for skip in found.skipped] == [(bad, "not_an_image")]
    assert found.skipped[0].message.startswith("not an image")
    assert bad not in {item.path for item in found.splits["train"]}
    assert bad.read_text() == "not a picture"
    assert check_images(image_set) == found
    for x, _, indices in eval_batches(found, "train", preprocess=PRE, batch=1, cache=cache):  # the indices moved up
        assert torch.equal(x[0], eval_transform(PRE)(read_image(found.splits["train"][int(indices)].path)))


def test_a_class_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    image_set = make(tmp_path, "abc")
    for item in image_set.splits["train"]:
        if item.label == 1:
            item.path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the training images of b can be read"):
        open_images(image_set, preprocess=PRE)


def test_more_bad_than_good_is_refused_with_the_reasons(tmp_path: Path) -> None:
    image_set = make(tmp_path)
    for items in image_set.splits.values():
        for item in items:
            item.path.write_bytes(b"")
    with pytest.raises(DataError, match=r"0 of 12 images can be read \(12 empty\); the first that can't: .*no bytes"):
        check_images(image_set)


def test_a_class_lost_in_val_is_only_told(tmp_path: Path) -> None:
    image_set = make(tmp_path)
    for item in image_set.splits["val"]:
        if item.label == 0:
            item.path.write_bytes(b"")
    assert "none of the val images of a can be read" in check_images(image_set).notes


def test_a_file_that_vanishes_later_is_named(tmp_path: Path) -> None:
    image_set = make(tmp_path)
    gone = image_set.splits["val"][0].path
    gone.unlink()
    with pytest.raises(DataError, match=gone.name):
        next(eval_batches(image_set, "val", preprocess=PRE, batch=1))


def test_an_unknown_split_names_those_there_are(images: ImageSet) -> None:
    with pytest.raises(DataError, match="no split 'test'; there is train, val"):
        ImageDataset(images, "test", preprocess=PRE)


# --- augmentation


def seen(image: Image.Image, augment: Augment, seed: int) -> np.ndarray:
    """(H, W, 3) as training sees it."""
    return vary(np.asarray(image), preprocess=PRE, augment=augment, seed=seed).permute(1, 2, 0).numpy()


def photo_like(width: int, height: int) -> Image.Image:
    """Smooth areas, edges and some noise."""
    random = np.random.default_rng(width)
    coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse).astype(np.int16) + random.integers(-6, 7, (height, width, 1))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (20, 200, 90)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("size", [(500, 375), (60, 90)])
def test_a_random_crop_has_the_pixels_that_pillow_would_give(size: tuple[int, int], interpolation: Interpolation) -> None:
    image, whole = photo_like(*size), Preprocess(crop=224, resize=256, interpolation=interpolation)
    augment = Augment(jitter=0, flip=False)
    for seed in range(4):
        box = _random_box(image.size, augment, Random(seed))
        reference = np.asarray(image.crop(box).resize((224, 224), FILTERS[interpolation])).astype(int)
        ours = vary(np.asarray(image), preprocess=whole, augment=augment, seed=seed).permute(1, 2, 0).numpy()
        off = np.abs(ours - reference)
        assert off.mean() < 0.1  # seen 0.04; both round to 8 bits between the two passes, at other places
        assert (off > 2).mean() < 0.001


def test_large_photos_are_decoded_small_for_training_and_exactly_for_evaluation(tmp_path: Path) -> None:
    image = photo_like(800, 600)
    image.save(tmp_path / "large.jpg", quality=90)
    items = (Item(tmp_path / "large.jpg", 0),)
    found = ImageSet(root=tmp_path, classes=("a", "b"), splits={"train": items})
    small = Preprocess(crop=128, resize=146)
    pixels, _, _ = ImageDataset(
        found, "train", preprocess=small, augment=Augment(scale=(1, 1), ratio=(4 / 3, 4 / 3), jitter=0, flip=False)
    )[0, 0]
    exact = read_image(tmp_path / "large.jpg")
    off = np.abs(pixels.permute(1, 2, 0).numpy() - np.asarray(exact.resize((128, 128), Image.Resampling.BICUBIC)).astype(int))
    assert off.mean() < 1.5  # of 255; seen 0.6: the decoder keeps each block's low frequencies, the filter weighs all
    plain, _, _ = ImageDataset(found, "train", preprocess=small)[0, 0]
    assert np.array_equal(plain.permute(1, 2, 0).numpy(), to_pixels(exact, small))


def test_without_variation_training_sees_the_whole_picture() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    still = Augment(scale=(1, 1), ratio=(1, 1), flip=False, jitter=0)
    assert np.array_equal(seen(image, still, 0), np.asarray(image))


def test_mirroring_happens_half_the_time_and_never_if_told() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for flip, low, high in ((True, 60, 140), (False, 0, 0)):
        still = Augment(scale=(1, 1), ratio=(1, 1), flip=flip, jitter=0)
        turned = [seen(image, still, seed) for seed in range(200)]
        mirrored = sum(np.array_equal(one, np.asarray(image)[:, ::-1]) for one in turned)
        assert low <= mirrored <= high
        assert sum(np.array_equal(one, np.asarray(image)) for one in turned) == 200 - mirrored


def test_jitter_keeps_the_mean_near_and_moves_every_channel() -> None:
    image = Image.fromarray(np.full((24, 24, 3), (60, 120, 180), np.uint8))
    still = Augment(scale=(1, 1), ratio=(1, 1), flip=False, jitter=0.1)
    means = np.stack([seen(image, still, seed).mean((0, 1)) for seed in range(300)])
    assert np.abs(means.mean(0) - (60, 120, 180)).max() < 3
    assert (means.std(0) > 1).all()
    assert np.abs(means / (60, 120, 180) - 1).max() < 0.4


def test_a_wide_picture_still_gives_a_crop_inside_it() -> None:
    image = Image.new("RGB", (400, 4), "white")
    for seed in range(20):
        assert seen(image, Augment(jitter=0), seed).min() == 255


@pytest.mark.parametrize("wrong", [{"scale": (0.5, 0.2)}, {"scale": (0.5, 1.5)}, {"ratio": (0, 1)}, {"jitter": 1}])
def test_augmentation_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ArgumentError, match=f"augment: {next(iter(wrong))}"):
        Augment(**wrong)


def test_real_photographs_fit_in_memory(photos: Path) -> None:
    image_set = find_images(photos / "ants-bees")
    few = ImageSet(
        root=image_set.root,
        classes=image_set.classes,
        splits={name: tuple(Item(item.path, item.label) for item in items[::20]) for name, items in image_set.splits.items()},
    )
    pre = Preprocess(crop=224, resize=256)
    found, cache = open_images(few, preprocess=pre)
    assert found.skipped == ()
    for split in found.splits:
        x, _, indices = next(eval_batches(found, split, preprocess=pre, batch=4, cache=cache))
        for image, index in zip(x, indices, strict=True):
            assert torch.equal(image, eval_transform(pre)(read_image(found.splits[split][int(index)].path)))
