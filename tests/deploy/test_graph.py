"""The graph written from the plan is the network: same numbers in both runtimes for every kind of block and every published network."""

from dataclasses import replace
from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from phiscale.architecture import Design, NetworkSpec, Stage, Stem
from phiscale.architecture.catalog import design as published
from phiscale.architecture.catalog import rows
from phiscale.deploy.graph import counted, graph, random_weights, to_onnx
from phiscale.errors import ArgumentError, WeightsError
from phiscale.nn import Network
from phiscale.runtime.fold import folded

RTOL = 2e-5  # of the largest logit; float32 re-association over up to 60 layers; seen 3e-6
KINDS = ("mbconv", "fused", "separable", "bottleneck")


def network(spec: NetworkSpec, seed: int = 0) -> Network:
    """A network in eval mode whose batch norms are far from the identity."""
    torch.manual_seed(seed)
    made = Network(spec).eval()
    for part in made.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, 0, 0.2)
            torch.nn.init.normal_(part.running_mean, 0, 0.2)
            torch.nn.init.uniform_(part.running_var, 0.5, 2.0)
    return made


def state_of(made: Network) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in made.state_dict().items()}


def images(design: Design, count: int = 2) -> np.ndarray:
    shape = (count, design.spec.in_channels, design.resolution, design.resolution)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def run_ort(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"image": x})


