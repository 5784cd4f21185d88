"""UNIK in the form of the released code: one convolution per head, written from the formulas.

The fused `UNIK` is checked against it, and benchmarks measure it as the peer. It is slow; models are built from `UNIK`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tmor_fast.nn.unik_config import UNIKConfig


class ReleasedSpatial(nn.Module):
    """S-LSU head by head, `relu(norm(sum_h E_h x (W_h + A_h)) + shortcut(x))`: three convolutions for every head.

    Args:
        cin, cout: channels before and after.
        joints, heads, tau: V, H and the frames that attend together, as in `UNIKConfig`.
    """

    def __init__(self, cin: int, cout: int, joints: int, heads: int, tau: int) -> None:
        super().__init__()
        self.tau, self.joints, self.embedding = tau, joints, cout // 4
        self.DepM = nn.Parameter(torch.zeros(heads, tau * joints, tau * joints))
        self.bias = nn.Parameter(torch.zeros(tau * joints))
        if tau > 1:
            self.out_conv = nn.Conv3d(cout, cout, (1, tau, 1))
            self.out_bn = nn.BatchNorm2d(cout)
        self.conv_a = nn.ModuleList([nn.Conv2d(cin, self.embedding, 1) for _ in range(heads)])
        self.conv_b = nn.ModuleList([nn.Conv2d(cin, self.embedding, 1) for _ in range(heads)])
        self.conv_d = nn.ModuleList([nn.Conv2d(cin, cout, 1) for _ in range(heads)])
        self.down = nn.Identity() if cin == cout else nn.Sequential(nn.Conv2d(cin, cout, 1), nn.BatchNorm2d(cout))
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Cin, T, V) to (B, Cout, T, V)."""
        frames = x.shape[2]
        if self.tau > 1:
            half = (self.tau - 1) // 2
            padded = F.pad(x, (0, 0, half, half))
            x = torch.cat([padded[:, :, k : k + frames] for k in range(self.tau)], 3)
        y = F.relu(self.bn(self.mixed(x)) + self.down(x))
        if self.tau > 1:
            y = self.out_bn(self.out_conv(y.view(*y.shape[:3], self.tau, self.joints)).squeeze(3))
        return y

    def mixed(self, x: Tensor) -> Tensor:
        """`sum_h E_h x (W_h + A_h)` (B, Cout, T, V) of x (B, Cin, T, V): what `ops.dependency_attention` computes."""
        total: Tensor | None = None
        for a, b, d, dependency in zip(self.conv_a, self.conv_b, self.conv_d, self.DepM, strict=True):
            logits = torch.einsum("nctv,nctw->nvw", a(x), b(x)) / (self.embedding * x.shape[2])
            head = d(torch.einsum("nctv,nvw->nctw", x, logits.softmax(1) + dependency))
            total = head if total is None else total + head
        assert total is not None
        return total


class ReleasedTemporal(nn.Module):
    """T-LSU or a projection: a (kernel, 1) convolution and its norm."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, (kernel, 1), (stride, 1), (kernel // 2 * dilation, 0), (dilation, 1))
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Cin, T, V) to (B, Cout, ceil(T / stride), V)."""
        out: Tensor = self.bn(self.conv(x))
        return out


class ReleasedBlock(nn.Module):
    """`relu(T-LSU(S-LSU(x)) + residual(x))`; the first block has no residual."""

    def __init__(
        self, cin: int, cout: int, joints: int, heads: int, tau: int, stride: int, dilation: int, first: bool
    ) -> None:
        super().__init__()
        self.first = first
        self.s_unit = ReleasedSpatial(cin, cout, joints, heads, tau)
        self.t_unit = ReleasedTemporal(cout, cout, 9, stride, dilation)
        if not first:
            plain = cin == cout and stride == 1
            self.residual = nn.Identity() if plain else ReleasedTemporal(cin, cout, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Cin, T, V) to (B, Cout, ceil(T / stride), V)."""
        y: Tensor = self.t_unit(self.s_unit(x))
        return F.relu(y if self.first else y + self.residual(x))


class ReleasedUNIK(nn.Module):
    """The released network: `UNIK` with the same names of parameters, in the same order, as official checkpoints.

    The weights are torch's own initial ones; load others with `load_state_dict(to_official(model))`.

    Args:
        config: the network; without `num_classes` the classifier has one output.
        heads, dilations: of every block; None: those of `config`.
    """

    def __init__(
        self, config: UNIKConfig, heads: tuple[int, ...] | None = None, dilations: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        heads = config.block_heads if heads is None else heads
        dilations = config.dilations if dilations is None else dilations
        self.data_bn = nn.BatchNorm1d(config.persons * config.joints * config.channels)
        cin = config.channels
        for i, width in enumerate(config.widths):
            stride, dilation = config.strides[i], dilations[i]
            block = ReleasedBlock(cin, width, config.joints, heads[i], config.tau, stride, dilation, i == 0)
            self.add_module(f"l{i + 1}", block)
            cin = width
        self.fc = nn.Linear(cin, config.num_classes or 1)

    def forward(self, joints: Tensor) -> Tensor:
        """Class scores (N, num_classes) of joints (N, C, T, V, M)."""
        n, c, t, v, m = joints.shape
        x = self.data_bn(joints.permute(0, 4, 3, 1, 2).reshape(n, m * v * c, t))
        x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        for name, block in self.named_children():
            if name.startswith("l"):
                x = block(x)
        scores: Tensor = self.fc(x.view(n, m, x.shape[1], -1).mean(3).mean(1))
        return scores
