"""EfficientNet-B0 against XResNet-50 and ResNet-50, all from random weights by one recipe: at equal epochs, and in equal time.

A training is a row of a CSV file, appended when it is done; the same command goes on where it was stopped, inside a training too.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F

from phiscale.architecture import Design
from phiscale.architecture.catalog import design
from phiscale.atomic import as_run_error, write_text
from phiscale.data.find import ImageSet, Item, find_images
from phiscale.errors import ArgumentError, DivergedError, RunError
from phiscale.jobs.proxy import make_proxy
from phiscale.jobs.sweeps import read_rows, rows_text
from phiscale.jobs.watch import Watcher
from phiscale.kernels import accelerate
from phiscale.search.study import give_folder
from phiscale.weights import create_model

NETWORKS = ("efficientnet_b0", "xresnet50", "resnet50")
CLOCK = "xresnet50"  # what the leaderboard's rows are trained with, more or less: its time is what the others get
RESOLUTION = 128  # the leaderboard's smallest
QUICK_IMAGES = 50  # a class
TIMED_STEPS, TIMED_ROUNDS, BATCH = 2, 5, 32
COLUMNS = ("network", "resolution", "seed", "epochs", "images", "top1", "seconds")
SPEEDS = ("network", "resolution", "threads", "step_ms")

# top-1 in percent by (epochs, pixels): the leaderboard of Imagenette, no test-time augmentation, from random weights (XSE-ResNeXt-50 and
# others with Ranger, MaxBlurPool, Mish, self-attention). Source: fastai/imagenette README at ba8db39.
LEADERBOARD = {
    (5, 128): 87.43, (5, 192): 86.76, (5, 256): 86.85, (20, 128): 91.57, (20, 192): 92.50, (20, 256): 93.53,
    (80, 128): 93.55, (80, 192): 94.50, (80, 256): 94.90, (200, 128): 94.24, (200, 192): 95.03, (200, 256): 95.11,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A network at equal epochs ("epochs") or in equal time ("time"). `scores` is a held-out top-1 (fraction) a seed."""

    network: str
    equal: str
    epochs: int
    macs: int
    params: int
    step_ms: float  # of BATCH images: forward, backward, update
    scores: tuple[float, ...]

    @property
    def top1(self) -> float:
        return mean(self.scores)

    @property
    def sd(self) -> float | None:
        return stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    leaderboard: Mapping[tuple[int, int], float]  # of the same epochs, else whole
    folder: Path


def compare(
    images: str | None = None,
    *,
    quick: bool = False,
    epochs: int | None = None,
    seeds: int | None = None,
    resolution: int | None = None,
    out: str | Path | None = None,
    watch: Watcher | None = None,
) -> Comparison:
    """Train the three networks on `images` and score each on the held-out ones (test, else val) after its last epoch.

    images  None: Imagenette, in the size that the leaderboard takes
    Equal time: as many whole epochs (at least one) as fit into XResNet-50's `epochs`, by the time of a training step, measured once,
    in turns, and kept in speed.csv of the folder.
    quick   2 epochs, 1 seed and at most 50 images a class, instead of 5 epochs, 3 seeds and all images
    """
    tell = watch or Watcher()
    epochs, seeds = epochs or (2 if quick else 5), seeds or (1 if quick else 3)
    if epochs < 1 or seeds < 1:
        raise ArgumentError(f"epochs and seeds must be at least 1, got {epochs} and {seeds}")
    size = resolution if resolution is not None else RESOLUTION
    images = images or ("imagenette-160" if size <= 128 else "imagenette-320" if size <= 256 else "imagenette")
    found = _learned_and_held_out(find_images(images, tell=tell.progress), QUICK_IMAGES if quick else None)
    designs = {name: design(name).at(size).with_classes(len(found.classes)) for name in NETWORKS}
    folder = Path(out) if out is not None else Path("sweeps") / f"imagenette-{Path(images).resolve().stem}"
    try:
        give_folder(folder)
    except OSError as error:
        raise as_run_error(error, folder.parent) from error
    step_ms = _speeds(folder / "speed.csv", designs, tell)
    in_time = {name: max(1, int(epochs * step_ms[CLOCK] / ms + 1e-9)) for name, ms in step_ms.items()}
    wanted = [(name, "epochs", epochs) for name in NETWORKS] + [(name, "time", in_time[name]) for name in NETWORKS]
    scores, diverged = _trained(folder, found, designs, dict.fromkeys((name, n) for name, _, n in wanted), seeds, tell)
    rows = tuple(
        Row(
            network=name, equal=equal, epochs=n, macs=designs[name].cost.macs, params=designs[name].cost.params,
            step_ms=step_ms[name], scores=tuple(scores[name, n]),
        )
        for name, equal, n in wanted
        if scores[name, n]
    )  # fmt: skip
    if not rows:
        raise RunError(f"no network could be trained: {diverged[0] if diverged else 'nothing was asked for'}")
    train, held = len(found.splits["train"]), len(found.splits["val"])
    notes = (
        f"{train} training and {held} held-out images at {size} px; from random weights, one cycle, {BATCH} images a step; "
        "top-1 on the held-out images after the last epoch, no test-time augmentation; mean and standard deviation over seeds",
        f"equal time: whole epochs that fit into {CLOCK}'s {epochs}, by the time of a training step "
        f"({torch.get_num_threads()} threads, without reading images)",
        "the leaderboard's figures are Imagenette's, of more refined ResNets and recipes: beside these, not against them",
        *(f"diverged: {said}" for said in diverged),
    )
    same = {key: value for key, value in LEADERBOARD.items() if key[0] == epochs}
    return Comparison(rows=rows, notes=notes, leaderboard=same or LEADERBOARD, folder=folder)


