"""How long a person waits before anything happens: whole processes, from start to exit.

    python benchmarks/startup.py [--n 9] [--bundle RUN] [--fit IMAGES] > startup.csv

One row a command: how many times it takes what it is compared with, median, least and most milliseconds, peak MiB, n. The processes
take turns, because machines drift; each has its bytecode compiled before, as an installed package has.
predict   needs a bundle (any run folder) and --image; beside it the least that ONNX Runtime alone can do about the same:
          open the model, decode, resize, crop and normalise the photo with Pillow and numpy, run, print five labels.
fit       ends where training begins: at the first image that the linear probe reads, and at the first step of fine-tuning.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from phiscale.runtime.machine import machine

CLI = "from phiscale.cli import command_line; command_line()"  # as the `phiscale` script
BARE = """
import json, pathlib, sys
import numpy as np, onnxruntime
from PIL import Image
folder = pathlib.Path(sys.argv[1])
asked, labels = json.loads((folder / "preprocess.json").read_text()), (folder / "labels.txt").read_text().splitlines()
image = Image.open(sys.argv[2]).convert("RGB")
share = asked["resize"] / min(image.size)
image = image.resize((int(image.width * share), int(image.height * share)), Image.Resampling.BICUBIC)
left, top = (image.width - asked["crop"]) // 2, (image.height - asked["crop"]) // 2
x = np.asarray(image.crop((left, top, left + asked["crop"], top + asked["crop"])), np.float32) / 255
x = ((x - np.float32(asked["mean"])) / np.float32(asked["std"])).transpose(2, 0, 1)[None]
session = onnxruntime.InferenceSession(folder / "model.onnx")
logits = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(x, np.float32)})[0][0]
powers = np.exp(logits - logits.max())
for index in powers.argsort()[::-1][:5]:
    print(labels[index], powers[index] / powers.sum())
"""
UNTIL = """
import os, sys
import phiscale.training.loop as loop
from phiscale.cli import main
setattr(loop._Training, sys.argv.pop(1), lambda *_: os._exit(0))
sys.exit(main())
"""


def commands(bundle: Path | None, image: Path | None, images: Path | None, scratch: str) -> dict[str, tuple[list[str], str | None]]:
    """By name: what Python is given, and the name that it is compared with."""
    made: dict[str, tuple[list[str], str | None]] = {
        "python -c pass": (["-c", "pass"], None),
        "import phiscale": (["-c", "import phiscale"], "python -c pass"),
        "import cyclopts": (["-c", "import cyclopts"], "python -c pass"),
    }
    for words in ("--version", "--help", "list", "show efficientnet_b0", "design efficientnet_b0 --macs 1G", "fit --help"):
        made[f"phiscale {words}"] = (["-c", CLI, *words.split()], "python -c pass")
    if bundle and image:
        bare = "bare onnxruntime, 1 image"
        made[bare] = (["-c", BARE, str(next(bundle.rglob("manifest.json")).parent), str(image)], None)
        for runtime in ("default", "onnxruntime", "openvino"):
            option = [] if runtime == "default" else ["--runtime", runtime]
            made[f"phiscale predict, 1 image, {runtime}"] = (["-c", CLI, "predict", str(bundle), str(image), *option], bare)
    if images:
        torch = "import torch"
        made[torch] = (["-c", torch], None)
        for name, where in (("probe", "probe"), ("step", "one_step")):
            made[f"phiscale fit, to the first {name}"] = (["-c", UNTIL, where, "fit", str(images), "-o", f"{scratch}/{where}"], torch)
    return made


def run(arguments: list[str], scratch: str) -> tuple[float, float]:
    """Milliseconds, and peak MiB. Run folders of the turn before are deleted first."""
    for folder in ("probe", "one_step"):
        shutil.rmtree(Path(scratch) / folder, ignore_errors=True)
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{scratch}/bytecode", "PYTHONDONTWRITEBYTECODE": ""}
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    spent = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{arguments}: {said.decode()}")
    return 1e3 * spent, used.ru_maxrss / 1024


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--n", type=int, default=9, help="processes of each kind")
    ask.add_argument("--bundle", type=Path, help="a run or bundle, for predict")
    ask.add_argument("--image", type=Path, help="an image, for predict")
    ask.add_argument("--fit", type=Path, help="a folder of images, for fit")
    given = ask.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        made = commands(given.bundle, given.image, given.fit, scratch)
        times: dict[str, list[float]] = {name: [] for name in made}
        peaks = dict.fromkeys(made, 0.0)
        for turn in range(given.n + 1):
            for name, (arguments, _) in made.items():
                spent, peak = run(arguments, scratch)
                if turn:  # the first fills the disk's cache
                    times[name].append(spent)
                    peaks[name] = max(peaks[name], peak)
    print(f"# {machine()['processor']}, {machine()['threads']} threads; Python {machine()['python']}")
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("what", "times", "of", "median_ms", "min_ms", "max_ms", "peak_mib", "n"))
    for name, own in times.items():
        beside = made[name][1]
        ratio = f"{statistics.median(a / b for a, b in zip(own, times[beside], strict=True)):.2f}" if beside else ""
        figures = (f"{value:.1f}" for value in (statistics.median(own), min(own), max(own)))
        out.writerow((name, ratio, beside or "", *figures, f"{peaks[name]:.0f}", len(own)))


if __name__ == "__main__":
    main()
