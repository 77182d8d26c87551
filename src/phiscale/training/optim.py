"""Optimisers: TensorFlow's form of RMSProp, the rest torch's; and which parameters learn at which rate, with which decay."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from inspect import unwrap
from typing import Any, assert_never, cast

import torch
from torch import Tensor, nn

from phiscale.architecture.plan import blocks
from phiscale.nn import Network
from phiscale.training.recipe import Recipe

_UNTRACED = "__dynamo_disable"  # torch/_compile.py: where a function that torch.compile must leave alone keeps its untraced form


@contextmanager
def without_compiler() -> Generator[None]:
    """Inside, torch.optim doesn't import torch.compile's machinery, a second and 150 MiB, only to ask to be left alone by it.

    Nobody traces its methods here, so that the untraced form of each is itself. Where torch keeps that elsewhere, nothing happens.
    """
    methods = (getattr(method, "__wrapped__", None) for method in vars(torch.optim.Optimizer).values())
    found = [method for method in methods if method is not None and not hasattr(method, _UNTRACED)]
    for method in found:
        setattr(method, _UNTRACED, method)
    try:
        yield
    finally:
        for method in found:
            delattr(method, _UNTRACED)


class RMSProp(torch.optim.Optimizer):
    """RMSProp as TensorFlow has it, which EfficientNet was trained with.

        square = decay * square + (1 - decay) * grad^2          square starts at 1
        buffer = momentum * buffer + lr * grad / sqrt(square + eps)
        value  = value - buffer

    torch's own starts the square at 0, adds eps outside the root and applies the rate to the buffer as a whole, so that a
    change of rate acts on old gradients too. weight_decay is L2: it adds weight_decay * value to the gradient.
    Source: tf.train.RMSPropOptimizer, as tensorflow/tpu efficientnet utils.py, build_optimizer, calls it.
    """

    def __init__(
        self, params: Any, *, lr: float, decay: float = 0.9, momentum: float = 0.9, eps: float = 1e-3, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            values: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not values:
                continue
            for p in values:
                if not self.state[p]:
                    self.state[p] = {"square": torch.ones_like(p), "buffer": torch.zeros_like(p)}
            squares, buffers = ([self.state[p][name] for p in values] for name in ("square", "buffer"))
            grads = [cast(Tensor, p.grad) for p in values]
            if group["weight_decay"]:
                grads = _foreach("add", grads, values, alpha=group["weight_decay"])
            _foreach("mul_", squares, group["decay"])
            _foreach("addcmul_", squares, grads, grads, value=1 - group["decay"])
            roots = _foreach("add", squares, group["eps"])
            _foreach("sqrt_", roots)
            _foreach("mul_", buffers, group["momentum"])
            _foreach("addcdiv_", buffers, grads, roots, value=group["lr"])
            _foreach("sub_", values, buffers)
        return loss


class Sgd(torch.optim.SGD):
    """torch's, whose `step` imports torch.compile's machinery to end a graph there."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class AdamW(torch.optim.AdamW):
    """As `Sgd`."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


def _foreach(name: str, *args: Any, **options: Any) -> Any:
    return getattr(torch, f"_foreach_{name}")(*args, **options)


def make_optimizer(recipe: Recipe, network: Network, *, rate: float) -> torch.optim.Optimizer:
    """The recipe's optimiser over what learns in `network`; each group's "lr" is its highest, `rate` that of the last, the classifier's."""
    groups = parameter_groups(recipe, network, rate=rate)
    match recipe.optimizer:
        case "sgd":
            return Sgd(groups, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
        case "adamw":
            return AdamW(groups, betas=(recipe.momentum, 0.999))
        case "rmsprop":
            return RMSProp(groups, lr=rate, momentum=recipe.momentum)
        case _:
            assert_never(recipe.optimizer)


def parameter_groups(recipe: Recipe, network: Network, *, rate: float) -> list[dict[str, Any]]:
    """What learns, by learning rate and weight decay; the last group has the classifier's rate."""
    norms = {id(p) for part in network.modules() if isinstance(part, nn.BatchNorm2d) for p in part.parameters(recurse=False)}
    plan = blocks(network.spec)
    heights = {block.name: block.index + 1 for block in plan} | {"stem": 0, "head": len(plan) + 1}
    found: dict[tuple[float, bool], list[Tensor]] = {}
    for name, p in network.named_parameters():
        if not p.requires_grad:
            continue
        share = 1.0
        if not name.startswith("classifier."):
            part = ".".join(name.split(".")[:3]) if name.startswith("stages.") else name.split(".", 1)[0]
            share = recipe.body_rate * recipe.layer_decay ** (len(plan) + 2 - heights[part])
        decays = recipe.decays == "all" or (id(p) not in norms if recipe.decays == "no_norms" else p.ndim > 1)
        found.setdefault((share, decays), []).append(p)
    return [
        {"params": values, "lr": rate * share, "weight_decay": recipe.weight_decay if decays else 0.0}
        for (share, decays), values in found.items()
    ]
