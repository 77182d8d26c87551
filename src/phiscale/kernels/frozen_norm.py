"""Batch norms that keep their statistics, computed inside their convolution: one pass over the output instead of three.

act(bn(conv(x, w))) with fixed mean and variance is act(conv(x, w * s) + b - mean * s), s = weight / sqrt(var + eps), so the
gradients reach the convolution's and the norm's own parameters unchanged, and nothing but the activated output is kept for
the backward pass. The activation runs in place where its backward needs only its output.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from phiscale.kernels.pure import conv2d
from phiscale.nn.layers import ConvNorm, same_pads


class FrozenConvNorm(ConvNorm):
    """ConvNorm in evaluation mode whatever `training` says. Made by `freeze_norms`, never built."""

    def forward(self, x: Tensor) -> Tensor:
        conv, bn = self.conv, self.bn
        assert bn.running_var is not None
        assert bn.running_mean is not None
        scale = bn.weight * (bn.running_var + bn.eps).rsqrt()
        weight, bias = conv.weight * scale.view(-1, 1, 1, 1), bn.bias - bn.running_mean * scale
        if not conv.pads_itself:
            top, bottom = same_pads(x.shape[2], conv.kernel_size[0], conv.stride[0])
            left, right = same_pads(x.shape[3], conv.kernel_size[1], conv.stride[1])
            x = F.pad(x, (left, right, top, bottom))
        y = conv2d(x, weight, bias, conv.stride[0], conv.padding, 1, conv.groups)
        match self.act:
            case nn.ReLU6():
                return F.hardtanh_(y, 0.0, 6.0)
            case nn.ReLU():
                return F.relu_(y)
            case _:
                return self.act(y)
