"""How finding, splitting and decoding grow with the number of images.   python benchmarks/data_growth.py [FOLDER] > growth.csv

Makes 1k ... 20k JPEG files of 64 x 48 pixels in ten classes (kept only while it runs), or measures FOLDER alone. One row a
size: processor seconds (all threads; what other programs take doesn't count) to find and split, to decode and cache all,
for one augmented training epoch; the decode's wall seconds; and the peak memory so far.
"""

import csv
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from phiscale.architecture.preprocess import Preprocess
from phiscale.data.find import find_images
from phiscale.data.load import open_images, train_batches
from phiscale.data.transform import Augment

SIZES = (1000, 2000, 5000, 10000, 20000)
COLUMNS = ("images", "find_cpu_s", "open_cpu_s", "epoch_cpu_s", "cpu_ms_per_image", "open_wall_s", "cache_mb", "peak_rss_mb")


def grow(root: Path, first: int, last: int) -> None:
    """Write images number `first` ... `last` - 1, all different."""
    for number in range(first, last):
        folder = root / f"class{number % 10}"
        folder.mkdir(exist_ok=True)
        noise = Image.frombytes("RGB", (8, 6), random.Random(number).randbytes(8 * 6 * 3))
        noise.resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{number:06d}.jpg")


def measure(root: Path, preprocess: Preprocess) -> dict[str, float | int]:
    start = time.process_time()
    found = find_images(root)
    searched, wall = time.process_time(), time.perf_counter()
    found, cache = open_images(found, preprocess=preprocess)
    opened, wall = time.process_time(), time.perf_counter() - wall
    for _ in train_batches(found, preprocess=preprocess, batch=32, seed=0, epoch=0, augment=Augment(), cache=cache):
        pass
    done = time.process_time()
    images = sum(map(len, found.splits.values()))
    numbers = (
        images,
        searched - start,
        opened - searched,
        done - opened,
        (done - start) / images * 1000,
        wall,
        cache.used_bytes / 2**20,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    return {name: value if isinstance(value, int) else round(value, 3) for name, value in zip(COLUMNS, numbers, strict=True)}


def main() -> None:
    out = csv.DictWriter(sys.stdout, COLUMNS)
    out.writeheader()
    if len(sys.argv) > 1:
        out.writerow(measure(Path(sys.argv[1]), Preprocess(crop=224, resize=256)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for before, size in zip((0, *SIZES), SIZES, strict=False):
            grow(Path(folder), before, size)
            out.writerow(measure(Path(folder), Preprocess(crop=64, resize=72)))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
