"""AdvProp: adversaries of a batch, and the batch norms of their own that keep their statistics apart.   Source: arXiv 1911.09665."""

import copy
from collections.abc import Mapping
from random import Random
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phiscale.architecture import Preprocess
from phiscale.nn import Network
from phiscale.training.recipe import Adversary

AUXILIARY = "auxiliary"


class TwinNorm(nn.BatchNorm2d):
    """A batch norm through which the last `adversaries` images of a batch take `auxiliary` instead. Made by `twin_norms`, never built."""

    auxiliary: nn.BatchNorm2d
    adversaries: int

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the base class names it so)
        clean = len(input) - self.adversaries
        if clean == len(input):
            return super().forward(input)
        if clean <= 0:
            return self.auxiliary(input)
        return torch.cat([super().forward(input[:clean]), self.auxiliary(input[clean:])])


def twin_norms(network: nn.Module) -> None:
    """Give every batch norm an auxiliary one that starts as its copy."""
    for norm in [part for part in network.modules() if type(part) is nn.BatchNorm2d]:
        auxiliary = copy.deepcopy(norm)
        twin = cast(TwinNorm, norm)
        twin.__class__ = TwinNorm
        twin.auxiliary, twin.adversaries = auxiliary, 0


def use_twins(network: nn.Module, adversaries: int) -> None:
    """From now on the last so many images of each batch are adversaries."""
    for part in network.modules():
        if isinstance(part, TwinNorm):
            part.adversaries = adversaries


def take_twins(network: nn.Module) -> None:
    """Drop the auxiliary norms."""
    for part in list(network.modules()):
        if isinstance(part, TwinNorm):
            del part.auxiliary, part.adversaries
            part.__class__ = nn.BatchNorm2d  # pyright: ignore[reportAttributeAccessIssue]


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state without the auxiliary norms: the plain network's."""
    return {key: value for key, value in state.items() if f".{AUXILIARY}." not in key}


def attacked(network: Network, images: Tensor, labels: Tensor, how: Adversary, preprocess: Preprocess, random: Random) -> Tensor:
    """Images moved so that `network`, through its auxiliary norms, takes them for a random other class; like `images`, normalised.

    The gradients of the network's own parameters stay as they are.
    """
    classes = network.spec.num_classes
    scale = torch.tensor(preprocess.std, device=images.device).mul(255).reciprocal()[:, None, None]  # one 255th, normalised
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (preprocess.mean, preprocess.std))
    reach = how.epsilon * scale
    low, high = torch.maximum(images - reach, -mean / std), torch.minimum(images + reach, (1 - mean) / std)
    generator = torch.Generator().manual_seed(random.getrandbits(63))
    wrong = (labels + torch.randint(1, max(2, classes), labels.shape, generator=generator).to(labels.device)) % classes
    noise = torch.rand(images.shape, generator=generator).to(images.device).mul_(2).sub_(1)
    moved = (images + noise * reach).detach()
    step = max(how.step, how.epsilon / how.iterations) * scale
    training = network.training
    network.eval()
    use_twins(network, len(images))
    for _ in range(how.iterations):
        moved.requires_grad_(True)
        loss = F.cross_entropy(network(moved).float(), wrong)
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = torch.clamp(moved.detach() - gradient.sign() * step, low, high)
    use_twins(network, 0)
    network.train(training)
    return moved.contiguous(memory_format=torch.channels_last)
