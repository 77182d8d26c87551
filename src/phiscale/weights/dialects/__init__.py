"""Key names of other projects, both ways. One small file a project; the maps follow the plan, never the order of keys.

Comes in: a state_dict under somebody's names, a spec.  Goes out: a state_dict under `layout(spec)`, or under theirs.
Never: reads files; guesses numerics.  Start reading: dialect.py, then efficientnet_pytorch.py. To add one: CONTRIBUTING.md.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from phiscale.architecture import NetworkSpec
from phiscale.architecture.layout import layout
from phiscale.errors import ArgumentError, WeightsError
from phiscale.weights.dialects import efficientnet_pytorch, phiscale
from phiscale.weights.dialects.dialect import TF, TORCH, Dialect, Numerics, numerics_of

__all__ = ["DIALECTS", "TF", "TORCH", "Dialect", "Numerics", "key_map", "numerics_of", "recognise", "to_dialect", "to_own"]

DIALECTS: Mapping[str, Dialect] = {file.DIALECT.name: file.DIALECT for file in (phiscale, efficientnet_pytorch)}


def recognise(keys: frozenset[str]) -> Dialect:
    """The dialect that `keys` are written in. WeightsError, with the first keys, where it is none of those known."""
    for dialect in DIALECTS.values():
        if dialect.mark(keys):
            return dialect
    first = ", ".join(sorted(keys)[:3]) or "none at all"
    raise WeightsError(f"the names of these weights are of no project that phiscale knows (keys: {first} …); known: {', '.join(DIALECTS)}")


def key_map(spec: NetworkSpec, dialect: Dialect) -> dict[str, str]:
    """Our key -> theirs, for every entry of `layout(spec)`. ArgumentError where the project has no name for a part."""
    modules = dialect.modules(spec)
    keys: dict[str, str] = {}
    for own in layout(spec):
        module, _, leaf = own.rpartition(".")
        if module not in modules:
            raise ArgumentError(f"{dialect.name} has no name for {module}; this network can't be written in its names")
        keys[own] = f"{modules[module]}.{leaf}"
    return keys


def to_own(state: Mapping[str, Tensor], spec: NetworkSpec, dialect: Dialect) -> dict[str, Tensor]:
    """`state` under phiscale's names, in the order of `layout(spec)`, checked wholly; tensors are shared, not copied.

    `num_batches_tracked` may be missing (old files). WeightsError names the first keys that differ on both sides.
    """
    keys = key_map(spec, dialect)
    counters = {theirs for own, theirs in keys.items() if own.endswith("num_batches_tracked")}
    missing = [theirs for theirs in keys.values() if theirs not in state and theirs not in counters]
    taken = set(keys.values())
    extra = [key for key in state if key not in taken]
    wrong = [
        f"{keys[own]} is {tuple(state[keys[own]].shape)}, expected {shape}"
        for own, shape in layout(spec).items()
        if keys[own] in state and tuple(state[keys[own]].shape) != shape
    ]
    said = [
        f"{len(missing)} keys are missing, e.g. {missing[0]}" if missing else "",
        f"{len(extra)} keys have no place, e.g. {extra[0]}" if extra else "",
        f"{len(wrong)} shapes differ, e.g. {wrong[0]}" if wrong else "",
    ]
    if any(said):
        raise WeightsError(f"these weights ({dialect.name} names) are not of this network: {'; '.join(s for s in said if s)}")
    return {own: state[theirs] if theirs in state else torch.zeros((), dtype=torch.int64) for own, theirs in keys.items()}


def to_dialect(state: Mapping[str, Tensor], spec: NetworkSpec, name: str) -> dict[str, Tensor]:
    """`state` (phiscale's names) under the names of project `name`, ready for its load_state_dict; tensors are shared."""
    written = [dialect.name for dialect in DIALECTS.values() if dialect.writes]
    if name not in written:
        raise ArgumentError(f"can't write the names of {name!r}; possible: {', '.join(written)}")
    return {theirs: state[own] for own, theirs in key_map(spec, DIALECTS[name]).items()}
