"""Inherited against random weights at sizes that nobody trained, at equal epochs.

    python benchmarks/inheritance.py IMAGES [--epochs 2] [--seeds 0,1] [--sizes 0.25,0.5,0.75,2] [--each 0] [--validate 0] \\
        [--starts inherited,distilled,random,whole] > out.csv

Each size is EfficientNet-Lite0 scaled by phi to that share of its multiply-adds. "inherited" starts from Lite's weights with the
fine-tuning recipe, "distilled" first learns from Lite0 on the training images without labels (as `fit --imitate`), "random"
starts from none with the scratch recipe at a rate of 0.03 and clipped gradients, "whole" (below 1) is Lite0 with all its weights at
the resolution that costs the same. `--each` and `--validate` take so many images of each class (0: all). One row a training; top-1
is of the best epoch on the validation split.
"""

import argparse
import csv
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from phiscale.architecture import Design
from phiscale.architecture.catalog import row
from phiscale.cost import fit_budget
from phiscale.data.find import ImageSet, find_images
from phiscale.data.load import ImageDataset, open_images, typical_side
from phiscale.jobs.choose import choose_design
from phiscale.jobs.run import scaled_preprocess
from phiscale.training import RECIPES, train
from phiscale.training.imitate import imitate
from phiscale.training.teacher import TaughtBy
from phiscale.weights import create_model, load_weights

STEPS = 60  # of "distilled"
# what training from random weights diverges without, at so few steps
GENTLER = {"learning_rate": 0.03, "clip": 1.0}
COLUMNS = ("images", "size", "start", "seed", "resolution", "macs", "params", "epochs", "train_images", "top1", "n", "seconds")


def fewer(found: ImageSet, split: str, each: int) -> ImageSet:
    """`each` images of each class of a split, the first ones; 0: all."""
    if not each:
        return found
    counts: dict[int, int] = {}
    kept = []
    for item in found.splits[split]:
        counts[item.label] = counts.get(item.label, 0) + 1
        if counts[item.label] <= each:
            kept.append(item)
    return replace(found, splits={**found.splits, split: tuple(kept)})


def designs(share: float, side: int) -> dict[str, Design]:
    """The design of each start."""
    lite0 = row("efficientnet_lite0").design
    lite0 = lite0.at(side) if side < lite0.resolution else lite0
    scaled = fit_budget(lite0, macs=share * lite0.cost.macs)
    made = {"inherited": scaled, "random": scaled}
    if share < 1:
        made["distilled"] = scaled
        from phiscale.cost import Budget

        made["whole"] = choose_design(lite0, Budget(macs=float(scaled.cost.macs)))[0]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--sizes", default="0.25,0.5,0.75,2")
    parser.add_argument("--each", type=int, default=0)
    parser.add_argument("--validate", type=int, default=0)
    parser.add_argument("--starts", default="inherited,distilled,random,whole")
    asked = parser.parse_args()
    out = csv.writer(sys.stdout)
    out.writerow(COLUMNS)
    for seed in map(int, asked.seeds.split(",")):
        for share in (float(text) for text in asked.sizes.split(",")):
            found = fewer(fewer(find_images(asked.images, seed=seed), "train", asked.each), "val", asked.validate)
            side = max(96, 4 * typical_side(found))
            for start, design in designs(share, side).items():
                if start not in asked.starts.split(","):
                    continue
                began = time.perf_counter()
                top1, n, images = run(found, design, start, epochs=asked.epochs, seed=seed, small=side <= design.resolution)
                cost = design.cost
                figures = (cost.macs, cost.params, asked.epochs, images, f"{top1:.4f}", n, f"{time.perf_counter() - began:.0f}")
                out.writerow((asked.images.name, share, start, seed, design.resolution, *figures))
                sys.stdout.flush()


def run(found: ImageSet, design: Design, start: str, *, epochs: int, seed: int, small: bool) -> tuple[float, int, int]:
    """Top-1 on validation, of how many images, and how many were trained on."""
    weights = None if start == "random" else "auto"
    recipe = replace(RECIPES["scratch" if weights is None else "finetune"](len(found.splits["train"])), epochs=epochs)
    if weights is None:
        recipe = recipe.changed(GENTLER)
    if weights is not None:
        how = load_weights(create_model(design.with_classes(0)), weights).inheritance
        if how is not None and not how.exact:  # as `fit` does
            recipe = replace(recipe, adapt_norms=True, frozen_stages=-1)
    network = create_model(
        design, num_classes=len(found.classes), weights=weights, seed=seed,
        dropout=recipe.dropout, drop_path=recipe.drop_path, bn_momentum=recipe.bn_momentum,
    )  # fmt: skip
    preprocess = scaled_preprocess(row("efficientnet_lite0").preprocess, design, whole=small)
    found, cache = open_images(found, preprocess=preprocess)
    if start == "distilled":
        whole = create_model(network.spec.with_classes(1000), weights="auto")
        own = row("efficientnet_lite0").preprocess
        source = TaughtBy(model=create_model("efficientnet_lite0", weights="auto").eval(), preprocess=own, student=preprocess)
        varied = ImageDataset(found, "train", preprocess=preprocess, augment=recipe.augment, seed=seed, cache=cache)
        imitate(whole, source, varied, steps=STEPS)
        body = {key: value for key, value in whole.state_dict().items() if not key.startswith("classifier.")}
        network.load_state_dict(network.state_dict() | body)
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(network, found, recipe=recipe, preprocess=preprocess, folder=Path(folder), seed=seed, cache=cache)
    return outcome.val.top1, outcome.val.n, len(found.splits["train"])


if __name__ == "__main__":
    main()
