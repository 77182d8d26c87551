"""Noisy Student's part between two trainings: a teacher's labels for images that have none.   Source: arXiv 1911.04252.

jobs/fit.py trains the teacher (a run inside the student's folder), calls `label`, and trains the student on what `read` gives.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from phiscale.atomic import write_text
from phiscale.data.find import ImageSet, Item, fingerprints, image_files
from phiscale.data.load import ImageDataset, Progress, open_images
from phiscale.data.transform import normalise
from phiscale.errors import ArgumentError, DataError, RunError
from phiscale.training.processes import Processes
from phiscale.training.recipe import Pseudo
from phiscale.training.teacher import load_teacher

TABLE = "pseudo_labels.csv"  # of every image: path, how often it is taken, then a probability a class


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoLabels:
    """All images without labels, how often each is taken (perhaps not at all), and the teacher's probabilities (n, classes)."""

    files: tuple[Path, ...]
    times: tuple[int, ...]
    shares: Tensor

    def counts(self, classes: Sequence[str]) -> dict[str, dict[str, int]]:
        """Of each class that the teacher names: images looked at, images taken, and how often these are taken in all."""
        out = {name: {"seen": 0, "images": 0, "taken": 0} for name in classes}
        for best, times in zip(self.shares.argmax(1).tolist(), self.times, strict=True):
            row = out[classes[int(best)]]
            row["seen"], row["images"], row["taken"] = row["seen"] + 1, row["images"] + (times > 0), row["taken"] + times
        return out


def unlabelled_files(folder: Path, labelled: ImageSet) -> list[Path]:
    """Images below `folder` but those that are also among the images to validate or test on, by their bytes."""
    if not folder.is_dir():
        raise ArgumentError(f"there is no folder {folder} of unlabelled images")
    files = image_files(folder)
    held = [item.path for split, items in labelled.splits.items() if split != "train" for item in items]
    prints = fingerprints(dict.fromkeys([*files, *held]))
    known = {prints[path] for path in held}
    kept = [path for path in files if prints[path] not in known]
    if not kept:
        raise DataError(f"{folder}: no images but those to validate on")
    return kept


@torch.no_grad()
def label(
    teacher: Path, files: Sequence[Path], *, classes: Sequence[str], how: Pseudo, processes: Processes, batch: int = 16,
    progress: Progress | None = None,
) -> PseudoLabels:  # fmt: skip
    """What the run `teacher` says of `files`, preprocessed as in evaluation; taken are those it is sure of, balanced. DataError if none."""
    own = processes.decide(lambda: load_teacher(teacher, classes=classes))
    everything = ImageSet(root=teacher, classes=("",), splits={"train": tuple(Item(path, 0) for path in files)})
    found, _ = open_images(everything, preprocess=own.preprocess, max_bytes=0)
    items = found.splits["train"]
    dataset = ImageDataset(found, "train", preprocess=own.preprocess)
    keys = [(0, index) for index in processes.share(len(items))]
    parts = [keys[start : start + batch] for start in range(0, len(keys), batch)]
    outputs: list[Tensor] = []
    for number, (pixels, _, _) in enumerate(DataLoader(dataset, batch_sampler=parts), 1):  # pyright: ignore[reportArgumentType]
        outputs.append(own(normalise(pixels, own.preprocess)).softmax(1).float())
        if progress is not None:
            progress(min(number * batch * processes.count, len(items)), len(items))
    mine = torch.cat(outputs) if outputs else torch.zeros(0, len(classes))
    shares = processes.rows(mine, len(items))
    times = balanced(shares, how)
    if not any(times):
        raise DataError(f"the teacher {teacher} is surer than {how.confidence:g} of none of {len(items)} images; lower --confidence")
    return PseudoLabels(files=tuple(item.path for item in items), times=tuple(times), shares=shares)


def balanced(shares: Tensor, how: Pseudo) -> list[int]:
    """How often each image is taken, by the teacher's probabilities (n, classes) for it.

    Of each class that the teacher finds, `how.a_class` images (0: the mean over these classes): the surest where there are more,
    all of them in turn, the surest first, where there are fewer; none that the teacher isn't surer of than `how.confidence`.
    """
    sure, found = shares.max(1)
    order = sorted(range(len(shares)), key=lambda index: (-sure[index].item(), index))
    classes: dict[int, list[int]] = {}
    for index in order:
        if sure[index] > how.confidence:
            classes.setdefault(int(found[index]), []).append(index)
    wanted = how.a_class or -(-sum(map(len, classes.values())) // max(1, len(classes)))
    times = [0] * len(shares)
    for members in classes.values():
        for place in range(wanted):
            times[members[place % len(members)]] += 1
    return times


def write(path: Path, labels: PseudoLabels, classes: Sequence[str]) -> None:
    """The table, so that the student's images can be looked at, and are the same after a resume."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(("path", "times", *(f"p_{name}" for name in classes)))
    for file, times, shares in zip(labels.files, labels.times, labels.shares.tolist(), strict=True):
        table.writerow((str(file), times, *(f"{share:.9g}" for share in shares)))
    write_text(path, out.getvalue())


def read(path: Path, classes: Sequence[str]) -> PseudoLabels:
    """What `write` wrote. RunError where it is not that."""
    try:
        header, *rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
        if header != ["path", "times", *(f"p_{name}" for name in classes)]:
            raise ValueError
        shares = torch.tensor([[float(value) for value in row[2:]] for row in rows])
        return PseudoLabels(files=tuple(Path(row[0]) for row in rows), times=tuple(int(row[1]) for row in rows), shares=shares)
    except (OSError, ValueError, IndexError):
        raise RunError(f"{path} is no table of pseudo-labels for these classes; remove it, and go on with --resume") from None


def with_labels(found: ImageSet, labels: PseudoLabels) -> ImageSet:
    """The set with the pseudo-labelled images behind those of train."""
    best = labels.shares.argmax(1).tolist()
    more = [Item(file, best[row]) for row, file in enumerate(labels.files) for _ in range(labels.times[row])]
    return replace(found, splits={**found.splits, "train": (*found.splits["train"], *more)})


def targets(items: Iterable[Item], labels: PseudoLabels, classes: int) -> Tensor:
    """Shares (n, classes) of training images: one-hot by label, the teacher's where they are its."""
    rows = {file: row for row, file in enumerate(labels.files)}
    return torch.stack(
        [labels.shares[rows[item.path]] if item.path in rows else F.one_hot(torch.tensor(item.label), classes).float() for item in items]
    )
