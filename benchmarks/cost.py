"""Time of `cost` against counters that run the module, interleaved.   python benchmarks/cost.py [REPEATS] > cost.csv

One row a network and counter: the least and the median milliseconds of REPEATS rounds (in each, every counter is called for a tenth of
a second, as a loop over designs would, and its first call there is a row of its own: the caches are cold then, from the counter before),
its multiply-adds, and how many times the analytic count's time it takes. The analytic count resolves the network anew each time, as if
it had never seen it; the others are given a module that is built already (torchvision's, as ptflops knows convolutions by their exact
class). torch's FlopCounterMode counts a forward pass on the meta device, its fastest way; ptflops and fvcore join where installed.
"""

import csv
import importlib.util
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from phiscale.architecture.catalog import design
from phiscale.architecture.plan import distinct
from phiscale.cost import cost
from phiscale.nn import Network
from phiscale.runtime.machine import machine

TURN = 0.1  # seconds


def counters(name: str) -> dict[str, Callable[[], float]]:
    made = design(name)
    with torch.device("meta"):
        model, image = Network(made.spec).eval(), torch.empty(1, 3, made.resolution, made.resolution)

    def by_torch() -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(image)
        return counter.get_total_flops() / 2

    def by_us() -> float:
        distinct.cache_clear()
        return cost(made).macs

    found: dict[str, Callable[[], float]] = {"phiscale": by_us, "torch FlopCounterMode": by_torch}
    if importlib.util.find_spec("ptflops"):
        from ptflops import get_model_complexity_info

        cpu = getattr(torchvision.models, name)().eval()
        size = (3, made.resolution, made.resolution)
        found["ptflops"] = lambda: get_model_complexity_info(cpu, size, as_strings=False, print_per_layer_stat=False)[0]
    if importlib.util.find_spec("fvcore"):
        from fvcore.nn import FlopCountAnalysis

        found["fvcore"] = lambda: FlopCountAnalysis(model, image).unsupported_ops_warnings(False).total()
    return found


def main(repeats: str = "20") -> None:
    torch.set_num_threads(1)
    print(f"# {machine()['processor']}, 1 thread; torch {torch.__version__}")
    table = csv.writer(sys.stdout)
    table.writerow(("network", "counter", "least_ms", "median_ms", "macs", "times_phiscale"))
    for name in ("efficientnet_b0", "efficientnet_b7"):
        each = counters(name)
        macs = {label: count() for label, count in each.items()}
        first: dict[str, list[float]] = {label: [] for label in each}
        spent: dict[str, list[float]] = {label: [] for label in each}
        for _ in range(int(repeats)):
            for label, count in each.items():
                calls = _milliseconds(count)
                first[label].append(calls[0])
                spent[label].append(median(calls))
        for name_of, times_of in (("", spent), (", first call", first)):
            for label, times in times_of.items():
                ratio = median(times) / median(times_of["phiscale"])
                row = (name, label + name_of, f"{min(times):.3f}", f"{median(times):.3f}", f"{macs[label]:.0f}", f"{ratio:.1f}")
                table.writerow(row)


def _milliseconds(count: Callable[[], float]) -> list[float]:
    """Of each call, for `TURN` seconds."""
    times: list[float] = []
    while sum(times) < TURN * 1e3:
        started = time.perf_counter()
        count()
        times.append((time.perf_counter() - started) * 1e3)
    return times


if __name__ == "__main__":
    main(*sys.argv[1:])
