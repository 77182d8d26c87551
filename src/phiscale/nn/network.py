"""The whole network, read top to bottom. Its state_dict is `layout(spec)`; a test holds the two together."""

import math
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Literal, assert_never, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from phiscale.architecture.plan import blocks, feature_width, stem
from phiscale.architecture.spec import NetworkSpec, Padding
from phiscale.nn.blocks import Bottleneck, make_block
from phiscale.nn.layers import AvgPool, CondConv2d, Conv2d, MaxPool, Routing, conv_norm_of

REFERENCE_CLASSES = 1000
Pooling = Literal["avg", "max", "avgmax"]


class Network(nn.Module):
    """Images (B, in_channels, H, W), normalised, any H and W -> logits (B, num_classes), or pooled features where that is 0.

    drop_path grows linearly with the block index from 0 (block 0 never drops; the last is just below `drop_path`), as the
    reference TPU implementation's survival probability does. Weights start as the reference's do.

    pooling     over the last map: its mean, its maximum, or half of each; cost and bundles know the mean alone
    resize_to   pixels that every input is resized to, inside the graph; None: used as it comes
    recompute   keep no activations inside a stage for the backward pass: less memory, a third more time, the same gradients
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        bn_momentum: float = 0.01,
        pooling: Pooling = "avg",
        resize_to: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.pooling: Pooling = pooling
        self.resize_to, self.recompute = resize_to, recompute
        conv = conv_norm_of(spec, bn_momentum)
        plan = blocks(spec)

        self.stem = nn.Sequential(*(conv(s.w_in, s.w_out, s.kernel, s.stride, act=spec.activation) for s in stem(spec)))
        self.pool = MaxPool(spec.padding) if spec.stem.pool else nn.Identity()
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    make_block(block, spec, drop_path=drop_path * block.index / len(plan), bn_momentum=bn_momentum)
                    for block in plan
                    if block.stage == number
                )
            )
            for number in range(len(spec.stages))
        )
        self.head = conv(spec.stages[-1].width, spec.head_width, act=spec.activation) if spec.head_width else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(feature_width(spec), spec.num_classes) if spec.num_classes else nn.Identity()
        initialise(self)

    def adopt(self, *, bn_eps: float, padding: Padding) -> None:
        """Compute with these numerics from now on: those of weights that are being loaded. The spec says them."""
        self.spec = replace(self.spec, bn_eps=bn_eps, padding=padding)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eps = bn_eps
            elif isinstance(part, Conv2d | CondConv2d | MaxPool | AvgPool):
                part.pad(padding)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map, before pooling: (B, feature_width, H', W')."""
        x = self.pool(self.stem(x if self.resize_to is None else resized(x, self.resize_to)))
        for stage in self.stages:
            x = recomputed(stage, x) if self.recompute and self.training else stage(x)
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(pool(self.forward_features(x), self.pooling)))


def resized(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> (B, C, size, size), antialiased."""
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True)


def pool(x: Tensor, pooling: Pooling) -> Tensor:
    """(B, C, H, W) -> (B, C)."""
    match pooling:
        case "avg":
            return x.mean((2, 3))
        case "max":
            return x.amax((2, 3))
        case "avgmax":
            return (x.mean((2, 3)) + x.amax((2, 3))) / 2
        case _:
            assert_never(pooling)


def recomputed(part: nn.Module, x: Tensor) -> Tensor:
    """`part(x)`, run again in the backward pass instead of kept; batch norms count the second run as none."""

    @contextmanager
    def uncounted() -> Generator[None]:
        norms = [norm for norm in part.modules() if isinstance(norm, nn.BatchNorm2d)]
        before = [(norm.momentum, cast(Tensor, norm.num_batches_tracked).clone()) for norm in norms]
        for norm in norms:
            norm.momentum = 0.0  # the running statistics stay as they are
        try:
            yield
        finally:
            for norm, (momentum, count) in zip(norms, before, strict=True):
                norm.momentum = momentum
                cast(Tensor, norm.num_batches_tracked).copy_(count)

    return cast(Tensor, checkpoint(part, x, use_reentrant=False, context_fn=lambda: (nullcontext(), uncounted())))


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """The reference's start: convolutions N(0, 2 / (k k out)), a depthwise one with out = 1; linear U(+-1 / sqrt(out)).

    Fewer than its 1,000 classes start as small as those: by its rule, the logits of few are so large that the first epoch goes
    into undoing them. A bottleneck's last norm starts at zero, so that the block is its shortcut.
    Sources: tensorflow/tpu efficientnet_model.py, conv_kernel_initializer and dense_kernel_initializer; arXiv 1706.02677 section 5.1.
    """
    for part in module.modules():
        match part:
            case nn.Conv2d():
                fan_out = part.kernel_size[0] * part.kernel_size[1] * part.out_channels // part.groups
                part.weight.normal_(0, math.sqrt(2 / fan_out))
                if part.bias is not None:
                    part.bias.zero_()
            case CondConv2d():
                part.weight.normal_(0, math.sqrt(2 / (part.weight[0, :, 0].numel() // part.groups)))
            case Bottleneck():
                part.expand.bn.weight.zero_()
            case nn.Linear():
                bound = 1 / math.sqrt(part.out_features if isinstance(part, Routing) else max(part.out_features, REFERENCE_CLASSES))
                part.weight.uniform_(-bound, bound)
                part.bias.zero_()
            case _:
                pass


@torch.no_grad()
def initialise_as_torch(module: nn.Module) -> None:
    """torchvision's start: as the reference's, but a depthwise convolution N(0, 2 / (k k channels)) too.

    Source: pytorch/vision torchvision/models/efficientnet.py.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
