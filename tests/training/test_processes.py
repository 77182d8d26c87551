"""Two processes train what one would: the same images in the same steps, the same losses; one dies, and the rest goes on from there."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from together import run
from torch import nn

from phiscale.data.load import EpochBatches
from phiscale.errors import ArgumentError, RunError
from phiscale.training.processes import Processes
from phiscale.training.sync_norm import SyncNorm, desync_norms, sync_norms

RTOL = 1e-5  # float32 sums in another order, over 15 steps; seen 5e-7
RTOL_PROBE = 1e-3  # L-BFGS stops elsewhere on features that differ in the last bit; seen 3e-5
SCRIPT = Path(__file__).parent / "together.py"


def torchrun(*words: str | Path, before: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-m", "torch.distributed.run", *map(str, words)]
    paths = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])  # where tiny.py is
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": paths} | environment
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def said(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "said.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trainings by one process."""
    root = tmp_path_factory.mktemp("alone")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("plain", "probed", "parted"):
        run(root / "images", root, name, Processes())
    torch.set_num_threads(threads)
    return root


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same by two, and one in which the second process is killed once; what they said."""
    root = tmp_path_factory.mktemp("two")
    words = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "1", SCRIPT, root / "images", root)
    done = torchrun(*words, "plain", "probed", "parted", "dying")
    _, errors = done.communicate(timeout=400)
    assert done.returncode == 0, errors[-3000:]
    return root, errors


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rtol"), [("plain", RTOL), ("probed", RTOL_PROBE), ("parted", RTOL_PROBE)])
def test_two_processes_lose_what_one_loses(name: str, rtol: float, alone: Path, two: tuple[Path, str]) -> None:
    """Every step's loss over both halves of its batch, norms synchronised, equals that of one process with the whole batch."""
    one, both = said(alone / name), said(two[0] / name)
    assert both["losses"] == pytest.approx(one["losses"], rel=rtol)
    assert len(both["losses"]) == {"plain": 15, "probed": 10, "parted": 10}[name]


@pytest.mark.slow
def test_validation_counts_every_image_once_and_in_order(alone: Path, two: tuple[Path, str]) -> None:
    """Eleven images over two processes: padded on the way, cut off again."""
    one, both = said(alone / "plain"), said(two[0] / "plain")
    assert both["n"] == one["n"] == 11
    assert both["labels"] == one["labels"]
    assert torch.allclose(torch.tensor(both["logits"]), torch.tensor(one["logits"]), atol=1e-3)


@pytest.mark.slow
def test_parts_of_a_step_are_the_whole_step(alone: Path) -> None:
    assert said(alone / "parted")["losses"] == pytest.approx(said(alone / "probed")["losses"], rel=RTOL)


@pytest.mark.slow
def test_all_fail_clearly_when_one_dies_and_go_on_bit_for_bit(two: tuple[Path, str]) -> None:
    """torchrun starts both again, and what they end with is what two that nobody killed end with."""
    root, errors = two
    assert "process 0 of 2 lost another one of this training" in errors
    for name in ("state.pt", "metrics.csv"):
        assert (root / "dying" / name).read_bytes() == (root / "plain" / name).read_bytes()


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them: 10.213.0.1 and .2 on the interface `cable`."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need the ip command and root")
    names = (f"phiscale-{os.getpid()}-a", f"phiscale-{os.getpid()}-b")
    try:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
                pytest.skip("this machine makes no network namespaces")
        make = [f"ip link add cable netns {names[0]} type veth peer name cable netns {names[1]}"]
        for number, name in enumerate(names, 1):
            make += [
                f"ip -n {name} addr add 10.213.0.{number}/30 dev cable",
                f"ip -n {name} link set cable up",
                f"ip -n {name} link set lo up",
            ]
        for command in make:
            subprocess.run(command.split(), check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
def test_two_hosts_that_share_no_folder(hosts: tuple[str, str], alone: Path, tmp_path: Path) -> None:
    """Each has its own copy of the images; the first writes, the second's folder stays empty."""
    words = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "10.213.0.1", "--master-port", "29477")
    running = [
        torchrun(
            *words, "--node-rank", str(rank), SCRIPT, tmp_path / name / "images", tmp_path / name / "out", "plain",
            before=("ip", "netns", "exec", name), GLOO_SOCKET_IFNAME="cable",
        )
        for rank, name in enumerate(hosts)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    first, second = (tmp_path / name / "out" for name in hosts)
    assert said(first / "plain")["losses"] == pytest.approx(said(alone / "plain")["losses"], rel=RTOL)
    assert not second.exists()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("n", [16, 17, 37])
def test_together_they_see_every_batch_of_one(count: int, n: int) -> None:
    whole = list(EpochBatches(n, batch=6, seed=3, shuffle=True, epoch=2))
    parts = [list(EpochBatches(n, batch=6, seed=3, shuffle=True, epoch=2, part=(rank, count))) for rank in range(count)]
    joined = [[key for piece in pieces for key in piece] for pieces in zip(*parts, strict=True)]
    if n % 6 >= count or n % 6 == 0:
        assert joined == whole
    assert sorted(key for batch in joined for key in batch) == sorted((2, index) for index in range(n))
    assert all(piece for part in parts for piece in part)


def test_shares_cover_all_rows_once() -> None:
    assert [index for rank in range(3) for index in Processes(rank, 3).share(11)] == list(range(11))


def test_a_batch_too_small_for_the_processes_is_refused(tmp_path: Path) -> None:
    from pictures import PREPROCESS, certain, draw, network

    from phiscale.training import train

    with pytest.raises(ArgumentError, match="--batch to 20"):
        train(
            network(certain()),
            draw(tmp_path / "images"),
            recipe=certain(),
            preprocess=PREPROCESS,
            folder=tmp_path,
            processes=Processes(0, 10),
        )


def test_a_synchronised_norm_alone_is_a_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, gradients and statistics, where the sum over all processes is the process's own."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda _: None)
    torch.manual_seed(0)
    norm, x = nn.BatchNorm2d(3, momentum=0.3), torch.randn(4, 3, 5, 5)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    found = []
    for synchronised in (False, True):
        one = nn.BatchNorm2d(3, momentum=0.3)
        one.load_state_dict(norm.state_dict())
        if synchronised:
            sync_norms(one)
            assert type(one) is SyncNorm
        seen = x.clone().requires_grad_()
        one(seen).pow(3).sum().backward()
        assert seen.grad is not None
        found.append([seen.grad, one.weight.grad, *one.state_dict().values()])
        assert type(desync_norms(one)) is nn.BatchNorm2d
    for plain, synced in zip(*found, strict=True):
        assert torch.allclose(plain, synced, rtol=1e-4, atol=1e-4)


def test_only_lost_connections_are_taken_for_lost_processes() -> None:
    with pytest.raises(RunError, match="lost another one"), Processes(1, 2).together():
        raise RuntimeError("[gloo] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shape"), Processes(1, 2).together():
        raise RuntimeError("shape mismatch")
