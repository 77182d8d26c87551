"""Public data sets by name, on files that are made here in each set's own layout: few images, the real readers."""

import json
import os
import pickle
import shutil
import struct
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from phiscale.cli import main
from phiscale.data.find import find_images, find_labelled
from phiscale.data.named import SETS, named_folder
from phiscale.errors import ArgumentError, DataError
from tiny import TINY

datasets = pytest.importorskip("torchvision.datasets")
CHANCE = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root and an empty cache; whoever would download is offline."""
    monkeypatch.setenv("PHISCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PHISCALE_DATA", str(tmp_path / "data"))

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(CHANCE.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(path)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# --- one maker a set: what it writes below the root


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> np.ndarray:
    made, pixels = getattr(datasets, kind), None
    key = "labels" if kind == "CIFAR10" else "fine_labels"
    for name, _ in (*made.train_list, *made.test_list):
        pixels = CHANCE.integers(0, 256, (6, 3072), dtype=np.uint8)
        path = root / made.base_folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps({"data": pixels, key: [0, 1, 2, 0, 1, 2]}))
    (root / made.base_folder / made.meta["filename"]).write_bytes(pickle.dumps({made.meta["key"]: ["cat", "dog", "eel"]}))
    for name in ("train_list", "test_list"):  # the checksums of the real files: nothing else is unpickled
        monkeypatch.setattr(made, name, [[file, None] for file, _ in getattr(made, name)])
    monkeypatch.setattr(made, "meta", made.meta | {"md5": None})
    assert pixels is not None
    return pixels


def fashion(root: Path) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 40), ("t10k", 20)):
        images = CHANCE.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 28, 28) + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())


def flowers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io = pytest.importorskip("scipy.io")
    home = root / "flowers-102"
    for number in range(1, 13):
        photo(home / "jpg" / f"image_{number:05d}.jpg")
    io.savemat(home / "imagelabels.mat", {"labels": np.array([1, 2] * 6)})
    io.savemat(home / "setid.mat", {"trnid": np.arange(1, 5), "valid": np.arange(5, 7), "tstid": np.arange(7, 13)})
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", {key: (name, None) for key, (name, _) in datasets.Flowers102._file_dict.items()})


def cars(root: Path) -> None:
    io = pytest.importorskip("scipy.io")
    home = root / "stanford_cars"
    (home / "devkit").mkdir(parents=True)
    io.savemat(home / "devkit" / "cars_meta.mat", {"class_names": np.array(["Ram C/V Van 2012", "smart fortwo"], dtype=object)})
    for split, file, count in (("train", "devkit/cars_train_annos.mat", 4), ("test", "cars_test_annos_withlabels.mat", 6)):
        rows = [(1 + number % 2, photo(home / f"cars_{split}" / f"{number:05d}.jpg").name) for number in range(count)]
        io.savemat(home / file, {"annotations": np.rec.array(rows, dtype=[("class", "i4"), ("fname", "U20")])})


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    write(data / "variants.txt", "707-320\nF-16A/B\n")
    for split, count in (("train", 4), ("val", 2), ("test", 4)):
        lines = []
        for number in range(count):
            photo(data / "images" / f"{split}{number}.jpg")
            lines.append(f"{split}{number} {('707-320', 'F-16A/B')[number % 2]}\n")
        write(data / f"images_variant_{split}.txt", "".join(lines))


def pets(root: Path) -> None:
    home = root / "oxford-iiit-pet"
    for split, count in (("trainval", 4), ("test", 2)):
        lines = []
        for number in range(count):
            name = f"{('Abyssinian', 'basset_hound')[number % 2]}_{split}{number}"
            photo(home / "images" / f"{name}.jpg")
            lines.append(f"{name} {1 + number % 2} 1 1\n")
        write(home / "annotations" / f"{split}.txt", "".join(lines))


def food(root: Path) -> None:
    home = root / "food-101"
    for split in ("train", "test"):
        names = {label: [f"{label}/{split}{number}" for number in range(3)] for label in ("apple_pie", "waffles")}
        write(home / "meta" / f"{split}.json", json.dumps(names))
        for name in (name for of in names.values() for name in of):
            photo(home / "images" / f"{name}.jpg")


def wnids(folder: Path, names: tuple[str, ...], splits: tuple[str, ...] = ("train", "val")) -> None:
    for split in splits:
        for name in names:
            for number in range(2):
                photo(folder / split / name / f"{name}_{number}.JPEG")


# --- each set is read


@pytest.mark.parametrize(("name", "kind"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    last = cifar(root, monkeypatch, kind)
    found = find_images(name)
    batches = len(getattr(datasets, kind).train_list)
    assert found.classes == ("cat", "dog", "eel")
    assert sum(map(sum, (of.values() for split, of in found.counts().items() if split != "test"))) == 6 * batches
    assert found.counts()["test"] == {"cat": 2, "dog": 2, "eel": 2}
    first = min(item.path for item in found.splits["test"] if item.label == 0)
    assert (np.asarray(Image.open(first)) == last[0].reshape(3, 32, 32).transpose(1, 2, 0)).all()


@pytest.mark.parametrize(
    ("name", "make", "classes", "counts"),
    [
        ("fashion_mnist", fashion, ("Ankle boot", "Bag", "Coat"), {"train": 30, "val": 10, "test": 20}),
        ("stanford_cars", cars, ("Ram C-V Van 2012", "smart fortwo"), {"train": 2, "val": 2, "test": 6}),
        ("fgvc_aircraft", aircraft, ("707-320", "F-16A-B"), {"train": 4, "val": 2, "test": 4}),
        ("oxford_pets", pets, ("Abyssinian", "Basset Hound"), {"train": 2, "val": 2, "test": 2}),
        ("food101", food, ("apple_pie", "waffles"), {"train": 4, "val": 2, "test": 6}),
    ],
)
def test_a_set_in_its_own_layout(root: Path, name: str, make, classes: tuple[str, ...], counts: dict[str, int]) -> None:  # type: ignore[no-untyped-def]
    make(root)
    found = find_images(name)
    assert found.classes[: len(classes)] == classes
    assert {split: len(items) for split, items in found.splits.items()} == counts
    for items in found.splits.values():
        Image.open(items[0].path).load()


def test_flowers_keep_their_three_splits_and_say_how_the_paper_differs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flowers(root, monkeypatch)
    found = find_images("flowers102")
    assert {split: len(items) for split, items in found.splits.items()} == {"train": 4, "val": 2, "test": 6}
    assert any("the paper trains on the first two together" in note for note in found.notes)
    assert found.splits["train"][0].path.resolve().parent == root / "flowers-102" / "jpg"  # a link, not a copy


def test_imagenette_and_imagewoof_have_names_people_read(root: Path) -> None:
    wnids(root / "imagenette2-160", ("n01440764", "n02102040"))
    wnids(root / "imagewoof2-320", ("n02086240", "n02115641"))
    assert find_images("imagenette-160").classes == ("English springer", "tench")
    woof = find_images("imagewoof-320")
    assert (woof.classes, {split: len(items) for split, items in woof.splits.items()}) == (("Shih-Tzu", "dingo"), {"train": 4, "val": 4})


@pytest.mark.parametrize("splits", [("train", "val"), ("val",)])
def test_imagenet_as_far_as_it_is_there(root: Path, splits: tuple[str, ...]) -> None:
    names = {"n02012849": ("crane",), "n03126707": ("crane",), "n01440764": ("tench", "Tinca tinca")}
    wnids(root / "imagenet", tuple(names), splits)
    torch.save((names, []), root / "imagenet" / "meta.bin")
    classes = ("crane (n02012849)", "crane (n03126707)", "tench")
    found = find_labelled("imagenet", classes=classes)
    assert {split: len(items) for split, items in found.splits.items()} == {"val": 6}
    if splits == ("train", "val"):
        assert find_images("imagenet").classes == classes


# --- the folder


def test_it_is_laid_out_once_and_read_no_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aircraft(root)
    told: list[tuple[str, int, int]] = []
    found = find_images("fgvc_aircraft", tell=lambda *step: told.append(step))
    assert told[-1] == ("laying out fgvc_aircraft", 10, 10)
    monkeypatch.setattr(datasets, "FGVCAircraft", None)
    assert find_images("fgvc_aircraft") == found


def test_another_data_root_is_another_folder(root: Path, tmp_path: Path) -> None:
    aircraft(root)
    pets(tmp_path / "elsewhere")
    assert named_folder("fgvc_aircraft") != named_folder("oxford_pets", tmp_path / "elsewhere")
    with pytest.raises(DataError, match="not below"):
        find_images("oxford_pets")


def test_images_that_moved_away_are_noticed(root: Path) -> None:
    aircraft(root)
    find_images("fgvc_aircraft")
    shutil.rmtree(root / "fgvc-aircraft-2013b")
    with pytest.raises(DataError, match="is not below"):
        find_images("fgvc_aircraft")


def test_a_missing_image_is_named_and_nothing_half_is_left(root: Path) -> None:
    pets(root)
    (root / "oxford-iiit-pet" / "images" / "Abyssinian_test0.jpg").unlink()
    with pytest.raises(DataError, match=r"Abyssinian_test0\.jpg is missing"):
        find_images("oxford_pets")
    assert not list((root.parent / "cache").glob("*"))


def test_an_archive_that_was_put_there_is_unpacked(root: Path, tmp_path: Path) -> None:
    aircraft(tmp_path / "packed")
    with tarfile.open(root / "fgvc-aircraft-2013b.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "packed" / "fgvc-aircraft-2013b", "fgvc-aircraft-2013b")
    assert sum(map(len, find_images("fgvc_aircraft").splits.values())) == 10
    assert sorted(path.name for path in root.iterdir()) == ["fgvc-aircraft-2013b", "fgvc-aircraft-2013b.tar.gz"]


@pytest.mark.parametrize("name", SETS)
def test_offline_the_files_and_their_place_are_named(root: Path, name: str) -> None:
    if name in ("flowers102", "stanford_cars"):
        pytest.importorskip("scipy.io")
    with pytest.raises(DataError) as caught:
        find_images(name)
    said = str(caught.value)
    assert str(root / SETS[name].place) in said
    assert all(archive in said for archive in SETS[name].archives)
    assert caught.value.exit_status == 1
    assert not [path for path in root.rglob("*") if path.is_file()]


def test_the_command_says_what_is_missing_and_trains_when_it_is_there(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hasty: None
) -> None:
    pytest.importorskip("scipy.io")
    (tmp_path / "tiny.toml").write_text(TINY.to_toml(), encoding="utf-8")
    words = ["--network", str(tmp_path / "tiny.toml"), "--weights", "none", "--epochs", "1", "--batch", "2", "--threads", "1"]
    command = ["fit", "flowers102", *words, "-o", str(tmp_path / "run")]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert f"Put these into {root / 'flowers-102'}, as they are, and run the same command again:\n  https://www.robots" in said
    assert not (tmp_path / "run").exists()
    flowers(root, monkeypatch)
    assert main(command) == 0
    assert "of 6 test images" in capsys.readouterr().out
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["data"]["counts"] == {"train": 4, "val": 2, "test": 6}
    assert main(["evaluate", str(tmp_path / "run"), "flowers102", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == about["test"]["top1"]


def test_a_name_that_is_nearly_right_is_told(root: Path) -> None:
    with pytest.raises(ArgumentError, match="did you mean cifar10"):
        find_images("cifar01")
    with pytest.raises(ArgumentError, match="birdsnap is not in torchvision"):
        find_images("birdsnap")


def test_a_folder_of_that_name_comes_first(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for label in ("a", "b"):
        for number in range(2):
            photo(tmp_path / "food101" / label / f"{number}.png")
    assert find_images("food101").classes == ("a", "b")
    assert os.listdir(root) == []
