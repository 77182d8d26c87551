"""The native engine gives the network's answers, in f32 and bf16, at every level of instructions, whatever the shape, batch, threads."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from phiscale.architecture import Design, NetworkSpec, Stage, Stem
from phiscale.architecture.catalog import design as published
from phiscale.architecture.catalog import rows
from phiscale.deploy.graph import graph, random_weights
from phiscale.errors import ArgumentError, BundleError, WeightsError
from phiscale.nn import Network
from phiscale.runtime import engines
from phiscale.runtime.engines import choice, installed, open_engine, usable
from phiscale.runtime.fold import folded
from phiscale.runtime.native import Native, why_not
from phiscale.runtime.native import engine as native_engine
from phiscale.runtime.native.engine import map_size
from phiscale.runtime.native.model import read_model
from phiscale.runtime.native.program import ABI, bind
from phiscale.runtime.native.support import LEVELS, MASK, Level, instructions, levels, machine_lacks, network_asks_for
from random_specs import specs

HERE = levels()
WHOLE = bool(os.environ.get("PHISCALE_WHOLE_CATALOG"))  # the large published networks too
runs_here = pytest.mark.skipif(not HERE, reason=str(machine_lacks()))


def _lacks(level: Level) -> str:
    return f"level {level.name} needs {', '.join(sorted(level.needs - instructions()))}, which this processor has not"


each_level = pytest.mark.parametrize(
    "level",
    [  # int8, which needs ranges, has tests of its own: test_native_int8.py
        pytest.param(level, id=level.name, marks=pytest.mark.skipif(level not in HERE, reason=_lacks(level)))
        for level in LEVELS
        if level.computes != "int8"
    ],
)

CALIBRATED = 8  # images that running statistics are of
SMALL = NetworkSpec(
    stages=(
        Stage(kind="mbconv", depth=2, width=16, kernel=3, expand=1, se=0.25),
        Stage(kind="mbconv", depth=2, width=24, kernel=5, stride=2, expand=6, se=0.25),
        Stage(kind="fused", depth=2, width=40, kernel=3, stride=2, expand=4),
        Stage(kind="separable", depth=2, width=40, kernel=7),
    ),
    head_width=100,
    num_classes=10,
)


def network(spec: NetworkSpec, size: tuple[int, int], *, seed: int = 0, gain: float = 1.0) -> Network:
    """A network in eval mode with random batch norms, whose running statistics are those of its activations on `images`, as after training.

    On other images a deep one of small maps can leave its range by orders of magnitude, and then every precision's error is chance.
    """
    torch.manual_seed(seed)
    made = Network(spec, bn_momentum=1.0).train()
    for part in made.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5 * gain, 1.5 * gain)
            torch.nn.init.normal_(part.bias, 0, 0.3)
        if isinstance(part, torch.nn.Conv2d) and part.bias is not None:
            torch.nn.init.normal_(part.weight, 0, part.in_channels**-0.5)
    with torch.no_grad():
        made(torch.from_numpy(images(spec, size, count=CALIBRATED)))
    for part in made.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_var.clamp_(min=0.05)  # a map of one pixel has hardly any variance
    return made.eval()


def images(spec: NetworkSpec, size: tuple[int, int], *, count: int, seed: int = 7) -> np.ndarray:
    generator = np.random.default_rng(seed)
    smooth = generator.standard_normal((count, spec.in_channels, 1, 1), np.float32)
    return smooth + generator.standard_normal((count, spec.in_channels, *size), np.float32)


def weights_of(made: Network) -> dict[str, np.ndarray]:
    return folded(made.spec, {key: value.numpy() for key, value in made.state_dict().items()})


def off(got: np.ndarray | torch.Tensor, want: torch.Tensor) -> float:
    got = torch.as_tensor(got).double()
    return float((got - want.double()).norm() / want.double().norm().clamp(min=1e-3))  # ReLU can leave nothing but zeros


# bf16 keeps 8 bits: 2^-9 a rounding, a handful of them in each block of a net that is not trained to bear noise; f32 keeps 24
FLOOR = {"bf16": 0.02, "f32": 1e-5}
SLACK = {"bf16": 1.1, "f32": 2.0}  # of PyTorch's own error; in f32 that is the chance of its order of summation


def check(spec: NetworkSpec, size: tuple[int, int], *, count: int, threads: int, slack: float = 1.0) -> None:
    """Every level here is as near to float64 as PyTorch in its precision (times SLACK times `slack`); an embedding by twice that."""
    made = network(spec, size)
    weights, x = weights_of(made), images(spec, size, count=max(count, CALIBRATED))[:count]
    given = torch.from_numpy(x)
    with torch.inference_mode():
        torchs = {"f32": made.forward_features(given), "bf16": made.bfloat16().forward_features(given.bfloat16()).float()}
        made = network(spec, size).double()  # bfloat16() rounded the weights
        want = made.forward_features(given.double())
    if want.numel() < 500:
        return  # the error of a few numbers is chance; a wrong pixel, channel or padding is off by far more
    for level in HERE:
        engine = Native(spec, weights, threads=threads, level=level.name)
        got = engine.outputs(x, embedding=True, features=True)
        engine.close()
        assert got.features is not None
        assert got.embedding is not None
        bound = slack * SLACK[level.computes] * max(off(torchs[level.computes], want), FLOOR[level.computes])
        assert off(got.features, want) <= bound, level.name
        assert off(got.embedding, want.mean((2, 3))) <= 2 * bound, level.name


@runs_here
@pytest.mark.parametrize("channels", [1, 2, 4, 5, 40])
def test_any_number_of_image_channels(channels: int) -> None:
    check(replace(SMALL, in_channels=channels), (40, 33), count=3, threads=2)


def supported(spec: NetworkSpec) -> NetworkSpec:
    """The nearest network that the engine has blocks for."""

    def stage(made: Stage) -> Stage:
        made = replace(made, activation=None, experts=0, shortcut="conv", stride=min(2, made.stride))
        if made.kind == "fused":
            return replace(made, kernel=made.kernel | 1)
        kind = "mbconv" if made.kind == "bottleneck" else made.kind
        return replace(made, kind=kind, kernel=max(3, made.kernel))

    stem = replace(spec.stem, pool=False, space_to_depth=False, kernel=spec.stem.kernel | 1)
    return replace(spec, stages=tuple(stage(made) for made in spec.stages), stem=stem)


@runs_here
@settings(max_examples=40, deadline=None)
@given(
    spec=specs.map(supported), size=st.tuples(st.integers(1, 70), st.integers(1, 70)), count=st.integers(1, 6), threads=st.integers(1, 4)
)
def test_random_networks_are_as_near_to_float64_as_torch(spec: NetworkSpec, size: tuple[int, int], count: int, threads: int) -> None:
    assert network_asks_for(spec) is None
    assume(min(map_size(spec, *size)) >= 1)
    check(spec, size, count=count, threads=threads, slack=3)


@runs_here
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [1, 2, 5, 9, 13, 31, 47, 95])
def test_every_width_of_a_depthwise_row_is_computed(kernel: int, stride: int, width: int) -> None:
    stage = Stage(kind="mbconv", depth=1, width=8, kernel=kernel, stride=stride, expand=6, se=0.25)
    spec = NetworkSpec(stages=(stage,), stem=Stem(widths=(8,), stride=1), head_width=0, num_classes=0)
    check(spec, (11, width), count=3, threads=2)


def supported_rows(most: float) -> list[str]:
    return [name for name, row in rows().items() if row.params < most and network_asks_for(row.design.spec) is None]


# L2 (480 M params) and V2-XL (208 M) would want 10 GiB in float64; their blocks are of the kinds below
@runs_here
@pytest.mark.parametrize("name", supported_rows(200e6))
def test_published_networks_are_as_near_to_float64_as_torch(name: str) -> None:
    if rows()[name].params > 25e6 and not WHOLE:
        pytest.skip("networks of more than 25 M params take minutes: PHISCALE_WHOLE_CATALOG=1 runs them")
    check(published(name).spec, (96, 96), count=2, threads=2)


def published_blocks(most: float) -> list[NetworkSpec]:
    """Each distinct block of the published networks of up to `most` params, behind a 1x1 stem of the width that it reads."""
    found = dict[NetworkSpec, None]()
    for name in supported_rows(most):
        spec = published(name).spec
        w_in = spec.stem.widths[-1]
        for stage in spec.stages:
            for first in (True, False)[: stage.depth]:
                block = replace(stage, depth=1, stride=stage.stride if first else 1)
                found[replace(spec, stages=(block,), stem=Stem(widths=(w_in,), kernel=1, stride=1), head_width=0, num_classes=0)] = None
                w_in = stage.width
    return list(found)


@runs_here
@pytest.mark.slow
def test_every_published_block_is_as_near_to_float64_as_torch() -> None:
    specs = published_blocks(200e6 if WHOLE else 10e6)
    assert len(specs) > 100
    for spec in specs:
        check(spec, (9, 7), count=2, threads=2)


@each_level
def test_batch_and_threads_change_nothing_but_rounding(level: Level) -> None:
    size = (75, 61)
    made = network(SMALL, size)
    weights, x = weights_of(made), images(SMALL, size, count=70)
    one = Native(SMALL, weights, threads=1, level=level.name)
    alone = np.concatenate([one(x[i : i + 1]) for i in range(len(x))])
    for threads in (1, 2, 3, 8):
        engine = Native(SMALL, weights, threads=threads, level=level.name)
        for count in (1, 2, 5, 9, 70):
            # fp32 sums in another order can flip the last bit of a bf16; seen 2e-3
            allowed = 2e-2 if level.computes == "bf16" else 1e-5
            np.testing.assert_allclose(engine(x[:count]), alone[:count], atol=allowed * np.abs(alone).max())
        assert engine.memory_bytes > 0
        assert engine(x[:0]).shape == (0, 10)


@each_level
def test_the_size_may_change_from_call_to_call(level: Level) -> None:
    made = network(SMALL, (64, 64))
    engine = Native(SMALL, weights_of(made), threads=2, level=level.name)
    for size in ((64, 64), (33, 90), (7, 7), (64, 64)):
        x = images(SMALL, size, count=2)
        with torch.inference_mode():
            want = made(torch.from_numpy(x))
        assert off(engine(x), want) < (0.05 if level.computes == "bf16" else 1e-5)


@each_level
@pytest.mark.parametrize("activation", ["silu", "relu", "relu6", "hardswish"])
def test_what_overflows_half_precision_runs_in_fp32(activation: str, level: Level) -> None:
    spec = replace(SMALL, activation=activation, stages=SMALL.stages[:2])
    calm, wild = network(spec, (40, 40)), network(spec, (40, 40), gain=3000.0)
    x = images(spec, (40, 40), count=3)
    engine = Native(spec, weights_of(calm), threads=2, level=level.name)
    engine(x)
    assert engine.wide_blocks == 0
    engine = Native(spec, weights_of(wild), threads=2, level=level.name)
    with torch.inference_mode():
        want = wild(torch.from_numpy(x))
        pure = wild.bfloat16()(torch.from_numpy(x).bfloat16()).float()
    got = engine(x)
    if level.name == "amx" and activation != "relu6":  # the one level with half precision; relu6 keeps everything below 6
        assert engine.wide_blocks > 0
    assert np.isfinite(got).all()
    # a gain of 3000 before a bound of 6 is nearly a step, of which a last bit may change the side: f32 was seen 0.007 off, else 1e-6
    allowed = 0.02 if activation == "relu6" else 1e-4
    assert off(got, want) <= (max(1.1 * off(pure, want), FLOOR["bf16"]) if level.computes == "bf16" else allowed)


@each_level
def test_not_a_number_in_an_image_stays_one(level: Level) -> None:
    engine = Native(SMALL, weights_of(network(SMALL, (32, 32))), threads=2, level=level.name)
    x = images(SMALL, (32, 32), count=2)
    x[1, 0, 16, 16] = np.nan
    y = engine(x)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()
    assert np.isfinite(engine(x[:1])).all()


@runs_here
def test_several_python_threads_may_call_one_engine() -> None:
    engine = Native(SMALL, weights_of(network(SMALL, (32, 32))), threads=2)
    inputs = [images(SMALL, (32, 32), count=3, seed=seed) for seed in range(8)]
    alone = [engine(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(engine, inputs * 5), alone * 5, strict=True):
            np.testing.assert_array_equal(got, want)


@runs_here
def test_an_engine_is_refused_after_a_fork_and_never_holds_up_the_exit() -> None:
    program = """
