"""The runtime's graph, written straight from the plan: no tracing, no exporter (which takes 7 to 17 s), any weights.

Mirrors nn/blocks.py line for line, with batch norms folded and paddings as plain numbers for the design's resolution.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, assert_never

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from phiscale.architecture.design import Design
from phiscale.architecture.layout import layout
from phiscale.architecture.plan import Block, blocks, feature_width, out_size, pads, stem
from phiscale.architecture.spec import Activation, NetworkSpec
from phiscale.runtime.fold import check_foldable, folded
from phiscale.version import VERSION

OPSET, IR_VERSION = 18, 8  # read by ONNX Runtime >= 1.14 and OpenVINO >= 2023.0
Weights = Mapping[str, NDArray[np.float32]]
Extra = Literal["features", "embedding"]


def to_onnx(
    design: Design,
    state: Mapping[str, NDArray[np.generic]],
    *,
    batch: int | Literal["dynamic"] = "dynamic",
    extra: Iterable[Extra] = (),
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The network in eval mode: `image` (batch, in_channels, resolution, resolution) float32, normalised -> `logits` (batch, num_classes).

    `extra` adds outputs: `features`, the last feature map, and `embedding`, its mean over the pixels. A spec without classes has
    `embedding` as its only output. `metadata` goes into the model's metadata_props. WeightsError where `state` is another network's.
    """
    return graph(design, folded(design.spec, state), batch=batch, extra=extra, metadata=metadata)


