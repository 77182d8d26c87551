"""How time and memory grow with the number of images, of classes, and with the size of an image.

    python benchmarks/growth.py images|classes|pixels [--largest N] [--svg docs/growth-images.svg] > growth.csv

images   1,000 to 200,000 JPEG files of 64 x 48 px in ten classes: find and split them; read and check them all (once, as `fit` does);
         predict them as a stream, with a small bundle
classes  2 to 10,000 of two images each: find and split; from features of 1,280 numbers: the classifier's cost, a prediction's top five;
         the report of a run whose validation has one image a class
pixels   one photo of 256 to 8,192 px a side: decode it whole; decode it for training at 224 px; predict it

Files are made while it runs and deleted. Each point is a process of its own: processor seconds (what other programs take does not
count) and peak MiB of memory. `per` is the time for one image (of a thousand in microseconds, of a class, of a megapixel): flat is linear.
"""

import argparse
import csv
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from phiscale.architecture.preprocess import Preprocess
from phiscale.runtime.machine import machine

SIZES = {
    "images": (1_000, 3_000, 10_000, 30_000, 100_000, 200_000),
    "classes": (2, 10, 100, 1_000, 3_000, 10_000),
    "pixels": (256, 512, 1_024, 2_048, 4_096, 8_192),
}
STEPS = {
    "images": ("find and split", "read and check", "predict"),
    "classes": ("find and split", "report"),
    "pixels": ("decode", "decode for training", "predict"),
}
UNIT = {"images": ("images", 1e6, "µs an image"), "classes": ("classes", 1e6, "µs a class"), "pixels": ("px a side", 1e3, "ms a megapixel")}


def noise(seed: int, width: int, height: int) -> bytes:
    """A JPEG of soft noise."""
    small = Image.frombytes("RGB", (8, 6), random.Random(seed).randbytes(8 * 6 * 3))
    data = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(data, "JPEG")
    return data.getvalue()


def write_images(root: Path, first: int, last: int, classes: int) -> None:
    """Images number `first` ... `last` - 1: 64 pictures, each file with a number behind its end, so that no two are the same."""
    pictures = [noise(number, 64, 48) for number in range(64)]
    for number in range(first, last):
        folder = root / f"class{number % classes:05d}"
        if number < classes:
            folder.mkdir(parents=True)
        (folder / f"{number:06d}.jpg").write_bytes(pictures[number % 64] + b"%016d" % number)


def bundle(folder: Path) -> Path:
    """A small network that reads 32 px, with random weights."""
    from phiscale.architecture.catalog import design
    from phiscale.architecture.layout import layout
    from phiscale.deploy.bundle import export_bundle

    made = design("efficientnet_lite0").at(32).with_classes(10)
    rng = np.random.default_rng(0)
    state = {
        key: np.abs(rng.standard_normal(shape)).astype(np.float32) * 0.05 if shape else np.zeros((), np.int64)
        for key, shape in layout(made.spec).items()
    }
    labels = [f"class{number}" for number in range(10)]
    return export_bundle(folder, design=made, state=state, preprocess=Preprocess(crop=32, resize=36), labels=labels, seconds=0.01)


