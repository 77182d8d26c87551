"""Pictures that the tests of the command line make for themselves."""

from pathlib import Path

import numpy as np
from PIL import Image


def draw(folder: Path, count: int, *, across: bool, seed: int = 0) -> None:
    """`count` different pictures of horizontal or vertical stripes, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed + across)
    for number in range(count):
        wave = np.sin(np.arange(40) * chance.uniform(0.8, 1.6) + chance.uniform(0, 6))
        grey = np.broadcast_to(wave[:, None] if across else wave[None, :], (40, 40))
        pixels = np.clip(128 + 90 * grey + chance.normal(0, 12, (40, 40)), 0, 255).astype(np.uint8)
        Image.fromarray(np.stack([pixels] * 3, 2)).save(folder / f"{number:02}.png")
