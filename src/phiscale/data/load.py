"""Images in batches: decoded once, kept small in memory, in an order and with an augmentation that depend on (seed, epoch, index) alone.

So a resumed run sees the same pixels, whatever the number of workers. Start at `open_images`, then `ImageDataset`.
"""

import ctypes
import hashlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from phiscale.architecture.preprocess import Preprocess
from phiscale.data.find import ImageSet, Item, Skipped
from phiscale.data.transform import Augment, Pixels, normalise, vary
from phiscale.errors import DataError, ImageError
from phiscale.runtime.image import image_size, printable, read_image
from phiscale.runtime.transform import resize_shorter, to_pixels

Key = tuple[int, ...]  # (epoch, index), and from the second time in an epoch which one it is
Progress = Callable[[int, int], None]  # (done, total)

CACHE_BYTES = 512 << 20
MARGIN = 1.15  # a training image is kept this much larger than the crop: random crops then enlarge little
WORTH = 1.5  # times that size, from which shrinking an image saves more than it takes
MAX_BAD_SHARE = 0.5
STUCK = 120  # seconds without a batch after which a reading process counts as dead, or stuck
_PDEATHSIG = 1  # linux/prctl.h: PR_SET_PDEATHSIG


@dataclass(frozen=True, slots=True)
class _Kept:
    """An image in memory: as decoded, or already what it is kept for."""

    pixels: Pixels
    ready: bool


@dataclass(slots=True)
class ImageCache:
    """Decoded images of a set, by split and index, at most `max_bytes`; what does not fit is decoded again when asked for."""

    preprocess: Preprocess
    max_bytes: int = CACHE_BYTES
    used_bytes: int = 0
    splits: Mapping[str, tuple[Item, ...]] = field(default_factory=dict[str, tuple[Item, ...]])  # what the indices count
    exact: dict[tuple[str, int], _Kept] = field(default_factory=dict[tuple[str, int], _Kept])
    larger: dict[tuple[str, int], Pixels] = field(default_factory=dict[tuple[str, int], Pixels])

    def keep(self, split: str, index: int, exact: _Kept, larger: Pixels | None) -> None:
        """Keep an image where there is room."""
        if larger is not None and not exact.ready:  # both are the image as decoded
            larger = exact.pixels
        size = exact.pixels.nbytes + (larger.nbytes if larger is not None and larger is not exact.pixels else 0)
        if self.used_bytes + size > self.max_bytes:
            return
        self.used_bytes += size
        self.exact[split, index] = exact
        if larger is not None:
            self.larger[split, index] = larger


def open_images(
    image_set: ImageSet,
    *,
    preprocess: Preprocess,
    max_bytes: int = CACHE_BYTES,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[ImageSet, ImageCache]:
    """Decode every file once: what can't be read moves to `skipped`, what can is kept in memory as far as `max_bytes` goes.

    DataError where a class of train loses all its images, or more than half of all images are bad.
    """
    jobs = [(split, item) for split, items in image_set.splits.items() for item in items]
    cache = ImageCache(preprocess=preprocess, max_bytes=max_bytes)
    good: dict[str, list[Item]] = {split: [] for split in image_set.splits}
    bad: list[Skipped] = []

    def prepare(job: tuple[str, Item]) -> tuple[_Kept, Pixels | None] | ImageError:
        split, item = job
        try:
            image = read_image(item.path, background=preprocess.background)
        except ImageError as error:
            return error
        return _smaller(image, preprocess), _for_training(item, preprocess, image) if split == "train" else None

    workers = workers or min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(jobs), 256):  # in slices: what waits in the pool is memory too
            part = jobs[first : first + 256]
            for number, ((split, item), found) in enumerate(zip(part, pool.map(prepare, part), strict=True), first + 1):
                if isinstance(found, ImageError):
                    bad.append(Skipped(item.path, found.code, str(found).removeprefix(f"{printable(item.path)}: ")))
                else:
                    cache.keep(split, len(good[split]), *found)
                    good[split].append(item)
                if progress is not None:
                    progress(number, len(jobs))
    found = _without(image_set, good, bad)
    cache.splits = found.splits
    return found, cache


