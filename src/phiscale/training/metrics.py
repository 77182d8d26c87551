"""What a classifier got right, from its logits."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Fractions over `n` images; `logits` (n, classes) and `labels` (n,) are the table behind them, in the split's order."""

    top1: float
    top5: float
    loss: float
    n: int
    logits: Tensor
    labels: Tensor


def scores(logits: Tensor, labels: Tensor) -> Scores:
    """top5 counts the best five, or all classes where there are fewer."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = ranked == labels[:, None]
    return Scores(
        top1=hits[:, 0].double().mean().item(),
        top5=hits.any(1).double().mean().item(),
        loss=F.cross_entropy(logits.double(), labels).item(),
        n=len(labels),
        logits=logits,
        labels=labels,
    )
