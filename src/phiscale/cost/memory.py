"""Memory: of inference by liveness over the folded graph, of training by what the backward pass keeps.

Batch norms are folded into their convolutions; activations, gates and residual sums overwrite their input, and padding is
the convolution's own, as in every runtime here. A tensor lives from the operator that writes it to the last that reads it.
"""

import math
from typing import assert_never

from phiscale.architecture.layout import layout
from phiscale.architecture.plan import Block, blocks, distinct, feature_width, out_size, stem
from phiscale.architecture.spec import NetworkSpec

Size = tuple[int, int]


def activation_bytes(spec: NetworkSpec, resolution: int | Size, batch: int = 1, bytes_each: int = 4) -> int:
    """Most bytes of activations alive at one time, the input images included while they are read."""
    return _graph(spec, resolution).peak() * batch * bytes_each


class _Graph:
    """Operators in order of execution: the numbers that each writes for one image, and which tensors it reads."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.read: list[tuple[int, ...]] = []
        self.last: list[int] = []  # the operator after which nobody reads a tensor any more

    def op(self, numbers: int, *inputs: int) -> int:
        """A new tensor. `numbers` 0: an operator that overwrites an input. No input twice."""
        step = len(self.written)
        self.written.append(numbers)
        self.read.append(inputs)
        self.last.append(-1)
        for tensor in inputs:
            self.last[tensor] = step
        return step

    def peak(self) -> int:
        written, last = self.written, self.last
        most = alive = 0
        for step, (numbers, inputs) in enumerate(zip(written, self.read, strict=True)):
            alive += numbers
            if alive > most:
                most = alive
            for tensor in inputs:
                if last[tensor] == step:
                    alive -= written[tensor]
        return most


def _graph(spec: NetworkSpec, resolution: int | Size) -> _Graph:
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    graph = _Graph()
    x = graph.op(spec.in_channels * height * width)

    def after(kernel: int, stride: int) -> int:
        nonlocal height, width
        height, width = out_size(height, kernel, stride, spec.padding), out_size(width, kernel, stride, spec.padding)
        return height * width

    for conv in stem(spec):
        x = graph.op(conv.w_out * after(conv.kernel, conv.stride), x)
    if spec.stem.pool:
        x = graph.op(stem(spec)[-1].w_out * after(3, 2), x)
    for block, _ in distinct(spec):  # more of the same need no more than the first of them
        x = _block(graph, x, block, height * width, after(block.kernel, block.stride))
    if spec.head_width:
        x = graph.op(spec.head_width * height * width, x)
    x = graph.op(feature_width(spec), x)
    if spec.num_classes:
        graph.op(spec.num_classes, x)
    return graph


def _block(graph: _Graph, source: int, block: Block, before: int, after: int) -> int:
    b, x = block, source
    match b.kind:
        case "mbconv":
            if b.experts:
                return _mixed(graph, source, b, before, after)
            if b.expands:
                x = graph.op(b.w_mid * before, x)
            x = graph.op(b.w_mid * after, x)
            _gate(graph, x, b, b.w_mid)
            x = graph.op(b.w_out * after, x)
        case "fused":
            if b.expands:
                x = graph.op(b.w_mid * after, x)
            _gate(graph, x, b, b.w_mid)
            x = graph.op(b.w_out * after, x)
        case "separable":
            x = graph.op(b.w_in * after, x)
            _gate(graph, x, b, b.w_in)
            x = graph.op(b.w_out * after, x)
        case "bottleneck":
            x = graph.op(b.w_mid * before, x)
            x = graph.op(b.w_mid * after, x)
            x = graph.op(b.w_out * after, x)
            _gate(graph, x, b, b.w_out)
            if b.pools:
                source = graph.op(b.w_in * after, source)
            if b.projects:
                source = graph.op(b.w_out * after, source)
        case _:
            assert_never(b.kind)
    if b.skips:
        graph.op(0, x, source)
    return x


def _mixed(graph: _Graph, source: int, b: Block, before: int, after: int) -> int:
    """An mbconv with experts: each convolution first writes its own weights for each image."""
    routing = graph.op(b.experts, graph.op(b.w_in, source))
    x = source
    if b.expands:
        x = graph.op(b.w_mid * before, x, graph.op(b.w_in * b.w_mid, routing))
    x = graph.op(b.w_mid * after, x, graph.op(b.w_mid * b.kernel**2, routing))
    _gate(graph, x, b, b.w_mid)
    x = graph.op(b.w_out * after, x, graph.op(b.w_mid * b.w_out, routing))
    if b.skips:
        graph.op(0, x, source)
    return x


def _gate(graph: _Graph, x: int, block: Block, width: int) -> None:
    """Squeeze-excite: mean, two small convolutions, and the product in place."""
    if block.w_se:
        graph.op(0, x, graph.op(width, graph.op(block.w_se, graph.op(width, x))))


def training_bytes(spec: NetworkSpec, resolution: int | Size, batch: int, *, copies: int = 4) -> int:
    """Estimate of the peak memory of plain float32 training in torch, in bytes, beyond what the process holds without a model.

    `copies` of the params: weights, gradients, and the optimiser's (AdamW two, SGD with momentum one). For every image, what
    autograd keeps for the backward pass, and the largest map's gradients on their way in and out. 0.83 to 0.99
    of the measured peak for B0, B3, Lite0 at batch 4 and 16 and V2-S at 4 (benchmarks/memory.py).
    """
    params = sum(math.prod(shape) for key, shape in layout(spec).items() if not key.endswith(("running_mean", "running_var")))
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    kept, largest = spec.in_channels * height * width, 0

    def conv(w_out: int, kernel: int = 1, stride: int = 1, *, act: str | None = None, gated: bool = False) -> None:
        """A convolution's output is kept by its norm, the norm's by what follows; all but ReLU keep their input beside their output."""
        nonlocal kept, largest, height, width
        height, width = out_size(height, kernel, stride, spec.padding), out_size(width, kernel, stride, spec.padding)
        numbers = w_out * height * width
        kept += numbers * (2 + (act not in (None, "relu")) + gated)
        largest = max(largest, numbers)

    for c in stem(spec):
        conv(c.w_out, c.kernel, c.stride, act=spec.activation)
    if spec.stem.pool:
        height, width = out_size(height, 3, 2, spec.padding), out_size(width, 3, 2, spec.padding)
        kept += 3 * stem(spec)[-1].w_out * height * width  # its output, and where each maximum was (int64)
    for b in blocks(spec):
        act, gated = b.activation, b.w_se > 0
        match b.kind:
            case "mbconv":
                if b.expands:
                    conv(b.w_mid, act=act)
                conv(b.w_mid, b.kernel, b.stride, act=act, gated=gated)
                conv(b.w_out)
            case "fused":
                if b.expands:
                    conv(b.w_mid, b.kernel, b.stride, act=act, gated=gated)
                    conv(b.w_out)
                else:
                    conv(b.w_out, b.kernel, b.stride, act=act)
            case "separable":
                conv(b.w_in, b.kernel, b.stride, act=act, gated=gated)
                conv(b.w_out, act=act)
            case "bottleneck":
                conv(b.w_mid, act=act)
                conv(b.w_mid, b.kernel, b.stride, act=act)
                conv(b.w_out, act=act, gated=gated)
                if b.pools:
                    kept += b.w_in * height * width
                if b.projects:
                    kept += b.w_out * height * width
            case _:
                assert_never(b.kind)
    if spec.head_width:
        conv(spec.head_width, act=spec.activation)
    return 4 * (copies * params + batch * (kept + 2 * largest))
