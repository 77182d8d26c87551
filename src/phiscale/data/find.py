"""Which images there are, what they are called, and on which side of a split each one is. No torch; no pixel is read here.

Start at `find_images`. Everything is in a deterministic order, and a split depends on the seed and the files' names and bytes alone.
"""

import hashlib
import io
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phiscale.data.lists import SPLIT_NAMES, read_list
from phiscale.data.named import SETS, Tell, named_folder, nearest
from phiscale.errors import ArgumentError, DataError
from phiscale.runtime.image import IMAGE_SUFFIXES, printable

SPLITS = ("train", "val", "test")
NO_LABEL = -1
_JUNK = frozenset(("thumbs.db", "desktop.ini", "__macosx", "@eadir"))
SAMPLE = 4096  # bytes from a file's middle: its pixels, where headers are alike


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image file; `label` counts in the order of `ImageSet.classes`.

    Of a multi-label set, `labels` has all of an image's classes, growing, perhaps none, and `label` is NO_LABEL.
    """

    path: Path
    label: int
    labels: tuple[int, ...] | None = None

    @property
    def all_labels(self) -> tuple[int, ...]:
        return (self.label,) if self.labels is None else self.labels


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was left out, and why; codes as in runtime/image.py."""

    path: Path
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Labelled images by split ("train", "val", "test", those that exist), what was skipped, and what a person should know."""

    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Item, ...]]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    multi_label: bool = False

    def counts(self) -> dict[str, dict[str, int]]:
        """Images a class and split: counts()["val"]["bees"]."""
        out: dict[str, dict[str, int]] = {}
        for split, items in self.splits.items():
            found = Counter(label for item in items for label in item.all_labels)
            out[split] = {name: found[label] for label, name in enumerate(self.classes)}
        return out


def find_images(
    source: str | Path,
    *,
    seed: int = 0,
    val_share: float = 0.2,
    multi_label: bool = False,
    data_root: str | Path | None = None,
    tell: Tell | None = None,
) -> ImageSet:
    """The labelled images of a folder of class folders, of train/ + val/ (+ test/) of them, of a CSV, or of a data set by name.

    Classes are the sorted names in train. Where there is no val, `val_share` of each class of train is set apart: stratified,
    by `seed`, files with the same bytes on one side, at least one image of each class on both. ArgumentError where there is
    nothing at `source`; DataError where the images can't be used: one class, an empty class, a class in val that train lacks.

    multi_label   of a CSV: an image may have several labels, or none (see lists.py); then a class with a single image stays in train
    data_root     where data sets by name are (see named.py)
    """
    if not 0 < val_share < 1:
        raise ArgumentError(f"val_share must be between 0 and 1, got {val_share!r}")
    path = _located(source, data_root, tell)
    named = _named(path, multi_label=multi_label)
    if "train" not in named.splits:
        raise DataError(f"{printable(path)}: has {' and '.join(sorted(named.splits))}, but no train to learn from")
    classes = _classes(named, path)
    named.check_empty(classes)
    splits = {split: _label(named.splits[split], classes, split, named) for split in SPLITS if split in named.splits}
    if not splits.get("val", True):
        del splits["val"]
        named.notes.append("val has no images; split from train instead")
    prints = fingerprints(item.path for items in splits.values() for item in items)
    notes = [*named.notes, *_duplicate_notes(splits, prints)]
    if (public := SETS.get(str(source))) is not None and public.note and path != Path(source):
        notes.append(f"{source}: {public.note}")
    if "val" not in splits:
        train, val = _split(splits["train"], prints, classes, seed, val_share)
        splits = {"train": train, "val": val, **{name: items for name, items in splits.items() if name == "test"}}
        notes.append(f"{len(val)} of {len(train) + len(val)} training images set apart as val (seed {seed})")
    return ImageSet(
        root=path if path.is_dir() else path.parent, classes=classes, splits=splits, skipped=tuple(named.skipped), notes=tuple(notes),
        multi_label=multi_label,
    )  # fmt: skip


def fingerprint(found: ImageSet) -> str:
    """A sum over names, labels and sizes: whether two sets are the same images."""
    total = hashlib.sha256(repr(found.classes).encode())
    for split, items in found.splits.items():
        for item in items:
            total.update(f"{split}\0{item.path.name!r}\0{item.labels or item.label}\0{item.path.stat().st_size}\n".encode())
    return total.hexdigest()[:16]


def find_labelled(
    source: str | Path,
    *,
    classes: Sequence[str],
    split: str | None = None,
    multi_label: bool = False,
    data_root: str | Path | None = None,
    tell: Tell | None = None,
) -> ImageSet:
    """All images of `source` with the given classes, unsplit, for evaluation: one split, named as asked, else test, val, train or "all".

    A folder of class folders counts whole; of train/ + val/ + test/ the one asked for, else the first of test, val, train.
    DataError where the images have a class that `classes` lacks.
    """
    path = _located(source, data_root, tell)
    named = _named(path, multi_label=multi_label)
    if split is None:
        split = next(name for name in ("test", "val", "train") if name in named.splits)
    if split not in named.splits:
        raise DataError(f"{printable(path)}: has no {split!r} images; it has {', '.join(sorted(named.splits))}")
    items = _label(named.splits[split], tuple(classes), split, named)
    if not items:
        raise DataError(f"{printable(path)}: no images in {split}")
    name = split if named.is_split else "all"
    return ImageSet(
        root=path if path.is_dir() else path.parent,
        classes=tuple(classes),
        splits={name: items},
        skipped=tuple(named.skipped),
        notes=tuple(named.notes),
        multi_label=multi_label,
    )


def image_files(folder: str | Path) -> list[Path]:
    """All image files below a folder by suffix, sorted; hidden files and junk left out, looped links visited once."""
    found, _, _ = _walk(Path(folder), set())
    return found


@dataclass(slots=True)
class _Named:
    """What a source says before classes have numbers: split -> class name -> files; of a multi-label set also those without a class."""

    splits: dict[str, dict[str, list[Path]]]
    is_split: bool
    skipped: list[Skipped] = field(default_factory=list[Skipped])
    notes: list[str] = field(default_factory=list[str])
    bare: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])
    multi_label: bool = False

    def check_empty(self, classes: Sequence[str]) -> None:
        if empty := [name for name in classes if not self.splits["train"].get(name)]:
            names = ", ".join(map(printable, empty[:5]))
            raise DataError(f"no images in {len(empty)} of {len(classes)} classes: {names}; fill or remove the folders")


def _located(source: str | Path, data_root: str | Path | None, tell: Tell | None) -> Path:
    """What is there under this path; else the data set of this name."""
    path, name = Path(source), str(source)
    if name in ("digits", *SETS) and not path.exists():
        return named_folder(name, data_root, tell)
    return path


def _named(path: Path, *, multi_label: bool) -> _Named:
    if path.is_dir() and multi_label:
        raise ArgumentError(f"{printable(path)} is a folder: several labels an image come from a CSV of path,labels")
    if path.is_dir():
        return _from_folder(path)
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        return _from_list(path, multi_label=multi_label)
    given = f"a file, {printable(path)}" if path.exists() else f"{printable(path)!r}, where there is nothing"
    raise ArgumentError(
        f"images: got {given}; give a folder of class folders (or train/ and val/ of them), a CSV of path,label, "
        f"or a data set by name; {nearest(str(path))}"
    )


def _from_folder(root: Path) -> _Named:
    folders, loose = _folders(root)
    by_split: dict[str, Path] = {}
    for folder in folders:
        if (name := SPLIT_NAMES.get(folder.name.lower())) is not None:
            if name in by_split:
                raise DataError(f"{printable(root)}: both {by_split[name].name} and {folder.name} are here; keep one")
            by_split[name] = folder
    is_split = "train" in by_split or (bool(by_split) and len(by_split) == len(folders))
    named = _Named({}, is_split)
    if not is_split:
        named.splits["train"] = _class_folders(root, folders, loose, named)
        return named
    if other := [folder.name for folder in folders if folder not in by_split.values()]:
        named.notes.append(f"left out, as they are neither train, val nor test: {', '.join(map(printable, other[:5]))}")
    for split in SPLITS:
        if split in by_split:
            inside, loose = _folders(by_split[split])
            named.splits[split] = _class_folders(by_split[split], inside, loose, named)
    return named


def _class_folders(root: Path, folders: list[Path], loose: int, named: _Named) -> dict[str, list[Path]]:
    if not folders:
        what = f"has {loose} images but no class folders" if loose else "is empty"
        raise DataError(f"{printable(root)} {what}; put the images of each class into a folder with the class's name")
    if loose:
        named.notes.append(f"{loose} images in {printable(root)} are in no class folder and were left out")
    seen = {_identity(folder) for folder in (root, root.parent, *folders)}  # a link back to any of these is no new folder
    classes: dict[str, list[Path]] = {}
    other = 0
    for folder in folders:
        files, odd, unknown = _walk(folder, seen)
        classes[folder.name] = files
        named.skipped += odd
        other += unknown
    if other:
        named.notes.append(f"{other} files in {printable(root)} have no image suffix and were left out")
    return classes


def _folders(root: Path) -> tuple[list[Path], int]:
    """Sub-folders, sorted, and the number of images beside them."""
    folders: list[Path] = []
    loose = 0
    for path in _inside(root):
        if os.path.isdir(path):
            folders.append(path)
        elif _has_image_suffix(path):
            loose += 1
    return sorted(folders, key=lambda folder: folder.name), loose


def _walk(folder: Path, seen: set[tuple[int, int]]) -> tuple[list[Path], list[Skipped], int]:
    """Image files below `folder`, sorted; entries that are no regular files; the number of files without an image suffix."""
    files: list[Path] = []
    skipped: list[Skipped] = []
    other = 0
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        seen.add(_identity(here))
        for path in _inside(here):
            if os.path.isdir(path):
                if _identity(path) not in seen:
                    seen.add(_identity(path))
                    waiting.append(path)
            elif not _has_image_suffix(path):
                other += 1
            elif os.path.isfile(path):
                files.append(path)
            else:
                skipped.append(Skipped(path, "unreadable", "a link to nothing" if path.is_symlink() else "not a regular file"))
    return sorted(files, key=lambda file: file.parts), sorted(skipped, key=lambda skip: skip.path), other


def _inside(folder: Path) -> list[Path]:
    """What is in a folder, without hidden files and what operating systems strew about."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DataError(f"can't read the folder {printable(folder)}: {error.strerror}") from None
    return [folder / name for name in names if not name.startswith(".") and name.lower() not in _JUNK]


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _has_image_suffix(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _from_list(path: Path, *, multi_label: bool) -> _Named:
    rows, notes = read_list(path, multi_label=multi_label)
    splits: dict[str, dict[str, list[Path]]] = {}
    bare: dict[str, list[Path]] = {}
    for file, row in sorted(rows.items()):
        split = row.split or "train"
        classes = splits.setdefault(split, defaultdict(list))
        for label in row.labels:
            classes[label].append(file)
        if not row.labels:
            bare.setdefault(split, []).append(file)
    is_split = len(splits) > 1 or "train" not in splits
    return _Named({split: dict(classes) for split, classes in splits.items()}, is_split, notes=notes, bare=bare, multi_label=multi_label)


def _classes(named: _Named, path: Path) -> tuple[str, ...]:
    classes = tuple(sorted(named.splits["train"]))
    if len(classes) < 2 and not (classes and named.multi_label):
        raise DataError(f"{printable(path)}: has one class, {printable(''.join(classes))!r}; telling images apart needs at least two")
    alike: dict[str, str] = {}
    for name in classes:
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in alike:
            raise DataError(f"classes {alike[folded]!a} and {name!a} differ only in case or accents' encoding; rename one")
        alike[folded] = name
    return classes


def _label(by_class: Mapping[str, list[Path]], classes: tuple[str, ...], split: str, named: _Named) -> tuple[Item, ...]:
    if unknown := sorted(set(by_class) - set(classes)):
        raise DataError(
            f"{split} has classes that train lacks: {', '.join(map(printable, unknown[:10]))}; "
            f"train has {', '.join(map(printable, classes[:20]))}{', …' if len(classes) > 20 else ''}"
        )
    if missing := [name for name in classes if not by_class.get(name)]:
        named.notes.append(f"{split} has no images of {len(missing)} classes: {', '.join(map(printable, missing[:10]))}")
    if not named.multi_label:
        return tuple(Item(path, label) for label, name in enumerate(classes) for path in by_class.get(name, ()))
    labels: dict[Path, list[int]] = {path: [] for path in named.bare.get(split, ())}
    for label, name in enumerate(classes):
        for path in by_class.get(name, ()):
            labels.setdefault(path, []).append(label)
    return tuple(Item(path, NO_LABEL, tuple(found)) for path, found in sorted(labels.items()))


def fingerprints(paths: Iterable[Path]) -> dict[Path, str]:
    """A word for each file, the same for files with the same bytes.

    Of files of equal size the middle `SAMPLE` bytes are read, and only those that agree in them whole: of 200,000 photos nearly all
    share their size with another, but not a part of their pixels.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    out: dict[Path, str] = {}
    for path in paths:
        try:
            by_size[path.stat().st_size].append(path)
        except OSError:
            out[path] = f"unreadable {path}"

    def tell_apart(same: list[Path], word: str, read: Callable[[io.BufferedReader], bytes]) -> dict[str, list[Path]]:
        """The files of `same` by what is read of them; no need to where there is one."""
        if len(same) == 1:
            return {word: same}
        found: dict[str, list[Path]] = defaultdict(list)
        for path in same:
            try:
                with open(path, "rb") as file:
                    found[f"{word} {read(file).hex()}"].append(path)
            except OSError:
                out[path] = f"unreadable {path}"
        return found

    for size, same in by_size.items():

        def middle(file: io.BufferedReader, size: int = size) -> bytes:
            file.seek(max(0, (size - SAMPLE) // 2))
            return hashlib.sha256(file.read(SAMPLE)).digest()

        for word, alike in tell_apart(same, f"size {size}", middle).items():
            whole = tell_apart(alike, word, _sha256) if size > SAMPLE else {word: alike}
            out.update((path, name) for name, members in whole.items() for path in members)
    return out


def _sha256(file: io.BufferedReader) -> bytes:
    return hashlib.file_digest(file, "sha256").digest()


def _duplicate_notes(splits: Mapping[str, tuple[Item, ...]], prints: Mapping[Path, str]) -> list[str]:
    labels: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    sides: dict[str, set[str]] = defaultdict(set)
    for split, items in splits.items():
        for item in items:
            labels[prints[item.path]].add(item.all_labels)
            sides[prints[item.path]].add(split)
    notes: list[str] = []
    if across := sum(len(found) > 1 for found in sides.values()):
        notes.append(f"{across} images are in more than one of {', '.join(splits)}, byte for byte: figures on them flatter")
    if torn := sum(len(found) > 1 for found in labels.values()):
        notes.append(f"{torn} images are there under two labels, byte for byte")
    return notes


def _split(
    items: tuple[Item, ...], prints: Mapping[Path, str], classes: tuple[str, ...], seed: int, share: float
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """(train, val). Equal files go to one side; the order of drawing is a hash of seed and name, so that new files move few old ones.

    Of several labels the rarest class is served first (as in Sechidis et al., 2011), images without a label are a class of their own,
    and a class that can't be on both sides stays in train.
    """
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[prints[item.path]].append(item)
    left = Counter(label for members in groups.values() for label in _labels(members))  # groups of each class still in train
    by_label: dict[int, list[str]] = defaultdict(list)
    for word, members in groups.items():
        for label in _labels(members):
            by_label[label].append(word)
    size = Counter(label for item in items for label in _labels([item]))
    several = any(item.labels is not None for item in items)
    chosen: set[str] = set()
    in_val: Counter[int] = Counter()
    for label in sorted(left, key=lambda label: (left[label], label)) if several else range(len(classes)):
        name = classes[label] if label >= 0 else ""
        if not several and left[label] + sum(word in chosen for word in by_label[label]) < 2:
            raise DataError(f"class {printable(name)!r} has one image; it takes two to learn from one and be tested on the other")
        wanted = max(1, round(share * size[label]))
        for word in sorted(by_label[label], key=lambda word: _rank(groups[word], seed)):
            members = groups[word]
            touched = _labels(members)
            if in_val[label] >= wanted:
                break
            if word in chosen or any(left[other] < 2 for other in touched):
                continue
            chosen.add(word)
            left.subtract(touched)
            in_val.update(label for item in members for label in _labels([item]))
        if not in_val[label] and not several:
            raise DataError(f"the images of class {printable(name)!r} are all under other labels too; no split can keep copies on one side")
    if not chosen:
        raise DataError("each image is the only one of a class: none can be set apart as val; give val rows in the column split")
    train = tuple(item for item in items if prints[item.path] not in chosen)
    return train, tuple(item for item in items if prints[item.path] in chosen)


def _labels(members: list[Item]) -> set[int]:
    return {label for item in members for label in (item.all_labels or (NO_LABEL,))}


def _rank(members: list[Item], seed: int) -> tuple[bool, bytes]:
    first = members[0].path
    name = os.fsencode(os.path.join(first.parent.name, first.name))
    return len({item.all_labels for item in members}) > 1, hashlib.blake2b(b"%d\0" % seed + name, digest_size=16).digest()
