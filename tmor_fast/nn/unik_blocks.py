"""The spatial and temporal units of UNIK, all heads fused, on channels-last activations.

Activations are (B, C, T, V) in torch's channels_last format, B = clips x persons: memory runs (B, T, V, C), so
convolutions, batch norms and the fused attention, which takes (B, T, V, C), share it without a copy. In-place
operations act on the tensors themselves, never on their permuted views, which autograd would copy.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tmor_fast.nn.folding import convolve, fold
from tmor_fast.nn.normalising import has_hooks, is_fused, normalise
from tmor_fast.nn.unik_config import Initialisation
from tmor_fast.ops.dependency_attention import dependency_attention, dependency_attention_statistics

TEMPORAL_KERNEL = 9
EMBEDDING_REDUCTION = 4  # an attention head has out_channels // 4 channels
FUSED_NORM_WEIGHT = 1e-6  # after the sum of heads: at the start a spatial unit is close to its shortcut


class TemporalConv(nn.Module):
    """A (K, 1) convolution over time followed by batch norm: T-LSU with K = 9, a block's shortcut with K = 1.

    Args:
        in_channels, out_channels: channels before and after.
        kernel: K, odd; the sequence is padded so that stride 1 keeps its length.
        stride, dilation: over time.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            (kernel, 1),
            stride=(stride, 1),
            padding=((kernel - 1) * dilation // 2, 0),
            dilation=(dilation, 1),
        )
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(out_channels)  # None: inside the convolution (for_inference)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, *, shortcut: Tensor | None = None, relu: bool = False) -> Tensor:
        """Map (B, C, T, V) to (B, C', ceil(T / stride), V), with a shortcut of that shape and a ReLU where wanted."""
        return convolve(self.conv, self.norm, x, shortcut=shortcut, relu=relu)


class SpatialUnit(nn.Module):
    """S-LSU: attention between joints plus learned dependencies, all heads at once (thesis, Eq. 3.9, 3.11).

    `out = relu(norm(sum_h E_h x (W_h + A_h)) + shortcut(x))`. With tau > 1 the joints of tau neighbouring frames
    attend together and a (tau, 1) convolution with its own norm, without ReLU, brings them back to one frame.

    Parameters are stored the way the fused op reads them: `query_key_weight` (2*H*Ce, Cin) is theta of every head and
    then phi of every head; `value_weight` (Cout, H*Cin) is E of every head, head by head; `value_bias` (H, Cout) keeps
    one bias per head, which only ever act as their sum, so that nothing of a released checkpoint is lost.
    `joint_bias` (tau*V) is in every released checkpoint and counts in the published size, but the released forward
    never reads it: here it is a parameter without gradient, so distributed training does not wait for it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        joints: int,
        heads: int,
        tau: int = 1,
        init: Initialisation = "released",
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.joints, self.heads, self.tau = joints, heads, tau
        self.embedding = out_channels // EMBEDDING_REDUCTION
        window = tau * joints
        self.dependency = nn.Parameter(torch.empty(heads, window, window))
        self.joint_bias = nn.Parameter(torch.empty(window), requires_grad=False)
        self.query_key_weight = nn.Parameter(torch.empty(2 * heads * self.embedding, in_channels))
        self.query_key_bias = nn.Parameter(torch.empty(2 * heads * self.embedding))
        self.value_weight = nn.Parameter(torch.empty(out_channels, heads * in_channels))
        self.value_bias = nn.Parameter(torch.empty(heads, out_channels))
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(out_channels)  # None: inside the values (for_inference)
        self.shortcut: TemporalConv | None = None
        if in_channels != out_channels:
            self.shortcut = TemporalConv(in_channels, out_channels, kernel=1)
        self.window_conv: nn.Conv3d | None = None
        self.window_norm: nn.BatchNorm2d | None = None
        if tau > 1:
            self.window_conv = nn.Conv3d(out_channels, out_channels, (1, tau, 1))
            self.window_norm = nn.BatchNorm2d(out_channels)
        self.reset_parameters(init)

    def reset_parameters(self, init: Initialisation) -> None:
        """Draw the parameters of the fused op and set the norm after the head sum; the rest draws its own."""
        window = self.dependency.shape[-1]
        # torch takes V*V as the fan of a (H, V, V) tensor, so the released code draws from +-1/V, not +-1/sqrt(V).
        bound = 1 / window if init == "released" else 1 / math.sqrt(window)
        nn.init.uniform_(self.dependency, -bound, bound)
        nn.init.uniform_(self.joint_bias, -1 / window, 1 / window)
        nn.init.normal_(self.query_key_weight, std=math.sqrt(2 / self.embedding))
        nn.init.zeros_(self.query_key_bias)
        nn.init.normal_(self.value_weight, std=math.sqrt(2 / (self.out_channels * self.in_channels * self.heads)))
        nn.init.zeros_(self.value_bias)
        if self.norm is not None:
            nn.init.constant_(self.norm.weight, FUSED_NORM_WEIGHT)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Cin, T, V) to (B, Cout, T, V)."""
        if self.tau > 1:
            x = unfold_frames(x, self.tau)
        shortcut = x if self.shortcut is None else self.shortcut(x)
        # A copy by for_inference has one row: a view of it costs no pass.
        bias = self.value_bias[0] if len(self.value_bias) == 1 else self.value_bias.sum(0)
        y = attend(
            x,
            (self.query_key_weight, self.query_key_bias, self.dependency, self.value_weight, bias),
            self.norm,
            shortcut,
        )
        return y if self.window_conv is None else self._one_frame(y)

    def _one_frame(self, y: Tensor) -> Tensor:
        """Bring (B, C, T, tau*V) back to (B, C, T, V)."""
        conv, norm = self.window_conv, self.window_norm
        assert conv is not None
        weight, bias, folded = fold(norm, conv.weight, conv.bias)
        # Joints of tau frames lie V apart: a (1, tau) convolution with dilation V over them, four-dimensional.
        z = F.conv2d(y, weight[..., 0], bias, dilation=(1, self.joints))
        return normalise(None if folded else norm, z)


