"""What a dialect is: another project's names for the same modules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from phiscale.architecture import NetworkSpec
from phiscale.architecture.catalog import rows
from phiscale.architecture.layout import Shape
from phiscale.weights.numerics import Numerics


def numerics_of(spec: NetworkSpec) -> Numerics:
    return Numerics(bn_eps=spec.bn_eps, padding=spec.padding)


def body(spec: NetworkSpec) -> NetworkSpec:
    """What must agree for weights to fit: all but classifier, input channels and numerics."""
    return replace(spec, num_classes=0, in_channels=3, bn_eps=1e-3, padding="same")


def names_of(spec: NetworkSpec) -> tuple[str, ...]:
    """The published names of this network, whatever its classifier and numerics."""
    wanted = body(spec)
    return tuple(row.name for row in rows().values() if body(row.design.spec) == wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaves:
    """How a project names and lays out the tensors of one module.

    name   (our module, our leaf) -> their leaf; None where they have none (num_batches_tracked outside torch)
    read   (our key, their tensor) -> ours
    write  (our key, our tensor) -> theirs
    joint  what stands between module and leaf
    """

    name: Callable[[str, str], str | None]
    read: Callable[[str, Tensor], Tensor]
    write: Callable[[str, Tensor], Tensor]
    joint: str = "."


TORCH_LEAVES = Leaves(name=lambda _, leaf: leaf, read=lambda _, tensor: tensor, write=lambda _, tensor: tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Names of one project.

    mark       whether a set of keys is written in this dialect
    modules    our module path -> theirs, for every module of the spec that has parameters (more does no harm)
    numerics   what the project always computes with for this network; None where its files exist in several numerics
    could_be   where numerics is None: what to say the file could be
    clean      a file's keys and tensors -> those of the network, without optimiser slots and the like
    writes     whether phiscale writes it back
    """

    name: str
    mark: Callable[[frozenset[str]], bool]
    modules: Callable[[NetworkSpec], Mapping[str, str]]
    numerics: Callable[[NetworkSpec], Numerics | None]
    could_be: Callable[[NetworkSpec], str] = lambda _: "several projects' models"
    leaves: Leaves = TORCH_LEAVES
    clean: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state
    writes: bool = False


def is_depthwise(key: str) -> bool:
    return key.endswith(".depthwise.conv.weight")


# TF and Keras: the last two axes of a kernel are input and output channels (depthwise: channels and 1), dense is (in, out)
_TF_LEAVES = {
    "bn.weight": "gamma",
    "bn.bias": "beta",
    "bn.running_mean": "moving_mean",
    "bn.running_var": "moving_variance",
}


def tf_leaf(module: str, leaf: str) -> str | None:
    if leaf == "num_batches_tracked":
        return None
    if module.endswith("bn"):
        return _TF_LEAVES[f"bn.{leaf}"]
    return "kernel" if leaf == "weight" else leaf


def from_hwio(key: str, tensor: Tensor) -> Tensor:
    """TF kernel -> torch's: HWIO -> OIHW, depthwise HWC1 -> C1HW, dense (in, out) -> (out, in)."""
    match tensor.ndim:
        case 4:
            return tensor.permute(2, 3, 0, 1) if is_depthwise(key) else tensor.permute(3, 2, 0, 1)
        case 2:
            return tensor.T
        case _:
            return tensor


def to_hwio(key: str, tensor: Tensor) -> Tensor:
    """The inverse of `from_hwio`."""
    match tensor.ndim:
        case 4:
            return tensor.permute(2, 3, 0, 1) if is_depthwise(key) else tensor.permute(2, 3, 1, 0)
        case 2:
            return tensor.T
        case _:
            return tensor


def shape_of(tensor: Tensor) -> Shape:
    return tuple(tensor.shape)
