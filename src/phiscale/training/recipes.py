"""The named recipes. A docstring states command, hardware, time and result once it was run."""

from phiscale.architecture import Design
from phiscale.training.recipe import Recipe, Schedule


def finetune(images: int, design: Design | None = None) -> Recipe:
    """Start from pretrained weights: a linear probe first, then all layers, the body at three tenths of the classifier's rate.

    images: how many there are to train on. Batch norms keep their statistics and count as part of their convolutions. Of few
    images (below 1,000) the first stages keep their weights too: they are general, and cost the most.
    """
    del design
    if images < 1000:
        return Recipe(name="finetune", epochs=4, batch=12, learning_rate=5e-4, frozen_stages=2)
    return Recipe(name="finetune", epochs=6, batch=32, ema_decay=0.99)


def scratch(images: int, design: Design | None = None) -> Recipe:
    """Start from random weights: one cycle with a high rate (super-convergence, arXiv 1708.07120), norms learning, drop-path."""
    del design
    return Recipe(
        name="scratch",
        optimizer="sgd",
        epochs=40 if images < 20_000 else 20,
        batch=32 if images < 20_000 else 64,
        learning_rate=0.1,
        body_rate=1.0,
        schedule=Schedule(warmup=0.3),
        weight_decay=5e-4,
        ema_decay=0.999,
        probe=False,
        freeze_norms=False,
        drop_path=0.1,
        dropout=0.1,
        bn_momentum=0.1,
    )


RECIPES = {"finetune": finetune, "scratch": scratch}
