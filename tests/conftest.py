"""Shared by all tests: where the real photographs are, where they are."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

PHOTOS = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def photos() -> Path:
    """Real photographs beside the checkout; without them a test is skipped, and says so."""
    if not PHOTOS.is_dir():
        pytest.skip("the folder of real photographs (../shared/data) is not beside this checkout")
    return PHOTOS


@pytest.fixture(scope="session")
def hasty() -> Iterator[None]:
    """Speeds in bench.json from a moment each, where they are not what is tested: else five seconds a run."""
    from phiscale.deploy.bundle import export_bundle
    from phiscale.jobs import export, fit

    with pytest.MonkeyPatch.context() as patch:
        for job in (fit, export):
            patch.setattr(job, "export_bundle", functools.partial(export_bundle, seconds=0.001))
        yield
