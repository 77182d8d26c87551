"""What a study was made for: everything that two workers must agree on before they may share it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from phiscale.architecture import Coefficients, Design, scale
from phiscale.cost import cost
from phiscale.errors import ArgumentError, RunError
from phiscale.search.feasible import Candidate
from phiscale.version import VERSION

PRUNERS = ("halving", "hyperband", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A study's question and how it is answered; `difference` of two must be empty for one to join the other.

    images      what the objective trains on: source (a note, not compared), fingerprint, classes, counts
    recipe      the objective's own settings, as plain values
    epochs      of a run that is not pruned
    finalists   how many of the best points are trained again, each with so many `seeds` that the first round never saw
    asked       ratio, tolerance, grid and limits, as a person would write them
    """

    baseline: Design
    images: Mapping[str, Any] = field(default_factory=dict[str, Any])
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    asked: Mapping[str, Any] = field(default_factory=dict[str, Any])
    epochs: int = 9
    pruner: str = "halving"
    finalists: int = 4
    seeds: int = 3
    seed: int = 0
    version: str = VERSION

    def __post_init__(self) -> None:
        for name, low, high in (("epochs", 1, 10_000), ("finalists", 1, 1000), ("seeds", 1, 1000), ("seed", 0, 2**31)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ArgumentError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
        if self.pruner not in PRUNERS:
            raise ArgumentError(f"pruner must be one of {', '.join(PRUNERS)}; got {self.pruner!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them back equal."""
        return {name: getattr(self, name) for name in _PLAIN} | {"baseline": self.baseline.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Setup":
        return cls(**{name: values[name] for name in _PLAIN}, baseline=Design.from_dict(values["baseline"]))

    def difference(self, other: "Setup") -> list[str]:
        """One sentence part for each thing that is not the same; `self` is the study's, `other` the newcomer's."""
        mine, theirs = dict(_flat(self.to_dict())), dict(_flat(other.to_dict()))
        names = [name for name in (*mine, *(set(theirs) - set(mine))) if mine.get(name) != theirs.get(name) and name != "images.source"]
        if any(name.startswith("baseline.") for name in names):  # a network has a hundred fields: its name says enough, where it differs
            own, new = self.baseline.name, other.baseline.name
            first = next(name for name in names if name.startswith("baseline."))
            said = f"{own} at {self.baseline.resolution} px, here {new} at {other.baseline.resolution} px"
            same = own == new and self.baseline.resolution == other.baseline.resolution
            names = [name for name in names if not name.startswith("baseline.")]
            extra = f" ({first.removeprefix('baseline.')}: {mine.get(first)!r}, here {theirs.get(first)!r})" if same else ""
            return [f"baseline: {said}{extra}", *(_pair(name, mine, theirs) for name in names)]
        return [_pair(name, mine, theirs) for name in names]


_PLAIN = ("version", "images", "recipe", "asked", "epochs", "pruner", "finalists", "seeds", "seed")


def _pair(name: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    return f"{name}: {mine.get(name, 'nothing')!r}, here {theirs.get(name, 'nothing')!r}"


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, Any]", value), f"{before}{name}.")
        else:
            yield before + name, list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value


def point_to_dict(point: Candidate) -> dict[str, Any]:
    """A point of the grid as the study keeps it: the feasible grid is decided once, by who makes the study."""
    return {
        "key": point.key,
        "coefficients": [point.coefficients.alpha, point.coefficients.beta, point.coefficients.gamma],
        "aliases": [list(triple) for triple in point.aliases],
        "ratio": point.ratio,
        "latency": point.latency,
        "cost": asdict(point.cost),
    }


def point_from_dict(baseline: Design, values: Mapping[str, Any]) -> Candidate:
    """The point again. RunError where this version's rounding makes another network of it than the study's."""
    coefficients = Coefficients(**dict(zip(("alpha", "beta", "gamma"), values["coefficients"], strict=True)))
    design = scale(baseline, phi=1, coefficients=coefficients)
    made = cost(design)
    if asdict(made) != dict(values["cost"]):
        raise RunError(f"the study's point {values['key']} costs other than this phiscale counts; join it with the version that made it")
    return Candidate(
        key=values["key"],
        coefficients=coefficients,
        aliases=tuple(tuple(triple) for triple in values["aliases"]),
        design=design,
        cost=made,
        ratio=values["ratio"],
        latency=values["latency"],
    )
