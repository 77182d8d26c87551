"""Accuracy, time and memory of `phiscale fit`, each run its own process.   python benchmarks/fit.py IMAGES [SEEDS] [OPTION ...] > fit.csv

SEEDS is a list such as 0,1,2; OPTIONs go to `phiscale fit` as they are. One row a run: the split it is judged on, top-1, the
epoch that was kept, wall seconds of the whole process, its peak memory; then a row of means with the smallest and largest top-1.
"""

import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean


def main(images: str, seeds: str = "0,1,2", *options: str) -> None:
    table = csv.writer(sys.stdout)
    table.writerow(("images", "seed", "split", "n", "top1", "epoch", "seconds", "peak_mib"))
    rows: list[tuple[float, float, float]] = []
    split = ""
    for seed in seeds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            started = time.perf_counter()
            command = [sys.executable, "-m", "phiscale", "fit", images, "--seed", seed, "-o", str(out), *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            about = json.loads((out / "run.json").read_text(encoding="utf-8"))
        result = about.get("test", about["result"])
        split = result["split"]
        # the largest child so far: runs of one benchmark are alike
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        rows.append((result["top1"], seconds, peak))
        table.writerow(
            (Path(images).name, seed, split, result["n"], f"{result['top1']:.4f}", result["epoch"], f"{seconds:.1f}", f"{peak:.0f}")
        )
        sys.stdout.flush()
    top1, seconds_, peaks = zip(*rows, strict=True)
    spread = f"{mean(top1):.4f} ({min(top1):.4f} to {max(top1):.4f})"
    table.writerow((Path(images).name, f"mean of {len(rows)}", split, "", spread, "", f"{mean(seconds_):.1f}", f"{max(peaks):.0f}"))


if __name__ == "__main__":
    main(*sys.argv[1:])