import os, sys
import numpy as np
from phiscale.architecture.catalog import design
from phiscale.deploy.graph import random_weights
from phiscale.errors import PhiscaleError
from phiscale.runtime.native import Native
spec = design("efficientnet_lite0").spec
engine = Native(spec, random_weights(spec), threads=3)
x = np.zeros((2, 3, 64, 64), np.float32)
engine(x)
child = os.fork()
if child == 0:
    try:
        engine(x)
    except PhiscaleError as error:
        os._exit(7 if "fork" in str(error) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
engine(x)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_processor_without_an_instruction_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MASK, "fma,sse3")
    assert "fma" in (why_not(SMALL) or "")
    with pytest.raises(ArgumentError, match="fma"):
        Native(SMALL, random_weights(SMALL), threads=1)
    model = graph(Design(spec=SMALL, resolution=32), random_weights(SMALL)).SerializeToString()
    assert "native" not in usable(model)
    with pytest.raises(ArgumentError, match="fma"):
        open_engine(model, runtime="native")


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_a_level_is_only_chosen_where_every_instruction_of_it_is(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in sorted(level.needs):
        monkeypatch.setenv(MASK, name)
        assert level not in levels()
        assert all(name not in left.needs for left in levels())


@runs_here
def test_what_a_level_lacks_the_next_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, x = random_weights(SMALL), images(SMALL, (32, 32), count=2)
    want, seen = Native(SMALL, weights, threads=1, precision="f32")(x), list[str]()
    for hidden in ("sse3", "amx_tile", "amx_tile,avx512_bf16", "avx512f"):
        monkeypatch.setenv(MASK, hidden)
        engine = Native(SMALL, weights, threads=1)
        seen.append(engine.level)
        assert engine.precision == next(level.computes for level in LEVELS if level.name == engine.level)
        assert off(engine(x), torch.from_numpy(want)) < 0.1
    assert seen == sorted(seen, key=[level.name for level in LEVELS].index)
    assert seen[-1] == "avx2"
    with pytest.raises(ArgumentError, match=r"avx512.bf16 for bf16.*no avx512"):
        Native(SMALL, weights, threads=1, precision="bf16")


def test_an_unknown_kind_of_block_is_refused_by_its_name() -> None:
    bottleneck = replace(SMALL, stages=(*SMALL.stages, Stage(kind="bottleneck", depth=1, width=8, expand=0.5)))
    assert "stages.4.0" in (network_asks_for(bottleneck) or "")
    big = replace(SMALL, stages=(*SMALL.stages, Stage(kind="mbconv", depth=1, width=8, kernel=9)))
    assert "stages.4.0" in (network_asks_for(big) or "")
    assert "stem" in (network_asks_for(replace(SMALL, stem=Stem(pool=True))) or "")


@runs_here
def test_bad_weights_threads_and_images_are_refused() -> None:
    good = random_weights(SMALL)
    key = "stages.1.0.depthwise.weight"
    with pytest.raises(WeightsError, match=key):
        Native(SMALL, good | {key: good[key] * np.float32(np.nan)}, threads=1)
    with pytest.raises(WeightsError, match=key):
        Native(SMALL, good | {key: good[key][:-1]}, threads=1)
    with pytest.raises(WeightsError, match=key):
        Native(SMALL, {name: value for name, value in good.items() if name != key}, threads=1)
    with pytest.raises(WeightsError, match="odd"):
        Native(SMALL, good | {"odd": good[key]}, threads=1)
    with pytest.raises(ArgumentError, match="threads"):
        Native(SMALL, good, threads=100_000)
    engine = Native(SMALL, good, threads=1)
    for shape in ((1, 4, 32, 32), (3, 32, 32), (1, 3, 0, 32)):
        with pytest.raises(ArgumentError, match="shape"):
            engine(np.zeros(shape, np.float32))
    engine.close()
    with pytest.raises(ArgumentError, match="closed"):
        engine(np.zeros((1, 3, 32, 32), np.float32))


@runs_here
def test_an_image_beyond_the_limit_is_refused_before_any_memory_is_taken() -> None:
    engine = Native(SMALL, random_weights(SMALL), threads=1)
    before = engine.memory_bytes
    with pytest.raises(ArgumentError, match="67108864 pixels at most, got 8193 x 8192"):
        engine(np.broadcast_to(np.float32(0), (1, 3, 8193, 8192)))
    assert engine.memory_bytes == before


@runs_here
def test_a_bundles_model_with_weights_that_are_not_finite_is_refused() -> None:
    weights = random_weights(SMALL)
    weights["head.bias"][3] = np.nan
    model = graph(Design(spec=SMALL, resolution=32), weights).SerializeToString()
    with pytest.raises(WeightsError, match=r"head\.bias is not finite"):
        open_engine(model, runtime="native")


@runs_here
def test_where_the_system_refuses_a_level_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        phi_abi = staticmethod(lambda: ABI)

        @staticmethod
        def phi_permit(error: Any, _: int) -> int:
            error.value = b"the system does not permit AMX"
            return 1

    refused = {HERE[0].name}
    monkeypatch.setattr(native_engine, "bind", lambda path: Refusing if Path(path).name.split(".")[0][1:] in refused else bind(path))
    if len(HERE) > 1:
        assert Native(SMALL, random_weights(SMALL), threads=1).level == HERE[1].name
    refused |= {level.name for level in HERE}
    with pytest.raises(ArgumentError, match="can't start: the system does not permit AMX"):
        Native(SMALL, random_weights(SMALL), threads=1)


@runs_here
def test_threads_that_cannot_be_had_are_an_error() -> None:
    program = """
import resource
from phiscale.architecture.catalog import design
from phiscale.deploy.graph import random_weights
from phiscale.errors import PhiscaleError
from phiscale.runtime.native import Native
spec = design("efficientnet_lite0").spec
weights = random_weights(spec)
Native(spec, weights, threads=2).close()
resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + (200 << 20),) * 2)
try:
    Native(spec, weights, threads=250)  # 8 MiB of stack each
except PhiscaleError as error:
    assert "threads, not 250" in str(error), error
else:
    raise SystemExit("it got them")
assert Native(spec, weights, threads=2).threads == 2
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@runs_here
def test_memory_that_cannot_be_had_is_an_error_and_the_engine_lives_on() -> None:
    program = """
import resource, numpy as np
from phiscale.architecture.catalog import design
from phiscale.deploy.graph import random_weights
from phiscale.errors import PhiscaleError
from phiscale.runtime.native import Native
spec = design("efficientnet_lite0").spec
engine = Native(spec, random_weights(spec), threads=2)
small, large = np.ones((1, 3, 64, 64), np.float32), np.ones((1, 3, 3000, 3000), np.float32)
before = engine(small)
resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + (64 << 20),) * 2)
try:
    engine(large)