def run_openvino(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    pytest.importorskip("openvino")
    from phiscale.runtime.engines.openvino import core as the_core

    core = the_core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(x)[0]


def off(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def tiny(kind: str, *, resolution: int = 33, **changes: object) -> Design:
    """Two stages of one kind at an odd size, so that same-padding is lopsided; the second block of each is residual."""
    stages = (
        Stage(kind=kind, depth=2, width=16, kernel=3, stride=2, expand=1 if kind == "separable" else 4, se=0.25),
        Stage(kind=kind, depth=2, width=24, kernel=5, stride=1, expand=1, se=0.0),
    )
    spec = NetworkSpec(stages=stages, stem=Stem(widths=(8,)), head_width=32, num_classes=10)
    return Design(spec=replace(spec, **changes), resolution=resolution)


@pytest.mark.parametrize(("kind", "act"), [*product(KINDS, ("silu", "relu6")), ("mbconv", "relu"), ("fused", "hardswish")])
def test_every_kind_of_block_gives_the_modules_logits_in_both_runtimes(kind: str, act: str) -> None:
    for padding, resolution in (("same", 33), ("same", 32), ("symmetric", 33)):
        design = tiny(kind, resolution=resolution, activation=act, padding=padding)
        module, x = network(design.spec), images(design)
        with torch.no_grad():
            want = module(torch.from_numpy(x)).numpy()
        model = to_onnx(design, state_of(module))
        onnx.checker.check_model(model, full_check=True)
        assert off(run_ort(model, x)[0], want) < RTOL
        assert off(run_openvino(model, x), want) < RTOL


@pytest.mark.parametrize(
    "changes",
    [
        {"stem": Stem(widths=(8, 8, 12), kernel=7, stride=2, pool=True)},
        {"stem": Stem(widths=(8,), kernel=3, stride=4)},
        {"stem": Stem(widths=(8,), space_to_depth=True, pool=True), "padding": "symmetric"},
        {"stages": (Stage(kind="bottleneck", depth=2, width=16, stride=2, expand=0.25, shortcut="pool"),)},
        {"stages": (Stage(kind="fused", depth=2, width=8, stride=1, expand=1, se=0.25, activation="relu"),)},
        {"stages": (Stage(kind="mbconv", depth=2, width=8, kernel=2, expand=1, se=0.25, activation="hardswish"),)},
        {"head_width": 0},
        {"in_channels": 1},
        {"stages": (Stage(kind="bottleneck", depth=2, width=16, stride=3, expand=0.25, skip=False),)},
        {"stages": (Stage(kind="mbconv", depth=2, width=16, kernel=1, stride=4, expand=2.5, se=0.01, skip=False),)},
    ],
)
def test_odd_specs_give_the_modules_logits(changes: dict[str, object]) -> None:
    design = tiny("mbconv", resolution=45, **changes)
    module, x = network(design.spec), images(design)
    with torch.no_grad():
        want = module(torch.from_numpy(x)).numpy()
    assert off(run_ort(to_onnx(design, state_of(module)), x)[0], want) < RTOL


def smallest_of_each_family() -> list[str]:
    ours = sorted((row.params, row.family, name) for name, row in rows().items() if not any(s.experts for s in row.design.spec.stages))
    return [*{family: name for _, family, name in reversed(ours)}.values(), "seresnet50", "xresnet50"]


@pytest.mark.parametrize("name", smallest_of_each_family())
def test_every_published_family_gives_the_modules_logits(name: str) -> None:
    design = published(name).at(40)
    module, x = network(design.spec), images(design, 1)
    with torch.no_grad():
        want = module(torch.from_numpy(x)).numpy()
    assert off(run_ort(to_onnx(design, state_of(module)), x)[0], want) < RTOL


def test_mixed_convolutions_are_refused_by_name() -> None:
    spec = NetworkSpec(stages=(Stage(kind="mbconv", depth=1, width=8), Stage(kind="mbconv", depth=1, width=8, experts=4)))
    with pytest.raises(ArgumentError, match="stage 2: experts = 4"):
        to_onnx(Design(spec=spec, resolution=32), state_of(network(spec)))


def test_batch_is_free_or_fixed() -> None:
    design = tiny("mbconv")
    free, fixed = (graph(design, random_weights(design.spec), batch=batch) for batch in ("dynamic", 3))
    x = images(design, 3)
    assert [run_ort(free, x[:count])[0].shape for count in (1, 2, 3)] == [(1, 10), (2, 10), (3, 10)]
    assert off(run_ort(fixed, x)[0], run_ort(free, x)[0]) < RTOL
    with pytest.raises(Exception, match="Got: 1 Expected: 3"):
        run_ort(fixed, x[:1])


def test_features_and_embedding_are_the_modules() -> None:
    design = tiny("fused")
    module, x = network(design.spec), images(design)
    with torch.no_grad():
        features = module.forward_features(torch.from_numpy(x)).numpy()
    logits, embedding, got = run_ort(to_onnx(design, state_of(module), extra=("features", "embedding")), x)
    assert logits.shape == (2, 10)
    assert off(got, features) < RTOL
    assert off(embedding, features.mean((2, 3))) < RTOL


def test_a_network_without_classes_gives_its_embedding() -> None:
    design = tiny("mbconv", num_classes=0)
    module, x = network(design.spec), images(design)
    with torch.no_grad():
        want = module(torch.from_numpy(x)).numpy()
    model = to_onnx(design, state_of(module))
    assert [output.name for output in model.graph.output] == ["embedding"]
    assert off(run_ort(model, x)[0], want) < RTOL


def test_folding_makes_new_arrays_and_leaves_the_old_ones() -> None:
    design = tiny("mbconv")
    state = state_of(network(design.spec))
    before = {key: value.copy() for key, value in state.items()}
    made = folded(design.spec, state)
    for values in made.values():
        values += 1
    assert all(np.array_equal(state[key], before[key]) for key in before)
    assert set(made) == set(random_weights(design.spec))


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda s: s.pop("stages.0.1.project.bn.bias"), "missing, e.g. stages.0.1.project.bn.bias"),
        (lambda s: s.update({"classifier.weight": np.zeros((7, 32), np.float32)}), r"classifier.weight: \(7, 32\), expected \(10, 32\)"),
        (lambda s: s.update({"fc.weight": np.zeros(3)}), "no place, e.g. fc.weight"),
        (lambda s: s["stages.0.0.depthwise.conv.weight"].fill(np.nan), "stages.0.0.depthwise are not finite"),
        (lambda s: s["head.bn.running_var"].fill(-1), "head are not finite"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(break_it, says: str) -> None:
    design = tiny("mbconv")
    state = {key: value.copy() for key, value in state_of(network(design.spec)).items()}
    break_it(state)
    with pytest.raises(WeightsError, match=says):
        to_onnx(design, state)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mbconv", "fused", "bottleneck"])
def test_openvino_runs_the_same_layers_as_of_torchs_own_export(kind: str) -> None:
    """So a latency measured on the plan's graph is that of the exported network; benchmarks/graphs.py has both in milliseconds."""
    openvino = pytest.importorskip("openvino")
    from phiscale.runtime.engines.openvino import core as the_core

    def layers(model: object) -> list[str]:
        compiled = the_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        kinds = (op.get_rt_info()["layerType"].astype(str) for op in compiled.get_runtime_model().get_ordered_ops())
        # each engine's own business: constants, ends, memory layouts, and the one flattening before the classifier
        return sorted(kind for kind in kinds if kind not in ("Const", "Input", "Output", "Reorder", "Reshape"))

    made = tiny(kind)
    torchs = openvino.convert_model(torch.export.export(network(made.spec), (torch.from_numpy(images(made, 1)),)))
    torchs.reshape([1, 3, made.resolution, made.resolution])
    own = to_onnx(made, state_of(network(made.spec)), batch=1).SerializeToString()
    assert layers(the_core().read_model(own)) == layers(torchs)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite2", "efficientnetv2_b0", "resnet50", "mobilenet_v1"])
def test_what_the_file_is_counted_to_is_what_the_design_costs(name: str) -> None:
    made = published(name)
    weights = random_weights(made.spec)
    norms = sum(len(bias) for key, bias in weights.items() if key.endswith(".bias") and ".se." not in key and key != "classifier.bias")
    assert counted(graph(made, weights)) == {"macs": made.cost.macs, "params": made.cost.params - norms}  # two numbers a channel become one
