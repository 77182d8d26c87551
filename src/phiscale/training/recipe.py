"""How to train, as a value that a run folder keeps and a person can write by hand. The named ones are in recipes.py."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, assert_never, cast, get_args, get_origin, get_type_hints

from phiscale.architecture.check import build, check, check_bool, check_int, check_one_of, check_real
from phiscale.data.transform import Augment
from phiscale.errors import ArgumentError, SpecError

Optimizer = Literal["sgd", "adamw", "rmsprop"]
Decays = Literal["all", "no_norms", "weights"]
Shape = Literal["cosine", "staircase", "constant"]
LossName = Literal["softmax", "bce"]
Sampling = Literal["each", "balanced"]


def within(low: float, high: float, default: float) -> Any:
    """A field for numbers from `low` to `high`."""
    return field(default=default, metadata={"limits": (low, high)})


def check_fields(where: str, made: Any) -> None:
    """SpecError, naming `where` and the field, where a value is not of its field's kind or not within its limits."""
    for name, kind, limits in _kinds(type(made)):
        value = getattr(made, name)
        if kind is bool:
            check_bool(where, name, value)
        elif kind is int:
            check_int(where, name, value, *limits)
        elif kind is float:
            check_real(where, name, value, *limits)
        elif get_origin(kind) is Literal:
            check_one_of(where, name, value, get_args(kind))
        else:
            what = "text" if kind is str else "a table"
            check(where, ok=isinstance(value, kind), say=f"{name} must be {what}, got {value!r}")


