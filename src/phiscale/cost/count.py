"""Params, multiply-adds and activations in closed form: one row a convolution or linear layer, named as its module path.

MACs are multiply-adds of convolutions and linear layers only (EfficientNet-B0 at 224: 385,814,752); activations are
their outputs (the convention of pycls). Batch norms count as params of the convolution before them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from phiscale.architecture.design import Design
from phiscale.architecture.plan import Block, blocks, distinct, feature_width, out_size, stem
from phiscale.architecture.spec import NetworkSpec, Padding
from phiscale.cost.memory import activation_bytes

Size = tuple[int, int]  # height, width in pixels
_BYTES = 4  # of a float32


class LayerCost(NamedTuple):  # not a dataclass: making those frozen took half of `cost`'s time
    """One convolution or linear layer for one image; `params` includes the batch norm behind it."""

    name: str
    kind: str  # "conv 3x3", "depthwise 5x5", "linear"
    w_in: int
    w_out: int
    size: Size  # of its output
    params: int
    macs: int
    normed: bool  # a batch norm follows

    @property
    def weights(self) -> int:
        """Params of the folded layer: a norm's scales go into its kernel."""
        return self.params - self.w_out if self.normed else self.params

    @property
    def activations(self) -> int:
        return self.w_out * self.size[0] * self.size[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Totals of a design. peak_bytes: weights and live activations of the folded float32 network, for one image."""

    params: int
    macs: int
    activations: int
    peak_bytes: int


def cost(design: Design) -> Cost:
    """Totals at the design's resolution.

    >>> from phiscale.architecture.catalog import design
    >>> b0 = cost(design("efficientnet_b0")); b0.params, b0.macs
    (5288548, 385814752)
    """
    spec, resolution = design.spec, design.resolution
    params = macs = activations = weights = 0
    for (_, _, _, w_out, (height, width), own, products, normed), times in _distinct_layers(spec, (resolution, resolution)):
        params += own * times
        macs += products * times
        activations += w_out * height * width * times
        weights += (own - w_out if normed else own) * times  # LayerCost.weights, whose call takes as long as this line
    peak = _BYTES * weights + activation_bytes(spec, resolution)
    return Cost(params=params, macs=macs, activations=activations, peak_bytes=peak)


def weight_bytes(spec: NetworkSpec, bytes_each: int = _BYTES) -> int:
    """Bytes of the folded network's weights: every batch norm leaves one bias a channel."""
    return sum(layer.weights * times for layer, times in _distinct_layers(spec, (1, 1))) * bytes_each


def peak_bytes(spec: NetworkSpec, resolution: int | Size, batch: int = 1, bytes_each: int = _BYTES) -> int:
    """Weights plus live activations of the folded network, in bytes."""
    return weight_bytes(spec, bytes_each) + activation_bytes(spec, resolution, batch, bytes_each)


def layers(spec: NetworkSpec, resolution: int | Size) -> tuple[LayerCost, ...]:
    """One row a layer, in order of execution, for an image of `resolution` pixels (a side, or height and width)."""
    size = (resolution, resolution) if isinstance(resolution, int) else resolution
    return tuple(layer for layer, _ in _layers(spec, size, ((block, 1) for block in blocks(spec))))


def _distinct_layers(spec: NetworkSpec, size: Size) -> Iterator[tuple[LayerCost, int]]:
    """The layers of `distinct` blocks, each with how often it comes: all that sums need, in a fraction of the time."""
    return _layers(spec, size, distinct(spec))


def _layers(spec: NetworkSpec, size: Size, plan: Iterable[tuple[Block, int]]) -> Iterator[tuple[LayerCost, int]]:
    for conv in stem(spec):
        size = _after(size, conv.kernel, conv.stride, spec.padding)
        yield _conv(f"{conv.name}.conv", conv.w_in, conv.w_out, conv.kernel, size), 1
    if spec.stem.pool:
        size = _after(size, 3, 2, spec.padding)
    for block, times in plan:
        before, size = size, _after(size, block.kernel, block.stride, spec.padding)
        for layer in _block(block, before, size):
            yield layer, times
    if spec.head_width:
        yield _conv("head.conv", spec.stages[-1].width, spec.head_width, 1, size), 1
    if spec.num_classes:
        features = feature_width(spec)
        macs = features * spec.num_classes
        yield LayerCost("classifier", "linear", features, spec.num_classes, (1, 1), macs + spec.num_classes, macs, normed=False), 1


def _block(block: Block, before: Size, after: Size) -> Iterator[LayerCost]:
    name, k, e = block.name, block.kernel, block.experts
    match block.kind:
        case "mbconv":
            if e:
                yield LayerCost(f"{name}.routing", "linear", block.w_in, e, (1, 1), (block.w_in + 1) * e, block.w_in * e, normed=False)
            if block.expands:
                yield _conv(f"{name}.expand.conv", block.w_in, block.w_mid, 1, before, e)
            yield _depthwise(f"{name}.depthwise.conv", block.w_mid, k, after, e)
            yield from _squeeze_excite(block, block.w_mid)
            yield _conv(f"{name}.project.conv", block.w_mid, block.w_out, 1, after, e)
        case "fused":
            if block.expands:
                yield _conv(f"{name}.expand.conv", block.w_in, block.w_mid, k, after)
            yield from _squeeze_excite(block, block.w_mid)
            yield _conv(f"{name}.project.conv", block.w_mid, block.w_out, 1 if block.expands else k, after)
        case "separable":
            yield _depthwise(f"{name}.depthwise.conv", block.w_in, k, after)
            yield from _squeeze_excite(block, block.w_in)
            yield _conv(f"{name}.project.conv", block.w_in, block.w_out, 1, after)
        case "bottleneck":
            yield _conv(f"{name}.reduce.conv", block.w_in, block.w_mid, 1, before)
            yield _conv(f"{name}.spatial.conv", block.w_mid, block.w_mid, k, after)
            yield _conv(f"{name}.expand.conv", block.w_mid, block.w_out, 1, after)
            yield from _squeeze_excite(block, block.w_out)
            if block.projects:
                yield _conv(f"{name}.shortcut.conv", block.w_in, block.w_out, 1, after)
        case _:
            assert_never(block.kind)


def _after(size: Size, kernel: int, stride: int, padding: Padding) -> Size:
    return out_size(size[0], kernel, stride, padding), out_size(size[1], kernel, stride, padding)


def _conv(name: str, w_in: int, w_out: int, kernel: int, size: Size, experts: int = 0) -> LayerCost:
    params, macs = _weighed(w_in * w_out * kernel * kernel, size, experts)
    return LayerCost(name, f"conv {kernel}x{kernel}{_of(experts)}", w_in, w_out, size, params + 2 * w_out, macs, normed=True)


def _depthwise(name: str, width: int, kernel: int, size: Size, experts: int = 0) -> LayerCost:
    params, macs = _weighed(width * kernel * kernel, size, experts)
    return LayerCost(name, f"depthwise {kernel}x{kernel}{_of(experts)}", width, width, size, params + 2 * width, macs, normed=True)


def _weighed(weights: int, size: Size, experts: int) -> tuple[int, int]:
    """Params and multiply-adds of a kernel of so many weights; mixing one from `experts` takes a multiply-add for each of theirs."""
    return weights * max(1, experts), weights * size[0] * size[1] + weights * experts


def _of(experts: int) -> str:
    return f" of {experts} experts" if experts else ""


def _squeeze_excite(block: Block, width: int) -> Iterator[LayerCost]:
    if block.w_se:
        weights = width * block.w_se
        yield LayerCost(f"{block.name}.se.reduce", "conv 1x1", width, block.w_se, (1, 1), weights + block.w_se, weights, normed=False)
        yield LayerCost(f"{block.name}.se.expand", "conv 1x1", block.w_se, width, (1, 1), weights + width, weights, normed=False)
