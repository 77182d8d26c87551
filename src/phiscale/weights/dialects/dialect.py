"""What a dialect is: another project's names for the same modules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from phiscale.architecture import NetworkSpec
from phiscale.architecture.spec import Padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """The facts of a network that its keys and shapes don't show."""

    bn_eps: float
    padding: Padding

    def __str__(self) -> str:
        return f"batch norm epsilon {self.bn_eps:g}, {self.padding} padding"


TF = Numerics(bn_eps=1e-3, padding="same")
TORCH = Numerics(bn_eps=1e-5, padding="symmetric")


def numerics_of(spec: NetworkSpec) -> Numerics:
    return Numerics(bn_eps=spec.bn_eps, padding=spec.padding)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Names of one project.

    modules    our module path -> theirs, for every module of the spec that has parameters
    mark       whether a set of keys is written in this dialect
    numerics   what the project's code always uses for this network; None where its files exist in several numerics
    writes     whether phiscale writes it back
    """

    name: str
    mark: Callable[[frozenset[str]], bool]
    modules: Callable[[NetworkSpec], Mapping[str, str]]
    numerics: Callable[[NetworkSpec], Numerics | None]
    leaves: Literal["torch", "tf", "keras"] = "torch"
    writes: bool = False
