"""Write a bundle: whole or absent. Everything goes into a hidden sibling folder, which is renamed when all of it is on the disk."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiscale.allocator import release_freed_memory
from phiscale.architecture.design import Design
from phiscale.architecture.output import Output
from phiscale.architecture.preprocess import Preprocess
from phiscale.atomic import sync_folder
from phiscale.deploy.graph import counted, to_onnx
from phiscale.deploy.int8 import calibrated, with_ranges
from phiscale.deploy.latency import LatencyStats, Setting, bench, setting
from phiscale.deploy.parity import parity
from phiscale.errors import ArgumentError, RunError
from phiscale.runtime.bundle import BENCH, DESIGN, LABELS, MANIFEST, MODEL, PARITY, PREPROCESS, SCHEMA, Bundle, is_bundle
from phiscale.runtime.engines import Precision, open_engine, usable
from phiscale.runtime.labels import dump_labels
from phiscale.runtime.machine import machine
from phiscale.runtime.native.support import network_asks_for
from phiscale.version import VERSION


def export_bundle(
    out: str | Path,
    *,
    design: Design,
    state: Mapping[str, NDArray[np.generic]],
    preprocess: Preprocess,
    labels: Sequence[str],
    output: Output | None = None,
    reference: NDArray[np.float32] | None = None,
    calibrate: Iterable[NDArray[np.float32]] | None = None,
    seconds: float = 0.3,
) -> Path:
    """Write the folder `out` and return it. A bundle that is there is replaced; anything else is not.

    state        the network's state_dict, as `layout(design.spec)` (WeightsError names the key that differs)
    output       what becomes of the logits; None: softmax
    reference    preprocessed images (N, 3, crop, crop), on which parity.json compares the runtimes with the PyTorch model
    calibrate    preprocessed images (3, crop, crop) like those to come: the bundle can then be run in int8, too (int8.py)
    seconds      of measuring, a runtime and batch, for bench.json
    ArgumentError for parts that don't fit each other, a folder that is something else, or a network that can't be run in int8 where that
    was asked; RunError where the disk is full.
    """
    out, output = Path(out), output or Output()
    _check(out, design, preprocess, labels)
    release_freed_memory()  # what a training needed
    graph = to_onnx(design, state, metadata=metadata(design, preprocess, labels, output))
    if calibrate is not None:
        if said := network_asks_for(design.spec):
            raise ArgumentError(f"int8 is for the native engine, which can't run this network: {said}")
        graph = with_ranges(graph, calibrated(graph, calibrate))
    model, costs = graph.SerializeToString(), counted(graph)
    proof = parity(design, state, model, images=reference, output=output)
    made = Bundle(
        path=out,
        model=model,
        design=design,
        preprocess=preprocess,
        labels=tuple(labels),
        output=output,
        parity=proof,
        bench={},
    )
    rows: list[tuple[str, LatencyStats]] = []
    for batch in (1, 4):  # apart: engines are planned for their batch, and not all need to be in memory at once
        release_freed_memory()
        rows += bench({"": made}, settings=_settings(model, batch), seconds=seconds)
    figures = {"machine": machine(), "seconds": seconds, "rows": [stats.to_dict() | costs for _, stats in rows]}
    files = {
        MODEL: model,
        PREPROCESS: _json(preprocess.to_dict()),
        LABELS: dump_labels(labels).encode(),
        DESIGN: design.to_toml().encode(),
        PARITY: _json(proof),
        BENCH: _json(figures),
    }
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[MANIFEST] = _json({"schema": SCHEMA, "phiscale": VERSION, **output.to_dict(), "files": sums})
    write_folder(out, files)
    return out


def _settings(model: bytes, batch: int) -> list[Setting]:
    """Every runtime in float32, and in its own choice of precision, so that both can be weighed against parity.json.

    First the one that `predict` takes by itself.
    """
    default = open_engine(model, batch=batch).name
    exact = [setting(runtime=name, batch=batch) for name in sorted(usable(model, "f32"), key=lambda name: name != default)]
    quicker: tuple[Precision, ...] = ("auto", "int8")
    return [
        *exact,
        *(setting(runtime=name, batch=batch, precision=how) for how in quicker for name in usable(model, "bf16" if how == "auto" else how)),
    ]


def metadata(design: Design, preprocess: Preprocess, labels: Sequence[str], output: Output) -> dict[str, str]:
    """What a reader of the model file alone needs: goes into ONNX metadata_props and OpenVINO rt_info."""
    return {
        "phiscale.design": design.to_toml(),
        "phiscale.preprocess": json.dumps(preprocess.to_dict()),
        "phiscale.labels": dump_labels(labels),
        **{f"phiscale.{name}": json.dumps(value) for name, value in output.to_dict().items()},
    }


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Make `out` hold `files`, in their order, all or nothing. RunError naming the folder where the system refuses (a full disk)."""
    part, old = out.with_name(f".{out.name}.part"), out.with_name(f".{out.name}.old")
    try:
        for left_over in (part, old):
            shutil.rmtree(left_over, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            for name, content in files.items():
                with (part / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            sync_folder(part)
            if out.exists():
                out.rename(old)
            part.rename(out)
            sync_folder(out.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            if old.exists() and not out.exists():
                old.rename(out)
            shutil.rmtree(old, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise RunError(f"can't write {out}: {why}; nothing half-written is left. Free some space or give another folder") from None


def _check(out: Path, design: Design, preprocess: Preprocess, labels: Sequence[str]) -> None:
    if (out.exists() or out.is_symlink()) and not (out.is_dir() and (is_bundle(out) or not any(out.iterdir()))):
        raise ArgumentError(f"{out} exists and is no bundle; give a folder that doesn't exist, or delete it")
    if design.spec.in_channels != 3:
        raise ArgumentError(f"a bundle predicts from RGB images, but this network takes {design.spec.in_channels} channels")
    if len(labels) != design.spec.num_classes or not labels:
        raise ArgumentError(f"a bundle needs one label a class: got {len(labels)} labels for {design.spec.num_classes} classes")
    if preprocess.crop != design.resolution:
        raise ArgumentError(
            f"the preprocessing crops {preprocess.crop} px, but the design runs at {design.resolution} px; use Preprocess.at"
        )


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()