def check_images(image_set: ImageSet, *, background: tuple[int, int, int] = (255, 255, 255), progress: Progress | None = None) -> ImageSet:
    """Decode every file once and move what can't be read to `skipped`; errors as for `open_images`."""
    smallest = Preprocess(crop=1, resize=1, background=background)
    return open_images(image_set, preprocess=smallest, max_bytes=0, progress=progress)[0]


def _without(image_set: ImageSet, good: Mapping[str, Sequence[Item]], bad: Sequence[Skipped]) -> ImageSet:
    total = sum(map(len, image_set.splits.values()))
    if len(bad) > MAX_BAD_SHARE * total:
        codes = ", ".join(f"{count} {code}" for code, count in Counter(skip.code for skip in bad).most_common(3))
        first = f"{printable(bad[0].path)}: {bad[0].message}"
        raise DataError(f"{total - len(bad)} of {total} images can be read ({codes}); the first that can't: {first}")
    notes = list(image_set.notes)
    for split, items in good.items():
        left = Counter(label for item in items for label in item.all_labels)
        lost = sorted({label for item in image_set.splits[split] for label in item.all_labels if not left[label]})
        if lost:
            names = ", ".join(printable(image_set.classes[label]) for label in lost[:10])
            if split == "train":
                raise DataError(f"none of the training images of {names} can be read; replace them or remove the class")
            notes.append(f"none of the {split} images of {names} can be read")
    return replace(
        image_set,
        splits={split: tuple(items) for split, items in good.items()},
        skipped=(*image_set.skipped, *bad),
        notes=tuple(notes),
    )


def _smaller(image: Image.Image, pre: Preprocess) -> _Kept:
    """What to keep of an image for evaluation: the image itself where that takes less memory than the result."""
    if image.width * image.height <= pre.crop**2:
        return _Kept(np.array(image), ready=False)
    return _Kept(np.ascontiguousarray(to_pixels(image, pre)), ready=True)


def _for_training(item: Item, pre: Preprocess, whole: Image.Image | None = None) -> Pixels:
    """The pixels that random crops are taken from; `whole` is the decoded image, where somebody has it already.

    Photos at least twice as large as needed are decoded at half, a quarter or an eighth of their size (see `read_image`); what is still
    much too large is shrunk.
    """
    side = max(pre.resize, round(MARGIN * pre.crop))
    if whole is None or min(whole.size) >= 2 * side:
        whole = read_image(item.path, background=pre.background, at_least=side)
    return np.array(resize_shorter(whole, side, pre.interpolation) if min(whole.size) > WORTH * side else whole)


class ImageDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """One split: (epoch, index) -> uint8 (3, crop, crop), label, index.

    Without `augment` the pixels are exactly `to_pixels` of the preprocessing, whatever the epoch. With it they depend on
    (seed, epoch, index) alone.
    """

    def __init__(
        self,
        image_set: ImageSet,
        split: str,
        *,
        preprocess: Preprocess,
        augment: Augment | None = None,
        seed: int = 0,
        cache: ImageCache | None = None,
    ) -> None:
        if split not in image_set.splits:
            raise DataError(f"no split {split!r}; there is {', '.join(image_set.splits)}")
        if cache is not None and (cache.preprocess != preprocess or cache.splits.get(split) != image_set.splits[split]):
            cache = None  # kept for another size or set: decode instead
        self.items, self.preprocess, self.augment, self.seed = image_set.splits[split], preprocess, augment, seed
        self.crop = preprocess.crop  # of varied images
        self._answers = _answers(self.items, len(image_set.classes), multi_label=image_set.multi_label)
        own = cache or ImageCache(preprocess=preprocess)
        self._exact = {} if augment else {index: kept for (name, index), kept in own.exact.items() if name == split}
        self._larger = {index: kept for (name, index), kept in own.larger.items() if name == split} if augment else {}

    def vary_by(self, augment: Augment, *, size: float = 1.0) -> None:
        """Vary images so from the next epoch on, at `size` times the preprocessing's crop. Readers that run already keep the old way."""
        self.augment, self.crop = augment, max(1, round(size * self.preprocess.crop))

    def __len__(self) -> int:
        return len(self.items)

    def answers(self) -> Tensor:
        """The labels of all images in their order: int64 (n,), of a multi-label set float 0 and 1 (n, classes)."""
        return self._answers

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, int]:
        epoch, index, *again = key
        item = self.items[index]
        if self.augment is None:
            return _to_tensor(self._plain(index, item)), self._answers[index], index
        image = self._larger.get(index)
        if image is None:
            image = _for_training(item, self.preprocess)
        varied = vary(image, preprocess=self.preprocess, crop=self.crop, augment=self.augment, seed=mix(self.seed, epoch, index, *again))
        return varied, self._answers[index], index

    def _plain(self, index: int, item: Item) -> Pixels:
        kept = self._exact.get(index)
        if kept is not None and kept.ready:
            return kept.pixels
        image = read_image(item.path, background=self.preprocess.background) if kept is None else Image.fromarray(kept.pixels)
        return to_pixels(image, self.preprocess)


def _answers(items: Sequence[Item], classes: int, *, multi_label: bool) -> Tensor:
    if not multi_label:
        return torch.tensor([item.label for item in items], dtype=torch.int64)
    answers = torch.zeros(len(items), classes)
    for row, item in enumerate(items):
        answers[row, list(item.all_labels)] = 1.0
    return answers


def _to_tensor(pixels: Pixels) -> Tensor:
    """uint8 (H, W, 3) -> a copy, (3, H, W)."""
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def mix(*numbers: int) -> int:
    """A well-mixed 63-bit seed from several numbers."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little") >> 1


def typical_side(image_set: ImageSet, *, sample: int = 32) -> int:
    """Median shorter side of the training images in pixels, from `sample` of them or somewhat more; 0 where none can be read."""
    items = image_set.splits["train"]
    sides: list[int] = []
    for item in items[:: max(1, len(items) // sample)]:
        try:
            sides.append(min(image_size(item.path)))
        except ImageError:
            continue
    return sorted(sides)[len(sides) // 2] if sides else 0


def epoch_order(n: int, *, seed: int, epoch: int) -> list[int]:
    """The order of n training images in an epoch: a permutation that depends on (n, seed, epoch) alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(mix(seed, epoch))).tolist()


