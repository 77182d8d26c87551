"""The named recipes. A docstring says where the numbers are from, and states command, hardware, time and result once it was run.

Where one says it was run on cifar10-mini, that was 4,000 photos of 32 px in 10 classes, 1,000 more to test on, one thread of an AMD EPYC
(Zen 5, no GPU), one seed, the command `phiscale fit cifar10-mini --network efficientnet_lite0 --resolution 32 --recipe NAME --epochs 5`:
a tenth of a course or less, which shows that it runs and learns (chance is 10 %), and is no result of the recipe.

Each is a function of how many training images there are, of the design (its size decides dropout), and of whether the weights are
pretrained. docs/recipes.md has them side by side.
"""

import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from phiscale.architecture import Design
from phiscale.architecture.catalog import Row, rows
from phiscale.data.transform import Augment
from phiscale.errors import ArgumentError, SpecError
from phiscale.training.recipe import Adversary, Loss, Mixing, Progressive, Pseudo, Recipe, Schedule


def finetune(images: int, design: Design | None = None, *, pretrained: bool = True) -> Recipe:
    """Start from pretrained weights: a linear probe first, then all layers, the body at three tenths of the classifier's rate.

    Batch norms keep their statistics and count as part of their convolutions. Of few images (below 1,000) the first stages keep
    their weights too: they are general, and cost the most.
    Run: `phiscale fit ants-bees`, 244 photos, EfficientNet-Lite0 at 224 px, the same machine: 95.4 % of 153 (n = 1; README has more).
    """
    del design, pretrained
    if images < 1000:
        return Recipe(name="finetune", epochs=4, batch=12, learning_rate=5e-4, frozen_stages=2)
    return Recipe(name="finetune", epochs=6, batch=32, ema_decay=0.99)


def scratch(images: int, design: Design | None = None, *, pretrained: bool = False) -> Recipe:
    """Start from random weights: one cycle with a high rate (super-convergence, arXiv 1708.07120), norms learning, drop-path.

    Gradients are clipped to a norm of 5, which matters in runs of few steps: docs/recipes.md has what was measured.
    Run on cifar10-mini: 66 s, 26.9 % (n = 1).
    """
    del design, pretrained
    return Recipe(
        name="scratch",
        optimizer="sgd",
        epochs=40 if images < 20_000 else 20,
        batch=32 if images < 20_000 else 64,
        learning_rate=0.1,
        body_rate=1.0,
        schedule=Schedule(warmup=0.3),
        weight_decay=5e-4,
        clip=5.0,
        ema_decay=0.999,
        from_random=True,
        probe=False,
        freeze_norms=False,
        drop_path=0.1,
        dropout=0.1,
        bn_momentum=0.1,
    )


def paper(images: int, design: Design | None = None, *, pretrained: bool = False) -> Recipe:
    """EfficientNet's own, from random weights (arXiv 1905.11946 section 5.2; tensorflow/tpu efficientnet main.py, utils.py).

    RMSProp in TensorFlow's form, decay and momentum 0.9, eps 1e-3; 0.016 per 256 images, rising over 5 epochs, times 0.97 every
    2.4 (350 epochs; fewer press the whole course together); L2 of 1e-5 on all but batch norms; their momentum 0.99; smoothing 0.1;
    averaged weights of 0.9999, warmed up, statistics included; AutoAugment v0; stochastic depth to 0.2; dropout by size.
    The reference's batch was 2,048 (the paper says 4,096): give --batch, and the rate follows.
    Run on cifar10-mini: 84 s, 22.9 % (n = 1).
    """
    del pretrained
    row = like(design)
    return Recipe(
        name="paper",
        optimizer="rmsprop",
        epochs=350,
        batch=256 if images >= 100_000 else 32,
        learning_rate=0.016,
        rate_batch=256,
        body_rate=1.0,
        momentum=0.9,
        weight_decay=1e-5,
        decays="no_norms",
        ema_decay=0.9999,
        from_random=True,
        probe=False,
        freeze_norms=False,
        dropout=row.dropout,
        drop_path=row.drop_path,
        bn_momentum=row.bn_momentum,
        schedule=Schedule(name="staircase", warmup=0.0, warmup_epochs=5.0, start=0.0, factor=0.97, every=2.4),
        loss=Loss(label_smoothing=0.1),
        augment=Augment(scale=(0.08, 1.0), jitter=0.0, policy="auto"),
    )


def v2(images: int, design: Design | None = None, *, pretrained: bool = False) -> Recipe:
    """EfficientNetV2's progressive learning: four stages in which image size and regularisation grow together; weights carry over.

    As `paper`, but: RandAugment from 5 to 10, 15 or 20 and mixup and cutmix from 0 to 0, 0.2 or 0.5 by size (below 30M and 80M
    params, above), dropout from 0.1; no decay of biases and norms; the first stage's images have (128 + (size - 128) / 4) pixels,
    57 % of the size where it is below 200.
    Source: google/automl efficientnetv2 main.py, effnetv2_configs.py; dropout's growth: arXiv 2104.00298, table 6.
    Run on cifar10-mini: 68 s, 18.5 % (n = 1).
    """
    base, row = paper(images, design, pretrained=pretrained), like(design)
    million = (design.cost.params if design is not None else row.params) / 1e6
    magnitude, mix = (10.0, 0.0) if million < 30 else (15.0, 0.2) if million < 80 else (20.0, 0.5)
    size = design.resolution if design is not None else row.design.resolution
    share = (row.train_resolution or row.design.resolution) / row.design.resolution
    last = share * size
    return replace(
        base,
        name="v2",
        decays="weights",
        train_size=share,
        mixing=Mixing(mixup=mix, cutmix=mix),
        augment=replace(base.augment, policy="rand", magnitude=magnitude),
        progressive=Progressive(
            stages=4,
            train_size=share * ((128 + (last - 128) / 4) / last if last >= 200 else 0.57),
            magnitude=min(5.0, magnitude),
            dropout=min(0.1, row.dropout),
        ),
    )


