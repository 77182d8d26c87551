"""Analytic peak memory beside the measured peak of a real process.   python benchmarks/memory.py [NETWORK ...] > memory.csv

One row a network, mode and batch: inference in OpenVINO on one thread, and training steps with AdamW in PyTorch. Measured is the
process's peak resident size less its size after the same was done with a tiny network, in MiB. `copies_mib` is what OpenVINO holds
beside the analytic minimum: the weights a second time, in its own layout, the images, and the code that it compiles for each layer;
the ratio is of the two together.
"""

import csv
import ctypes
import resource
import subprocess
import sys

from phiscale.architecture import Design, NetworkSpec, Stage
from phiscale.architecture.catalog import design
from phiscale.cost.count import layers, peak_bytes, weight_bytes
from phiscale.cost.memory import training_bytes

NETWORKS = ("efficientnet_b0", "efficientnet_b3", "efficientnet_lite0", "efficientnetv2_s")
BATCHES = {"inference": (1, 8), "training": (4, 16)}
LARGE = {"efficientnetv2_s": (2, 4)}  # training batches of what 16 images of would take 10 GB
CODE = 0.14 * 2**20  # bytes a layer: fitted to B0 and B3, and seen of Lite0 and V2-S too
TINY = Design(spec=NetworkSpec(stages=(Stage(kind="mbconv", depth=2, width=8, expand=2, se=0.25),)), resolution=32)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def high_water() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Give freed pages back, and let the high-water mark start again."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def infer(made: Design, batch: int) -> int:
    import numpy as np
    import openvino

    from phiscale.deploy.graph import graph, random_weights

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}

    def compiled(network: Design, size: int) -> openvino.CompiledModel:
        model = graph(network, random_weights(network.spec), batch=size).SerializeToString()
        return core.compile_model(core.read_model(model), "CPU", settings)

    compiled(TINY, 1)(np.zeros((1, 3, 32, 32), np.float32))
    forget_peak()
    before = resident()
    network = compiled(made, batch)
    forget_peak()  # of the file and of compiling it
    image = np.zeros((batch, 3, made.resolution, made.resolution), np.float32)
    for _ in range(2):
        network(image)
    return high_water() - before


def train(made: Design, batch: int) -> int:
    import torch

    from phiscale.nn import Network

    torch.set_num_threads(1)

    def steps(network: Design, size: int) -> None:
        model = Network(network.spec).train()
        optimiser = torch.optim.AdamW(model.parameters())
        for _ in range(3):
            optimiser.zero_grad()
            image = torch.rand(size, 3, network.resolution, network.resolution)
            torch.nn.functional.cross_entropy(model(image), torch.zeros(size, dtype=torch.long)).backward()
            optimiser.step()

    steps(TINY, 1)
    forget_peak()
    before = resident()
    steps(made, batch)
    return high_water() - before


def main(*names: str) -> None:
    table = csv.writer(sys.stdout)
    table.writerow(("network", "resolution", "mode", "batch", "analytic_mib", "copies_mib", "measured_mib", "ratio"))
    for name in names or NETWORKS:
        made = design(name)
        for mode, batches in BATCHES.items():
            for batch in LARGE.get(name, batches) if mode == "training" else batches:
                if mode == "inference":
                    analytic = peak_bytes(made.spec, made.resolution, batch)
                    code = CODE * len(layers(made.spec, made.resolution))
                    copies = weight_bytes(made.spec) + batch * made.spec.in_channels * made.resolution**2 * 4 + code
                else:
                    analytic, copies = training_bytes(made.spec, made.resolution, batch), 0
                command = [sys.executable, __file__, "--one", mode, name, str(batch)]
                measured = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                mib = (f"{number / 2**20:.1f}" for number in (analytic, copies, measured))
                table.writerow((name, made.resolution, mode, batch, *mib, f"{(analytic + copies) / measured:.3f}"))
                sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        mode, name, batch = sys.argv[2:]
        print((infer if mode == "inference" else train)(design(name), int(batch)))
    else:
        main(*sys.argv[1:])
