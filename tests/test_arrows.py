"""The house stands: arrows run only downwards, the ground floors need no torch, and what is public is there."""

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import phiscale

ROOT = Path(__file__).parents[1]
TORCH_FREE = ("phiscale.architecture", "phiscale.cost", "phiscale.errors")


def modules(*packages: str) -> list[str]:
    found: list[str] = []
    for name in packages:
        path = getattr(importlib.import_module(name), "__path__", None)
        found += [name, *(module.name for module in pkgutil.walk_packages(path or [], name + "."))]
    return found


def test_arrows_run_only_downwards() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


NO_TORCH = """
import sys
for name in ("torch", "torchvision", "accelerate", "numpy", "PIL"):
    sys.modules[name] = None  # importing it is an error from now on
import phiscale
for name in {modules!r}:
    __import__(name)
made = phiscale.fit_budget(phiscale.scale(phiscale.design("efficientnet_b0"), phi=1), macs="500M")
assert made.cost.macs <= 500_000_000
"""


def test_the_ground_floors_need_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH.format(modules=modules(*TORCH_FREE))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_phiscale_imports_nothing_heavy() -> None:
    code = "import sys, phiscale; print(sorted({'torch', 'numpy', 'PIL', 'rich', 'cyclopts', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_public_names_are_there() -> None:
    assert phiscale.__all__ == sorted(phiscale.__all__)
    assert dir(phiscale) == phiscale.__all__
    for name in phiscale.__all__:
        assert getattr(phiscale, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = phiscale.nonsense


@pytest.mark.parametrize("name", ["phiscale.architecture", "phiscale.architecture.catalog", "phiscale.cost", "phiscale.nn"])
def test_public_names_of_rooms_are_there(name: str) -> None:
    room = importlib.import_module(name)
    assert [each for each in room.__all__ if not hasattr(room, each)] == []


@pytest.mark.parametrize("name", modules(*TORCH_FREE))
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