def ra(images: int, design: Design | None = None, *, pretrained: bool = False) -> Recipe:
    """timm's EfficientNet-B0 with RandAugment, 77.7 % there: as `paper`, but RandAugment 9 ± 0.5, each operation half the time, random
    erasing of a fifth of the images, 450 epochs, no decay of biases and norms, batch norm momentum 0.1.

    Source: pytorch-image-models, training script of efficientnet_b0 (rand-m9-mstd0.5, --lr .048 of 768 images, --reprob .2).
    Run on cifar10-mini: 86 s, 20.7 % (n = 1).
    """
    base = paper(images, design, pretrained=pretrained)
    return replace(
        base,
        name="ra",
        epochs=450,
        decays="weights",
        bn_momentum=0.1,
        schedule=replace(base.schedule, start=1e-6 / 0.048),
        augment=replace(base.augment, policy="rand", magnitude=9.0, magnitude_std=0.5, chance=0.5, erase=0.2),
    )


def noisy_student(images: int, design: Design | None = None, *, pretrained: bool = True) -> Recipe:
    """Noisy Student: a teacher labels images without labels, a student of its size or larger learns both under noise, and teaches next.

    The student's training is `finetune`'s with pretrained weights, else `scratch`'s; its noise is RandAugment (magnitude by size, as
    in google-research/noisystudent), dropout 0.5 and stochastic depth to 0.2. Pseudo-labels are the teacher's whole distribution,
    of images it is surer of than 0.3, balanced over the classes. Two rounds.
    Source: arXiv 1911.04252. The unlabelled images are those of --unlabelled.
    Run on 1,000 photos of cifar10-mini's train and its 1,000 of test at 64 px, 571 others of train unlabelled, one round of 2 epochs
    (`--recipe noisy_student --resolution 64 --unlabelled others --teacher RUN --rounds 1 --epochs 2`), on one thread of a machine that
    others used: 58.9 %, its teacher (`finetune`, 4 epochs) 62.5 % (n = 1): so few epochs under so much noise gain nothing.
    """
    base = (finetune if pretrained else scratch)(images, design)
    million = (design.cost.params if design is not None else like(design).params) / 1e6
    magnitudes = ((8, 5.0), (10, 6.0), (15, 12.0), (25, 15.0), (35, 18.0), (50, 24.0), (1e9, 27.0))  # B0 and B1, B2, … B7
    magnitude = next(value for limit, value in magnitudes if million < limit)
    return replace(
        base,
        name="noisy_student",
        dropout=0.5,
        drop_path=0.2,
        augment=replace(base.augment, policy="rand", magnitude=magnitude),
        pseudo=Pseudo(rounds=2, confidence=0.3),
    )


def advprop(images: int, design: Design | None = None, *, pretrained: bool = True) -> Recipe:
    """AdvProp: every batch is trained on a second time as adversaries, through batch norms of their own, which are dropped at the end.

    `finetune` with pretrained weights, else `scratch`, with norms that learn. One PGD step of one 255th, as small networks want
    (arXiv 1911.09665, section 5); up to 4 in 5 for the largest: --epsilon, --iterations. A step costs three times as much.
    Run: `phiscale fit ants-bees --network efficientnet_lite0 --resolution 128 --recipe advprop`, 244 photos, the same machine: 38 s,
    92.2 % of 153 (n = 1).
    """
    base = (finetune if pretrained else scratch)(images, design)
    return replace(base, name="advprop", freeze_norms=False, frozen_stages=-1, adversary=Adversary(iterations=1, epsilon=1.0, step=1.0))


RECIPES: dict[str, Callable[..., Recipe]] = {
    "finetune": finetune,
    "scratch": scratch,
    "paper": paper,
    "v2": v2,
    "ra": ra,
    "noisy_student": noisy_student,
    "advprop": advprop,
}


def like(design: Design | None) -> Row:
    """The published network whose regularisation suits a design: the nearest in parameters of its family, EfficientNet-B0 for None."""
    known = rows()
    if design is None:
        return known["efficientnet_b0"]
    own = known.get(design.origin.baseline)
    family = [row for row in known.values() if row.family == (own.family if own else "efficientnet")]
    params = design.with_classes(1000).cost.params
    return min(family, key=lambda row: abs(row.params - params))


def read_recipe(path: Path, images: int, design: Design | None = None, *, pretrained: bool = True) -> Recipe:
    """A recipe from a TOML file: one that a run wrote, or changes to the named one that it says it is `based_on`.

    SpecError names the file, the part and the field.
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentError(f"can't read the recipe {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is no TOML file: {error}") from None
    base = values.pop("based_on", None)
    try:
        if base is None:
            return Recipe.from_dict({"name": path.stem} | values)
        return named(base, images, design, pretrained=pretrained).changed({"name": path.stem} | values)
    except ArgumentError as error:
        raise SpecError(f"{path}: {error}") from None


def named(name: object, images: int, design: Design | None = None, *, pretrained: bool = True) -> Recipe:
    """The recipe of that name. ArgumentError lists them."""
    if not isinstance(name, str) or name not in RECIPES:
        raise ArgumentError(f"no recipe {name!r}; known: {', '.join(RECIPES)}, or a .toml file")
    return RECIPES[name](images, design, pretrained=pretrained)
