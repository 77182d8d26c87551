"""The loss of a training step, in one object: targets and their mixing, the loss's form, a teacher's share, adversaries.

What a step draws at random it draws from the step's seed, so that it is the same after a resume.
"""

from collections.abc import Callable, Sequence
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phiscale.architecture import Preprocess
from phiscale.errors import ArgumentError
from phiscale.nn import Network
from phiscale.training.adversary import attacked, plain, take_twins, twin_norms, use_twins
from phiscale.training.recipe import Loss, Mixing, Recipe

Teacher = Callable[[Tensor], Tensor]  # normalised images (B, 3, H, W), as the student gets them -> logits (B, classes)


class Objective:
    """What `recipe` asks of `network`; `objective(model, images, labels, indices, seed=…)` is one step's loss.

    counts    training images of each class
    targets   (training images, classes): shares of classes in place of each image's label: several at once, or a teacher's
    teacher   for recipe.loss.distill
    Puts what it needs into `network` (sampled dropout, norms for adversaries); `finish` takes it out again.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: Network,
        *,
        preprocess: Preprocess,
        counts: Sequence[int],
        targets: Tensor | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.recipe, self.network, self.preprocess, self.targets, self.teacher = recipe, network, preprocess, targets, teacher
        self.now = recipe
        if recipe.loss.distill and teacher is None:
            raise ArgumentError(f"the recipe learns from {recipe.loss.distill}, but no teacher was given")
        counts = counts if targets is None else targets.sum(0).tolist()
        self.weights = class_weights(counts) if recipe.loss.class_weights else None
        self.dropout = network.dropout
        if recipe.loss.dropout_samples > 1:
            network.dropout = SampledDropout(recipe.dropout, recipe.loss.dropout_samples)
        if recipe.adversary.iterations:
            twin_norms(network)

    def enter(self, epoch: float) -> Recipe:
        """Take up the recipe in force in an epoch, and give it back (see `Recipe.at`)."""
        self.now = self.recipe.at(epoch)
        self.network.dropout.p = self.now.dropout
        return self.now

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, indices: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """The step's loss, a scalar, and the logits (B, classes) of its images.

        model    the network, perhaps wrapped;   images   normalised (B, 3, H, W);   labels, indices   (B,), in the training split
        """
        random, part = Random(seed), self.recipe.loss
        classes = self.network.spec.num_classes
        targets = labels if self.targets is None else self.targets[indices.to(self.targets.device)].to(images.device)
        if self.now.mixing:
            images, targets = mixed(images, as_shares(targets, classes), self.now.mixing, random)
        taught = None
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher(images).float()
        if self.recipe.adversary.iterations:
            adversaries = attacked(self.network, images, labels, self.recipe.adversary, self.preprocess, random)
            use_twins(self.network, len(images))
            logits = model(torch.cat([images, adversaries]))
            use_twins(self.network, 0)
            targets, taught = torch.cat([targets, targets]), None if taught is None else torch.cat([taught, taught])
        else:
            logits = model(images)
        logits = logits.float()
        samples = len(logits) // len(targets)
        if samples > 1:
            targets, taught = targets.repeat(samples, *[1] * (targets.ndim - 1)), None if taught is None else taught.repeat(samples, 1)
        loss = loss_of(logits, targets, part, self.weights)
        if taught is not None:
            loss = (1 - part.distill_weight) * loss + part.distill_weight * distillation(logits, taught, part)
        return loss, logits.detach().view(samples, -1, classes).mean(0)[: len(images)]

    def plain(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state of the network while it is trained, as the plain network's."""
        return plain(state)

    def finish(self) -> None:
        """Make the network plain again."""
        self.network.dropout = self.dropout
        take_twins(self.network)


class SampledDropout(nn.Dropout):
    """In training `samples` dropouts of each image, one after another: (B, width) -> (samples * B, width).   Source: arXiv 1905.09788."""

    def __init__(self, p: float, samples: int) -> None:
        super().__init__(p)
        self.samples = samples

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the base class names it so)
        return super().forward(input.repeat(self.samples, 1)) if self.training else input


