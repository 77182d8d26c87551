"""What a classifier got right, from its logits; how honest its confidence is, and the temperature that makes it so.

Labels are class numbers (n,), or float 0 and 1 (n, classes) where an image may have several of them, or none ("multi-label").
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from phiscale.architecture import Output

BINS = 15  # of confidence, equal width: arXiv 1706.04599, section 5
COOLEST, HOTTEST = 0.1, 10.0  # temperatures


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyScores:
    """Multi-label figures, fractions. A class without a single image counts in none of the means over classes.

    mean_ap    mean over classes of the average precision: the area under precision over recall, by steps
    micro_f1   of all (image, class) decisions at the threshold;   macro_f1   the mean over classes
    exact      share of images whose labels are all as said, and no other
    """

    mean_ap: float
    micro_f1: float
    macro_f1: float
    exact: float
    average_precision: tuple[float | None, ...]  # of each class


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Fractions over `n` images; `logits` (n, classes) and `labels` are the table behind them, in the split's order.

    top1   the likeliest class is the image's (multi-label: one of the image's);   top5   one of the five likeliest is
    loss   mean cross-entropy of the logits as they are (multi-label: mean over images and classes of the binary one)
    """

    top1: float
    top5: float
    loss: float
    n: int
    logits: Tensor
    labels: Tensor
    many: ManyScores | None = None

    @property
    def merit(self) -> float:
        """What the best epoch is chosen by: top-1, of several labels the mean average precision."""
        return self.top1 if self.many is None else self.many.mean_ap

    @property
    def headline(self) -> str:
        """`merit` in words."""
        return f"top-1 {self.top1:.1%}" if self.many is None else f"mean average precision {self.many.mean_ap:.1%}"

    def probabilities(self, output: Output) -> Tensor:
        """(n, classes), float64."""
        return probabilities(self.logits, output)


def scores(logits: Tensor, labels: Tensor, output: Output | None = None) -> Scores:
    """top5 counts the best five, or all classes where there are fewer. `output`: whose threshold decides, in place of one half."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = correct(ranked, labels)
    many = labels.ndim == 2
    return Scores(
        top1=hits[:, 0].double().mean().item(),
        top5=hits.any(1).double().mean().item(),
        loss=_loss(logits, labels).item(),
        n=len(labels),
        logits=logits,
        labels=labels,
        many=many_scores(logits, labels, output or Output(multi_label=True)) if many else None,
    )


def correct(said: Tensor, labels: Tensor) -> Tensor:
    """Whether each class number in `said` (n, k) is a label of its image: bool (n, k)."""
    return said == labels[:, None] if labels.ndim == 1 else labels.gather(1, said) > 0.5


def probabilities(logits: Tensor, output: Output) -> Tensor:
    """As `runtime.predictor.probabilities`, in torch."""
    scaled = logits.double() / output.temperature
    return scaled.sigmoid() if output.multi_label else scaled.softmax(1)


def many_scores(logits: Tensor, labels: Tensor, output: Output) -> ManyScores:
    """Multi-label figures of logits and labels (n, classes)."""
    true, said = labels > 0.5, probabilities(logits, output) >= output.threshold
    precision = average_precision(logits, true)
    seen = [value for value in precision if value is not None]
    both, of_both = (said & true).sum(0).double(), (said.sum(0) + true.sum(0)).double()
    present = true.any(0)
    return ManyScores(
        mean_ap=sum(seen) / len(seen) if seen else 0.0,
        micro_f1=(2 * both.sum() / of_both.sum()).item() if of_both.sum() else 0.0,
        macro_f1=(2 * both / of_both.clamp_min(1))[present].mean().item() if present.any() else 0.0,
        exact=(said == true).all(1).double().mean().item(),
        average_precision=precision,
    )


def average_precision(logits: Tensor, true: Tensor) -> tuple[float | None, ...]:
    """Of each class, sum over its images of precision at their rank; images with equal logits share a rank. None without images.

    As scikit-learn's `average_precision_score`. torchmetrics has it too, and takes seconds to import.
    """
    out: list[float | None] = []
    for column, answers in zip(logits.T.double(), true.T, strict=True):
        if not answers.any():
            out.append(None)
            continue
        order = column.argsort(descending=True)
        column, hits = column[order], answers[order].double().cumsum(0)
        last = torch.cat([column[1:] != column[:-1], torch.ones(1, dtype=torch.bool)])  # of each group of equal logits
        hits, seen = hits[last], (torch.nonzero(last)[:, 0] + 1).double()
        gained = torch.diff(hits, prepend=torch.zeros(1, dtype=torch.double))
        out.append(((hits / seen) * gained).sum().item() / hits[-1].item())
    return tuple(out)


def calibration_error(scored: Scores, output: Output | None = None, bins: int = BINS) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over `bins` equal bins (arXiv 1706.04599).

    Of several labels: of every class's probability and how often it is there.
    """
    output = output or Output(multi_label=scored.labels.ndim == 2)
    certain = scored.probabilities(output)
    if output.multi_label:
        confidence, hit = certain.flatten(), (scored.labels > 0.5).double().flatten()
    else:
        confidence, predicted = certain.max(1)
        hit = (predicted == scored.labels).double()
    number = (confidence * bins).ceil().clamp(1, bins).long() - 1  # (low, high]
    ones = torch.ones_like(confidence)
    held, sure, hits = (torch.zeros(bins, dtype=torch.double).index_add_(0, number, values) for values in (ones, confidence, hit))
    return ((sure - hits).abs().sum() / held.sum()).item()


def calibrated_loss(scored: Scores, output: Output) -> float:
    """`Scores.loss` at the output's temperature."""
    return _loss(scored.logits.double() / output.temperature, scored.labels).item()


def fit_temperature(scored: Scores) -> float:
    """The temperature at which the loss of `scored` is least, from `COOLEST` to `HOTTEST`; at best of images that chose nothing else.

    Few images that are all right would ask for a temperature of 0; so, as Platt did, one image's worth of doubt is added:
    the right answer counts (n + 1) / (n + 2). Sources: arXiv 1706.04599, section 4.2; Platt, 1999, section 2.2.
    """
    logits, labels = scored.logits.double(), scored.labels
    if not scored.n:
        return 1.0
    multi_label = labels.ndim == 2
    if multi_label:
        there = labels.sum().item()
        not_there = labels.numel() - there
        targets = torch.where(labels > 0.5, (there + 1) / (there + 2), 1 / (not_there + 2)).double()
    else:
        doubt = 1 / (scored.n + 2)
        targets = torch.full_like(logits, doubt / max(1, logits.shape[1] - 1)).scatter_(1, labels[:, None], 1 - doubt)
    low, high = 1 / HOTTEST, 1 / COOLEST  # of the factor 1 / temperature, in which the loss is convex
    for _ in range(60):
        factor = (low * high) ** 0.5
        at = probabilities(logits * factor, Output(multi_label=multi_label))
        if ((at - targets) * logits).sum() > 0:  # the loss grows with the factor
            high = factor
        else:
            low = factor
    return round(1 / (low * high) ** 0.5, 6)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits.double(), labels.double())
    return F.cross_entropy(logits.double(), labels)
