"""What `fit` may be told to do otherwise than its recipe says: options of `phiscale fit`, arguments of `phiscale.fit`. No torch."""

from typing import Literal, TypedDict


class Changes(TypedDict, total=False):
    """Fields of a Recipe and of its parts, by their names; what is left out stays as the recipe has it.

    Parameters
    ----------
    optimizer
        sgd (Nesterov), adamw, or rmsprop (TensorFlow's form).
    schedule
        Of the learning rate: cosine to zero, staircase, or constant.
    weight_decay
        Pull of the weights towards zero.
    body_rate
        Share of the learning rate that all but the classifier learn at.
    layer_decay
        Each block learns at so much of the rate of the block after it; 1 = all alike.
    frozen_stages
        The stem and so many first stages keep their weights; -1: none is frozen.
    imitate
        For weights cut out of a larger network's: steps of learning to answer as it does, first of all.
    ema_decay
        Of the averaged weights, which are evaluated and kept; 0 = none.
    dropout
        Before the classifier.
    dropout_samples
        Dropouts of each image that are averaged (multi-sample dropout).
    drop_path
        Stochastic depth: of the last block; earlier ones in proportion.
    loss
        softmax (one class an image) or bce (each class by itself).
    label_smoothing
        Share of the target that is spread over all classes.
    focal
        Gamma of the focal loss: easy images count less; 0 = off.
    class_weights
        Rare classes count more in the loss.
    sampling
        each image once an epoch, or balanced: every class equally often.
    distill
        A teacher to learn from too: a run folder, a published network of the same classes, or timm:NAME[:FILE]. Or source: the
        network that weights of another size came from, for a short while before training (how long: imitate; else 120 steps).
    distill_weight
        The teacher's share of the loss.
    temperature
        At which teacher and student are compared.
    mixup
        Alpha of mixup; 0 = off.
    cutmix
        Alpha of cutmix; 0 = off. By chance where both are on.
    policy
        auto (AutoAugment), rand (RandAugment), trivial (TrivialAugment), augmix, or none.
    magnitude
        Of RandAugment; 10 is full strength.
    erase
        Probability that a random box of an image is filled with noise.
    jitter
        Change of brightness, contrast and saturation, each way.
    train_size
        Size of training images as a share of the network's resolution.
    epsilon
        advprop: how far an adversary's pixels may move, in 255ths.
    iterations
        advprop: steps of the attack.
    rounds
        noisy_student: students in turn.
    confidence
        noisy_student: a pseudo-label counts where the teacher is surer than this.
    a_class
        noisy_student: images with pseudo-labels of each class; 0: the mean over the classes.
    """

    optimizer: Literal["sgd", "adamw", "rmsprop"]
    schedule: Literal["cosine", "staircase", "constant"]
    weight_decay: float
    body_rate: float
    layer_decay: float
    frozen_stages: int
    imitate: int
    ema_decay: float
    dropout: float
    dropout_samples: int
    drop_path: float
    loss: Literal["softmax", "bce"]
    label_smoothing: float
    focal: float
    class_weights: bool
    sampling: Literal["each", "balanced"]
    distill: str
    distill_weight: float
    temperature: float
    mixup: float
    cutmix: float
    policy: Literal["none", "auto", "rand", "trivial", "augmix"]
    magnitude: float
    erase: float
    jitter: float
    train_size: float
    epsilon: float
    iterations: int
    rounds: int
    confidence: float
    a_class: int