def class_weights(counts: Sequence[float]) -> Tensor:
    """images / (classes * images of the class): one in the mean over the images; a class without images gets 0.

    >>> class_weights([30, 10]).tolist()
    [0.6666666865348816, 2.0]
    """
    counted = torch.tensor(counts, dtype=torch.float64)
    weights = counted.sum() / (int((counted > 0).sum()) * counted)
    return torch.where(counted > 0, weights, 0.0).float()


def as_shares(targets: Tensor, classes: int) -> Tensor:
    """Labels (B,) -> one-hot float (B, classes); shares stay."""
    return F.one_hot(targets, classes).float() if targets.ndim == 1 else targets


def loss_of(logits: Tensor, targets: Tensor, part: Loss, weights: Tensor | None = None) -> Tensor:
    """Mean loss of logits (B, C) against labels (B,) or shares (B, C); `weights` (C,) multiply each class's term."""
    weights = None if weights is None else weights.to(logits.device)
    classes = logits.shape[1]
    match part.name:
        case "softmax" if not part.focal:
            if weights is not None:  # of labels torch would divide by the batch's weights, so that parts of a step would not add up
                targets = as_shares(targets, classes)
            return F.cross_entropy(logits, targets, weight=weights, label_smoothing=part.label_smoothing)
        case "softmax":
            shares = smoothed(as_shares(targets, classes), part.label_smoothing, 1 / classes)
            log_p = F.log_softmax(logits, 1)
            terms = -shares * (1 - log_p.exp()) ** part.focal * log_p
            return (terms if weights is None else terms * weights).sum(1).mean()
        case "bce":
            # of a single label the smoothing is spread over all classes; of several, each class is drawn towards a half
            shares = smoothed(as_shares(targets, classes), part.label_smoothing, 1 / classes if targets.ndim == 1 else 0.5)
            terms = F.binary_cross_entropy_with_logits(logits, shares, reduction="none")
            if part.focal:
                p = logits.sigmoid()
                terms = terms * (1 - p * shares - (1 - p) * (1 - shares)) ** part.focal
            return (terms if weights is None else terms * weights).mean()


def smoothed(shares: Tensor, smoothing: float, towards: float) -> Tensor:
    return shares * (1 - smoothing) + smoothing * towards


def distillation(logits: Tensor, taught: Tensor, part: Loss) -> Tensor:
    """How far the student's distribution is from the teacher's, at the temperature; times its square, which keeps the gradient's size."""
    t = part.temperature
    if part.name == "bce":
        return F.binary_cross_entropy_with_logits(logits / t, (taught / t).sigmoid()) * t**2
    return F.kl_div(F.log_softmax(logits / t, 1), F.log_softmax(taught / t, 1), log_target=True, reduction="batchmean") * t**2


def mixed(images: Tensor, targets: Tensor, mixing: Mixing, random: Random) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) and shares (B, C), mixed in pairs as `random` says; the given tensors stay as they are."""
    if random.random() >= mixing.probability:
        return images, targets
    cuts = mixing.cutmix > 0 and (mixing.mixup == 0 or random.random() < 0.5)
    alpha = mixing.cutmix if cuts else mixing.mixup
    own = random.betavariate(alpha, alpha)
    order = list(range(len(images)))
    random.shuffle(order)
    other = torch.tensor(order, device=images.device)
    if cuts:
        height, width = images.shape[2:]
        top, bottom, left, right = _box(height, width, 1 - own, random)
        images = images.clone()
        images[:, :, top:bottom, left:right] = images[other, :, top:bottom, left:right]
        own = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        own = max(own, 1 - own)  # the pairs are symmetric; so an image stays mostly itself
        images = torch.lerp(images[other], images, own)
    return images, torch.lerp(targets[other], targets, own)


def _box(height: int, width: int, share: float, random: Random) -> tuple[int, int, int, int]:
    """Rows and columns of a box of about `share` of the area around a random centre, cut at the borders."""
    y, x = random.randrange(height), random.randrange(width)
    half_height, half_width = round(height * share**0.5) // 2, round(width * share**0.5) // 2
    return max(0, y - half_height), min(height, y + half_height), max(0, x - half_width), min(width, x + half_width)