@cache
def _kinds(made: type[Any]) -> tuple[tuple[str, Any, Any], ...]:
    hints = get_type_hints(made)
    return tuple((f.name, hints[f.name], f.metadata.get("limits")) for f in fields(made))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate over the steps, as a share of its highest.

    name           cosine: falls to zero at the end (with the warm-up: one cycle); staircase: times `factor` every `every` epochs,
                   counted from the first step; constant
    warmup         share of all steps in which the rate rises, and
    warmup_epochs  epochs in which it does; the two add up
    start          share of the highest rate at which the rise begins
    """

    name: Shape = "cosine"
    warmup: float = within(0, 1, 0.2)
    warmup_epochs: float = within(0, 1e5, 0.0)
    start: float = within(0, 1, 0.04)
    factor: float = within(1e-6, 1, 0.97)
    every: float = within(1e-6, 1e5, 2.4)

    def __post_init__(self) -> None:
        check_fields("schedule", self)

    def rate(self, step: float, steps_an_epoch: int, epochs: int) -> float:
        """At a step (from 0), of `epochs` times `steps_an_epoch`.

        >>> [round(Schedule(warmup=0.5).rate(step, 1, 4), 2) for step in range(5)]
        [0.04, 0.52, 1.0, 0.5, 0.0]
        >>> paper = Schedule(name="staircase", warmup=0, warmup_epochs=5, start=0)
        >>> [round(paper.rate(epoch * 10, 10, 350), 4) for epoch in (0, 1, 4, 5, 12, 240)]
        [0.0, 0.2, 0.8, 0.9409, 0.8587, 0.0476]

        Source of the staircase: tensorflow/tpu efficientnet utils.py, build_learning_rate.
        """
        steps = steps_an_epoch * epochs
        rising = self.warmup * steps + self.warmup_epochs * steps_an_epoch
        if self.warmup:
            rising = max(1.0, rising)
        if step < rising:
            return self.start + (1 - self.start) * step / rising
        match self.name:
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1.0, steps - rising))))
            case "staircase":
                return self.factor ** math.floor(step / (self.every * steps_an_epoch) + 1e-9)  # the sum of thirds is below one
            case "constant":
                return 1.0
            case _:
                assert_never(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a step is judged by.

    name             softmax: cross entropy over classes that exclude each other; bce: each class by itself (multi-label)
    label_smoothing  share of the target that is spread over all classes
    focal            gamma of the focal loss: easy images count (1 - p)^gamma less; 0 = off
    class_weights    rare classes count more: each by images / (classes * its images)
    dropout_samples  multi-sample dropout: the classifier sees so many dropouts of each image's features, and the losses are averaged
    distill          a teacher: a run folder, a published network, a weight file beside its config, or timm:NAME; "" = none
    distill_weight   its share of the loss
    temperature      at which teacher and student are compared

    Source: smoothing arXiv 1512.00567; focal 1708.02002; multi-sample dropout 1905.09788; distillation 1503.02531.
    """

    name: LossName = "softmax"
    label_smoothing: float = within(0, 0.999, 0.1)
    focal: float = within(0, 20, 0.0)
    class_weights: bool = False
    dropout_samples: int = within(1, 64, 1)
    distill: str = ""
    distill_weight: float = within(0, 1, 0.5)
    temperature: float = within(0.01, 100, 2.0)

    def __post_init__(self) -> None:
        check_fields("loss", self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """Pairs of images blended (mixup) or pasted into each other (cutmix), and their targets with them; by chance where both are on.

    mixup, cutmix   alpha of the Beta distribution that the share is drawn from; 0 = off
    probability     of a batch to be mixed

    Source: arXiv 1710.09412, 1905.04899.
    """

    mixup: float = within(0, 100, 0.0)
    cutmix: float = within(0, 100, 0.0)
    probability: float = within(0, 1, 1.0)

    def __post_init__(self) -> None:
        check_fields("mixing", self)

    def __bool__(self) -> bool:
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressive:
    """Stages of equal length, in which the image size and the regularisation grow from these to the recipe's own values.

    stages  1 = off; `train_size`, `magnitude`, `mixup`, `cutmix`, `dropout` are those of the first stage.

    Source: arXiv 2104.00298, section 4 and table 6.
    """

    stages: int = within(1, 100, 1)
    train_size: float = within(0.05, 4, 1.0)
    magnitude: float = within(0, 30, 0.0)
    mixup: float = within(0, 100, 0.0)
    cutmix: float = within(0, 100, 0.0)
    dropout: float = within(0, 0.999, 0.0)

    def __post_init__(self) -> None:
        check_fields("progressive", self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversary:
    """AdvProp: each batch is trained on a second time as adversaries (PGD towards a wrong class), through batch norms of their own.

    iterations     of the attack; 0 = off
    epsilon, step  how far a pixel may move in all, and in one iteration, in 255ths

    Source: arXiv 1911.09665; the attack as in tingxueronghua/pytorch-classification-advprop.
    """

    iterations: int = within(0, 100, 0)
    epsilon: float = within(0, 255, 1.0)
    step: float = within(0, 255, 1.0)

    def __post_init__(self) -> None:
        check_fields("adversary", self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pseudo:
    """Noisy Student: a teacher labels images without labels, a noised student learns from both and teaches the next.

    rounds       students in turn; 0 = off
    confidence   a pseudo-label counts where the teacher is surer than this
    a_class      images taken of each class: the surest where there are more, repeated where there are fewer; 0 = the mean over the
                 classes

    Source: arXiv 1911.04252, section 2 and 3.1.
    """

    rounds: int = within(0, 100, 0)
    confidence: float = within(0, 1, 0.3)
    a_class: int = within(0, 10**7, 0)

    def __post_init__(self) -> None:
        check_fields("pseudo", self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a training but the network, the images and the seed.

    optimizer      sgd: with Nesterov momentum; adamw: decoupled weight decay, betas (momentum, 0.999); rmsprop: TensorFlow's form
    learning_rate  of the classifier at its highest; the body learns at body_rate times that
    rate_batch     0, or: the rate is meant for so many images a step and grows in proportion
    layer_decay    each block learns at so much of the rate of the block after it
    decays         what weight_decay acts on: all; all but batch norms; only weights (no norms, no biases)
    from_random    start from random weights where none are named
    probe          start from a linear probe on frozen features, and keep it if nothing after it is better
    freeze_norms   batch norms keep their statistics and count as part of their convolutions
    imitate        steps in which weights that were cut out of a larger network's learn to answer as it does, before anything else
    adapt_norms    measure the batch norms' statistics anew on the training images before anything else
    frozen_stages  the stem and so many first stages keep their weights; -1: none is frozen
    ema_decay      of the averaged weights, which are the ones evaluated and kept; 0 = none
    clip           most that the gradients' norm may be; larger ones are scaled down to it; 0: no limit
    patience       epochs without a better one after which training stops; 0: it never stops early
    train_size     size of training images, as a share of the design's resolution
    sampling       each: every image once an epoch; balanced: every class equally often
    """

    name: str
    optimizer: Optimizer = "adamw"
    epochs: int = within(0, 10**5, 4)
    batch: int = within(1, 10**5, 16)
    learning_rate: float = within(0, 100, 1e-3)
    rate_batch: int = within(0, 10**6, 0)
    body_rate: float = within(0, 1e3, 0.3)
    layer_decay: float = within(0, 1, 1.0)
    momentum: float = within(0, 0.9999, 0.9)
    weight_decay: float = within(0, 1, 0.02)
    decays: Decays = "all"
    ema_decay: float = within(0, 0.99999, 0.98)
    from_random: bool = False
    probe: bool = True
    freeze_norms: bool = True
    imitate: int = within(0, 10**6, 0)
    adapt_norms: bool = False
    frozen_stages: int = within(-1, 64, -1)
    dropout: float = within(0, 0.999, 0.0)
    drop_path: float = within(0, 0.999, 0.0)
    bn_momentum: float = within(0, 1, 0.01)
    clip: float = within(0, 1e6, 0.0)
    patience: int = within(0, 10**5, 0)
    train_size: float = within(0.05, 4, 1.0)
    sampling: Sampling = "each"
    schedule: Schedule = field(default_factory=Schedule)
    loss: Loss = field(default_factory=Loss)
    mixing: Mixing = field(default_factory=Mixing)
    augment: Augment = field(default_factory=Augment)
    progressive: Progressive = field(default_factory=Progressive)
    adversary: Adversary = field(default_factory=Adversary)
    pseudo: Pseudo = field(default_factory=Pseudo)

    def __post_init__(self) -> None:
        check_fields("recipe", self)
        check("recipe", ok=bool(self.name), say="name must be text, got ''")
        if self.epochs == 0 and not self.probe:
            raise SpecError("recipe: 0 epochs and no probe would train nothing; raise epochs")
        if self.adversary.iterations and self.freeze_norms:
            raise SpecError("recipe: adversary needs batch norms that learn; set freeze_norms to false")

    def peak_rate(self, images_a_step: int) -> float:
        """The classifier's highest learning rate where a step has so many images, over all processes."""
        return self.learning_rate * (images_a_step / self.rate_batch if self.rate_batch else 1)

    def at(self, epoch: float) -> "Recipe":
        """The recipe in force in an epoch (from 0; a share of one where time runs out before): itself, or its progressive stage."""
        first = self.progressive
        if first.stages == 1:
            return self
        through = min(first.stages - 1, int(epoch * first.stages / max(1, self.epochs))) / (first.stages - 1)

        def between(low: float, high: float) -> float:
            return low + (high - low) * through

        return replace(
            self,
            train_size=between(first.train_size, self.train_size),
            dropout=between(first.dropout, self.dropout),
            augment=replace(self.augment, magnitude=between(first.magnitude, self.augment.magnitude)),
            mixing=replace(self.mixing, mixup=between(first.mixup, self.mixing.mixup), cutmix=between(first.cutmix, self.mixing.cutmix)),
        )

    def lasting(self, epochs: int) -> "Recipe":
        """The same course in another number of epochs: what its schedule counts in epochs is stretched or pressed with it."""
        if not self.epochs or not epochs:
            return replace(self, epochs=epochs)
        factor, s = epochs / self.epochs, self.schedule
        every = s.every * factor if s.name == "staircase" else s.every
        return replace(self, epochs=epochs, schedule=replace(s, warmup_epochs=s.warmup_epochs * factor, every=every))

    def changed(self, changes: Mapping[str, Any]) -> "Recipe":
        """With other values of fields, its own or those of its parts; a part by a word is its `name` (loss="bce").

        `epochs` keeps the shape of the schedule (see `lasting`). ArgumentError names what is unknown, and the nearest.

        >>> Recipe(name="x").changed({"mixup": 0.2, "loss": "bce", "dropout": 0.3}).loss.name
        'bce'
        """
        own: dict[str, Any] = {}
        parts: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            if name in PARTS:
                if isinstance(value, Mapping):
                    parts.setdefault(name, {}).update(cast("Mapping[str, Any]", value))
                else:
                    parts.setdefault(name, {})["name"] = value
            elif name in OWN:
                own[name] = value
            elif name in WHERE:
                parts.setdefault(WHERE[name], {})[name] = value
            else:
                known = sorted((OWN | set(WHERE) | set(PARTS)) - {"name"})
                near = get_close_matches(name, known, 1)
                raise ArgumentError(
                    f"a recipe has no {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")
                )
        made = self
        if "epochs" in own and isinstance(own["epochs"], int):
            made = made.lasting(own.pop("epochs"))
        for part, values in parts.items():
            kept = {f.name: getattr(getattr(made, part), f.name) for f in fields(PARTS[part])}
            own[part] = build(PARTS[part], kept | values, f"recipe: {part}")
        return replace(made, **own)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for TOML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Read `to_dict`'s form; SpecError names the field that is unknown or wrong."""
        plain = dict(values)
        for name, kind in PARTS.items():
            if name in plain:
                plain[name] = build(kind, plain[name], f"recipe: {name}")
        return build(cls, plain, "recipe")


PARTS: dict[str, type[Any]] = {  # of a Recipe, by field
    "schedule": Schedule,
    "loss": Loss,
    "mixing": Mixing,
    "augment": Augment,
    "progressive": Progressive,
    "adversary": Adversary,
    "pseudo": Pseudo,
}
OWN = frozenset(f.name for f in fields(Recipe)) - set(PARTS)
# fields of parts that a change may name alone; a progressive stage's are those of the recipe's end
WHERE = {f.name: part for part, kind in PARTS.items() if part != "progressive" for f in fields(kind) if f.name != "name"}
