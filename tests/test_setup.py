"""tools/setup.sh says in one line what to do. No network, nothing is installed: Python, df and pip are stand-ins."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def stand_in(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def set_up(folder: Path, python: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["sh", str(ROOT / "tools" / "setup.sh"), str(python), str(folder / "venv"), "demo"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_missing_python_is_named(tmp_path: Path) -> None:
    done = set_up(tmp_path, "python9.9")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "install Python 3.11" in done.stderr


def test_old_python_is_refused(tmp_path: Path) -> None:
    old = stand_in(tmp_path, "python-old", 'case "$1" in --version) echo "Python 3.8.18";; *) exit 1;; esac')
    done = set_up(tmp_path, old)
    assert done.returncode == 1
    assert "Python 3.8.18 is too old; install Python 3.11 or newer" in done.stderr


def test_full_disk_is_said_before_anything_is_installed(tmp_path: Path) -> None:
    stand_in(tmp_path, "df", "echo Filesystem 1024-blocks Used Available Capacity Mounted; echo /dev/x 9 9 1000 99% /")
    done = set_up(tmp_path, sys.executable)
    assert done.returncode == 1
    assert "the disk has 1 MB free" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("pip_says", "said"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: Could not find a version that satisfies the requirement torch==9", "the package index can't be reached"),
        ("error: something else broke", "the installation failed"),
    ],
)
def test_a_failed_installation_says_why(tmp_path: Path, pip_says: str, said: str) -> None:
    # a Python whose venv holds a Python whose pip fails as told
    inner = tmp_path / "venv" / "bin"
    inner.mkdir(parents=True)
    (tmp_path / "venv" / "lib").mkdir()
    stand_in(inner, "python", f'case "$*" in *"-m pip"*) echo "{pip_says}"; exit 1;; *) exit 0;; esac')
    done = set_up(tmp_path, sys.executable)
    assert done.returncode == 1
    assert f"phiscale set-up: {said}" in done.stderr


def test_makefile_names_the_two_commands() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for target in ("demo", "test"):
        shown = subprocess.run(["make", "--dry-run", target, "VENV=/nowhere/venv"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert "tools/setup.sh" in shown.stdout
