"""UNIK in eval mode from torch's own ops alone, for files that other runtimes read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmor_fast.nn.folding import fixed_norm
from tmor_fast.nn.unik import UNIK
from tmor_fast.nn.unik_blocks import SpatialUnit, TemporalConv, UNIKBlock


class PlainUNIK(nn.Module):
    """A copy of an encoder for inference: batch norms folded, heads fused, convolutions and matrix products only.

    Args:
        encoder: what to copy; its statistics are those of now.
        head: applied to the features, e.g. the classifier; None gives the features.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, encoder: UNIK, head: nn.Module | None = None) -> None:
        super().__init__()
        c = encoder.config
        self.persons, self.averages_present = c.persons, c.person_average == "present"
        scale, shift = _affine(encoder.data_bn)
        # The norm's channels run persons, joints, coordinates; joints are (N, C, T, V, M).
        for name, value in (("scale", scale), ("shift", shift)):
            self.register_buffer(
                name, value.view(c.persons, c.joints, c.channels).permute(2, 1, 0)[:, None].contiguous()
            )
        blocks = []
        for block in encoder.blocks:
            if not isinstance(block, UNIKBlock):
                raise TypeError(f"PlainUNIK copies blocks of UNIK, got {type(block).__name__}")
            blocks.append(_Block(block))
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Identity() if head is None else head

    def forward(self, joints: Tensor) -> Tensor:
        """What `head` makes of the features (N, F) of joints (N, C, T, V, M)."""
        x = joints * self.scale + self.shift
        x = x.permute(0, 4, 1, 2, 3).flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        persons = x.mean((2, 3)).unflatten(0, (-1, self.persons))
        out: Tensor = self.head(self._average(persons, joints))
        return out

    def _average(self, persons: Tensor, joints: Tensor) -> Tensor:
        """(N, M, F) to (N, F), over every slot or over those that hold somebody."""
        if not self.averages_present:
            return persons.mean(1)
        present = (joints != 0).flatten(1, 3).any(1).to(persons.dtype)
        # A clip without any person counts every slot.
        present = torch.where(present.sum(1, keepdim=True) > 0, present, torch.ones_like(present))
        return (persons * present[:, :, None]).sum(1) / present.sum(1, keepdim=True)


class _Block(nn.Module):
    def __init__(self, block: UNIKBlock) -> None:
        super().__init__()
        self.spatial, self.temporal = _Spatial(block.spatial), _folded(block.temporal)
        self.has_residual = block.has_residual
        self.residual = nn.Identity() if block.residual is None else _folded(block.residual)

    def forward(self, x: Tensor) -> Tensor:
        y = self.temporal(self.spatial(x))
        return F.relu(y + self.residual(x) if self.has_residual else y)


class _Spatial(nn.Module):
    """S-LSU on (B, C, T, V), equations as in `tmor_fast.ops.dependency_attention`."""

    def __init__(self, unit: SpatialUnit) -> None:
        super().__init__()
        self.heads, self.joints, self.tau = unit.heads, unit.joints, unit.tau
        self.embed = _pointwise(unit.query_key_weight, unit.query_key_bias)
        scale, shift = _affine(unit.norm)
        self.value = _pointwise(unit.value_weight * scale[:, None], unit.value_bias.sum(0) * scale + shift)
        self.register_buffer("dependency", unit.dependency.detach().clone())
        self.shortcut = nn.Identity() if unit.shortcut is None else _folded(unit.shortcut)
        self.window: nn.Conv2d | None = None
        if unit.window_conv is not None and unit.window_norm is not None:
            # Joints of tau frames lie tau blocks of V apart: a (1, tau) convolution with dilation V over them.
            scale, shift = _affine(unit.window_norm)
            weight, bias = unit.window_conv.weight[:, :, :, :, 0], unit.window_conv.bias
            assert bias is not None
            width = weight.shape[0]
            self.window = nn.Conv2d(width, width, (1, unit.tau), dilation=(1, unit.joints), dtype=weight.dtype)
            _fill(self.window, weight * scale[:, None, None, None], bias * scale + shift)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[2]
        if self.tau > 1:
            half = (self.tau - 1) // 2
            padded = F.pad(x, (0, 0, half, half))
            x = torch.cat([padded[:, :, k : k + frames] for k in range(self.tau)], 3)
        channels, joints = x.shape[1], x.shape[3]
        terms = self.embed.out_channels // (2 * self.heads) * frames
        theta, phi = self.embed(x).reshape(-1, 2, self.heads, terms, joints).unbind(1)
        # Scaled before the product: a sum over thousands of terms would leave half precision's range.
        attention = ((theta / terms).transpose(-1, -2) @ phi).softmax(-2)
        mixed = x.reshape(-1, 1, channels * frames, joints) @ (attention + self.dependency)
        z = self.value(mixed.reshape(-1, self.heads * channels, frames, joints))
        y = F.relu(z + self.shortcut(x))
        return y if self.window is None else self.window(y)


def _folded(unit: TemporalConv) -> nn.Conv2d:
    """A convolution with its norm inside."""
    conv = unit.conv
    scale, shift = _affine(unit.norm)
    made = nn.Conv2d(
        conv.in_channels, conv.out_channels, (conv.kernel_size[0], 1), (conv.stride[0], 1),
        (int(conv.padding[0]), 0), (conv.dilation[0], 1), dtype=conv.weight.dtype,
    )  # fmt: skip
    assert conv.bias is not None
    return _fill(made, conv.weight * scale[:, None, None, None], conv.bias * scale + shift)


def _pointwise(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    made = nn.Conv2d(weight.shape[1], weight.shape[0], 1, dtype=weight.dtype)
    return _fill(made, weight[:, :, None, None], bias)


@torch.no_grad()
def _fill(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    assert conv.bias is not None
    conv.weight.copy_(weight)
    conv.bias.copy_(bias)
    return conv


@torch.no_grad()
def _affine(norm: _BatchNorm | None) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of a batch norm in eval mode."""
    if norm is None:
        raise TypeError("PlainUNIK copies a model as it was trained, not a copy by for_inference")
    fixed = fixed_norm(norm)
    assert fixed is not None
    return fixed.scale, fixed.shift
