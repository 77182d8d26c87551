"""Public data sets by name, with their official splits, read by torchvision and laid out as train/ val/ test/ of class folders.

Images that are files stay where they are, and links lead to them; others (CIFAR, Fashion-MNIST) are written as PNG once. Both into
phiscale's cache, so that every other room sees a folder like any other. Start at `named_folder`.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from PIL import Image

from phiscale.data.cache import cache_folder, whole_folder
from phiscale.data.digits import digits_folder
from phiscale.errors import DataError, MissingExtraError
from phiscale.runtime.image import printable

Tell = Callable[[str, int, int], None]  # (what, done, total)
Part = tuple[str, str, Path | Image.Image]  # split, class, and an image, its file, or a folder of all of the class's
Read = Callable[[Path, bool], Iterator[Part]]  # (data root, whether to download)
WRITTEN = 1  # a new number when what is written changes
NO_DATA = (OSError, RuntimeError, ValueError, EOFError)  # what torchvision raises where files are missing, broken, or can't be fetched

WOOF = {
    "n02086240": "Shih-Tzu", "n02087394": "Rhodesian ridgeback", "n02088364": "beagle", "n02089973": "English foxhound",
    "n02093754": "Border terrier", "n02096294": "Australian terrier", "n02099601": "golden retriever",
    "n02105641": "Old English sheepdog", "n02111889": "Samoyed", "n02115641": "dingo",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSet:
    """A public data set: how it is read, its archives, and the folder below the data root that they belong into.

    note   how these splits differ from those of the paper's table 6
    """

    read: Read
    archives: tuple[str, ...]
    place: str = ""
    note: str = ""


def named_folder(name: str, data_root: str | Path | None = None, tell: Tell | None = None) -> Path:
    """The folder of a data set by name, made on first use: found below the data root, else downloaded into it.

    data_root   None: $PHISCALE_DATA, else the folder `data` in phiscale's cache
    DataError where it is not there and can't be fetched: names the files and where to put them. MissingExtraError without scipy.
    """
    if name == "digits":
        return digits_folder()
    chosen = data_root or os.environ.get("PHISCALE_DATA") or cache_folder() / "data"
    root, of = Path(chosen).expanduser().resolve(), SETS[name]
    folder = cache_folder() / f"{name}-{WRITTEN}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"
    if folder.is_dir() and not _has_lost_links(folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)

    def fill(draft: Path) -> None:
        parts = _there(name, of, root)
        for number, (split, label, source) in enumerate(parts, 1):
            target = draft / split / label.replace("/", "-").replace("\0", "")
            if isinstance(source, Path) and source.is_dir():
                target.parent.mkdir(exist_ok=True)
                _link(source, target)
            else:
                target.mkdir(parents=True, exist_ok=True)
                _put(source, target, number)
            if tell is not None:
                tell(f"laying out {name}", number, len(parts))

    return whole_folder(folder, fill)


def nearest(name: str) -> str:
    """What to say of a name that is no data set: the nearest, and all."""
    close = get_close_matches(name.lower(), NAMES, 3, 0.6)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    extra = "birdsnap is not in torchvision: give its images as a folder; " if name.lower() == "birdsnap" else ""
    return f"{extra}{hint}known: {', '.join(NAMES)}"


def _there(name: str, of: NamedSet, root: Path) -> list[Part]:
    """All parts of a set that lies below the root, or is fetched into it now."""
    try:
        with redirect_stdout(sys.stderr):
            return list(of.read(root, False))
    except ImportError as error:
        raise _missing(name, error) from None
    except NO_DATA:
        pass
    staging = root / f".{name}.part"  # what torchvision unpacks counts as there from its first file on; so it is moved when it is whole
    try:
        shutil.rmtree(staging, ignore_errors=True)
        (staging / of.place).mkdir(parents=True)
        for archive in of.archives:
            if (root / of.place / Path(archive).name).is_file():
                _link(root / of.place / Path(archive).name, staging / of.place / Path(archive).name)
        with redirect_stdout(sys.stderr):
            for _ in of.read(staging, True):
                pass
        _move(staging, root)
        return list(of.read(root, False))
    except ImportError as error:
        raise _missing(name, error) from None
    except NO_DATA as error:
        files = "\n".join(f"  {archive}" for archive in of.archives)
        raise DataError(
            f"the data set {name} is not below {printable(root)}, and could not be fetched ({str(error).splitlines()[0][:200]}).\n"
            f"Put these into {printable(root / of.place)}, as they are, and run the same command again:\n{files}"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _missing(name: str, error: ImportError) -> MissingExtraError:
    return MissingExtraError(f"reading {name} needs {error.name or 'another package'}: pip install 'phiscale[datasets]'")


def _move(source: Path, target: Path) -> None:
    """All that is in a folder into another one that has none of it, links to archives left out."""
    for path in sorted(source.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir() and (target / path.name).is_dir():
            _move(path, target / path.name)
        else:
            path.rename(target / path.name)


def _has_lost_links(folder: Path) -> bool:
    """Whether the images were moved away since the links to them were made; one of each class is looked at."""
    for split in folder.iterdir():
        for label in split.iterdir():
            if not label.exists() or not next((path.exists() for path in label.iterdir()), False):
                return True
    return False


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
    except OSError:  # a system without links
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)


def _put(source: Path | Image.Image, folder: Path, number: int) -> None:
    if isinstance(source, Image.Image):
        source.save(folder / f"{number:06d}.png", compress_level=1)
        return
    if not source.is_file():
        raise DataError(f"{printable(source)} is missing: the data set is incomplete; delete its folder and run the same command again")
    _link(source, folder / source.name)


# --- how each is read


def _torchvision(kind: str, splits: Mapping[str, Mapping[str, Any]]) -> Read:
    """One of torchvision's classes, made once a split."""

    def read(root: Path, download: bool) -> Iterator[Part]:
        from torchvision import datasets

        for split, arguments in splits.items():
            made: Any = getattr(datasets, kind)(str(root), download=download, **arguments)
            if hasattr(made, "data"):
                for number in range(len(made)):
                    image, label = made[number]
                    yield split, made.classes[label], image
                continue
            files = made._images if hasattr(made, "_images") else getattr(made, "_image_files", None)
            samples = made._samples if files is None else zip(files, made._labels, strict=True)
            for file, label in samples:
                yield split, made.classes[label], Path(file)

    return read


