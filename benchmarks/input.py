"""From JPEG files to augmented uint8 images of 224 px, a core.   python benchmarks/input.py [FOLDER] [--images N] [--enlarge K] > input.csv

Everyone reads the same files (in the disk's cache by then), draws a random crop of 35 to 100 % of the area, mirrors half of them, and
resizes bicubically; one thread, the candidates in turns. One row a candidate: images a second of processor time at the median turn,
and how many times the first candidate's that is. `--enlarge 4` measures photos of four times the side, as cameras make them.
Then, on the same crops, how far our pixels are from Pillow's: mean of the absolute difference, and the share of more than 2 of 255.
"""

import argparse
import csv
import importlib.util
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
import torchvision
from PIL import Image, __version__
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode, v2

from phiscale.architecture.preprocess import Preprocess
from phiscale.data.find import ImageSet, Item, image_files
from phiscale.data.load import ImageDataset, _for_training, mix, open_images
from phiscale.data.transform import Augment, _random_box
from phiscale.runtime.machine import machine

PRE, AUGMENT = Preprocess(crop=224, resize=256), Augment(scale=(0.35, 1.0), jitter=0)
CROP = (v2.RandomResizedCrop(224, scale=AUGMENT.scale, interpolation=InterpolationMode.BICUBIC), v2.RandomHorizontalFlip())


def candidates(files: list[Path]) -> dict[str, Callable[[int], object]]:
    byte, floats = (
        v2.Compose([*CROP, v2.PILToTensor()]),
        v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]),
    )
    tensors = v2.Compose(CROP)
    images = ImageSet(root=files[0].parent, classes=("a", "b"), splits={"train": tuple(Item(file, 0) for file in files)})
    images, cache = open_images(images, preprocess=PRE, max_bytes=2 << 30)

    def varied(**options: object) -> Callable[[int], object]:
        own = ImageDataset(images, "train", preprocess=PRE, **options)  # type: ignore[arg-type]
        return lambda index: own[0, index]

    def pillow(index: int) -> torch.Tensor:
        with Image.open(files[index]) as image:
            return byte(image.convert("RGB"))

    def tensor(index: int) -> torch.Tensor:
        return tensors(decode_jpeg(torch.frombuffer(bytearray(files[index].read_bytes()), dtype=torch.uint8), mode=ImageReadMode.RGB))

    found: dict[str, Callable[[int], object]] = {
        "Pillow + torchvision v2, uint8": pillow,
        "Pillow + torchvision v2, normalised floats": lambda index: floats(pillow(index)),
        "torchvision.io + v2, uint8": tensor,
        "phiscale, from files": varied(augment=AUGMENT),
        "phiscale, from memory": varied(augment=AUGMENT, cache=cache),
        "phiscale, from files, colours varied too": varied(augment=Augment()),
        "phiscale, evaluation from files (exact)": varied(),
        "decoding alone: Pillow": lambda index: np.asarray(Image.open(files[index]).convert("RGB")),
    }
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        found["decoding alone: simplejpeg"] = lambda index: simplejpeg.decode_jpeg(files[index].read_bytes(), "RGB")
    if importlib.util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)
        found["decoding alone: OpenCV"] = lambda index: cv2.imread(str(files[index]))
    return found


def difference(files: list[Path]) -> tuple[float, float]:
    """Of all crops: mean absolute difference from crop and resize by Pillow, and the share of numbers that differ by more than 2."""
    images = ImageSet(root=files[0].parent, classes=("a", "b"), splits={"train": tuple(Item(file, 0) for file in files)})
    ours, total, far, numbers = ImageDataset(images, "train", preprocess=PRE, augment=AUGMENT), 0.0, 0, 0
    for index, item in enumerate(images.splits["train"]):
        random, image = Random(mix(0, 0, index)), Image.open(item.path).convert("RGB")
        height, width, _ = _for_training(item, PRE).shape  # what the box is drawn in: less than the photo, if that was large
        left, top, right, bottom = _random_box((width, height), AUGMENT, random)
        across, down = image.width / width, image.height / height
        cropped = image.crop((round(left * across), round(top * down), round(right * across), round(bottom * down)))
        reference = cropped.resize((224, 224), Image.Resampling.BICUBIC)
        if random.random() < 0.5:
            reference = reference.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        off = np.abs(ours[0, index][0].permute(1, 2, 0).numpy() - np.asarray(reference).astype(int))
        total, far, numbers = total + off.sum(), far + int((off > 2).sum()), numbers + off.size
    return total / numbers, far / numbers


def enlarged(files: list[Path], times: int, folder: Path) -> list[Path]:
    made: list[Path] = []
    for number, file in enumerate(files):
        image = Image.open(file).convert("RGB")
        data = io.BytesIO()
        image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
        made.append(folder / f"{number}.jpg")
        made[-1].write_bytes(data.getvalue())
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="../shared/data/imagenet-sample")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--enlarge", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        files = [file for file in image_files(given.folder) if file.suffix.lower() in (".jpg", ".jpeg")][: given.images]
        if given.enlarge > 1:
            files = enlarged(files, given.enlarge, Path(scratch))
        sides = np.median([Image.open(file).size for file in files], axis=0).astype(int)
        print(
            f"# {len(files)} JPEG files of {sides[0]} x {sides[1]} (median); {machine()['processor']}, 1 thread; Pillow {__version__}, ",
            end="",
        )
        print(f"torch {torch.__version__}, torchvision {torchvision.__version__}")
        made = candidates(files)
        times: dict[str, list[float]] = {name: [] for name in made}
        for turn in range(given.rounds + 1):
            for name, read in made.items():
                start = time.process_time()
                for index in range(len(files)):
                    read(index)
                if turn:  # the first warms up
                    times[name].append(time.process_time() - start)
        mean, far = difference(files)
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("candidate", "times", "images_per_second", "slowest", "fastest", "n"))
    first = next(iter(times.values()))
    for name, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(first, own, strict=True))
        speeds = (f"{len(files) / value:.0f}" for value in (statistics.median(own), max(own), min(own)))
        out.writerow((name, f"{ratio:.2f}", *speeds, len(own)))
    print(f"# pixels: {mean:.3f} of 255 from Pillow's in the mean, {far:.3%} by more than 2")


if __name__ == "__main__":
    main()
