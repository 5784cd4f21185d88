"""Batch norm, shortcut and ReLU of a unit: in training one op where there is one, else one step after the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tmor_fast.ops.batch_norm_relu import batch_norm_relu, unavailable


def has_hooks(module: nn.Module) -> bool:
    """Whether anybody listens to the module's calls."""
    return any(
        getattr(module, name)
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )


def is_fused(norm: nn.Module | None, x: Tensor) -> bool:
    """Whether `normalise(norm, x)` is one op, which takes statistics that are known already.

    It is in training on the CPU for an ordinary batch norm to which nobody listens; one that is synchronised over ranks
    finds its statistics elsewhere.
    """
    return (
        type(norm) is nn.BatchNorm2d
        and (norm.training or norm.running_mean is None)
        and norm.weight is not None
        and norm.bias is not None
        and not has_hooks(norm)
        and x.numel() > 0
        and unavailable(x) is None
    )


def normalise(
    norm: nn.Module | None,
    x: Tensor,
    *,
    shortcut: Tensor | None = None,
    relu: bool = False,
    statistics: Tensor | None = None,
) -> Tensor:
    """`relu(norm(x) + shortcut)`; x may be overwritten where `norm` is None.

    Args:
        norm: any module; None, where it is done already, stands for the identity.
        x: (B, C, T, V), channels last in memory.
        shortcut: of x's shape, or None.
        relu: whether the ReLU is wanted.
        statistics: (2, C), mean and biased variance of x where they are known and `is_fused`.

    Returns:
        (B, C, T, V), channels last.
    """
    if norm is not None and is_fused(norm, x):
        assert isinstance(norm, nn.BatchNorm2d)
        return _fused(norm, x, shortcut, relu, statistics)
    y: Tensor = x if norm is None else norm(x)
    if norm is not None and has_hooks(norm):
        # Who listens may keep what it heard.
        y = y if shortcut is None else y + shortcut
        return F.relu(y) if relu else y
    if shortcut is not None:
        y = y.add_(shortcut)
    return F.relu_(y) if relu else y


def _fused(norm: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None, relu: bool, statistics: Tensor | None) -> Tensor:
    rows = x.permute(0, 2, 3, 1)
    if rows.numel() // rows.shape[-1] < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
    tracks = norm.training and norm.track_running_stats
    if tracks and norm.num_batches_tracked is not None:
        # Before the op, as torch does: what recomputes a checkpointed block stops once it has what it needs.
        norm.num_batches_tracked.add_(1)
    added = None if shortcut is None else shortcut.to(x.dtype).permute(0, 2, 3, 1)
    out, found = batch_norm_relu(
        rows, norm.weight, norm.bias, shortcut=added, statistics=statistics, relu=relu, eps=norm.eps
    )
    if tracks:
        _update(norm, found, rows.numel() // rows.shape[-1])
    return out.permute(0, 3, 1, 2)


@torch.no_grad()
def _update(norm: nn.BatchNorm2d, statistics: Tensor, rows: int) -> None:
    """Let a batch into the running statistics, as torch does: its variance without bias."""
    if norm.running_mean is None or norm.running_var is None:
        return
    factor: float | Tensor = 0.0 if norm.momentum is None else norm.momentum
    if norm.momentum is None and norm.num_batches_tracked is not None:
        factor = 1.0 / norm.num_batches_tracked.to(norm.running_mean.dtype)
    mean, variance = statistics.to(norm.running_mean.dtype)
    norm.running_mean.lerp_(mean, factor)
    norm.running_var.lerp_(variance * (rows / (rows - 1)), factor)
