"""Averaged weights: a copy of the model that follows it, batch norm statistics included."""

import copy

import torch
from torch import nn


class Ema:
    """`average` moves towards the model by 1 - decay a step; decay warms up as min((1 + n) / (10 + n), decay).

    Source: tensorflow/tpu efficientnet main.py (num_updates form).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min((1 + self.updates) / (10 + self.updates), self.decay)
        self.updates += 1
        mine, theirs = list(self.average.state_dict().values()), list(model.state_dict().values())
        moving = [i for i, value in enumerate(mine) if value.is_floating_point()]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            [mine[i] for i in moving], [theirs[i] for i in moving], 1 - decay
        )
        for i, value in enumerate(mine):
            if not value.is_floating_point():
                value.copy_(theirs[i])
