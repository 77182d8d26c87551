"""phiscale's own folder: `model.safetensors` under `layout(spec)`'s names, `config.json`, `labels.txt`; written whole or not at all."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from phiscale.architecture import Design, Output, Preprocess
from phiscale.architecture.layout import difference, layout
from phiscale.atomic import replacing, write_text
from phiscale.errors import ArgumentError, SpecError, WeightsError
from phiscale.nn import Network
from phiscale.version import VERSION
from phiscale.weights.files import check_finite, read_tensors

MODEL, CONFIG, LABELS = "model.safetensors", "config.json", "labels.txt"
SCHEMA = 1


def save_model(
    folder: str | Path,
    *,
    model_or_state: nn.Module | Mapping[str, Tensor],
    design: Design,
    preprocess: Preprocess,
    labels: Sequence[str] | None = None,
    output: Output | None = None,
) -> Path:
    """Write the folder, each file atomically, `config.json` with the weights' checksum last; give back the folder.

    ArgumentError where labels don't fit the classifier; WeightsError where the weights are not the design's or not finite;
    RunError where the disk is full.
    """
    spec = design.spec
    if labels is not None and len(labels) != spec.num_classes:
        raise ArgumentError(f"{len(labels)} labels for a network of {spec.num_classes} classes")
    if isinstance(model_or_state, Network) and model_or_state.spec != spec:
        raise WeightsError("the model was not built from this design; save it with a design whose spec is model.spec")
    state = model_or_state.state_dict() if isinstance(model_or_state, nn.Module) else model_or_state
    if differs := difference({key: tuple(value.shape) for key, value in state.items()}, spec):
        raise WeightsError(f"the weights are not of the network {design.name}: {differs}")
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    check_finite(tensors, design.name)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / MODEL) as temporary:
        temporary.write_bytes(save(tensors, {"format": "pt"}))  # save_file has an error of its own for a full disk
    config = {
        "schema": SCHEMA,
        "library": "phiscale",
        "version": VERSION,
        "design": design.to_dict(),
        "preprocess": preprocess.to_dict(),
        "labels": list(labels) if labels is not None else None,
        "output": (output or Output()).to_dict(),
        "sha256": sha256(folder / MODEL),
    }
    if labels is not None:
        write_text(folder / LABELS, labels_text(labels))
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    write_text(folder / CONFIG, text.encode("utf-8", "backslashreplace").decode())  # odd bytes of names as JSON escapes
    return folder


def load_folder(folder: str | Path) -> tuple[dict[str, Tensor], Design, Preprocess, tuple[str, ...] | None]:
    """State, design, preprocessing and labels of a folder that `save_model` wrote, checked wholly. WeightsError says what is wrong."""
    folder = Path(folder)
    config_path = folder / CONFIG
    config = _config(folder)
    if config.get("schema") != SCHEMA:
        raise WeightsError(f"{config_path}: schema must be {SCHEMA}, got {config.get('schema')!r}; written by a newer phiscale?")
    try:
        design, preprocess = Design.from_dict(config["design"]), Preprocess.from_dict(config["preprocess"])
    except SpecError as error:
        raise WeightsError(f"{config_path}: {error}") from None
    labels = config.get("labels")
    if labels is not None and (not isinstance(labels, list) or len(labels) != design.spec.num_classes):
        raise WeightsError(f"{config_path}: needs {design.spec.num_classes} labels, one a class")
    state = read_tensors(folder / MODEL)
    # no format of weights checks its own bytes
    if "sha256" in config and config["sha256"] != sha256(folder / MODEL):
        raise WeightsError(f"{folder / MODEL} was changed or damaged after it was saved: its checksum is not the one in {CONFIG}")
    if differs := difference({key: tuple(value.shape) for key, value in state.items()}, design.spec):
        raise WeightsError(f"{folder / MODEL} is not the network of {CONFIG}: {differs}")
    check_finite(state, str(folder / MODEL))
    state = {key: state[key] for key in layout(design.spec)}
    return state, design, preprocess, tuple(str(label) for label in labels) if labels is not None else None


def load_output(folder: str | Path) -> Output:
    """What becomes of the logits of a folder that `save_model` wrote. WeightsError says what is wrong."""
    try:
        return Output.from_dict(_config(Path(folder)).get("output", {}))
    except SpecError as error:
        raise WeightsError(f"{Path(folder) / CONFIG}: {error}") from None


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / CONFIG
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} is no folder of a saved model: can't read {CONFIG} ({error})") from None
    if not isinstance(config, Mapping) or "design" not in config or "preprocess" not in config:
        raise WeightsError(f"{path} was not written by phiscale: it needs `design` and `preprocess`")
    return config


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def labels_text(labels: Sequence[str]) -> str:
    """One label a line; a label with line breaks, surrounding space or a leading quote is written as a JSON string."""
    odd = [not label or label != label.strip() or label.startswith('"') or not label.isprintable() for label in labels]
    return "".join((json.dumps(label) if o else label) + "\n" for label, o in zip(labels, odd, strict=True))
