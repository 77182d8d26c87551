"""The loop as a whole, on pictures that the tests make: what it computes, when it stops, what it keeps."""

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import PREPROCESS, certain, draw, network

from phiscale.data import load
from phiscale.data.find import ImageSet
from phiscale.errors import ArgumentError, DivergedError, RunError, StoppedError
from phiscale.training import Compute, Outcome, Recipe, checkpoint, train
from phiscale.training.guard import Guard
from phiscale.training.log import Log
from phiscale.training.optim import Sgd
from phiscale.training.pace import Pace
from phiscale.training.rates import Rates, range_test
from phiscale.training.stop import Stop
from tiny import dying_at

# Twenty steps of `certain()` on `draw()`, one thread, float32 on an AVX-512 machine.
GOLDEN = (
    *(0.687498, 0.685883, 0.674418, 0.661036, 0.593887, 0.542851, 0.47261, 0.362196, 0.327626, 0.244974),
    *(0.243822, 0.211292, 0.20541, 0.247385, 0.221559, 0.235025, 0.219085, 0.223607, 0.222508, 1.23935),
)
# kernels are chosen by processor; kept to AVX2, and to SSE4.1 (ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY), the losses moved by 1e-6
RTOL_GOLDEN = 1e-3


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return draw(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(images: ImageSet, folder: Path, recipe: Recipe | None = None, **options: Any) -> Outcome:
    recipe = recipe or certain()
    options = {"compute": Compute(precision="float32")} | options
    return train(network(recipe), images, recipe=recipe, preprocess=PREPROCESS, folder=folder, **options)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Of every step from here on."""
    found: list[float] = []
    monkeypatch.setattr(Log, "step", lambda *_, **values: found.append(values["loss"]))
    return found


def test_twenty_steps_give_the_golden_losses(images: ImageSet, losses: list[float], tmp_path: Path) -> None:
    run(images, tmp_path, certain(epochs=4))
    assert losses == pytest.approx(GOLDEN, rel=RTOL_GOLDEN)


@pytest.mark.parametrize("compute", [Compute(precision="float32", channels_last=False), Compute(precision="float32", accumulate=3)])
def test_how_it_is_computed_changes_rounding_only(compute: Compute, images: ImageSet, losses: list[float], tmp_path: Path) -> None:
    """Norms frozen: those that learn would see the parts of a step."""
    recipe = certain(epochs=1, freeze_norms=True)
    run(images, tmp_path / "a", recipe)
    run(images, tmp_path / "b", recipe, compute=compute)
    assert losses[5:] == pytest.approx(losses[:5], rel=1e-4)


def test_a_compiled_training_loses_the_same_and_goes_on_bit_for_bit(
    images: ImageSet, losses: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced, but not compiled to machine code, which takes a minute (docs/training.md says how to try it). The last batch of an epoch
    is smaller, and the run goes on with one: what is traced first is another size."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    recipe, compute = certain(epochs=2), Compute(precision="float32", compile=True)
    run(images, tmp_path / "plain", recipe)
    whole = run(images, tmp_path / "whole", recipe, compute=compute)
    assert losses[10:] == pytest.approx(losses[:10], rel=RTOL_GOLDEN)

    def stop_before_the_last(what: str, done: int, total: int) -> None:
        if what == "epoch 1/2" and done == 32:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError), Stop() as stop:
        run(images, tmp_path / "stopped", recipe, compute=compute, stop=stop, progress=stop_before_the_last)
    torch._dynamo.reset()
    again = run(images, tmp_path / "stopped", recipe, compute=compute)
    assert all(torch.equal(again.state[key], value) for key, value in whole.state.items())


def test_tensorboard_has_every_step_once_also_after_a_resume(images: ImageSet, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = certain(epochs=4)
    with pytest.raises(KeyboardInterrupt), dying_at(7):  # the two steps behind the checkpoint were logged, and are taken again
        run(images, tmp_path, recipe, tensorboard=True)
    run(images, tmp_path, recipe, tensorboard=True)
    said = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("loss", "grad_norm", "lr"):
        assert [event.step for event in said.Scalars(f"step/{name}")] == list(range(1, 21)), name
    assert [event.value for event in said.Scalars("step/loss")] == pytest.approx(GOLDEN, rel=RTOL_GOLDEN)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    for name, column in (("val_loss", 5), ("grad_norm", 7)):
        seen = [event.value for event in said.Scalars(f"epoch/{name}")]
        assert seen == pytest.approx([float(row.split(",")[column]) for row in rows[1:]], rel=1e-5)


def test_bfloat16_learns_too(images: ImageSet, losses: list[float], tmp_path: Path) -> None:
    outcome = run(images, tmp_path, certain(epochs=2), compute=Compute(precision="bfloat16"))
    assert losses[-1] < losses[0]
    assert all(value.dtype in (torch.float32, torch.int64) for value in outcome.state.values())


def test_float16_without_a_gpu_is_refused(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="bfloat16"):
        run(images, tmp_path, compute=Compute(precision="float16"))


def test_clipping_bounds_the_gradients(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = Sgd.step

    def seen(self: Sgd, *args: Any) -> Any:
        norms.append(torch.nn.utils.get_total_norm([p.grad for g in self.param_groups for p in g["params"]]).item())
        return step(self, *args)

    monkeypatch.setattr(Sgd, "step", seen)
    run(images, tmp_path / "free", certain(epochs=1))
    run(images, tmp_path / "bound", certain(epochs=1, clip=0.1))
    assert max(norms[:5]) > 0.1
    assert max(norms[5:]) <= 0.1 * (1 + 1e-4)


def test_patience_ends_a_training_that_gets_no_better(images: ImageSet, tmp_path: Path) -> None:
    run(images, tmp_path, certain(epochs=50, learning_rate=0.0, patience=2, freeze_norms=True))
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 3  # the first is the best; two more are waited for


def test_a_rate_that_is_far_too_high_stops_before_the_update_and_says_all(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"epoch 1, step \d.*rate.*\.png.*checkpoint.*--learning-rate") as raised:
        run(images, tmp_path, certain(learning_rate=100.0, optimizer="sgd", epochs=20, warmup=0.0))
    state = checkpoint.load(tmp_path / "checkpoint")
    assert state is not None, raised.value
    assert all(torch.isfinite(value).all() for value in state["network"].values())


@pytest.mark.parametrize(("losses", "norm"), [([float("nan")], 1.0), ([1.0], float("inf")), ([1.0] + [50.0] * 9, 1.0)])
def test_the_guard_stops(losses: list[float], norm: float, tmp_path: Path) -> None:
    guard, files = Guard(), [tmp_path / f"{name}.png" for name in "abcdefghij"]

    def steps() -> None:
        for loss in losses:
            guard.check(loss, norm, where="step 1", rate=0.3, files=files, kept="nothing")

    with pytest.raises(DivergedError, match=r"a\.png.*and 2 more"):
        steps()


def test_the_guard_lets_pass_what_a_warm_up_does() -> None:
    guard = Guard()
    for loss in (0.3, 0.9, 2.3, 1.0, 0.4):
        guard.check(loss, 1.0, where="", rate=0.1, files=[], kept="")


def test_a_signal_ends_it_after_a_checkpoint_and_it_goes_on_the_same(images: ImageSet, tmp_path: Path) -> None:
    whole = run(images, tmp_path / "whole")
    with pytest.raises(StoppedError), Stop() as stop:
        run(images, tmp_path / "stopped", stop=stop, progress=after("epoch 2", lambda: os.kill(os.getpid(), signal.SIGTERM)))
    saved = checkpoint.load(tmp_path / "stopped" / "checkpoint")
    assert saved is not None
    assert (saved["epoch"], saved["step"]) == (1, 1)
    again = run(images, tmp_path / "stopped")
    assert all(torch.equal(again.state[key], value) for key, value in whole.state.items())
    assert (tmp_path / "stopped" / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def after(beginning: str, then: Callable[[], None]) -> Callable[[str, int, int], None]:
    """Progress that does something the first time it hears of a step whose name begins so."""
    done: list[str] = []

    def progress(what: str, *_: int) -> None:
        if what.startswith(beginning) and not done:
            done.append(what)
            then()

    return progress


def test_a_second_signal_ends_at_once_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Stop() as stop:
        stop.steps = True
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked == signal.SIGINT
        with pytest.raises(StoppedError):
            os.kill(os.getpid(), signal.SIGTERM)
    with Stop(), pytest.raises(KeyboardInterrupt):  # outside of steps the first one does
        os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_reader_that_dies_is_replaced_at_the_same_batch(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "STUCK", 3)
    whole = run(images, tmp_path / "whole", certain(epochs=1))
    said: list[str] = []
    killed = run(
        images, tmp_path / "killed", certain(epochs=1), workers=1, say=said.append, progress=after("epoch 1", kill_a_child)
    )  # fmt: skip
    assert any("died" in line for line in said)
    assert all(torch.equal(killed.state[key], value) for key, value in whole.state.items())


def kill_a_child() -> None:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if not children.exists():
        pytest.skip("this system does not list a process's children")
    for child in children.read_text().split():
        os.kill(int(child), signal.SIGKILL)


# --- the time ---------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("slower_from", "slower"), [(10**9, 1.0), (100, 3.0)])
def test_a_schedule_ends_with_its_time(slower_from: int, slower: float) -> None:
    """A step of 0.1 s, evaluations of 2 s, 60 s in all; and a machine that becomes three times as slow half way."""
    clock = Clock()
    pace = Pace(60.0, steps=50, longest=10**6, now=clock)
    positions, number = [], 0
    while pace.position < 1:
        clock.now += 0.1 * (slower if number >= slower_from else 1)
        number += 1
        pace.stepped(images=8, judged=100, last=number % 50 == 0)
        positions.append(pace.position)
        if number % 50 == 0 and pace.position < 1:
            clock.now += 2
            pace.evaluated(2)
            pace.begin_steps()
    assert positions == sorted(positions)
    assert 50 <= clock.now + 2 * 2 <= 60


def test_more_time_than_three_times_the_epochs_is_not_used() -> None:
    clock = Clock()
    pace = Pace(1e6, steps=10, longest=30, now=clock)
    steps = 0
    while pace.position < 1:
        clock.now += 0.1
        pace.stepped(images=8, judged=10)
        steps += 1
    assert steps == 30


def test_minutes_end_annealed_and_go_on_where_they_were(images: ImageSet, tmp_path: Path) -> None:
    run(images, tmp_path, certain(epochs=2), seconds=3600.0)
    last = (tmp_path / "metrics.csv").read_text().splitlines()[-1].split(",")
    assert int(last[0]) == 6  # three times its epochs, and
    assert float(last[2]) < 0.01 * 0.1  # the rate has fallen to nothing
    before = (tmp_path / "metrics.csv").read_bytes()
    run(images, tmp_path, certain(epochs=2), seconds=3600.0)
    assert (tmp_path / "metrics.csv").read_bytes() == before


# --- the learning-rate range test -----------------------------------------------------------------------


def test_the_suggested_rate_is_a_tenth_of_where_the_loss_is_lowest() -> None:
    rates = tuple(10 ** (-4 + 5 * n / 99) for n in range(100))
    losses = tuple(1.0 + 0.2 * (abs(n - 60) / 10) for n in range(100))
    found = Rates(rates=rates, losses=losses)
    assert 10**-1.5 < found.lowest < 10**0  # smoothing lags a few steps behind step 60, where the rate is 10**-0.97
    assert found.suggested == pytest.approx(found.lowest / 10, rel=0.05)


def test_the_range_test_rises_until_the_loss_runs_away(images: ImageSet) -> None:
    recipe = certain()
    found = range_test(network(recipe), images, recipe=recipe, preprocess=PREPROCESS, steps=40)
    assert found.rates[0] == pytest.approx(recipe.learning_rate * 1e-3)
    ratios = [after / before for before, after in zip(found.rates, found.rates[1:], strict=False)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    assert 0 < found.suggested < 10


# --- checkpoints --------------------------------------------------------------------------------------


def test_killed_between_any_two_file_operations_of_a_save_something_whole_is_left(tmp_path: Path) -> None:
    """A child saves and is killed before its n-th operation, for every n until it lives."""
    for number in (1, 2):
        checkpoint.save(tmp_path, {"value": torch.full((50,), float(number))}, number)
    for moment in range(1, 100):
        if not (child := os.fork()):
            die_before(moment)
            checkpoint.save(tmp_path, {"value": torch.full((50,), 3.0)}, 3)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        loaded = checkpoint.load(tmp_path)
        assert loaded is not None
        assert loaded["number"] in (2, 3)
        assert torch.equal(loaded["value"], torch.full((50,), float(loaded["number"])))
        if status == 0:
            break
    assert 5 < moment < 99
    assert loaded["number"] == 3
    assert len(list(tmp_path.iterdir())) == 2


def die_before(moment: int) -> None:
    """Count what changes files; kill this process before the `moment`-th of them, in the middle of it where it writes."""
    seen = 0

    def counted(name: str, module: Any) -> None:
        real = getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == moment:
                if name == "write_bytes":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        setattr(module, name, call)

    for name in ("fsync", "replace", "open", "unlink"):
        counted(name, os)
    for name in ("write_bytes", "unlink", "open"):
        counted(name, Path)


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here (it needs root)")
    try:
        checkpoint.save(small, {"value": torch.ones(1000)}, 1)
        with pytest.raises(RunError, match=r"disk of .*small is full"):
            checkpoint.save(small, {"value": torch.ones(100_000)}, 2)
        loaded = checkpoint.load(small)
        assert loaded is not None
        assert loaded["number"] == 1
        assert len(list(small.iterdir())) == 1
    finally:
        subprocess.run(["umount", small], check=True)


LIGHT = """
import sys, tempfile
from pathlib import Path
import torch
from pictures import PREPROCESS, certain, draw, network
from phiscale.training import Compute, train
from phiscale.training.rates import range_test

folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
for optimizer in ("sgd", "adamw", "rmsprop"):
    recipe = certain(epochs=1, optimizer=optimizer, learning_rate=1e-3, probe=True)
    own = folder / optimizer
    train(network(recipe), draw(own), recipe=recipe, preprocess=PREPROCESS, folder=own / "run", compute=Compute())
    if optimizer == "sgd":
        range_test(network(recipe), draw(own), recipe=recipe, compute=Compute(), preprocess=PREPROCESS)
    print(sorted({"torch._dynamo", "torch.distributed.tensor", "sympy"} & set(sys.modules)))
"""


def test_a_training_that_is_not_compiled_imports_no_compiler(tmp_path: Path) -> None:
    """A second of start-up and 150 MiB, which each of torch's optimisers and of `custom_op`'s operators asks for when first used."""
    import subprocess
    import sys

    places = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", LIGHT, tmp_path], capture_output=True, text=True, env={**os.environ, **places})
    assert done.stdout.split("\n") == ["[]", "[]", "[]", ""], done.stdout + done.stderr
