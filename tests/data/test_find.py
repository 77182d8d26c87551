"""Folders and lists of images, good and bad."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phiscale.data.find import find_images
from phiscale.errors import ArgumentError, DataError


def write(path: Path, seed: int, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def fill(root: Path, first: int = 0, **counts: int) -> Path:
    """root/CLASS/NN.png, all different."""
    for name, count in counts.items():
        for number in range(count):
            first += 1
            write(root / name / f"{number:02d}.png", first)
    return root


def test_one_folder_is_split_in_each_class(tmp_path: Path) -> None:
    found = find_images(fill(tmp_path, b=20, a=10, c=2))
    assert found.classes == ("a", "b", "c")
    assert found.counts() == {"train": {"a": 8, "b": 16, "c": 1}, "val": {"a": 2, "b": 4, "c": 1}}
    assert not {item.path for item in found.splits["train"]} & {item.path for item in found.splits["val"]}
    assert found == find_images(tmp_path)
    assert found.splits != find_images(tmp_path, seed=1).splits


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has one class, 'a'"):
        find_images(fill(tmp_path, a=3))


def test_a_missing_path_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="nothing") as caught:
        find_images(tmp_path / "absent")
    assert caught.value.exit_status == 2


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        find_images(tmp_path)


def test_a_class_in_val_that_train_lacks_names_both_sides(tmp_path: Path) -> None:
    fill(tmp_path / "train", a=2, b=2)
    fill(tmp_path / "val", first=10, a=1, wasp=1)
    with pytest.raises(DataError, match="val has 1 classes that train lacks: wasp; train has a, b"):
        find_images(tmp_path)
