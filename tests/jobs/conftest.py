"""Pictures that a tiny network learns at once."""

from pathlib import Path

import pytest

from tiny import TINY, draw


@pytest.fixture(scope="session", autouse=True)
def quick(hasty: None) -> None:
    """In all tests of this room."""


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, and a file that can't be read."""
    root = tmp_path_factory.mktemp("stripes")
    for name in ("across", "down"):
        draw(root / name, 24, across=name == "across")
    (root / "down" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    return root


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("designs") / "tiny.toml"
    path.write_text(TINY.to_toml(), encoding="utf-8")
    return path
