"""The recipe `scratch` in runs of few steps, by its bound on gradients: does it come back from its highest rate?

    python benchmarks/few_steps.py IMAGES [--each 50] [--validate 20] [--epochs 2,5] [--clips 0,5,1] [--seeds 0] > out.csv

The network is EfficientNet-B0 at 32 px with half its width and a quarter of its depth; `--each` and `--validate` take so many images of
each class. One row a training: figures of the last epoch.
"""

import argparse
import csv
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from inheritance import fewer
from phiscale.architecture.catalog import row
from phiscale.architecture.scaling import scale
from phiscale.data.find import find_images
from phiscale.data.load import open_images
from phiscale.errors import DivergedError
from phiscale.jobs.run import scaled_preprocess
from phiscale.training import RECIPES, train
from phiscale.weights import create_model

COLUMNS = ("clip", "seed", "steps", "val_loss", "val_top1", "n", "train_loss", "grad_norm")


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    for name, value in (("each", "50"), ("validate", "20")):
        parser.add_argument(f"--{name}", type=int, default=int(value))
    for name, value in (("epochs", "2,5"), ("clips", "0,5,1"), ("seeds", "0")):
        parser.add_argument(f"--{name}", type=numbers, default=numbers(value))
    asked = parser.parse_args()
    b0 = row("efficientnet_b0")
    found = fewer(fewer(find_images(asked.images), "train", asked.each), "val", asked.validate)
    design = scale(b0.design, depth=0.25, width=0.5, resolution=1).at(32).with_classes(len(found.classes))
    preprocess = scaled_preprocess(b0.preprocess, design, whole=True)
    found = replace(found, splits={name: found.splits[name] for name in ("train", "val")})
    found, cache = open_images(found, preprocess=preprocess)
    count = len(found.splits["train"])
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)
    for epochs in map(int, asked.epochs):
        for seed in map(int, asked.seeds):
            for clip in asked.clips:
                recipe = RECIPES["scratch"](count).changed({"epochs": epochs, "clip": clip})
                network = create_model(
                    design, num_classes=len(found.classes), dropout=recipe.dropout, drop_path=recipe.drop_path,
                    bn_momentum=recipe.bn_momentum, seed=seed,
                )  # fmt: skip
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        train(network, found, recipe=recipe, preprocess=preprocess, folder=Path(folder), seed=seed, cache=cache)
                    except DivergedError as error:
                        print(error, file=sys.stderr)
                    last = list(csv.DictReader((Path(folder) / "metrics.csv").read_text().splitlines()))[-1:]
                steps = epochs * -(-count // recipe.batch)
                told = [last[0][name] for name in COLUMNS[3:5]] + [len(found.splits["val"])] if last else ["diverged"] * 3
                out.writerow((clip, seed, steps, *told, *(last[0][name] for name in COLUMNS[6:] if last)))
                sys.stdout.flush()


if __name__ == "__main__":
    main()
