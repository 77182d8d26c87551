"""Peak memory of inference by liveness over the folded graph.

Batch norms are folded into their convolutions and activations run in place, as every runtime here does; a tensor lives
from the layer that writes it to the last that reads it, and a residual's input lives until the addition.
"""

import math

from phiscale.architecture.layout import layout
from phiscale.architecture.plan import Block, blocks, out_size, stem
from phiscale.architecture.spec import NetworkSpec

Size = tuple[int, int]


def weight_bytes(spec: NetworkSpec, bytes_each: int = 4) -> int:
    """Bytes of the folded network's weights: every batch norm leaves one bias a channel."""
    numbers = 0
    for key, shape in layout(spec).items():
        if not key.endswith((".bn.weight", ".bn.running_mean", ".bn.running_var", ".bn.num_batches_tracked")):
            numbers += math.prod(shape)
    return numbers * bytes_each


def activation_bytes(spec: NetworkSpec, resolution: int | Size, batch: int = 1, bytes_each: int = 4) -> int:
    """Most bytes of activations alive at one time, the input image included while it is read."""
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    peak, alive = 0, spec.in_channels * height * width
    for conv in stem(spec):
        height, width = (out_size(side, conv.kernel, conv.stride, spec.padding) for side in (height, width))
        peak, alive = max(peak, alive + conv.w_out * height * width), conv.w_out * height * width
    if spec.stem.pool:
        height, width = (out_size(side, 3, 2, spec.padding) for side in (height, width))
        peak, alive = max(peak, alive + spec.stem.widths[-1] * height * width), spec.stem.widths[-1] * height * width
    for block in blocks(spec):
        before = height * width
        height, width = (out_size(side, block.kernel, block.stride, spec.padding) for side in (height, width))
        peak = max(peak, _block_peak(block, before, height * width))
        alive = block.w_out * height * width
    if spec.head_width:
        peak = max(peak, alive + spec.head_width * height * width)
    return peak * batch * bytes_each


def _block_peak(block: Block, before: int, after: int) -> int:
    """Most numbers alive inside one block of `before` input and `after` output pixels."""
    source, out = block.w_in * before, block.w_out * after
    kept = source if block.skips else 0  # a residual's input waits for the addition
    match block.kind:
        case "mbconv" | "separable":
            wide, narrow = block.w_mid * before, block.w_mid * after
            if not block.expands:
                return max(source + narrow, kept + narrow + out)
            return max(source + wide, kept + wide + narrow, kept + narrow + out)
        case "fused":
            narrow = block.w_mid * after
            return max(source + narrow, kept + narrow + out) if block.expands else source + out
        case "bottleneck":
            wide, narrow = block.w_mid * before, block.w_mid * after
            return max(source + wide, source + wide + narrow, source + narrow + out, (source + out if block.projects else kept) + out)


def peak_bytes(spec: NetworkSpec, resolution: int | Size, batch: int = 1, bytes_each: int = 4) -> int:
    """Weights plus live activations of the folded network, in bytes."""
    return weight_bytes(spec, bytes_each) + activation_bytes(spec, resolution, batch, bytes_each)
