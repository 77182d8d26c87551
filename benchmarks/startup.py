"""How long a person waits before anything happens: whole processes, from start to exit.

    python benchmarks/startup.py [--n 9] [--bundle RUN] > startup.csv

Columns: what, median_ms, min_ms, max_ms, n.
The processes take turns, because machines drift. `predict` needs a bundle (any run folder); beside it stands the least
that ONNX Runtime alone can do: import, open the same model, run one image of zeros.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path

CLI = "import sys; from phiscale.cli import main; sys.exit(main())"
BARE = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
one = session.get_inputs()[0]
session.run(None, {one.name: numpy.zeros([1, *one.shape[1:]], "float32")})
"""


def commands(bundle: Path | None, image: Path | None) -> dict[str, list[str]]:
    made = {
        "python -c pass": ["-c", "pass"],
        "import phiscale": ["-c", "import phiscale"],
        "import cyclopts": ["-c", "import cyclopts"],
        **{
            f"phiscale {words}": ["-c", CLI, *words.split()]
            for words in ("--version", "--help", "list", "show efficientnet_b0", "design efficientnet_b0 --macs 1G", "fit --help")
        },
    }
    if bundle and image:
        made["phiscale predict, 1 image, onnxruntime"] = ["-c", CLI, "predict", str(bundle), str(image), "--runtime", "onnxruntime"]
        made["phiscale predict, 1 image, default runtime"] = ["-c", CLI, "predict", str(bundle), str(image)]
        made["bare onnxruntime, same model"] = ["-c", BARE, str(next(bundle.rglob("model.onnx")))]
    return made


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--n", type=int, default=9, help="processes of each kind")
    ask.add_argument("--bundle", type=Path, help="a run or bundle, for predict")
    ask.add_argument("--image", type=Path, help="an image, for predict")
    given = ask.parse_args()
    made = commands(given.bundle, given.image)
    times: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(given.n + 1):
        for name, arguments in made.items():
            spent = seconds(arguments)
            if turn:  # the first fills the disk's cache
                times[name].append(1e3 * spent)
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("what", "median_ms", "min_ms", "max_ms", "n"))
    for name, own in times.items():
        out.writerow((name, f"{statistics.median(own):.1f}", f"{min(own):.1f}", f"{max(own):.1f}", len(own)))


if __name__ == "__main__":
    main()