except PhiscaleError as error:
    assert "memory" in str(error), error
else:
    raise SystemExit("it fitted")
np.testing.assert_array_equal(engine(small), before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@runs_here
def test_a_model_file_gives_the_same_engine_as_its_weights() -> None:
    made, design = network(SMALL, (32, 32)), Design(spec=SMALL, resolution=32)
    weights, x = weights_of(made), images(SMALL, (32, 32), count=3)
    model = graph(design, weights).SerializeToString()
    read, again = read_model(model)
    assert read == design
    assert set(again) == set(weights)
    engine = open_engine(model, runtime="native", threads=1)
    assert (engine.name, engine.precision, engine.threads) == ("native", "f32", 1)
    np.testing.assert_array_equal(engine(x), Native(SMALL, weights, threads=1, precision="f32")(x))


class Slow:
    """An engine that is as slow as it is told to be."""

    precision, threads = "f32", 1

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds, self.calls = name, seconds, 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.calls += 1
        time.sleep(self.seconds)
        return images


@pytest.mark.parametrize(("native", "other", "wins"), [(0.001, 0.02, "native"), (0.02, 0.001, "openvino")])
def test_the_fastest_engine_is_the_default_and_it_is_measured_once(
    native: float, other: float, wins: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    slow = {"openvino": Slow("openvino", other), "native": Slow("native", native)}
    batches = [np.zeros((count, 3, 8, 8), np.float32) for count in (1, 4)]

    def ask(about: str = "this") -> str:
        return choice.fastest(("openvino", "native"), lambda name: slow[name], batches, about=about).name

    assert ask() == wins
    assert json.loads(choice.remembered_in().read_text()).popitem()[1] == wins
    before = slow["native"].calls
    assert ask() == wins
    assert slow["native"].calls == before
    for broken in ("{", "[]", "\0", "7"):
        choice.remembered_in().write_text(broken)  # measured anew
        assert ask() == wins
        assert slow["native"].calls > before
        before = slow["native"].calls
    slow["openvino"].seconds, slow["native"].seconds = native, other
    assert ask() == wins  # remembered
    assert ask("something else") != wins  # measured


@runs_here
def test_the_default_that_one_process_measured_another_knows(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(graph(Design(spec=SMALL, resolution=32), random_weights(SMALL)).SerializeToString())
    code = "import sys, pathlib; from phiscale.runtime.engines import open_engine; open_engine(pathlib.Path(sys.argv[1]).read_bytes())"
    for seed in "12":  # of Python's hashes, which differ from one process to the next
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.onnx")], env=environment, check=True)
    assert len(json.loads((tmp_path / "phiscale" / "engines.json").read_text())) == 1


def test_native_is_never_the_default_where_another_engine_is_faster_in_one_batch() -> None:
    three = ("openvino", "onnxruntime", "native")
    assert choice.best_of(three, [[3.0, 2.0, 1.0], [30.0, 20.0, 19.9]]) == 2
    assert choice.best_of(three, [[3.0, 2.0, 1.0], [30.0, 20.0, 20.1]]) == 1  # ONNX Runtime wins the batch
    assert choice.best_of(three, [[3.0, 0.9, 1.0], [30.0, 99.0, 1.0]]) == 0  # loses least where it loses most
    assert choice.best_of(three, [[1.0, 1.0, 1.0]]) == 0  # the first wins a tie


@runs_here
def test_the_default_is_chosen_among_all_that_can_do_the_network_the_precision_and_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tried = list[tuple[tuple[str, ...], int]]()

    def native_wins(opened: list[engines.Engine], batch: np.ndarray) -> list[float]:
        tried.append((tuple(engine.name for engine in opened), len(batch)))
        return [1.0 if engine.name == "native" else 2.0 for engine in opened]

    monkeypatch.setattr(choice, "_seconds", native_wins)
    model = graph(Design(spec=SMALL, resolution=32), random_weights(SMALL)).SerializeToString()
    assert (open_engine(model, batch=4).name, open_engine(model, batch=4).precision) == ("native", "f32")
    assert tried == [(installed(), 1), (installed(), 4)]  # the second time it was known
    assert open_engine(model, precision="auto").precision == HERE[0].computes
    bottleneck = replace(SMALL, stages=(Stage(kind="bottleneck", depth=1, width=8, expand=0.5),))
    other = graph(Design(spec=bottleneck, resolution=32), random_weights(bottleneck)).SerializeToString()
    assert open_engine(other).name != "native"
    monkeypatch.setenv(MASK, "avx2")
    assert open_engine(model).name != "native"
    monkeypatch.delenv(MASK)
    monkeypatch.setattr(engines, "installed", lambda: ("onnxruntime", "native"))
    if levels("bf16"):
        assert open_engine(model, precision="bf16").name == "native"  # ONNX Runtime has no bf16


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_broken_model_file_is_never_more_than_an_error(data: st.DataObject) -> None:
    tiny = replace(SMALL, stages=SMALL.stages[:1], head_width=0)
    model = bytearray(graph(Design(spec=tiny, resolution=32), random_weights(tiny)).SerializeToString())
    at = data.draw(st.integers(0, len(model) - 1))
    if data.draw(st.booleans()):
        model[at] ^= data.draw(st.integers(1, 255))
    else:
        del model[at:]
    try:
        design, weights = read_model(bytes(model))
        if machine_lacks() is None:
            Native(design.spec, weights, threads=1)
    except (BundleError, WeightsError, ArgumentError):
        pass


def test_reading_a_model_needs_neither_torch_nor_onnx() -> None:
    model = graph(Design(spec=SMALL, resolution=32), random_weights(SMALL)).SerializeToString()
    program = (
        "import sys; from phiscale.runtime.native.model import read_model; read_model(sys.stdin.buffer.read());"
        "assert not {'torch', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], input=model, check=True, env=os.environ | {"PYTHONWARNINGS": "error"})
