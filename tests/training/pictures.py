"""Pictures, a tiny network and short recipes for the tests of this room: all made, none read."""

from pathlib import Path

import numpy as np
from PIL import Image

from phiscale.architecture import NetworkSpec, Preprocess, Stage, Stem
from phiscale.data.find import ImageSet, Item
from phiscale.nn import Network
from phiscale.training import RECIPES, Recipe
from phiscale.weights import create_model

SPEC = NetworkSpec(
    stem=Stem(widths=(8,)),
    stages=(
        Stage(kind="mbconv", depth=1, width=8, expand=1, se=0.25),
        Stage(kind="mbconv", depth=2, width=16, stride=2, expand=4, se=0.25),
    ),
    head_width=32,
    num_classes=2,
)
PREPROCESS = Preprocess(crop=32, resize=32)


def draw(root: Path, *, train: int = 37, val: int = 11) -> ImageSet:
    """Horizontal and vertical stripes as PNG files below `root`: a set with two classes whose sizes are no multiple of anything."""
    random = np.random.default_rng(0)
    splits: dict[str, tuple[Item, ...]] = {}
    for split, n in (("train", train), ("val", val)):
        items = []
        for number in range(n):
            wave = np.sin(np.arange(36) * random.uniform(0.8, 1.6) + random.uniform(0, 6))
            grey = np.broadcast_to(wave[:, None] if number % 2 else wave[None, :], (36, 36))
            pixels = np.clip(128 + 90 * grey + random.normal(0, 12, (36, 36)), 0, 255).astype(np.uint8)
            path = root / split / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.stack([pixels] * 3, 2)).save(path)
            items.append(Item(path, number % 2))
        splits[split] = tuple(items)
    return ImageSet(root=root, classes=("down", "across"), splits=splits)


def network(recipe: Recipe) -> Network:
    return create_model(SPEC, dropout=recipe.dropout, drop_path=recipe.drop_path, bn_momentum=recipe.bn_momentum, seed=1)


def certain(**changes: object) -> Recipe:
    """From random weights, without anything random inside the network: what many processes and one can agree on."""
    return RECIPES["scratch"](37).changed({"epochs": 3, "batch": 8, "learning_rate": 0.1, "dropout": 0.0, "drop_path": 0.0} | changes)
