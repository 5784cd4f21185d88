"""Batch norm in inference, moved into the product before it: one pass over the activations less.

A model as it was trained folds at every call, which costs a pass over the weights and leaves no stale copy;
`tmor_fast.nn.for_inference` folds once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmor_fast.nn.convolution import convolve_add_relu, convolve_recorded
from tmor_fast.nn.normalising import has_hooks, normalise


@dataclass(frozen=True)
class FoldedNorm:
    """A batch norm with fixed statistics, `scale * y + shift`.

    Args:
        scale, shift: (C,), at least float32.
    """

    scale: Tensor
    shift: Tensor

    def weight(self, weight: Tensor) -> Tensor:
        """The weight (C, ...) of the product before the norm, scaled; in its dtype."""
        return (weight * self.scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype)

    def bias(self, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The bias (C,) of the product before the norm, with what the norm adds."""
        return (self.shift if bias is None else bias * self.scale + self.shift).to(dtype)


def fold(norm: nn.Module | None, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None, bool]:
    """A product's weight (C, ...) and bias (C,) with the norm after it inside, and whether it is.

    The norm must run itself, and both come back as they are, in training, where gradients are recorded, with hooks,
    without statistics, or where it is another kind of norm. None is one that is inside already.
    """
    if norm is None:
        return weight, bias, True
    if not isinstance(norm, _BatchNorm) or norm.training or torch.is_grad_enabled() or has_hooks(norm):
        return weight, bias, False
    fixed = fixed_norm(norm)
    if fixed is None:
        return weight, bias, False
    return fixed.weight(weight), fixed.bias(bias, weight.dtype), True


def fixed_norm(norm: _BatchNorm) -> FoldedNorm | None:
    """A batch norm as it is in eval mode; None without running statistics."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return None
    wide = torch.promote_types(variance.dtype, torch.float32)
    scale = (variance.to(wide) + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -mean * scale
    return FoldedNorm(scale, shift if norm.bias is None else shift + norm.bias)


def convolve(
    conv: nn.Conv2d, norm: nn.Module | None, x: Tensor, *, shortcut: Tensor | None = None, relu: bool = False
) -> Tensor:
    """`relu(norm(conv(x)) + shortcut)` of channels-last x (B, C, T, V), the norm folded where nobody listens to either.

    Without a shortcut nothing is added; `relu` says whether that of the sum is wanted.
    """
    if has_hooks(conv):
        return normalise(norm, conv(x), shortcut=shortcut, relu=relu)
    stride = conv.stride
    if conv.kernel_size == (1, 1) and conv.padding == (0, 0) and stride[0] > 1:
        # oneDNN's weight gradient of a strided 1x1 convolution writes out of bounds on small channels-last input
        # (torch 2.13, two threads); dropping the frames first is the same map.
        x = x[:, :, :: stride[0]].contiguous(memory_format=torch.channels_last)
        stride = (1, stride[1])
    weight, bias, folded = fold(norm, conv.weight, conv.bias)
    if folded:
        return convolve_add_relu(conv, x, weight, bias, stride=stride, shortcut=shortcut, relu=relu)
    return normalise(norm, convolve_recorded(conv, x, weight, bias, stride=stride), shortcut=shortcut, relu=relu)
