"""A hundred steps of fine-tuning, by torch's operators and by ours:   python benchmarks/learning.py PHOTOS [--csv benchmarks/learning.csv]

PHOTOS is a folder of class folders (../shared/data/ants-bees/train in this project). EfficientNet-Lite0 with its ImageNet weights, a new
classifier, 128 px, batches of 16 in a seed's order, SGD of 0.01 with momentum 0.9, batch norms that learn. Three seeds each of: torch's
operators in float32, ours in float32, ours under bfloat16 autocast. A row a way, seed and ten steps: the mean training loss. What is
asked is whether ours lies within what another seed changes; the last lines say.
"""

import argparse
import contextlib
import csv
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import phiscale
from phiscale import kernels

SIZE, BATCH, STEPS, SEEDS = 128, 16, 100, (0, 1, 2)
WAYS = ("torch float32", "phiscale float32", "phiscale bfloat16")
CL = torch.channels_last


def photos(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 3, SIZE, SIZE) normalised, (N) labels."""
    images, labels = [], []
    for label, name in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for file in sorted(name.iterdir()):
            with Image.open(file) as image:
                images.append(np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
            labels.append(label)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=CL), torch.tensor(labels)


def losses(way: str, seed: int, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """The training loss of each step."""
    torch.manual_seed(seed)
    model = phiscale.create_model("efficientnet_lite0", num_classes=int(labels.max()) + 1, weights="auto", seed=seed)
    model.to(memory_format=CL).train()
    if way.startswith("phiscale"):
        kernels.accelerate(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    random, found = torch.Generator().manual_seed(seed), []
    for _ in range(STEPS):
        chosen = torch.randperm(len(images), generator=random)[:BATCH]
        with torch.autocast("cpu", torch.bfloat16) if "bfloat16" in way else contextlib.nullcontext():
            logits = model(images[chosen].contiguous(memory_format=CL))
        loss = F.cross_entropy(logits.float(), labels[chosen])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    images, labels = photos(given.photos)
    tens: dict[tuple[str, int], list[float]] = {}
    for seed in SEEDS:
        for way in WAYS:
            curve = losses(way, seed, images, labels)
            tens[way, seed] = [statistics.mean(curve[start : start + 10]) for start in range(0, STEPS, 10)]
            print(way, seed, *(f"{loss:.3f}" for loss in tens[way, seed]), file=sys.stderr, flush=True)
    with open(given.csv, "w") if given.csv else contextlib.nullcontext(sys.stdout) as file:
        print(
            f"# torch {torch.__version__}, {torch.get_num_threads()} threads, kernels: {kernels.status()}, {len(images)} photos", file=file
        )
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("way", "seed", *(f"steps_to_{step}" for step in range(10, STEPS + 1, 10))))
        out.writerows((way, seed, *(f"{loss:.4f}" for loss in curve)) for (way, seed), curve in tens.items())
    spread = [max(values) - min(values) for values in zip(*(tens[WAYS[0], seed] for seed in SEEDS), strict=True)]
    for way in WAYS[1:]:
        off = [abs(a - b) for seed in SEEDS for a, b in zip(tens[way, seed], tens[WAYS[0], seed], strict=True)]
        print(f"{way}: at most {max(off):.3f} from torch float32 of the same seed, median {statistics.median(off):.3f};"
              f" seeds spread by up to {max(spread):.3f}, median {statistics.median(spread):.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
