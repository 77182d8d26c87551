"""phiscale doctor"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from phiscale.cli.console import emit, emit_json
from phiscale.cli.options import Json
from phiscale.runtime.engines import RUNTIMES, installed
from phiscale.runtime.machine import machine
from phiscale.runtime.native.support import levels, machine_lacks
from phiscale.version import VERSION
from phiscale.weights.sources import at_hand, records

PACKAGES = (
    *("torch", "torchvision", "accelerate", "onnx", "onnxruntime", "openvino", "nncf"),
    *("numpy", "pillow", "safetensors", "scikit-learn", "h5py", "optuna"),
)


def command(*, as_json: Json = False) -> None:
    """What this installation can do: runtimes, packages, weights at hand, processor."""
    said: dict[str, Any] = {
        "phiscale": VERSION,
        "machine": machine(),
        "runtimes": {name: name in installed() for name in RUNTIMES},
        "native": machine_lacks(),
        "levels": {level.name: level.computes for level in (*levels(), *levels("int8"))},
        "weights": [record.name for record in records() if at_hand(record)],
        "training": _training(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if as_json:
        emit_json(said)
        return
    emit(f"phiscale      {VERSION}, Python {said['machine']['python']}, {said['machine']['system']}")
    emit(f"processor     {said['machine']['processor']}, {said['machine']['threads']} threads usable")
    emit(f"instructions  {', '.join(said['machine']['instructions']) or 'none that matter here'}")
    found = ", ".join(installed()) or "nothing: pip install onnxruntime"
    emit(f"predicts by   {found} (the first, or native where it is faster, unless told otherwise)")
    if said["native"]:
        emit(f"              not native: {said['native']}")
    else:
        emit(f"              native by {', '.join(f'{name} ({computes})' for name, computes in said['levels'].items())}")
    training = said["training"]
    if training is None:
        emit("trains by     nothing: PyTorch can't be imported; pip install torch")
    else:
        emit(f"trains by     {training['kernels']}; {training['precision']}: {training['why']}")
    emit(f"weights       {', '.join(said['weights']) or 'none at hand: pip install phiscale[lite]'}")
    for name, number in said["packages"].items():
        emit(f"{name:13} {number or 'not installed'}")


def _training() -> dict[str, str] | None:
    """How a training step is computed here; None where torch can't be imported."""
    try:
        from phiscale.kernels import best_precision, status
    except ImportError:
        return None
    precision, why = best_precision()
    return {"kernels": status(), "precision": precision, "why": why}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