def write_run(folder: Path, classes: int) -> None:
    """A finished run as the report reads it, with one validation image a class."""
    from phiscale.architecture.catalog import design

    folder.mkdir()
    made = design("efficientnet_lite0").with_classes(classes)
    (folder / "design.toml").write_text(made.to_toml())
    (folder / "labels.txt").write_text("".join(f"class{number:05d}\n" for number in range(classes)))
    (folder / "metrics.csv").write_text("epoch,stage,lr,train_loss,train_top1,val_loss,val_top1\n1,finetune,0.001,1,0.5,1,0.5\n")
    with (folder / "predictions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("split", "path", "label", "predicted", "confidence", "p_label"))
        for number in range(classes):
            guess = number if number % 2 else (number + 1) % classes
            rows.writerow(("val", f"{number}.jpg", f"class{number:05d}", f"class{guess:05d}", 0.5, 0.25))
    about = {
        "phiscale": "0", "status": "done", "created": "2026-01-01T00:00:00+00:00", "command": "phiscale fit x", "seed": 0,
        "asked": {"images": "x", "budget": ""}, "network": made.name, "weights": None, "machine": machine(), "versions": {},
        "data": {"source": "x", "classes": classes, "counts": {"train": classes, "val": classes}, "skipped": 0, "notes": []},
        "result": {"split": "val", "top1": 0.5, "top5": 0.5, "loss": 1.0, "n": classes, "epoch": 1, "stage": "finetune"},
        "seconds": {"total": 1.0},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(about))


def step(kind: str, what: str, root: Path) -> Callable[[], object]:
    """What is measured, its imports done."""
    match kind, what:
        case _, "find and split":
            from phiscale.data.find import find_images

            return lambda: find_images(root / "images")
        case "images", "read and check":
            from phiscale.data.find import find_images
            from phiscale.data.load import open_images

            found = find_images(root / "images")
            return lambda: open_images(found, preprocess=Preprocess(crop=64, resize=72), max_bytes=64 << 20)
        case "images", "predict":
            from phiscale.data.find import image_files
            from phiscale.runtime.predictor import load

            predictor, files = load(root / "bundle", threads=1), image_files(root / "images")
            return lambda: sum(1 for _ in predictor.stream(files))
        case "classes", "report":
            from phiscale.report import write_report

            return lambda: write_report(root / "run")
        case "pixels", "decode":
            from phiscale.runtime.image import read_image

            return lambda: read_image(root / "photo.jpg")
        case "pixels", "decode for training":
            from phiscale.runtime.image import read_image

            return lambda: read_image(root / "photo.jpg", at_least=258)
        case "pixels", "predict":
            from phiscale.runtime.predictor import load

            predictor = load(root / "bundle", threads=1)
            return lambda: predictor.predict([root / "photo.jpg"])
        case _:
            raise ValueError(f"{kind}: {what}")


def one(kind: str, what: str, root: Path) -> None:
    """Print seconds and peak MiB of one step; the peak is that of the whole process, so what `step` imports counts too."""
    run = step(kind, what, root)
    start = time.process_time()
    run()
    seconds = time.process_time() - start
    status = Path("/proc/self/status").read_text()  # not getrusage: its peak may be that of the process that started this one
    print(json.dumps((seconds, int(status.partition("VmHWM:")[2].split()[0]) / 1024)))


def draw(kind: str, rows: list[tuple[int, str, float, float]], path: Path) -> None:
    """Two charts side by side: seconds, and MiB, both axes logarithmic."""
    from phiscale.cost.budget import amount_text
    from phiscale.report.chart import Axis, Line, around, chart, side_by_side
    from phiscale.report.page import render

    charts = []
    for part, (label, form) in enumerate((("processor seconds", "{:g}".format), ("peak MiB", "{:g}".format))):
        values = [max(row[2 + part], 1e-4) for row in rows]
        x = around([row[0] for row in rows], log=True)
        y = around(values, log=True)
        lines = [
            Line(label=what, points=[(row[0], max(row[2 + part], 1e-4)) for row in rows if row[1] == what], tone="abc"[number])
            for number, what in enumerate(STEPS[kind])
        ]
        drawn = chart(
            f"growth-{kind}-{part}",
            title=f"{label} against {UNIT[kind][0]}",
            about="; ".join(f"{line.label}: " + ", ".join(f"{px:g}: {py:.3g}" for px, py in line.points) for line in lines),
            x=Axis(label=UNIT[kind][0], low=x[0], high=x[1], log=True, form=amount_text),
            y=Axis(label=label, low=y[0], high=y[1], log=True, form=form),
            lines=lines,
        )
        charts.append((f"{label}, {UNIT[kind][0]}", drawn))
    path.write_text(side_by_side(charts, style=render("style.css")), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=SIZES)
    parser.add_argument("--largest", type=int, default=1 << 30)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    kind: str = given.kind
    if given.one:
        one(kind, given.one[0], Path(given.one[1]))
        return
    out = csv.writer(sys.stdout, lineterminator="\n")
    print(f"# {machine()['processor']}; processor seconds, one process a point")
    out.writerow((kind, "step", "seconds", f"per: {UNIT[kind][2]}", "peak_mib"))
    rows: list[tuple[int, str, float, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        root, before = Path(scratch), 0
        if kind != "classes":
            bundle(root / "bundle")
        for size in [size for size in SIZES[kind] if size <= given.largest]:
            match kind:
                case "images":
                    write_images(root / "images", before, size, 10)
                case "classes":
                    subprocess.run(["rm", "-rf", str(root / "images"), str(root / "run")], check=True)
                    write_images(root / "images", 0, 2 * size, size)
                    write_run(root / "run", size)
                case _:
                    (root / "photo.jpg").write_bytes(noise(0, size, size))
            before = size
            for what in STEPS[kind]:
                command = [sys.executable, __file__, kind, "--one", what, str(root)]
                said = subprocess.run(
                    command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
                ).stdout
                seconds, peak = json.loads(said.splitlines()[-1])
                per = seconds * UNIT[kind][1] / (size * size / 1e6 if kind == "pixels" else size)
                rows.append((size, what, seconds, peak))
                out.writerow((size, what, f"{seconds:.4f}", f"{per:.1f}", f"{peak:.0f}"))
                sys.stdout.flush()
    if given.svg:
        draw(kind, rows, given.svg)


if __name__ == "__main__":
    main()
