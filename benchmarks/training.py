"""A training step of ours, timm's and torchvision's, side by side.   python benchmarks/training.py [--network NAME] > training.csv

One process, random weights and pictures, plain SGD; the candidates take turns step by step, so that a machine that drifts or is shared
slows all alike. One row a candidate: median wall and processor milliseconds of a step (processor time counts waiting threads too; with
--threads 1 it is what the step costs on a shared machine), images a second, and how many times as fast as timm fp32 NCHW by
processor time and by wall. `frozen` is fine-tuning with fixed norm statistics; the others learn them. Everyone gets our allocator setting.
"""

import argparse
import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from phiscale import kernels
from phiscale.architecture.catalog import design
from phiscale.nn import Network

FORMATS = {"NCHW": torch.contiguous_format, "CL": torch.channels_last}


def candidates(name: str) -> dict[str, nn.Module]:
    """Networks of one architecture, by who made them."""
    found: dict[str, nn.Module] = {}
    timms = "tf_" + name if "lite" in name else name
    for layout in FORMATS:
        found[f"timm fp32 {layout}"] = timm.create_model(timms)
        if hasattr(torchvision.models, name):
            found[f"torchvision fp32 {layout}"] = getattr(torchvision.models, name)()
    found["timm bf16 CL"] = timm.create_model(timms)
    for kind in ("pure torch", "ours"):
        for frozen in ("", " frozen"):
            network = Network(design(name).spec)
            if frozen:
                kernels.freeze_norms(network)
            found[f"phiscale {kind} fp32 CL{frozen}"] = kernels.accelerate(network) if kind == "ours" else network
    found["phiscale ours bf16 CL"] = kernels.accelerate(Network(design(name).spec))
    return found


def stepper(label: str, model: nn.Module, size: int, batch: int) -> Callable[[], None]:
    layout = FORMATS["CL" if "CL" in label else "NCHW"]
    model.to(memory_format=layout).train()  # pyright: ignore[reportCallIssue]
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=layout)
    labels = torch.randint(0, 1000, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if "bf16" in label else nullcontext():
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    kernels.keep_freed_memory()
    steps = {label: stepper(label, model, given.size, given.batch) for label, model in candidates(given.network).items()}
    times: dict[str, list[tuple[float, float]]] = {label: [] for label in steps}
    for turn in range(given.rounds + 1):  # the first warms up
        for label, step in steps.items():
            wall, processor = time.perf_counter(), time.process_time()
            step()
            if turn:
                times[label].append((time.perf_counter() - wall, time.process_time() - processor))
    machine = f"{given.threads} threads, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, kernels: {kernels.status()}"
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    print(f"# {given.network} at {given.size} px, batch {given.batch}, {given.rounds} rounds; {machine}; {versions}")
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("candidate", "wall_ms", "processor_ms", "images_per_second", "times_wall", "times_processor"))
    base = times["timm fp32 NCHW"]
    for label, own in times.items():
        wall, processor = (statistics.median(pair[part] for pair in own) for part in (0, 1))
        ratios = (statistics.median(a[part] / b[part] for a, b in zip(base, own, strict=True)) for part in (0, 1))  # turn by turn
        out.writerow(
            (label, f"{wall * 1e3:.0f}", f"{processor * 1e3:.0f}", f"{given.batch / wall:.1f}", *(f"{ratio:.2f}" for ratio in ratios))
        )


if __name__ == "__main__":
    main()
