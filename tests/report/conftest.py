"""Fixtures of the report's tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from run_folder import MakeRun, write_run


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run(labels=…, images=…, …)` writes a run folder and returns it."""

    def make(
        *,
        labels: Sequence[str] = ("ants", "bees"),
        n: int = 153,
        accuracy: float = 0.94,
        images: Sequence[Path] = (),
        name: str = "run",
        skipped: Sequence[tuple[str, str, str]] = (("train/bees/notes.jpg", "not_an_image", "starts like text, not like a picture"),),
        notes: Sequence[str] = ("3 pictures appear twice; each pair was kept on one side of the split.",),
        **changes: Any,
    ) -> Path:
        return write_run(tmp_path / name, labels=labels, n=n, accuracy=accuracy, images=images, skipped=skipped, notes=notes, **changes)

    return make


@pytest.fixture
def tiny_images(tmp_path: Path) -> list[Path]:
    """Six small pictures in two class folders."""
    made: list[Path] = []
    for number, label in enumerate(("ants", "bees") * 3):
        path = tmp_path / "photos" / "val" / label / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (40 * number, 90, 160)).save(path)
        made.append(path)
    return made
