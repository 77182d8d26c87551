"""Small pictures, a tiny network, and one run that the command line trained on them."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from phiscale.cli import main
from tiny import TINY, draw


@pytest.fixture(scope="session", autouse=True)
def quick(hasty: None) -> None:
    """In all tests of this room."""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    draw(root / "across", 12, across=True)
    draw(root / "down", 12, across=False)
    return root


@pytest.fixture(scope="session")
def train_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[str]]:
    """Options of `fit` that train the tiny network for so many epochs, each a moment."""
    path = tmp_path_factory.mktemp("design") / "tiny.toml"
    path.write_text(TINY.to_toml(), encoding="utf-8")
    options = ["--network", str(path), "--weights", "none", "--batch", "8", "--learning-rate", "0.1", "--threads", "1"]
    return lambda epochs: [*options, "--epochs", str(epochs)]


@pytest.fixture(scope="session")
def train(train_for: Callable[[int], list[str]]) -> list[str]:
    """Options of `fit` that train the tiny network in a moment."""
    return train_for(1)


@pytest.fixture(scope="session")
def trained(pictures: Path, train: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run, and what `fit` printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["fit", str(pictures), *train, "-o", str(out)]) == 0
    return out, printed.getvalue()


@pytest.fixture(scope="session")
def run(trained: tuple[Path, str]) -> Path:
    return trained[0]


Said = tuple[int, str, str]


@pytest.fixture
def phiscale(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command in this process: exit status, standard output, standard error."""

    def run(*arguments: str | Path) -> Said:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run
