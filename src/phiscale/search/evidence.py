"""What a study's figures allow one to say: the winner, what can't be told apart from it, and the response surface."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
DRAWS = 20_000

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A finalist: mean top-1 of its `n` seeds, their standard deviation, how far below the winner, and how far would mean something.

    behind   the winner's mean less its own
    margin   a difference up to here is within chance, at 95 %, for all finalists together; None: too little was run to say
    """

    key: str
    mean: float
    sd: float | None
    n: int
    behind: float
    margin: float | None

    @property
    def told_apart(self) -> bool:
        """Whether it is worse than the winner by more than chance."""
        return self.margin is not None and self.behind > self.margin


def standings(values: Mapping[str, Sequence[float]], hits: Mapping[str, Sequence[NDArray[np.bool_]]] | None = None) -> tuple[Standing, ...]:
    """Finalists from the best down, by what each of their seeds scored (fractions).

    hits: which validation images each seed got right; with them, the margin counts that other images would have given other figures.
    The margin is Tukey and Kramer's, so that having picked the best of several is paid for: the 95th percentile of the studentised range
    (drawn, 20,000 times) times the standard error of a difference; the seeds' variance is pooled over the finalists.
    """
    means = {key: float(np.mean(scores)) for key, scores in values.items()}
    order = sorted(values, key=lambda key: -means[key])
    freedom = sum(len(scores) - 1 for scores in values.values())
    pooled = sum((len(s) - 1) * float(np.var(s, ddof=1)) for s in values.values() if len(s) > 1) / freedom if freedom else math.nan
    critical = _studentised_range(len(order), freedom) if freedom and len(order) > 1 else math.nan
    made: list[Standing] = []
    for key in order:
        best, scores = order[0], values[key]
        error = pooled * (1 / len(scores) + 1 / len(values[best]))
        if hits and hits.get(key) and hits.get(best):
            apart = np.mean(hits[best], axis=0) - np.mean(hits[key], axis=0)
            error += float(np.var(apart)) / len(apart)
        margin = critical * math.sqrt(error / 2)  # Tukey-Kramer: q / sqrt(2) standard errors
        made.append(
            Standing(
                key=key,
                mean=means[key],
                sd=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
                n=len(scores),
                behind=means[best] - means[key],
                margin=margin if math.isfinite(margin) else None,
            )
        )
    return tuple(made)


def better_than_guessing(top1: float, classes: int, images: int) -> bool:
    """Whether a top-1 on so many validation images is above 1 / classes by more than two standard errors; True where these aren't known.

    >>> better_than_guessing(0.4, 3, 60), better_than_guessing(0.5, 3, 60)
    (False, True)
    """
    if classes < 1 or images < 1:
        return True
    chance = 1 / classes
    return top1 > chance + 2 * math.sqrt(chance * (1 - chance) / images)


def _studentised_range(groups: int, freedom: int) -> float:
    """Its 95th percentile, by drawing."""
    draw = np.random.default_rng(0)
    means = draw.standard_normal((DRAWS, groups))
    spread = np.sqrt(draw.chisquare(freedom, DRAWS) / freedom)
    return float(np.quantile(np.ptp(means, axis=1) / spread, LEVEL))


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """Accuracy as a polynomial of (log d, log w, log r), by least squares.

    terms      name and coefficient of each column
    n, rank    points, and what they could determine (at a fixed cost the three logs are nearly dependent)
    error      root mean square of what is left when each point is predicted from all others
    explained  1 - error² / variance; 0 or less: the surface tells nothing
    """

    terms: tuple[tuple[str, float], ...]
    n: int
    rank: int
    error: float
    explained: float

    def at(self, d: float, w: float, r: float) -> float:
        """Predicted accuracy of a network d times as deep, w times as wide, at r times the resolution."""
        names, columns = _columns(np.log([[d, w, r]]), quadratic=len(self.terms) > 4)
        assert [name for name, _ in self.terms] == names
        return float(columns[0] @ [value for _, value in self.terms])


def surface(points: Sequence[tuple[float, float, float]], values: Sequence[float]) -> Surface | None:
    """The surface through (d, w, r) and accuracies: linear or quadratic, whichever predicts left-out points better. None below 6 points."""
    if len(points) < 6:
        return None
    logs, scores = np.log(np.asarray(points, float)), np.asarray(values, float)
    made = [_fitted(logs, scores, quadratic=False), _fitted(logs, scores, quadratic=True)]
    return min((one for one in made if one is not None), key=lambda one: one.error, default=None)


def _fitted(logs: Floats, scores: Floats, *, quadratic: bool) -> Surface | None:
    names, columns = _columns(logs, quadratic=quadratic)
    scale = np.linalg.norm(columns, axis=0)
    scale[scale == 0] = 1.0
    left, sizes, right = np.linalg.svd(columns / scale, full_matrices=False)
    rank = int((sizes > 1e-3 * sizes[0]).sum())  # directions that the constraint leaves are determined; others stay at zero
    if rank + 2 > len(scores):
        return None
    left, sizes, right = left[:, :rank], sizes[:rank], right[:rank]
    weights = (right.T @ ((left.T @ scores) / sizes)) / scale
    residual = scores - columns @ weights
    leverage = np.clip((left**2).sum(1), 0, 1 - 1e-9)
    error = math.sqrt(float(np.mean((residual / (1 - leverage)) ** 2)))
    variance = float(np.var(scores, ddof=1))
    explained = 1 - error**2 / variance if variance else 0.0
    terms = tuple(zip(names, map(float, weights), strict=True))
    return Surface(terms=terms, n=len(scores), rank=rank, error=error, explained=explained)


def _columns(logs: Floats, *, quadratic: bool) -> tuple[list[str], Floats]:
    names, columns = ["1"], [np.ones(len(logs))]
    axes = ("log d", "log w", "log r")
    for number, name in enumerate(axes):
        names.append(name)
        columns.append(logs[:, number])
    if quadratic:
        for i in range(3):
            for j in range(i, 3):
                names.append(f"{axes[i]} · {axes[j]}")
                columns.append(logs[:, i] * logs[:, j])
    return names, np.stack(columns, 1)
