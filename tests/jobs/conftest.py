"""Pictures that a tiny network learns at once."""

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
    ),
    resolution=32,
)


@pytest.fixture(scope="session", autouse=True)
def quick(hasty: None) -> None:
    """In all tests of this room."""


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes a network of this size learns at once: horizontal and vertical stripes."""
    root = tmp_path_factory.mktemp("stripes")
    random = np.random.default_rng(0)
    for name in ("across", "down"):
        (root / name).mkdir()
        for number in range(24):
            wave = np.sin(np.arange(40) * random.uniform(0.8, 1.6) + random.uniform(0, 6))
            grey = np.broadcast_to(wave[:, None] if name == "across" else wave[None, :], (40, 40))
            pixels = np.clip(128 + 90 * grey + random.normal(0, 12, (40, 40)), 0, 255).astype(np.uint8)
            Image.fromarray(np.stack([pixels] * 3, 2)).save(root / name / f"{number:02}.png")
    (root / "down" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    return root


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("designs") / "tiny.toml"
    path.write_text(TINY.to_toml(), encoding="utf-8")
    return path