def _imagenette(size: str) -> Read:
    def read(root: Path, download: bool) -> Iterator[Part]:
        from torchvision.datasets import Imagenette

        for split in ("train", "val"):
            made: Any = Imagenette(str(root), split=split, size=size, download=download)
            for wnid, names in zip(made.wnids, made.classes, strict=True):
                yield split, names[0], Path(made._image_root) / wnid

    return read


def _imagewoof(folder: str) -> Read:
    def read(root: Path, download: bool) -> Iterator[Part]:
        if download:
            from torchvision.datasets.utils import download_and_extract_archive

            download_and_extract_archive(f"{FASTAI}{folder}.tgz", str(root))
        for split in ("train", "val"):
            for path in sorted((root / folder / split).iterdir()):
                yield split, WOOF.get(path.name, path.name), path

    return read


def _imagenet(root: Path, download: bool) -> Iterator[Part]:
    """train, or val, or both, as far as they (or their archives) are there."""
    from torchvision.datasets import ImageNet

    home, archives = root / "imagenet", {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
    wanted = [split for split, archive in archives.items() if (home / split).is_dir() or (home / archive).exists()]
    if not wanted or (not download and not all((home / split).is_dir() for split in wanted)):
        raise RuntimeError("it can't be downloaded without an account of image-net.org")
    for split in wanted:
        made: Any = ImageNet(str(home), split=split)
        first = [names[0] for names in made.classes]
        for wnid, name in zip(made.wnids, first, strict=True):  # two are called "crane", two "maillot"
            yield split, name if first.count(name) == 1 else f"{name} ({wnid})", home / split / wnid


FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas/"
OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/"
TWO = {"train": {"train": True}, "test": {"train": False}}
SETS: dict[str, NamedSet] = {
    "cifar10": NamedSet(read=_torchvision("CIFAR10", TWO), archives=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",)),
    "cifar100": NamedSet(read=_torchvision("CIFAR100", TWO), archives=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",)),
    "flowers102": NamedSet(
        read=_torchvision("Flowers102", {split: {"split": split} for split in ("train", "val", "test")}),
        archives=tuple(f"{OXFORD}flowers/102/{name}" for name in ("102flowers.tgz", "imagelabels.mat", "setid.mat")),
        place="flowers-102",
        note="1,020 train, 1,020 val, 6,149 test images; the paper trains on the first two together",
    ),
    "stanford_cars": NamedSet(
        read=_torchvision("StanfordCars", {"train": {"split": "train"}, "test": {"split": "test"}}),
        archives=("cars_train/", "cars_test/", "devkit/ (cars_meta.mat, cars_train_annos.mat)", "cars_test_annos_withlabels.mat"),
        place="stanford_cars",
    ),
    "fgvc_aircraft": NamedSet(
        read=_torchvision("FGVCAircraft", {split: {"split": split} for split in ("train", "val", "test")}),
        archives=(f"{OXFORD}fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
        note="3,334 train, 3,333 val, 3,333 test images; the paper trains on the first two together",
    ),
    "oxford_pets": NamedSet(
        read=_torchvision("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
        archives=(f"{OXFORD}pets/data/images.tar.gz", f"{OXFORD}pets/data/annotations.tar.gz"),
        place="oxford-iiit-pet",
        note="3,680 train, 3,669 test images; the paper prints 3,369",
    ),
    "food101": NamedSet(
        read=_torchvision("Food101", {"train": {"split": "train"}, "test": {"split": "test"}}),
        archives=("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",),
    ),
    "fashion_mnist": NamedSet(
        read=_torchvision("FashionMNIST", TWO),
        archives=tuple(
            f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{split}-{what}-ubyte.gz"
            for split in ("train", "t10k")
            for what in ("images-idx3", "labels-idx1")
        ),
        place="FashionMNIST/raw",
    ),
    "imagenette": NamedSet(read=_imagenette("full"), archives=(f"{FASTAI}imagenette2.tgz",)),
    "imagenette-320": NamedSet(read=_imagenette("320px"), archives=(f"{FASTAI}imagenette2-320.tgz",)),
    "imagenette-160": NamedSet(read=_imagenette("160px"), archives=(f"{FASTAI}imagenette2-160.tgz",)),
    "imagewoof": NamedSet(read=_imagewoof("imagewoof2"), archives=(f"{FASTAI}imagewoof2.tgz",)),
    "imagewoof-320": NamedSet(read=_imagewoof("imagewoof2-320"), archives=(f"{FASTAI}imagewoof2-320.tgz",)),
    "imagewoof-160": NamedSet(read=_imagewoof("imagewoof2-160"), archives=(f"{FASTAI}imagewoof2-160.tgz",)),
    "imagenet": NamedSet(
        read=_imagenet,
        archives=("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar (from image-net.org)"),
        place="imagenet",
    ),
}
NAMES = ("digits", *SETS)