def balanced_order(labels: Sequence[int], *, seed: int, epoch: int) -> list[int]:
    """As many indices as there are labels, each class equally often (to one): images of rare classes repeat, of common ones some wait.

    Which ones depends on (labels, seed, epoch) alone; over the epochs all get their turn.
    """
    classes: dict[int, list[int]] = {}
    for index in epoch_order(len(labels), seed=seed, epoch=epoch):
        classes.setdefault(labels[index], []).append(index)
    turns = sorted(classes.values())  # by their first index: which classes have one more than others is chance
    order = [turns[place % len(turns)][place // len(turns) % len(turns[place % len(turns)])] for place in range(len(labels))]
    return [order[place] for place in epoch_order(len(order), seed=mix(seed, 1), epoch=epoch)]


class EpochBatches(Sampler[list[Key]]):
    """Batches of (epoch, index) keys; set `epoch` before each epoch, and `first` to resume inside one.

    part: (this process, processes); each gets its share of every batch, in order, so that together they see what one would.
    labels: those of all n images; each class is then seen equally often.
    A last batch of one image, or of fewer than there are processes, is joined to the one before: batch norm can't train on one,
    and no process can go without.
    """

    def __init__(
        self,
        n: int,
        *,
        batch: int,
        seed: int = 0,
        shuffle: bool = False,
        epoch: int = 0,
        first: int = 0,
        part: tuple[int, int] = (0, 1),
        labels: Sequence[int] | None = None,
    ) -> None:
        self.n, self.batch, self.seed, self.shuffle, self.epoch, self.first, self.part = n, batch, seed, shuffle, epoch, first, part
        self.labels = labels

    def _starts(self) -> list[int]:
        starts = list(range(0, self.n, self.batch))
        if self.shuffle and len(starts) > 1 and self.n - starts[-1] < max(2, self.part[1]):
            starts.pop()
        return starts[self.first :]

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[Key]]:
        keys = self._keys()
        starts, (rank, count) = self._starts(), self.part
        stops = [*starts[1:], self.n] if starts else []
        for start, stop in zip(starts, stops, strict=True):
            size = stop - start
            yield keys[start + size * rank // count : start + size * (rank + 1) // count]

    def _keys(self) -> list[Key]:
        if self.labels is None:
            order = epoch_order(self.n, seed=self.seed, epoch=self.epoch) if self.shuffle else range(self.n)
            return [(self.epoch, index) for index in order]
        seen: Counter[int] = Counter()
        keys: list[Key] = []
        for index in balanced_order(self.labels, seed=self.seed, epoch=self.epoch):
            keys.append((self.epoch, index, seen[index]) if seen[index] else (self.epoch, index))  # each time varied otherwise
            seen[index] += 1
        return keys


def _begin_reader(parent: int, number: int) -> None:
    """A reading process ends with its parent, however that ends, and leaves Ctrl-C to it."""
    del number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").prctl(_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went before we could ask to be told
            os._exit(0)


def make_loader(
    dataset: ImageDataset,
    *,
    batch: int,
    shuffle: bool = False,
    epoch: int = 0,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
    balanced: bool = False,
) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
    """Batches of (uint8 (B, 3, crop, crop), labels int64, indices int64); its `batch_sampler` is an EpochBatches, see there."""
    labels = [item.label for item in dataset.items] if balanced else None
    batches = EpochBatches(len(dataset), batch=batch, seed=dataset.seed, shuffle=shuffle, epoch=epoch, part=part, labels=labels)
    generator = torch.Generator().manual_seed(dataset.seed)  # else iterating would draw from the global generator
    begin = partial(_begin_reader, os.getpid()) if workers else None
    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, generator=generator, worker_init_fn=begin, timeout=STUCK if workers else 0
    )
    return cast("DataLoader[tuple[Tensor, Tensor, Tensor]]", loader)  # collated: a sample's numbers become tensors


def train_batches(
    image_set: ImageSet,
    split: str = "train",
    *,
    preprocess: Preprocess,
    batch: int,
    seed: int,
    epoch: int,
    augment: Augment | None = None,
    cache: ImageCache | None = None,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One epoch in random order: (normalised float32 (B, 3, crop, crop), labels, indices)."""
    dataset = ImageDataset(image_set, split, preprocess=preprocess, augment=augment, seed=seed, cache=cache)
    for pixels, labels, indices in make_loader(dataset, batch=batch, shuffle=True, epoch=epoch, workers=workers):
        yield normalise(pixels, preprocess), labels, indices


def eval_batches(
    image_set: ImageSet, split: str, *, preprocess: Preprocess, batch: int, cache: ImageCache | None = None, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A split in its order, preprocessed exactly as in prediction: (normalised float32 (B, 3, crop, crop), labels, indices)."""
    dataset = ImageDataset(image_set, split, preprocess=preprocess, cache=cache)
    for pixels, labels, indices in make_loader(dataset, batch=batch, workers=workers):
        yield normalise(pixels, preprocess), labels, indices