def graph(
    design: Design,
    weights: Weights,
    *,
    batch: int | Literal["dynamic"] = "dynamic",
    extra: Iterable[Extra] = (),
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """`to_onnx` from weights that are folded already."""
    spec, writer = design.spec, _Writer(design, weights)
    x = "image"
    for conv in stem(spec):
        x = writer.conv(x, conv.name, conv.kernel, conv.stride, act=spec.activation)
    if spec.stem.pool:
        x = writer.max_pool(x)
    for block in blocks(spec):
        x = _block(writer, x, block)
    if spec.head_width:
        x = writer.conv(x, "head", act=spec.activation)
    x = features = writer.node("Identity", x, name="features") if "features" in extra else x
    x = embedding = writer.node("Flatten", writer.node("GlobalAveragePool", features, name="pool"), name="embedding", axis=1)
    if spec.num_classes:
        x = writer.node("Gemm", x, *writer.weights_of("classifier"), name="logits", transB=1)

    count, pixels, width = "batch" if batch == "dynamic" else batch, design.resolution, feature_width(spec)
    shapes: dict[str, tuple[int | str, ...]] = {"logits": (count, spec.num_classes)} if spec.num_classes else {}
    if not spec.num_classes or "embedding" in extra:
        shapes[embedding] = (count, width)
    if "features" in extra:
        shapes[features] = (count, width, writer.size, writer.size)
    made = helper.make_model(
        helper.make_graph(
            writer.nodes,
            design.name,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [count, spec.in_channels, pixels, pixels])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            writer.tensors,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="phiscale",
        producer_version=VERSION,
    )
    # the native runtime reads the network from here
    helper.set_model_props(made, {"phiscale.design": design.to_toml(), **(metadata or {})})
    return made


def counted(model: onnx.ModelProto) -> dict[str, int]:
    """Of the graph as it is, whatever design it says it has: `macs` of one image, by the shapes that onnx infers, and `params`, the
    numbers in its weights. Batch norms are folded, so there are fewer of these than the network has."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (*inferred.value_info, *inferred.output)}
    sizes = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    products = [node for node in inferred.node if node.op_type in ("Conv", "Gemm")]
    macs = sum(math.prod(sizes[node.input[1]]) * math.prod(shapes[node.output[0]][2:]) for node in products)
    return {"macs": macs, "params": sum(math.prod(dims) for dims in sizes.values() if dims)}


def random_weights(spec: NetworkSpec, *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Folded weights of a healthy size (variance 2 / fan-in, like a network at its start), for measuring speed.

    One block of normal numbers is repeated, so that even B7's 66 million take a tenth of a second.
    """
    check_foldable(spec)
    pool = np.random.default_rng(seed).standard_normal(1 << 20, np.float32)
    made: dict[str, NDArray[np.float32]] = {}
    for key, shape in layout(spec).items():
        if key.endswith("weight") and ".bn." not in key:
            name, fan_in = key.removesuffix(".weight").removesuffix(".conv"), int(np.prod(shape[1:]))
            made[f"{name}.weight"] = np.resize(pool, shape) * np.float32((2 / fan_in) ** 0.5)
            made[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return made


def _block(writer: "_Writer", x: str, block: Block) -> str:
    b, name, act, source = block, block.name, block.activation, x
    match block.kind:
        case "mbconv":
            if b.expands:
                x = writer.conv(x, f"{name}.expand", act=act)
            x = writer.conv(x, f"{name}.depthwise", b.kernel, b.stride, groups=b.w_mid, act=act)
            x = _squeeze_excite(writer, x, b)
            x = writer.conv(x, f"{name}.project")
        case "fused":
            if b.expands:
                x = writer.conv(x, f"{name}.expand", b.kernel, b.stride, act=act)
                x = _squeeze_excite(writer, x, b)
                x = writer.conv(x, f"{name}.project")
            else:
                x = writer.conv(x, f"{name}.project", b.kernel, b.stride, act=act)
        case "separable":
            x = writer.conv(x, f"{name}.depthwise", b.kernel, b.stride, groups=b.w_in, act=act)
            x = _squeeze_excite(writer, x, b)
            x = writer.conv(x, f"{name}.project", act=act)
        case "bottleneck":
            before = writer.size
            x = writer.conv(x, f"{name}.reduce", act=act)
            x = writer.conv(x, f"{name}.spatial", b.kernel, b.stride, act=act)
            x = writer.conv(x, f"{name}.expand")
            x = _squeeze_excite(writer, x, b)
            if b.projects:
                writer.size = before  # the shortcut reads the block's input
                if b.pools:
                    source = writer.average_pool(source, f"{name}.pool", b.stride)
                source = writer.conv(source, f"{name}.shortcut", 1, 1 if b.pools else b.stride)
            x = writer.node("Add", x, source, name=f"{name}.add") if b.skips else x
            return writer.activate(x, f"{name}.act", act)
        case _:
            assert_never(block.kind)
    return writer.node("Add", x, source, name=f"{name}.add") if b.skips else x


def _squeeze_excite(writer: "_Writer", x: str, block: Block) -> str:
    if not block.w_se:
        return x
    name = f"{block.name}.se"
    gate = writer.node("GlobalAveragePool", x, name=f"{name}.mean")
    gate = writer.node("Conv", gate, *writer.weights_of(f"{name}.reduce"), name=f"{name}.reduce")
    gate = writer.activate(gate, f"{name}.act", block.activation)
    gate = writer.node("Conv", gate, *writer.weights_of(f"{name}.expand"), name=f"{name}.expand")
    return writer.node("Mul", x, writer.node("Sigmoid", gate, name=f"{name}.gate"), name=f"{name}.scale")


class _Writer:
    """Nodes and weights in order of execution; `size` is the side of the feature map last written, in pixels.

    A node's output carries the node's name.
    """

    def __init__(self, design: Design, weights: Weights) -> None:
        self.spec, self.size, self.weights = design.spec, design.resolution, weights
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, name: str, **attributes: int | list[int]) -> str:
        made = helper.make_node(kind, list(inputs), [name], name=name)
        made.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(made)
        return name

    def tensor(self, name: str, values: NDArray[np.float32]) -> str:
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def weights_of(self, name: str) -> tuple[str, str]:
        return self.tensor(f"{name}.weight", self.weights[f"{name}.weight"]), self.tensor(f"{name}.bias", self.weights[f"{name}.bias"])

    def conv(self, x: str, name: str, kernel: int = 1, stride: int = 1, *, groups: int = 1, act: Activation | None = None) -> str:
        before, after = pads(self.size, kernel, stride, self.spec.padding)
        self.size = out_size(self.size, kernel, stride, self.spec.padding)
        x = self.node(
            "Conv",
            x,
            *self.weights_of(name),
            name=f"{name}.conv",
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=groups,
        )
        return self.activate(x, f"{name}.act", act) if act else x

    def max_pool(self, x: str) -> str:
        before, after = pads(self.size, 3, 2, self.spec.padding)
        self.size = out_size(self.size, 3, 2, self.spec.padding)
        return self.node("MaxPool", x, name="stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[before, before, after, after])

    def average_pool(self, x: str, name: str, stride: int) -> str:
        after = max((out_size(self.size, 2, stride, "same") - 1) * stride + 2 - self.size, 0)  # what lies outside doesn't count
        self.size = out_size(self.size, 2, stride, "same")
        return self.node("AveragePool", x, name=name, kernel_shape=[2, 2], strides=[stride, stride], pads=[0, 0, after, after])

    def activate(self, x: str, name: str, act: Activation) -> str:
        match act:
            case "silu":  # both runtimes fuse this pair into one swish
                return self.node("Mul", x, self.node("Sigmoid", x, name=f"{name}.sigmoid"), name=name)
            case "relu":
                return self.node("Relu", x, name=name)
            case "relu6":
                if not any(tensor.name == "six" for tensor in self.tensors):
                    self.tensor("zero", np.array(0, np.float32))
                    self.tensor("six", np.array(6, np.float32))
                return self.node("Clip", x, "zero", "six", name=name)
            case "hardswish":
                return self.node("HardSwish", x, name=name)
            case _:
                assert_never(act)
