"""Key names of other projects, both ways. One small file a project; the maps follow the plan, never the order of keys.

Comes in: a state_dict under somebody's names, a spec.  Goes out: a state_dict under `layout(spec)`, or under theirs.
Never: reads files; guesses numerics.  Start reading: dialect.py, then efficientnet_pytorch.py. To add one: CONTRIBUTING.md.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from phiscale.architecture import NetworkSpec
from phiscale.architecture.catalog import rows
from phiscale.architecture.layout import Shape, layout
from phiscale.errors import ArgumentError, WeightsError
from phiscale.weights.dialects import (
    efficientnet_pytorch,
    keras,
    keras_counted,
    mmpretrain,
    phiscale,
    pycls,
    resnet,
    tensorflow,
    timm,
    torchvision,
    torchvision_mobile,
)
from phiscale.weights.dialects.dialect import Dialect, body, names_of, numerics_of, shape_of

__all__ = [
    "DIALECTS",
    "Dialect",
    "as_filed",
    "body",
    "key_map",
    "names_of",
    "numerics_of",
    "recognise",
    "to_dialect",
    "to_own",
]

MIXED = 5  # axes of a convolution's weights that are mixed from experts
_FILES = (phiscale, efficientnet_pytorch, timm, torchvision, resnet, pycls, mmpretrain, tensorflow, keras, keras_counted)
DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect for dialect in (*(file.DIALECT for file in _FILES), torchvision_mobile.MOBILENET_V2, torchvision_mobile.MNASNET)
}


def recognise(keys: frozenset[str]) -> Dialect:
    """The dialect that `keys` are written in. WeightsError, with the first keys, where it is none of those known."""
    for dialect in DIALECTS.values():
        if dialect.mark(keys):
            return dialect
    first = ", ".join(sorted(keys)[:3]) or "none at all"
    raise WeightsError(f"the names of these weights are of no project that phiscale knows (keys: {first} …); known: {', '.join(DIALECTS)}")


def key_map(spec: NetworkSpec, dialect: Dialect) -> dict[str, str | None]:
    """Our key -> theirs (None where they have no such tensor), for every entry of `layout(spec)`.

    ArgumentError where the project has no name for a part of this network.
    """
    modules, leaves = dialect.modules(spec), dialect.leaves
    keys: dict[str, str | None] = {}
    for own in layout(spec):
        module, _, leaf = own.rpartition(".")
        if module not in modules:
            raise ArgumentError(f"{dialect.name} has no name for {module}; it has no such network")
        theirs = leaves.name(module, leaf)
        keys[own] = None if theirs is None else f"{modules[module]}{leaves.joint}{theirs}"
    return keys


def as_filed(state: Mapping[str, Tensor], spec: NetworkSpec, dialect: Dialect) -> NetworkSpec:
    """`spec` with the number of classes and input channels that the (clean) file has."""
    modules, leaves = dialect.modules(spec), dialect.leaves

    def tensor(module: str) -> Tensor | None:
        found = state.get(f"{modules[module]}{leaves.joint}{leaves.name(module, 'weight')}")
        return None if found is None else leaves.read(f"{module}.weight", found)

    classifier, stem = tensor("classifier"), tensor("stem.0.conv")
    classes = classifier.shape[0] if classifier is not None and classifier.ndim == 2 else 0
    return spec.with_classes(classes, stem.shape[1] if stem is not None and stem.ndim == 4 else spec.in_channels)


def to_own(state: Mapping[str, Tensor], spec: NetworkSpec, dialect: Dialect) -> dict[str, Tensor]:
    """A clean `state` under phiscale's names, in the order of `layout(spec)`, checked wholly; tensors are shared where they can be.

    `num_batches_tracked` may be missing (old files). WeightsError names the first keys that differ on both sides, and the
    network that the file looks like.
    """
    try:
        keys = key_map(spec, dialect)
    except ArgumentError as error:
        raise WeightsError(f"these weights have {dialect.name} names, but {error}{_looks_like(state, dialect)}") from None
    shapes = layout(spec)
    own = {ours: dialect.leaves.read(ours, state[theirs]) for ours, theirs in keys.items() if theirs is not None and theirs in state}
    for ours, value in own.items():
        if len(shapes[ours]) == MIXED and value.ndim == 2 and value.numel() == math.prod(shapes[ours]):
            own[ours] = value.reshape(shapes[ours])  # mixed convolutions are kept flat, one row an expert
    counters = [ours for ours in keys if ours.endswith("num_batches_tracked")]
    missing = [theirs for ours, theirs in keys.items() if theirs is not None and ours not in own and ours not in counters]
    taken = set(keys.values())
    extra = [key for key in state if key not in taken]
    wrong = [f"{keys[ours]} is {shape_of(own[ours])}, expected {shapes[ours]}" for ours in own if shape_of(own[ours]) != shapes[ours]]
    said = [
        f"{len(missing)} keys are missing, e.g. {missing[0]}" if missing else "",
        f"{len(extra)} keys have no place, e.g. {extra[0]}" if extra else "",
        f"{len(wrong)} shapes differ, e.g. {wrong[0]}" if wrong else "",
    ]
    if any(said):
        differs = "; ".join(part for part in said if part)
        raise WeightsError(f"these weights ({dialect.name} names) are not of this network: {differs}{_looks_like(state, dialect)}")
    return {ours: own[ours] if ours in own else torch.zeros((), dtype=torch.int64) for ours in keys}


def _looks_like(state: Mapping[str, Tensor], dialect: Dialect) -> str:
    """What network the file is of, or is nearest to, as the end of a message."""
    best, score = "", 0.5
    shapes = {key: shape_of(value) for key, value in state.items() if value.ndim > 1}
    for row in rows().values():
        try:
            keys = key_map(as_filed(state, row.design.spec, dialect), dialect)
        except ArgumentError:
            continue
        theirs: dict[str, Shape] = {
            key: shape for own, shape in layout(as_filed(state, row.design.spec, dialect)).items() if len(shape) > 1 and (key := keys[own])
        }
        # shapes of other layouts (HWIO) are compared by what they hold
        agree = sum(1 for key, shape in theirs.items() if sorted(shapes.get(key, ())) == sorted(shape))
        share = agree / max(len(theirs), len(shapes), 1)
        if share > score:
            best, score = row.name, share
    if not best:
        return ""
    return f"; they are of {best}" if score == 1 else f"; did you mean {best}? ({score:.0%} of its tensors have these shapes)"


def to_dialect(state: Mapping[str, Tensor], spec: NetworkSpec, name: str) -> dict[str, Tensor]:
    """`state` (phiscale's names) under the names of project `name`, ready for its load_state_dict; tensors are shared.

    ArgumentError where the project has no such network, or phiscale doesn't write its names.
    """
    written = [dialect.name for dialect in DIALECTS.values() if dialect.writes]
    if name not in written:
        raise ArgumentError(f"can't write the names of {name!r}; possible: {', '.join(written)}")
    dialect = DIALECTS[name]
    names = key_map(spec, dialect)
    flat = {own: value.flatten(1) if value.ndim == MIXED else value for own, value in state.items()}
    return {theirs: dialect.leaves.write(own, flat[own]) for own, theirs in names.items() if theirs is not None}
