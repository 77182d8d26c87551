"""Seconds from the start of the process until validation accuracy is reached: `phiscale fit`, timm, fastai, a plain torchvision script.

    python benchmarks/time_to_accuracy.py IMAGES [--size 224] [--epochs 5] [--only NAME ...] > time.csv

IMAGES has train/ and val/ (or test/) of class folders. All fine-tune EfficientNet-Lite0 from the same ImageNet weights at the same size:
phiscale with its defaults; timm with its loader, optimiser and schedule as its train.py puts them together, tf_efficientnet_lite0 with
the weights converted, channels-last; fastai's vision_learner and fine_tune of the same network; and the script that PyTorch's tutorial
teaches (ImageFolder, torchvision's transforms, DataLoader, SGD). Each peer in three settings: its own defaults and two that are usual
for few images. All validate after every epoch, have 2 threads, and 2 reader processes where they have any.

One row an evaluation: candidate, setting, epoch, seconds since the process was started, top-1. Then a row a candidate: the first moment
of its best setting at which the target was reached, and how many times phiscale's that is. The target is the lowest of the peers' best
accuracies, so that all of them reach it. fastai is installed for this alone: pip install fastai.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "phiscale": [{}],
    "timm": [
        {"opt": "sgd", "lr": 0.01, "weight_decay": 2e-5, "batch": 32},
        {"opt": "adamw", "lr": 5e-4, "weight_decay": 0.05, "batch": 32},
        {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05, "batch": 16},
    ],
    "fastai": [{"lr": 2e-3, "batch": 64}, {"lr": 2e-3, "batch": 16}, {"lr": 5e-3, "batch": 32}],
    "torchvision script": [
        {"opt": "sgd", "lr": 1e-3, "batch": 4},
        {"opt": "sgd", "lr": 1e-2, "batch": 32},
        {"opt": "adam", "lr": 5e-4, "batch": 32},
    ],
}
STARTED = "PHISCALE_BENCHMARK_STARTED"


def tell(epoch: int, top1: float) -> None:
    seconds = time.time() - float(os.environ[STARTED])
    print(json.dumps({"epoch": epoch, "seconds": round(seconds, 2), "top1": round(top1, 4)}), flush=True)


def run_phiscale(images: Path, size: int, epochs: int, setting: dict[str, Any]) -> None:
    del epochs, setting
    import phiscale.training.loop as loop
    from phiscale.cli import main

    told = loop._Training.tell_judged

    def judged(self: Any, row: Any) -> None:
        tell(int(row["epoch"]), float(row["val_top1"]))
        told(self, row)

    loop._Training.tell_judged = judged
    with tempfile.TemporaryDirectory() as folder:
        main(["fit", str(images), "--resolution", str(size), "-o", f"{folder}/run"])


def timm_network(classes: int) -> Any:
    import timm

    from phiscale.weights import create_model
    from phiscale.weights.dialects import to_dialect

    ours = create_model("efficientnet_lite0", weights="auto")
    state = {name: value for name, value in to_dialect(ours.state_dict(), ours.spec, "timm").items() if not name.startswith("classifier")}
    network = timm.create_model("tf_efficientnet_lite0", num_classes=classes)
    missing = network.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys, missing
    assert all(name.startswith("classifier") for name in missing.missing_keys), missing
    return network


def top1(network: Any, batches: Any) -> float:
    import torch

    network.eval()
    right = n = 0
    with torch.inference_mode():
        for pixels, labels in batches:
            right += int((network(pixels.contiguous(memory_format=torch.channels_last)).argmax(1) == labels).sum())
            n += len(labels)
    return right / n


def run_timm(images: Path, size: int, epochs: int, setting: dict[str, Any]) -> None:
    import torch
    from timm.data import create_dataset, create_loader, resolve_data_config
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    train, val = (create_dataset("", root=str(images), split=split, is_training=split == "train") for split in ("train", "val"))
    network = timm_network(len(os.listdir(images / "train"))).to(memory_format=torch.channels_last)
    told = resolve_data_config({"input_size": (3, size, size)}, model=network)
    shared = {"input_size": told["input_size"], "mean": told["mean"], "std": told["std"], "num_workers": 2, "use_prefetcher": False}
    batches = create_loader(
        train, batch_size=setting["batch"], is_training=True, color_jitter=0.4, scale=(0.08, 1.0), interpolation="random", **shared
    )
    evaluation = create_loader(
        val, batch_size=64, is_training=False, interpolation=told["interpolation"], crop_pct=told["crop_pct"], **shared
    )
    optimizer = create_optimizer_v2(network, opt=setting["opt"], lr=setting["lr"], weight_decay=setting["weight_decay"], momentum=0.9)
    schedule, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=epochs, warmup_epochs=1, warmup_lr=1e-5, updates_per_epoch=len(batches), step_on_epochs=False
    )
    loss_of, step = torch.nn.CrossEntropyLoss(label_smoothing=0.1), 0
    for epoch in range(epochs):
        network.train()
        for pixels, labels in batches:
            loss_of(network(pixels.contiguous(memory_format=torch.channels_last)), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            schedule.step_update(step)
        tell(epoch + 1, top1(network, evaluation))


def run_fastai(images: Path, size: int, epochs: int, setting: dict[str, Any]) -> None:
    import warnings

    warnings.simplefilter("ignore")
    from fastai.callback.core import Callback
    from fastai.callback.schedule import fine_tune  # noqa: F401  # adds the method
    from fastai.metrics import accuracy
    from fastai.vision.augment import Resize, aug_transforms
    from fastai.vision.data import ImageDataLoaders
    from fastai.vision.learner import vision_learner

    class Tell(Callback):
        done = 0

        def after_epoch(self) -> None:
            self.done += 1
            tell(self.done, float(self.learn.recorder.values[-1][-1]))

        order = 60  # after the recorder

    loaders = ImageDataLoaders.from_folder(
        images, train="train", valid="val", bs=setting["batch"], num_workers=2, item_tfms=Resize(size * 8 // 7),
        batch_tfms=aug_transforms(size=size), seed=0,
    )  # fmt: skip
    learner = vision_learner(loaders, "tf_efficientnet_lite0", pretrained=False, metrics=accuracy)
    body = timm_network(loaders.c).state_dict()
    learner.model[0].model.load_state_dict({name: value for name, value in body.items() if not name.startswith("classifier")})
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs - 1, setting["lr"], cbs=Tell())  # one epoch of the head before


def run_script(images: Path, size: int, epochs: int, setting: dict[str, Any]) -> None:
    import torch
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    normal = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    ways = {
        "train": [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), *normal],
        "val": [transforms.Resize(size * 8 // 7), transforms.CenterCrop(size), *normal],
    }
    batches, evaluation = (
        torch.utils.data.DataLoader(
            ImageFolder(str(images / split), transforms.Compose(way)), batch_size=setting["batch"], shuffle=split == "train", num_workers=2
        )
        for split, way in ways.items()
    )
    network = timm_network(len(os.listdir(images / "train"))).to(memory_format=torch.channels_last)
    if setting["opt"] == "sgd":
        optimizer: Any = torch.optim.SGD(network.parameters(), lr=setting["lr"], momentum=0.9)
    else:
        optimizer = torch.optim.Adam(network.parameters(), lr=setting["lr"])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    loss_of = torch.nn.CrossEntropyLoss()
    for epoch in range(epochs):
        network.train()
        for pixels, labels in batches:
            loss_of(network(pixels.contiguous(memory_format=torch.channels_last)), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        schedule.step()
        tell(epoch + 1, top1(network, evaluation))


RUN = {"phiscale": run_phiscale, "timm": run_timm, "fastai": run_fastai, "torchvision script": run_script}


def as_train_and_val(images: Path, folder: Path) -> Path:
    """`images` as train/ and val/: what it has no val of is judged on its test."""
    judged = "val" if (images / "val").is_dir() else "test"
    for name, there in (("train", "train"), ("val", judged)):
        (folder / name).symlink_to((images / there).resolve())
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=5, help="of the peers' schedules")
    parser.add_argument("--only", nargs="*", default=[], help="candidates, or candidate:number for one setting of it (from 0)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, number = given.one
        RUN[name](given.images, given.size, given.epochs, SETTINGS[name][int(number)])
        return
    from phiscale.runtime.machine import machine

    print(f"# {given.images.name}, {given.size} px, {given.epochs} epochs; {machine()['processor']}, {machine()['threads']} threads")
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("candidate", "setting", "epoch", "seconds", "top1"))
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = as_train_and_val(given.images, Path(folder))
        for name, settings in SETTINGS.items():
            for number, setting in enumerate(settings):
                if given.only and name not in given.only and f"{name}:{number}" not in given.only:
                    continue
                options = ["--size", str(given.size), "--epochs", str(given.epochs), "--one", name, str(number)]
                environment = {**os.environ, STARTED: repr(time.time())}
                done = subprocess.run([sys.executable, __file__, str(images), *options], env=environment, capture_output=True, text=True)
                rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"epoch"')]
                if done.returncode or not rows:
                    raise SystemExit(f"{name}: {done.stderr[-2000:]}")
                for row in rows:
                    out.writerow((name, json.dumps(setting) if setting else "defaults", row["epoch"], row["seconds"], row["top1"]))
                sys.stdout.flush()
                curves.setdefault(name, []).append([(row["seconds"], row["top1"]) for row in rows])
    best = {name: max(top for curve in own for _, top in curve) for name, own in curves.items()}
    target = min([top for name, top in best.items() if name != "phiscale"] or [0.0])
    reached = {
        name: min((seconds for curve in own for seconds, top in curve if top >= target), default=float("inf"))
        for name, own in curves.items()
    }
    out.writerow(("candidate", "best_top1", "target", "seconds_to_target", "times_phiscale"))
    for name, seconds in reached.items():
        out.writerow((name, best[name], target, seconds, f"{seconds / reached.get('phiscale', seconds):.2f}"))


if __name__ == "__main__":
    main()
