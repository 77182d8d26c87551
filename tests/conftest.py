"""Shared by all tests: where the real photographs are, where they are."""

from pathlib import Path

import pytest

PHOTOS = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def photos() -> Path:
    """Real photographs beside the checkout; without them a test is skipped, and says so."""
    if not PHOTOS.is_dir():
        pytest.skip("the folder of real photographs (../shared/data) is not beside this checkout")
    return PHOTOS
