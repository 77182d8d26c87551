"""Read a bundle: the folder that predicts without PyTorch. Nothing is used before its checksum was compared."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiscale.architecture.design import Design
from phiscale.architecture.output import Output
from phiscale.architecture.preprocess import Preprocess
from phiscale.errors import ArgumentError, BundleError, SpecError
from phiscale.runtime.labels import load_labels
from phiscale.runtime.native.model import not_finite

SCHEMA = 1  # of manifest.json; a reader refuses a higher one
MODEL, PREPROCESS, LABELS, DESIGN, PARITY, BENCH = "model.onnx", "preprocess.json", "labels.txt", "design.toml", "parity.json", "bench.json"
MANIFEST = "manifest.json"
FILES = (MODEL, PREPROCESS, LABELS, DESIGN, PARITY, BENCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a bundle's files say. `model` is the ONNX file's content; `output` says what becomes of the logits."""

    path: Path
    model: bytes
    design: Design
    preprocess: Preprocess
    labels: tuple[str, ...]
    output: Output
    parity: dict[str, Any]
    bench: dict[str, Any]


def is_bundle(path: str | Path) -> bool:
    """Whether `path` is a folder that says it is a bundle."""
    return (Path(path) / MANIFEST).is_file()


def read_bundle(path: str | Path) -> Bundle:
    """The bundle at `path` (a run folder's own `bundle/` is found too).

    ArgumentError where there is none; BundleError naming the file that is missing, changed, or does not fit the others.
    """
    folder = Path(path)
    if not is_bundle(folder) and is_bundle(folder / "bundle"):
        folder = folder / "bundle"
    if not folder.is_dir():
        raise ArgumentError(f"no bundle at {path}: no such folder; `phiscale export RUN` writes one")
    if not is_bundle(folder):
        raise BundleError(f"{path} is no bundle: it has no {MANIFEST}; `phiscale export RUN` writes one")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        schema, sums, output = manifest["schema"], manifest["files"], Output.from_dict(manifest)
        wanted = {name: str(sums[name]) for name in FILES}
    except (OSError, ValueError, KeyError, TypeError, SpecError) as error:
        raise BundleError(f"{folder / MANIFEST} can't be read ({type(error).__name__}: {error}); export the bundle again") from None
    if schema != SCHEMA:
        raise BundleError(f"{folder / MANIFEST}: schema {schema!r}: written by a newer phiscale, or changed")
    content: dict[str, bytes] = {}
    for name, checksum in wanted.items():
        try:
            content[name] = (folder / name).read_bytes()
        except OSError as error:
            raise BundleError(f"{folder / name} can't be read ({error.strerror}); export the bundle again") from None
        if hashlib.sha256(content[name]).hexdigest() != checksum:
            raise BundleError(f"{folder / name} was changed since the bundle was written (its SHA-256 differs); export the bundle again")
    # a sixth of what the checksum takes; a runtime would answer NaN, or a label by chance
    if broken := not_finite(content[MODEL]):
        raise BundleError(f"{folder / MODEL}: {broken} is not finite; export the bundle again from weights that are whole")
    try:
        bundle = Bundle(
            path=folder,
            model=content[MODEL],
            design=Design.from_toml(content[DESIGN].decode()),
            preprocess=Preprocess.from_dict(json.loads(content[PREPROCESS])),
            labels=load_labels(content[LABELS].decode()),
            output=output,
            parity=json.loads(content[PARITY]),
            bench=json.loads(content[BENCH]),
        )
    except (SpecError, ValueError) as error:
        raise BundleError(f"{folder} can't be read: {error}") from None
    if len(bundle.labels) != bundle.design.spec.num_classes or bundle.preprocess.crop != bundle.design.resolution:
        raise BundleError(
            f"{folder} contradicts itself: {len(bundle.labels)} labels for {bundle.design.spec.num_classes} classes, "
            f"crop {bundle.preprocess.crop} for {bundle.design.resolution} px"
        )
    return bundle
