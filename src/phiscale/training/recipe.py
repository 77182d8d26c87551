"""How to train, as a value. A recipe's docstring states command, hardware, time and result once it was run."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from phiscale.architecture.spec import build
from phiscale.data.transform import Augment
from phiscale.errors import ArgumentError


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a training but the network, the images and the seed.

    optimizer      sgd: with Nesterov momentum; adamw: decoupled weight decay, betas (momentum, 0.999)
    learning_rate  of the classifier at its highest; the body learns at body_rate times that
    warmup         share of all steps in which the rate rises; then it falls along a cosine to zero (one cycle)
    probe          start from a linear probe on frozen features, and keep it if nothing after it is better
    freeze_norms   batch norms keep their statistics and count as part of their convolutions
    adapt_norms    measure the batch norms' statistics anew on the training images before anything else
    frozen_stages  the stem and so many first stages keep their weights; -1: none is frozen
    ema_decay      of the averaged weights, which are the ones evaluated and kept; 0 = none
    clip           most that the gradients' norm may be; larger ones are scaled down to it; 0: no limit
    patience       epochs without a better one after which training stops; 0: it never stops early
    """

    name: str
    optimizer: Literal["sgd", "adamw"] = "adamw"
    epochs: int = 4
    batch: int = 16
    learning_rate: float = 1e-3
    body_rate: float = 0.3
    warmup: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    ema_decay: float = 0.98
    probe: bool = True
    freeze_norms: bool = True
    adapt_norms: bool = False
    frozen_stages: int = -1
    dropout: float = 0.0
    drop_path: float = 0.0
    bn_momentum: float = 0.01
    clip: float = 0.0
    patience: int = 0
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        limits = {
            "epochs": (0, 1e5),
            "batch": (1, 1e5),
            "learning_rate": (0, 100),
            "body_rate": (0, 1e3),
            "frozen_stages": (-1, 64),
            "warmup": (0, 1),
            "momentum": (0, 0.9999),
            "weight_decay": (0, 1),
            "label_smoothing": (0, 0.999),
            "ema_decay": (0, 0.99999),
            "dropout": (0, 0.999),
            "drop_path": (0, 0.999),
            "bn_momentum": (0, 1),
            "clip": (0, 1e6),
            "patience": (0, 1e5),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high):
                raise ArgumentError(f"recipe: {name} must be between {low:g} and {high:g}, got {value!r}")
        if self.optimizer not in ("sgd", "adamw"):
            raise ArgumentError(f"recipe: optimizer must be sgd or adamw, got {self.optimizer!r}")
        if self.epochs == 0 and not self.probe:
            raise ArgumentError("recipe: 0 epochs and no probe would train nothing; raise --epochs")

    def rate(self, step: float, steps: int) -> float:
        """Share of the highest learning rate at a step of `steps`: up linearly, down along a cosine.

        >>> [round(Recipe(name="x", warmup=0.5).rate(step, 4), 2) for step in range(5)]
        [0.04, 0.52, 1.0, 0.5, 0.0]
        """
        rising = max(1.0, self.warmup * steps)
        if step < rising:
            return 0.04 + 0.96 * step / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1.0, steps - rising))))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for TOML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Read `to_dict`'s form; SpecError names what is unknown."""
        plain = dict(values)
        if "augment" in plain:
            plain["augment"] = build(Augment, plain["augment"], "augment")
        return build(cls, plain, "recipe")


def finetune(images: int) -> Recipe:
    """Start from pretrained weights: a linear probe first, then all layers, the body at three tenths of the classifier's rate.

    images: how many there are to train on. Batch norms keep their statistics and count as part of their convolutions. Of few
    images (below 1,000) the first stages keep their weights too: they are general, and cost the most.
    """
    if images < 1000:
        return Recipe(name="finetune", epochs=4, batch=12, learning_rate=5e-4, frozen_stages=2)
    return Recipe(name="finetune", epochs=6, batch=32, ema_decay=0.99)


def scratch(images: int) -> Recipe:
    """Start from random weights: one cycle with a high rate (super-convergence, arXiv 1708.07120), norms learning, drop-path."""
    return Recipe(
        name="scratch",
        optimizer="sgd",
        epochs=40 if images < 20_000 else 20,
        batch=32 if images < 20_000 else 64,
        learning_rate=0.1,
        body_rate=1.0,
        warmup=0.3,
        weight_decay=5e-4,
        ema_decay=0.999,
        probe=False,
        freeze_norms=False,
        drop_path=0.1,
        dropout=0.1,
        bn_momentum=0.1,
    )


RECIPES = {"finetune": finetune, "scratch": scratch}