class UNIKBlock(nn.Module):
    """`relu(T-LSU(S-LSU(x)) + residual(x))`; the residual is the input, a strided 1x1 projection of it, or nothing."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        joints: int,
        heads: int,
        *,
        tau: int = 1,
        stride: int = 1,
        dilation: int = 1,
        residual: bool = True,
        init: Initialisation = "released",
    ) -> None:
        super().__init__()
        self.spatial = SpatialUnit(in_channels, out_channels, joints, heads, tau, init)
        self.temporal = TemporalConv(out_channels, out_channels, TEMPORAL_KERNEL, stride, dilation)
        self.has_residual = residual
        self.residual: TemporalConv | None = None
        if residual and (in_channels != out_channels or stride != 1):
            self.residual = TemporalConv(in_channels, out_channels, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Cin, T, V) to (B, Cout, ceil(T / stride), V)."""
        shortcut: Tensor | None = None
        if self.has_residual:
            shortcut = x if self.residual is None else self.residual(x)
        if has_hooks(self.temporal):
            # Who listens to the temporal unit hears what it computes alone, and may keep it.
            alone: Tensor = self.temporal(self.spatial(x))
            return F.relu(alone if shortcut is None else alone + shortcut)
        y: Tensor = self.temporal(self.spatial(x), shortcut=shortcut, relu=True)
        return y


def attend(
    x: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], norm: nn.Module | None, shortcut: Tensor
) -> Tensor:
    """`relu(norm(dependency_attention(x, *weights)) + shortcut)`, with as few passes over memory as the norm allows.

    Args:
        x: (B, Cin, T, V), channels_last.
        weights: query_key_weight, query_key_bias, dependency, value_weight and value_bias of the op.
        norm: the batch norm of its result; None if it is inside the value weights already.
        shortcut: (B, Cout, T, V), channels_last.

    Returns:
        (B, Cout, T, V), channels_last.
    """
    *attention, value_weight, value_bias = weights
    heads = attention[2].shape[0]
    value_weight, bias, folded = fold(norm, value_weight, value_bias)
    assert bias is not None
    arguments = (x.permute(0, 2, 3, 1), *attention, value_weight, bias)
    if folded:
        # With the norm inside the value weights, the op ends with the shortcut and the ReLU.
        z = dependency_attention(*arguments, num_heads=heads, shortcut=shortcut.permute(0, 2, 3, 1), relu=True)
        return z.permute(0, 3, 1, 2)
    statistics = None
    if is_fused(norm, x):
        z, statistics = dependency_attention_statistics(*arguments, num_heads=heads)
    else:
        z = dependency_attention(*arguments, num_heads=heads)
    return normalise(norm, z.permute(0, 3, 1, 2), shortcut=shortcut, relu=True, statistics=statistics)


def unfold_frames(x: Tensor, tau: int) -> Tensor:
    """Put the joints of `tau` neighbouring frames side by side.

    Args:
        x: (B, C, T, V), channels_last.
        tau: odd window; frames beyond the ends are zero.

    Returns:
        (B, C, T, tau*V), channels_last; column k*V + v of frame t is joint v of frame t + k - (tau - 1) / 2.
    """
    half = (tau - 1) // 2
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 0, half, half))
    windows = padded.unfold(1, tau, 1).permute(0, 1, 4, 2, 3)
    # The windows overlap in memory until here.
    return windows.flatten(2, 3).contiguous().permute(0, 3, 1, 2)
