"""What predictions amount to: accuracy with its interval, per class, confusions, calibration."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from phiscale.report.folder import Prediction

BINS = 15  # of confidence, equal width: Guo et al., arXiv 1706.04599, section 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class: support is how many images are of it, named how many were said to be. None where nothing can be divided."""

    label: str
    support: int
    named: int
    right: int

    @property
    def precision(self) -> float | None:
        return self.right / self.named if self.named else None

    @property
    def recall(self) -> float | None:
        return self.right / self.support if self.support else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Predictions whose confidence lies in (low, high]."""

    low: float
    high: float
    n: int
    accuracy: float
    confidence: float  # mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Counted from predictions alone, so that a report checks what the run says of itself."""

    n: int
    right: int
    classes: tuple[ClassScore, ...]
    confusions: tuple[tuple[str, str, int], ...]  # (label, predicted, images), most frequent first, right ones left out
    bins: tuple[Bin, ...]  # without empty ones
    ece: float | None  # expected calibration error, a fraction
    confidence: float | None  # mean

    @property
    def top1(self) -> float:
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.n)


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share, as fractions (Wilson 1927); holds for few images and near 100 %.

    >>> [round(side, 3) for side in wilson(146, 153)]
    [0.909, 0.978]
    """
    share, spread = right / n, z * z / n
    middle, half = share + spread / 2, z * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def scores(predictions: Sequence[Prediction], labels: Sequence[str] = ()) -> Scores | None:
    """Count `predictions` (of one split); classes in the order of `labels`, then as met. None without predictions."""
    if not predictions:
        return None
    support = Counter(row.label for row in predictions)
    named = Counter(row.predicted for row in predictions)
    pairs = Counter((row.label, row.predicted) for row in predictions)
    names = dict.fromkeys([*labels, *support, *named])
    wrong = [(label, predicted, count) for (label, predicted), count in pairs.items() if label != predicted]
    sure = [row for row in predictions if not math.isnan(row.confidence)]
    bins = _bins(sure)
    return Scores(
        n=len(predictions),
        right=sum(count for (label, predicted), count in pairs.items() if label == predicted),
        classes=tuple(ClassScore(label=name, support=support[name], named=named[name], right=pairs[name, name]) for name in names),
        confusions=tuple(sorted(wrong, key=lambda pair: (-pair[2], pair[0], pair[1]))),
        bins=bins,
        ece=sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / len(sure) if sure else None,
        confidence=sum(row.confidence for row in sure) / len(sure) if sure else None,
    )


def _bins(sure: Sequence[Prediction]) -> tuple[Bin, ...]:
    held: dict[int, list[Prediction]] = {}
    for row in sure:
        held.setdefault(min(BINS - 1, max(0, math.ceil(row.confidence * BINS) - 1)), []).append(row)
    return tuple(
        Bin(
            low=number / BINS,
            high=(number + 1) / BINS,
            n=len(rows),
            accuracy=sum(row.label == row.predicted for row in rows) / len(rows),
            confidence=sum(row.confidence for row in rows) / len(rows),
        )
        for number, rows in sorted(held.items())
    )
