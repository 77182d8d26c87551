"""A training step while other programs want the processor too:   python benchmarks/crowded.py [--crowd 2] [--spins 1000,5000] > crowded.csv

Lite0 at 224 px, batch 32, our operators, 2 threads; alone, and beside `--crowd` processes that count. Between operators torch's threads
(GNU OpenMP) wait busily, by default so long that a thread which isn't running holds up the other for whole time slices;
GOMP_SPINCOUNT says for how many turns ("" is the default). Each is a process of its own, in turns.
A row: crowd, spins, median, quickest and slowest milliseconds of a step, n.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time

from phiscale.runtime.machine import machine

STEPS = 10
BUSY = "while True: pass"


def steps() -> None:
    """Print the milliseconds of each."""
    import torch
    import torch.nn.functional as F

    from phiscale import kernels
    from phiscale.allocator import keep_freed_memory
    from phiscale.architecture.catalog import design
    from phiscale.nn import Network

    keep_freed_memory()
    torch.set_num_threads(2)
    model = kernels.accelerate(Network(design("efficientnet_lite0").spec)).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    images, labels = torch.randn(32, 3, 224, 224).contiguous(memory_format=torch.channels_last), torch.randint(0, 1000, (32,))
    for step in range(STEPS + 2):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step > 1:
            print(1e3 * (time.perf_counter() - start))


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--crowd", type=int, default=2, help="busy processes")
    ask.add_argument("--spins", default="1000,5000,20000")
    ask.add_argument("--rounds", type=int, default=2)
    ask.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    given = ask.parse_args()
    if given.steps:
        return steps()
    found: dict[tuple[int, str], list[float]] = {}
    for _ in range(given.rounds):
        for crowd in (0, given.crowd):
            busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(crowd)]
            for spins in ("", *given.spins.split(",")):
                environment = {**os.environ, **({"GOMP_SPINCOUNT": spins} if spins else {})}
                done = subprocess.run([sys.executable, __file__, "--steps"], env=environment, capture_output=True, text=True, check=True)
                found.setdefault((crowd, spins), []).extend(map(float, done.stdout.split()))
            for process in busy:
                process.kill()
                process.wait()
    print(f"# {machine()['processor']}, {machine()['threads']} threads")
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("crowd", "spins", "median_ms", "min_ms", "max_ms", "n"))
    for (crowd, spins), own in found.items():
        out.writerow((crowd, spins, *(f"{value:.0f}" for value in (statistics.median(own), min(own), max(own))), len(own)))
    return None


if __name__ == "__main__":
    main()
