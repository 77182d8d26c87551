"""Batch norms that take their statistics from all processes' images. torch's own works on GPUs only; this one wherever all_reduce does."""

from typing import Any

import torch
from torch import Tensor, nn


class Summed(torch.autograd.Function):
    """x -> its sum over all processes; the gradient of a sum that all use is the sum of all their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        summed = x.clone()
        torch.distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return Summed.forward(ctx, *grad_outputs)


class SyncNorm(nn.BatchNorm2d):
    """BatchNorm2d over the batches of all processes while it trains. Made by `sync_norms`, never built."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        if not self.training:
            return super().forward(input)
        x = input.float()
        sums = summed(torch.cat([x.sum((0, 2, 3)), x.new_full((1,), x.numel() / x.shape[1])]))
        n, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = x - mean.view(-1, 1, 1)
        variance = summed(centred.square().sum((0, 2, 3))) / n
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (n / (n - 1).clamp(min=1)), momentum)  # unbiased, as torch does
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(input.dtype)


def summed(x: Tensor) -> Tensor:
    return Summed.apply(x)  # pyright: ignore[reportReturnType]


def sync_norms(model: nn.Module) -> nn.Module:
    """Let every BatchNorm2d of `model` see all processes' images; the state_dict stays as it is."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncNorm
    return model


def desync_norms(model: nn.Module) -> nn.Module:
    """Take `sync_norms` off again."""
    for module in model.modules():
        if type(module) is SyncNorm:
            module.__class__ = nn.BatchNorm2d  # pyright: ignore[reportAttributeAccessIssue]
    return model
