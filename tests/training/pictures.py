"""A set of pictures, the tiny network and a short recipe for the tests of this room: all made, none read."""

from pathlib import Path

import numpy as np

from phiscale.architecture import Preprocess
from phiscale.data.find import ImageSet, Item
from phiscale.nn import Network
from phiscale.training import RECIPES, Recipe
from phiscale.weights import create_model
from tiny import TINY, stripe

PREPROCESS = Preprocess(crop=32, resize=32)


def draw(root: Path, *, train: int = 37, val: int = 11) -> ImageSet:
    """Horizontal and vertical stripes as PNG files below `root`: a set with two classes whose sizes are no multiple of anything."""
    random = np.random.default_rng(0)
    splits: dict[str, tuple[Item, ...]] = {}
    for split, n in (("train", train), ("val", val)):
        items = []
        for number in range(n):
            path = root / split / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            stripe(random, across=number % 2 == 1, side=36).save(path)
            items.append(Item(path, number % 2))
        splits[split] = tuple(items)
    return ImageSet(root=root, classes=("down", "across"), splits=splits)


def network(recipe: Recipe) -> Network:
    return create_model(TINY, dropout=recipe.dropout, drop_path=recipe.drop_path, bn_momentum=recipe.bn_momentum, seed=1)


def certain(**changes: object) -> Recipe:
    """From random weights, without anything random inside the network: what many processes and one can agree on."""
    return RECIPES["scratch"](37).changed(
        {"epochs": 3, "batch": 8, "learning_rate": 0.1, "clip": 0.0, "dropout": 0.0, "drop_path": 0.0} | changes
    )
