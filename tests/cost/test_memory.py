"""Peak memory in closed form against liveness computed on the graph that torch exports."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phiscale.architecture import NetworkSpec, Stage, Stem
from phiscale.architecture.catalog import design
from phiscale.cost.count import peak_bytes, weight_bytes
from phiscale.cost.memory import activation_bytes, training_bytes
from phiscale.nn import Network
from random_specs import sizes, specs

# what a runtime does in place, inside the convolution, or not at all once batch norms are folded
IN_PLACE = (
    "batch_norm", "silu", "relu", "hardtanh", "hardswish", "sigmoid", "mul", "add", "pad", "dropout", "flatten", "reshape", "view", "to",
    "expand", "contiguous",
)  # fmt: skip


def live_bytes(spec: NetworkSpec, size: tuple[int, int]) -> int:
    """Most bytes of activations alive at one time in torch.export's graph, for one image."""
    with torch.device("meta"):
        model = Network(spec).eval()
    exported = torch.export.export(model, (torch.empty(1, spec.in_channels, *size, device="meta"),))
    weights = {entry.arg.name for entry in exported.graph_signature.input_specs if entry.target is not None}
    storage: dict[str, str] = {}  # node -> node whose memory it uses
    steps: list[tuple[str | None, set[str]]] = []
    for node in exported.graph.nodes:
        if node.op == "output" or node.name in weights or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        reads = [storage[arg.name] for arg in node.all_input_nodes if arg.name in storage]
        kind = str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")
        mixes = kind in ("flatten", "reshape", "view") and not reads  # a view of weights
        if mixes:
            continue
        storage[node.name] = reads[0] if kind in IN_PLACE else node.name
        steps.append((None if kind in IN_PLACE else node.name, set(reads)))
    numbers = {node.name: node.meta["val"].numel() for node in exported.graph.nodes if node.name in storage}
    last = {tensor: step for step, (_, reads) in enumerate(steps) for tensor in reads}
    most = alive = 0
    for step, (written, reads) in enumerate(steps):
        alive += numbers[written] if written else 0
        most = max(most, alive)
        alive -= sum(numbers[tensor] for tensor in reads if last[tensor] == step)
    return most * 4


ALL_KINDS = NetworkSpec(
    stem=Stem(widths=(8, 12), pool=True, space_to_depth=True),
    stages=(
        Stage(kind="mbconv", depth=2, width=16, kernel=5, stride=2, expand=4, se=0.25),
        Stage(kind="mbconv", depth=2, width=16, kernel=3, expand=4, se=0.25, experts=3),
        Stage(kind="fused", depth=2, width=24, kernel=3, expand=2, se=0.25),
        Stage(kind="separable", depth=2, width=24, kernel=3),
        Stage(kind="bottleneck", depth=2, width=32, kernel=3, stride=2, expand=0.25, se=0.25, shortcut="pool"),
        Stage(kind="bottleneck", depth=2, width=48, kernel=3, expand=2),
    ),
    num_classes=7,
)
CASES = {
    "all kinds": (ALL_KINDS, (61, 40)),
    "symmetric": (replace(ALL_KINDS, padding="symmetric", activation="relu6", head_width=0), (33, 80)),
    "efficientnet_b0": (design("efficientnet_b0").spec, (224, 224)),
    "efficientnetv2_b0": (design("efficientnetv2_b0").spec, (224, 224)),
    "resnet50": (design("resnet50").spec, (224, 224)),
}


@pytest.mark.parametrize("case", CASES)
def test_peak_memory_is_that_of_the_exported_graph(case: str) -> None:
    spec, size = CASES[case]
    assert activation_bytes(spec, size) == live_bytes(spec, size)


@given(spec=specs, size=sizes, batch=st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_activations_grow_with_the_batch_and_weights_do_not(spec: NetworkSpec, size: tuple[int, int], batch: int) -> None:
    one, many = peak_bytes(spec, size), peak_bytes(spec, size, batch)
    assert many - weight_bytes(spec) == batch * (one - weight_bytes(spec))


def test_weights_of_b0_are_its_params_less_the_scales_of_its_norms() -> None:
    spec = design("efficientnet_b0").spec
    scales = sum(value.shape[0] for key, value in Network(spec).state_dict().items() if key.endswith("bn.weight"))
    assert weight_bytes(spec) == 4 * (5_288_548 - scales)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0", "efficientnetv2_b0", "resnet50", "xresnet50"])
def test_training_memory_counts_what_autograd_keeps(name: str) -> None:
    """The share of one more image: what autograd keeps of it, and up to a third more on the way there."""
    spec, batch = design(name).spec, 2
    model, kept = Network(spec).train(), dict[int, int]()
    params = {p.data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in params:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(torch.rand(batch, 3, 64, 64))
    assert out.requires_grad
    an_image = training_bytes(spec, 64, batch + 1) - training_bytes(spec, 64, batch)
    assert 0.95 < an_image / (sum(kept.values()) / batch) < 1.34  # padded copies and gates of small maps are not counted
