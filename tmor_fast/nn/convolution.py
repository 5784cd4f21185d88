"""Convolutions over time on channels-last activations.

On CPUs, in training, the gradient of the weight is this library's own; in inference oneDNN adds the shortcut to its
sums.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tmor_fast.build import multiplies_bfloat16
from tmor_fast.nn.normalising import normalise
from tmor_fast.ops.temporal_convolution import temporal_convolution, unavailable


def convolve_recorded(
    conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: tuple[int, ...]
) -> Tensor:
    """`conv2d(x, weight, bias)`, differentiable; by `temporal_convolution` where its gradient is the faster one.

    That is on CPUs, in float32, for more than one tap.

    Args:
        conv: whose padding, of zeros, dilation and groups count.
        x: (B, C, T, V), channels last in memory.
        weight: (C', C, K, 1).
        bias: (C',) or None.
        stride: over time and joints, which may be another than `conv`'s.

    Returns:
        (B, C', T', V), channels last.
    """
    padding, dilation = conv.padding, conv.dilation
    if isinstance(padding, str) or not _has_own_gradient(conv, x, weight, stride):
        return F.conv2d(x, weight, bias, stride, padding, dilation, conv.groups)
    y = temporal_convolution(
        x.permute(0, 2, 3, 1),
        weight.squeeze(-1),
        bias,
        stride=int(stride[0]),
        padding=int(padding[0]),
        dilation=int(dilation[0]),
    )
    return y.permute(0, 3, 1, 2)


def _has_own_gradient(conv: nn.Conv2d, x: Tensor, weight: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether a gradient of the weight will be asked for that the CPU kernel of `temporal_convolution` finds."""
    return (
        torch.is_grad_enabled()
        and weight.requires_grad
        and weight.dtype == x.dtype
        and conv.groups == 1
        and conv.kernel_size[0] > 1  # of a single tap, a plain product, oneDNN's gradient is as fast
        and conv.kernel_size[1] == stride[1] == 1
        and conv.padding[1] == 0
        and unavailable(x) is None
        and not torch.is_autocast_enabled("cpu")
        and not _is_transformed()
    )


def _is_transformed() -> bool:
    """Whether a transform of torch.func is at work, which the op does not know (a jvp would be 0)."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def convolve_add_relu(
    conv: nn.Conv2d,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, ...],
    shortcut: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """`relu(conv2d(x, weight, bias) + shortcut)` without gradients.

    Args:
        conv: whose padding, dilation and groups count. A `PackedConv2d` whose weight this is lends its packed copy.
        x: (B, C, T, V), channels last in memory.
        weight: (C', C, K, 1).
        bias: (C',) or None.
        stride: over time and joints, which may be another than `conv`'s.
        shortcut: (B, C', T', V), added to the result, or None.
        relu: whether the ReLU is wanted.

    Returns:
        (B, C', T', V), channels last.
    """
    padding = conv.padding
    if isinstance(padding, str) or not _takes(x, weight, shortcut):
        z = F.conv2d(x, weight, bias, stride, padding, conv.dilation, conv.groups)
        return normalise(None, z, shortcut=shortcut, relu=relu)
    if isinstance(conv, PackedConv2d) and weight is conv.weight:
        weight = conv.packed(x)
    sizes = (list(padding), list(stride), list(conv.dilation), conv.groups)
    ops: Any = torch.ops.mkldnn
    y: Tensor
    if shortcut is None:
        y = ops._convolution_pointwise(x, weight, bias, *sizes, "none", [], "")
    else:
        y = ops._convolution_pointwise.binary(x, shortcut, weight, bias, *sizes, "add", 1.0, None, [], "")
    # Apart, for oneDNN's own ReLU makes NaN 0.
    return F.relu_(y) if relu else y


class PackedConv2d(nn.Conv2d):
    """A convolution for inference alone: besides its weight it keeps a copy in the order in which oneDNN reads it.

    Args:
        conv: the convolution it stands for.
        weight, bias: what to take instead of its weight and bias.
    """

    def __init__(self, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
        assert not isinstance(conv.padding, str)
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            (conv.stride[0], conv.stride[1]),
            (conv.padding[0], conv.padding[1]),
            (conv.dilation[0], conv.dilation[1]),
            conv.groups,
            bias is not None,
            device="meta",
        )
        kept = weight.detach().clone(memory_format=torch.channels_last)
        self.weight = nn.Parameter(kept, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        self._packed: Tensor | None = None
        self._packed_from = -1
        self.training = False

    def packed(self, x: Tensor) -> Tensor:
        """The weight as oneDNN wants it for inputs like x, made once and anew where the weight was written to.

        Writes through `.data` leave no trace and are not seen.
        """
        if self._packed is None or self._packed_from != self.weight._version:
            reorder: Any = torch.ops.mkldnn._reorder_convolution_weight
            sizes = (list(self.padding), list(self.stride), list(self.dilation), self.groups, list(x.shape))
            self._packed = reorder(self.weight.detach(), *sizes)
            self._packed_from = self.weight._version
        return self._packed

    def train(self, mode: bool = True) -> PackedConv2d:
        """Refused but for mode False."""
        if mode:
            raise RuntimeError(
                "a copy made by for_inference cannot be trained: its batch norms are gone; train the model it was "
                "made from and make another copy"
            )
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> PackedConv2d:
        self._packed = None
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Its layout belongs to this machine.
        return {**vars(self), "_packed": None}


def _takes(x: Tensor, weight: Tensor, shortcut: Tensor | None) -> bool:
    """Whether oneDNN's fused convolution may be called: plain tensors on the CPU that nobody traces or derives."""
    if x.device.type != "cpu" or x.numel() == 0 or not torch.backends.mkldnn.enabled or torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    maps = [x] if shortcut is None else [x, shortcut]
    tensors = [*maps, weight]
    if any(type(tensor) not in (Tensor, nn.Parameter) for tensor in tensors):
        return False
    if not all(value.is_contiguous(memory_format=torch.channels_last) for value in maps):
        return False
    if torch.is_autocast_enabled("cpu") or any(tensor.dtype != x.dtype for tensor in tensors):
        return False
    half = x.dtype == torch.bfloat16 and multiplies_bfloat16()
    return (x.dtype == torch.float32 or half) and has_fused_convolution()


@functools.cache
def has_fused_convolution() -> bool:
    """Whether this build of torch has oneDNN and the ops that its compiler calls."""
    if not torch.backends.mkldnn.is_available():
        return False
    names = ("_convolution_pointwise", "_reorder_convolution_weight")
    return all(hasattr(torch.ops.mkldnn, name) for name in names)
