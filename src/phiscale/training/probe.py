"""A linear probe: the best linear classifier on frozen features, by a convex fit that ends."""

import torch
import torch.nn.functional as F
from torch import Tensor

from phiscale.training.objective import loss_of
from phiscale.training.recipe import Loss

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)  # L2 on the weights of the standardised features
MAX_IMAGES = 20_000  # of which the fit is made; more changes the probe little and costs memory


def fit_probe(features: Tensor, labels: Tensor, num_classes: int, *, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Weight (num_classes, width) and bias of softmax regression on features (n, width), standardised inside; L-BFGS.

    Of several labels an image (0 and 1, (n, num_classes)): a logistic regression each class.

    The L2 decay is the one of `DECAYS` whose fit on four fifths of the images has the lowest loss on the last fifth.
    """
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:MAX_IMAGES]
    features, labels = features[order], labels[order]
    held = max(1, len(features) // 5)
    losses: list[float] = []
    for decay in DECAYS:
        weight, bias = _fit(features[held:], labels[held:], num_classes, label_smoothing, decay)
        losses.append(probe_loss(F.linear(features[:held], weight, bias), labels[:held]).item())
    return _fit(features, labels, num_classes, label_smoothing, DECAYS[losses.index(min(losses))])


def probe_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean over images; of several labels, summed over the classes."""
    part = Loss(name="bce" if labels.ndim == 2 else "softmax", label_smoothing=label_smoothing)
    return loss_of(logits, labels, part) * (logits.shape[1] if labels.ndim == 2 else 1)


def _fit(features: Tensor, labels: Tensor, num_classes: int, label_smoothing: float, decay: float) -> tuple[Tensor, Tensor]:
    mean, std = features.mean(0), features.std(0, correction=0) + 1e-3
    x = (features - mean) / std
    weight = torch.zeros(num_classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = probe_loss(F.linear(x, weight, bias), labels, label_smoothing) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        folded = weight / std
        return folded, bias - folded @ mean
