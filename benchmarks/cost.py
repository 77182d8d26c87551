"""Time of `cost` against counters that run the module, interleaved.   python benchmarks/cost.py [REPEATS] > cost.csv

One row a network and counter: the least and the median milliseconds of REPEATS rounds (each counter once a round), its multiply-adds,
and how many times the analytic count's time it takes. The analytic count resolves the network anew each time, as if it had never seen
it; the others are given a module that is built already (torchvision's, as ptflops knows convolutions by their exact class). torch's
FlopCounterMode counts a forward pass on the meta device, its fastest way; ptflops and fvcore join where they are installed.
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
        spent: dict[str, list[float]] = {label: [] for label in each}
        for _ in range(int(repeats)):
            for label, count in each.items():
                started = time.perf_counter()
                count()
                spent[label].append((time.perf_counter() - started) * 1e3)
        for label, times in spent.items():
            ratio = median(times) / median(spent["phiscale"])
            table.writerow((name, label, f"{min(times):.3f}", f"{median(times):.3f}", f"{macs[label]:.0f}", f"{ratio:.1f}"))


if __name__ == "__main__":
    main(*sys.argv[1:])