def _learned_and_held_out(found: ImageSet, most: int | None) -> ImageSet:
    """Two splits: train, and under the name `val` what is scored. Where there is a test, a val (by which nothing is chosen) trains too."""
    if "test" in found.splits:
        learned, held = [*found.splits["train"], *found.splits["val"]], [*found.splits["test"]]
    else:
        learned, held = [*found.splits["train"]], [*found.splits["val"]]
    return replace(found, splits={"train": _few(learned, most), "val": _few(held, most)})


def _few(items: list[Item], most: int | None) -> tuple[Item, ...]:
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    return tuple(item for label in sorted(by_label) for item in by_label[label][:most])


def _trained(
    folder: Path,
    found: ImageSet,
    designs: Mapping[str, Design],
    wanted: Mapping[tuple[str, int], None],
    seeds: int,
    tell: Watcher,
) -> tuple[dict[tuple[str, int], list[float]], list[str]]:
    """Top-1 a seed of each (network, epochs); rows that the table has already are not trained again."""
    file, images = folder / "imagenette.csv", len(found.splits["train"])
    rows = read_rows(file, COLUMNS)
    scores: dict[tuple[str, int], list[float]] = {key: [] for key in wanted}
    diverged: list[str] = []
    proxies = {epochs: make_proxy(found, designs[NETWORKS[0]], epochs=epochs, tell=tell.progress) for _, epochs in wanted}
    for seed in range(seeds):
        for name, epochs in wanted:
            asked = {"network": name, "resolution": designs[name].resolution, "seed": seed, "epochs": epochs, "images": images}
            done = next((row for row in rows if all(row[key] == str(value) for key, value in asked.items())), None)
            if done is None:
                tell.say(f"{name}: {epochs} epochs, seed {seed}")
                work = folder / f"{name}-{epochs}-{seed}"
                heard: dict[int, float] = {}
                start = time.process_time()
                try:
                    proxies[epochs].trained(designs[name], seed=seed, folder=work, report=heard.__setitem__)
                except DivergedError as error:
                    diverged.append(f"{name}, {epochs} epochs, seed {seed}: {error}")
                    continue
                seconds = time.process_time() - start  # less than all of it where the training was gone on with
                done = {key: str(value) for key, value in asked.items()} | {"top1": f"{heard[epochs]:.5f}", "seconds": f"{seconds:.1f}"}
                rows.append(done)
                write_text(file, rows_text(rows, COLUMNS))
                shutil.rmtree(work, ignore_errors=True)
            scores[name, epochs].append(float(done["top1"]))
    return scores, diverged


def _speeds(file: Path, designs: Mapping[str, Design], tell: Watcher) -> dict[str, float]:
    """Milliseconds of a training step of each network, from the file or measured: the least of some rounds, in turns."""
    size, threads = str(next(iter(designs.values())).resolution), str(torch.get_num_threads())
    rows = read_rows(file, SPEEDS)
    known = {row["network"]: float(row["step_ms"]) for row in rows if (row["resolution"], row["threads"]) == (size, threads)}
    if set(known) == set(designs):
        return known
    tell.say("measuring a training step of each network")
    steps = {name: _Step(made) for name, made in designs.items()}
    least = dict.fromkeys(designs, float("inf"))
    for _ in range(TIMED_ROUNDS + 1):  # the first warms up, and is never the fastest
        for name, step in steps.items():
            least[name] = min(least[name], step.milliseconds())
    new: list[dict[str, str]] = [dict(zip(SPEEDS, (name, size, threads, f"{ms:.2f}"), strict=True)) for name, ms in least.items()]
    write_text(file, rows_text([*rows, *new], SPEEDS))
    return {row["network"]: float(row["step_ms"]) for row in new}


class _Step:
    """A network with its optimiser and a batch of noise, on the device that trains."""

    def __init__(self, made: Design) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        chance = torch.Generator().manual_seed(0)
        pixels = torch.randn(BATCH, 3, made.resolution, made.resolution, generator=chance)
        self.images = pixels.to(device, memory_format=torch.channels_last)
        self.labels = torch.zeros(BATCH, dtype=torch.long, device=device)
        network = create_model(made, seed=0).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.network = accelerate(network).train()
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        self.device = device

    def milliseconds(self) -> float:
        start = time.perf_counter()
        for _ in range(TIMED_STEPS):
            F.cross_entropy(self.network(self.images), self.labels).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / TIMED_STEPS * 1e3
