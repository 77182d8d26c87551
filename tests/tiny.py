"""What tests train: pictures that a tiny network learns at once, that network, and trainings that end where a test wants them to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phiscale.architecture import Design, NetworkSpec, Stage, Stem

TINY = Design(
    spec=NetworkSpec(
        stem=Stem(widths=(8,)),
        stages=(
            Stage(kind="mbconv", depth=1, width=8, expand=1, se=0.25),
            Stage(kind="mbconv", depth=2, width=16, stride=2, expand=4, se=0.25),
        ),
        head_width=32,
        num_classes=2,
    ),
    resolution=32,
)


def stripe(chance: np.random.Generator, *, across: bool, side: int = 40) -> Image.Image:
    """One picture of horizontal (`across`) or vertical stripes."""
    wave = np.sin(np.arange(side) * chance.uniform(0.8, 1.6) + chance.uniform(0, 6))
    grey = np.broadcast_to(wave[:, None] if across else wave[None, :], (side, side))
    pixels = np.clip(128 + 90 * grey + chance.normal(0, 12, (side, side)), 0, 255).astype(np.uint8)
    return Image.fromarray(np.stack([pixels] * 3, 2))


def draw(folder: Path, count: int, *, across: bool, seed: int = 0, name: str = "") -> None:
    """`count` different ones, as PNG files whose names begin with `name`."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng([seed, across])
    for number in range(count):
        stripe(chance, across=across).save(folder / f"{name}{number:02}.png")


@contextmanager
def dying_at(step: int) -> Iterator[None]:
    """In here a training ends before so many steps, at once and without a word to its checkpoint."""
    from phiscale.training import loop

    steps = iter(range(10**6))
    one_step = loop._Training.one_step

    def dying(self: loop._Training, *args: object) -> None:
        if next(steps) == step:
            raise KeyboardInterrupt
        one_step(self, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Training, "one_step", dying)
        yield
