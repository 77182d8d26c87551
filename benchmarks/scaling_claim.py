"""The paper's claim at a small scale: one baseline grown to 2x and 4x its MACs by depth, width, resolution, and all three.

    python benchmarks/scaling_claim.py CIFAR10_MINI OUT.csv [--images 400 --epochs 6 --seeds 0,1,2]

From scratch, on `--images` training photos a class for `--epochs` epochs, the same for every network; the test split is what
is scored (after the last epoch: none is chosen by it). One row a run, appended: run it again to go on, or beside itself with
other seeds. It then prints the table.
"""

import argparse
import csv
import shutil
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from phiscale.architecture import Design, NetworkSpec, Origin, Preprocess, Stage, Stem
from phiscale.data.find import ImageSet, find_images
from phiscale.jobs.proxy import Proxy, proxy_recipe, threads
from phiscale.search.sweep import WAYS, scaled_to

COLUMNS = ("network", "way", "ratio", "macs", "params", "resolution", "seed", "images", "epochs", "top1", "train_top1", "curve", "seconds")


def tiny() -> Design:
    """5.05 M MACs at 32 px: MBConvs as in EfficientNet, with a stem that halves the image and four stages, two of which halve it again.

    Its depths and widths were chosen so that rounding lets every way of scaling come within 5 % of 2 and of 4 times its cost.
    """
    widths, depths, strides = (16, 24, 40, 80), (1, 2, 2, 3), (1, 2, 1, 2)
    stages = tuple(
        Stage(kind="mbconv", depth=depth, width=width, stride=stride, expand=1 if number == 0 else 4, se=0.25)
        for number, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=True))
    )
    spec = NetworkSpec(stages=stages, stem=Stem(widths=(16,), stride=2), head_width=256, num_classes=10)
    return Design(spec=spec, resolution=32, origin=Origin(baseline="tiny"))


def networks() -> list[tuple[str, float, Design]]:
    base = tiny()
    return [("baseline", 1.0, base), *((way, ratio, scaled_to(base, ratio=ratio, way=way)) for ratio in (2.0, 4.0) for way in WAYS)]


def some(images: ImageSet, per_class: int) -> ImageSet:
    """The first `per_class` training photos of each class; the test split as what is scored."""
    kept = [item for label in range(len(images.classes)) for item in [i for i in images.splits["train"] if i.label == label][:per_class]]
    if len(kept) != per_class * len(images.classes):
        raise SystemExit(f"there are no {per_class} training photos of each class (a fifth is set apart as val); give fewer --images")
    return replace(images, splits={"train": tuple(kept), "val": images.splits["test"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", default="0,1,2")
    asked = parser.parse_args()
    threads(1)
    found = find_images(asked.folder)
    images = some(found, asked.images)
    recipe = proxy_recipe(len(images.splits["train"]), epochs=asked.epochs)
    own = Preprocess(crop=32, resize=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    proxies: dict[int, Proxy] = {}  # by resolution, with its decoded images
    for seed in map(int, asked.seeds.split(",")):
        for way, ratio, design in networks():
            key = (way, f"{ratio:g}", str(seed), str(asked.images), str(asked.epochs))
            if any((row["way"], row["ratio"], row["seed"], row["images"], row["epochs"]) == key for row in read(asked.out)):
                continue
            curve: list[float] = []
            started = time.process_time()
            work = asked.out.with_suffix(".work") / "-".join(key)  # what a killed one goes on from
            proxy = proxies.setdefault(design.resolution, Proxy(images=images, recipe=recipe, preprocess=own, whole=True))
            proxy.trained(design, seed=seed, folder=work, report=lambda _, top1, curve=curve: curve.append(top1))
            train_top1 = float(read(work / "metrics.csv")[-1]["train_top1"])
            shutil.rmtree(work)
            seconds = time.process_time() - started
            about = (design.name, way, f"{ratio:g}", design.cost.macs, design.cost.params, design.resolution)
            said = (f"{curve[-1]:.4f}", f"{train_top1:.4f}", ";".join(f"{top1:.4f}" for top1 in curve), f"{seconds:.1f}")
            append(asked.out, (*about, seed, asked.images, asked.epochs, *said))
    print(table(read(asked.out)))


def read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: tuple[object, ...]) -> None:
    new = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerows(([COLUMNS] if new else []) + [row])


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: a line a network, mean and standard deviation of its seeds."""
    lines = ["| scaled by | MACs | × baseline | params | px | top-1 mean ± sd | seeds |", "|---|---:|---:|---:|---:|---:|---:|"]
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["ratio"], row["way"]), []).append(row)
    base = next((int(row["macs"]) for row in rows if row["way"] == "baseline"), 1)
    for (_, way), own in groups.items():
        scores = [100 * float(row["top1"]) for row in own]
        spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""
        cells = (f"{int(own[0]['macs']) / 1e6:.1f}M", f"{int(own[0]['macs']) / base:.2f}", f"{int(own[0]['params']) / 1e3:.0f}K")
        lines.append(f"| {way} | {' | '.join(cells)} | {own[0]['resolution']} | {mean(scores):.1f}{spread} | {len(scores)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
