"""Training steps of ours beside timm's and torchvision's:   python benchmarks/training.py --csv benchmarks/training.csv

One process a candidate, as a user would start it, so each has its own allocator and its own peak memory. Ours stays; the peers come one
after the other, and take turns with ours step by step, so that a machine that drifts or is shared slows both alike: what counts is the
ratio of their times turn by turn. Random weights and pictures, plain SGD, batch
statistics learned by all. Among the peers is ours without compiled kernels (`pure`).

A peer runs in float32 or under bfloat16 autocast, in either layout, eager or compiled (`torch.compile`'s default, after its compilation),
and once more with the allocator setting that `phiscale fit` makes for itself. The CSV has a row a candidate and setting: images a second
(median), how many times as fast ours is (median over the turns, and its quartiles), peak MiB of the process, and n; the lines that
start with # say machine, versions and command.
"""

import argparse
import contextlib
import csv
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

THREADS = 2


@dataclass(frozen=True)
class Setting:
    network: str
    size: int
    batch: int


SETTINGS = {
    "b0-224": Setting("efficientnet_b0", 224, 32),
    "b0-128": Setting("efficientnet_b0", 128, 64),
    "lite0-224": Setting("efficientnet_lite0", 224, 32),
    "v2s-224": Setting("efficientnetv2_s", 224, 16),
}
OURS = "phiscale bf16"
PURE = "phiscale bf16 pure"  # without compiled kernels
PEERS = [PURE] + [
    f"{who} {how}"
    for who in ("timm", "torchvision")
    for how in ("bf16 CL", "bf16 CL kept", "fp32 CL", "bf16 NCHW", "fp32 NCHW", "bf16 CL compiled", "fp32 CL compiled")
]


# --- a candidate, in its own process ---------------------------------------------------------------


def worker(label: str, setting: Setting) -> None:
    """Warm up, say so, then a step for each line on standard input, answered with its seconds; at the end peak MiB."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.set_num_threads(THREADS)
    who, *how = label.split()
    if who == "phiscale":
        if "pure" in how:
            os.environ["PHISCALE_KERNELS"] = "off"
        from phiscale import kernels
        from phiscale.allocator import keep_freed_memory
        from phiscale.architecture.catalog import design
        from phiscale.nn import Network

        keep_freed_memory()
        model: nn.Module = Network(design(setting.network).spec)
        kernels.accelerate(model)
        how.append("CL")
    elif who == "timm":
        import timm

        names = {"efficientnet_lite0": "tf_efficientnet_lite0", "efficientnetv2_s": "tf_efficientnetv2_s"}
        model = timm.create_model(names.get(setting.network, setting.network))
    else:
        import torchvision

        model = getattr(torchvision.models, setting.network.replace("netv2", "net_v2"))()
    if "kept" in how:
        from phiscale.allocator import keep_freed_memory

        keep_freed_memory()
    layout = torch.channels_last if "CL" in how else torch.contiguous_format
    model.to(memory_format=layout).train()  # pyright: ignore[reportCallIssue]
    run = torch.compile(model) if "compiled" in how else model
    images = torch.randn(setting.batch, 3, setting.size, setting.size).contiguous(memory_format=layout)
    labels = torch.randint(0, 1000, (setting.batch,))
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if "bf16" in how else contextlib.nullcontext():
            logits = run(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


class Candidate:
    def __init__(self, label: str, setting: str) -> None:
        command = [sys.executable, __file__, "--worker", label, "--settings", setting]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def step(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.read())

    def end(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.close()
        peak = float(self.read())
        self.process.wait()
        return peak


# --- the race --------------------------------------------------------------------------------------


def race(name: str, labels: list[str], rounds: int) -> list[list[str]]:
    """Rows of the CSV of one setting."""
    setting, rows = SETTINGS[name], []
    ours, own_times = Candidate(OURS, name), []
    if ours.read() != "ready":
        raise SystemExit(f"{OURS} does not run here")
    for label in labels:
        if label.startswith("torchvision") and "lite" in setting.network:
            continue  # torchvision has none
        peer = Candidate(label, name)
        if peer.read() != "ready":
            print(f"{label} does not run here", file=sys.stderr)
            continue
        turns = [(ours.step(), peer.step()) for _ in range(rounds)]
        own_times += [own for own, _ in turns]
        ratios = [other / own for own, other in turns]
        low, _, high = statistics.quantiles(ratios, n=4)
        speed = setting.batch / statistics.median(other for _, other in turns)
        values = f"{speed:.1f}", f"{statistics.median(ratios):.2f}", f"{low:.2f}", f"{high:.2f}", f"{peer.end():.0f}", str(rounds)
        rows.append([name, label, *values])
        print(*rows[-1], file=sys.stderr)
    speed = setting.batch / statistics.median(own_times)
    rows.insert(0, [name, OURS, f"{speed:.1f}", "1", "1", "1", f"{ours.end():.0f}", str(len(own_times))])
    print(*rows[0], file=sys.stderr)
    return rows


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--peers", default="", help="only these, comma separated: " + ", ".join(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="rows of other settings that it holds are kept")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.settings.split(",")
    if given.worker:
        return worker(given.worker, SETTINGS[names[0]])
    import timm
    import torch
    import torchvision

    from phiscale import kernels

    labels = [label for label in PEERS if not given.peers or label in given.peers.split(",")]
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
    about = [
        f"# {processor()}, {THREADS} threads; {versions}; kernels: {kernels.status()}",
        f"# python {' '.join(sys.argv)}",
    ]
    rows: list[list[str]] = []
    if given.csv and given.csv.exists():
        rows = list(csv.reader(line for line in given.csv.read_text().splitlines() if not line.startswith("#")))[1:]
    order = list(SETTINGS)
    for name in names:
        new = race(name, labels, given.rounds)
        done = {(row[0], row[1]) for row in new}
        rows = sorted([*new, *(row for row in rows if (row[0], row[1]) not in done)], key=lambda row: (order.index(row[0]), float(row[3])))
        if given.csv:
            with given.csv.open("w") as file:
                table(rows, about, file)
    if not given.csv:
        table(rows, about, sys.stdout)
    return None


def table(rows: list[list[str]], about: list[str], file: TextIO) -> None:
    print(*about, sep="\n", file=file)
    out = csv.writer(file, lineterminator="\n")
    out.writerow(("setting", "candidate", "images_per_second", "ours_times_as_fast", "lower_quartile", "upper_quartile", "peak_mib", "n"))
    out.writerows(rows)


if __name__ == "__main__":
    main()
