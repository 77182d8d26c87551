"""The products of a training step alone: oneDNN's rate in bfloat16 of each dense convolution, warm.

    python benchmarks/products.py [NETWORK [RESOLUTION [BATCH]]] > benchmarks/products.csv      (efficientnetv2_s 224 16)

One row a shape: how often it comes, GFLOP of one pass, milliseconds and GFLOP/s forward, for the input's gradient and for the
weights'; then the sums over the network. Pointwise convolutions are matrix products, as in kernels/.
"""

import csv
import sys
import time
from collections import Counter
from collections.abc import Callable
from statistics import median

import torch

from phiscale.architecture.catalog import design
from phiscale.cost import layers
from phiscale.runtime.machine import machine


def seconds(call: Callable[[], object], repeats: int = 7) -> float:
    """Median of calls after two that don't count."""
    call(), call()
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def passes(w_in: int, w_out: int, kernel: int, before: int, after: int, batch: int) -> tuple[float, float, float]:
    if kernel == 1:
        x, weight, grad = (torch.randn(*shape).bfloat16() for shape in ((batch * after**2, w_in), (w_out, w_in), (batch * after**2, w_out)))
        return seconds(lambda: torch.nn.functional.linear(x, weight)), seconds(lambda: grad @ weight), seconds(lambda: grad.t() @ x)
    x = torch.randn(batch, w_in, before, before).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(w_out, w_in, kernel, kernel).bfloat16().contiguous(memory_format=torch.channels_last)
    stride, pad = before // after, kernel // 2
    grad = torch.randn_like(torch.nn.functional.conv2d(x, weight, None, stride, pad))

    def backward(*wanted: bool) -> object:
        how = ([stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, [*wanted, False])
        return torch.ops.aten.convolution_backward(grad, x, weight, None, *how)

    forward = seconds(lambda: torch.nn.functional.conv2d(x, weight, None, stride, pad))
    return forward, seconds(lambda: backward(True, False)), seconds(lambda: backward(False, True))


def main(network: str = "efficientnetv2_s", resolution: str = "224", batch: str = "16") -> None:
    side, count = int(resolution), int(batch)
    shapes: Counter[tuple[int, int, int, int, int]] = Counter()
    for layer in layers(design(network).spec, side):
        after = layer.size[0]
        if layer.kind.startswith("conv") and after > 1:
            shapes[layer.w_in, layer.w_out, int(layer.kind[-1]), side, after] += 1
        side = after if after > 1 else side
    here = f"{machine()['processor']}, {torch.get_num_threads()} threads; torch {torch.__version__}"
    print(f"# {network} at {resolution} px, batch {batch}; {here}")
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(("w_in", "w_out", "kernel", "px", "times", "gflop", *(f"{what}_{unit}" for what in "fdw" for unit in ("ms", "gflops"))))
    sums = [0.0] * 4
    for (w_in, w_out, kernel, before, after), times in shapes.items():
        gflop = 2e-9 * count * after**2 * w_in * w_out * kernel**2
        took = passes(w_in, w_out, kernel, before, after, count)
        table.writerow(
            (w_in, w_out, kernel, after, times, f"{gflop:.2f}", *(f for s in took for f in (f"{s * 1e3:.2f}", f"{gflop / s:.0f}")))
        )
        sums = [total + times * own for total, own in zip(sums, (gflop, *took), strict=True)]
    print(f"# in all {3 * sums[0]:.0f} GFLOP; {', '.join(f'{s * 1e3:.0f}' for s in sums[1:])} ms: {sum(sums[1:]) * 1e3:.0f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
