"""Training that is signalled, killed, or one of several processes: what it says and leaves, and that the rest comes out the same."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Phiscale = Callable[..., tuple[int, str, str]]
TrainFor = Callable[[int], list[str]]
SCRIPT = Path(__file__).parent / "signalled.py"
SAME = ("model.safetensors", "metrics.csv", "predictions.csv")


@pytest.fixture(scope="module")
def whole(pictures: Path, train_for: TrainFor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbs."""
    from phiscale.cli import main

    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(["fit", str(pictures), *train_for(5), "-o", str(out)]) == 0
    return out


def started(what: str, *arguments: str | Path, **options: int) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, SCRIPT, what, *arguments], text=True, **pipes)


def same(run: Path, whole: Path) -> bool:
    return all((run / name).read_bytes() == (whole / name).read_bytes() for name in SAME)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_says_the_command_that_goes_on_and_it_does(
    number: signal.Signals, status: int, pictures: Path, train_for: TrainFor, whole: Path, tmp_path: Path, phiscale: Phiscale
) -> None:
    """A real signal to a real process, in the third of five epochs; a folder whose name needs quotes."""
    out = tmp_path / "my run"
    process = started(number.name, "fit", pictures, *train_for(5), "-o", out)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == status, said
    assert "Traceback" not in said
    assert printed == ""
    assert list((out / "checkpoint").glob("*.pt"))
    assert not (out / "bundle").exists()
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]
    command = said.partition("go on with: ")[2].splitlines()[0]
    name, *words = shlex.split(command)
    assert name == "phiscale"
    status, printed, _ = phiscale(*words)
    assert status == 0
    assert "accuracy" in printed
    assert same(out, whole)


def test_a_second_process_is_refused_and_readers_end_with_one_that_is_killed(
    pictures: Path, train_for: TrainFor, whole: Path, tmp_path: Path, phiscale: Phiscale
) -> None:
    if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
        pytest.skip("this system does not list a process's children")
    out = tmp_path / "run"
    with started("waits", "fit", pictures, *train_for(5), "--workers", "2", "-o", out, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        readers = process.stdout.readline().split()
        assert len(readers) == 2
        status, _, said = phiscale("fit", "--resume", out)
        assert status == 1
        assert f"is being trained into by process {process.pid}" in said
        status, _, said = phiscale("fit", pictures, *train_for(5), "-o", out)
        assert status == 2
        assert "name another folder" in said
        process.kill()
    until = time.monotonic() + 10
    while left := [reader for reader in readers if alive(reader)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)
    assert phiscale("fit", "--resume", out, "--workers", "0")[0] == 0
    assert same(out, whole)


def alive(process: str) -> bool:
    """Whether it runs; a dead child that nobody waits for (of a container without init) does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_all_and_they_go_on_the_same(pictures: Path, train_for: TrainFor, tmp_path: Path) -> None:
    """noisy_student by two processes that share no folder but the images'; torchrun starts them again."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    options = [*train_for(2), "--recipe", "noisy_student", "--rounds", "1", "--unlabelled", pictures, "--confidence", "0"]
    done = subprocess.run(
        [*command, Path(__file__).parent / "ranks.py", pictures, *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "phiscale: process 0 of 2 lost another one of this training" in done.stderr
    assert same(tmp_path / "0" / "killed", tmp_path / "0" / "whole")
    assert list((tmp_path / "1").iterdir()) == []
