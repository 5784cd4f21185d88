"""Momentum (EMA) key encoder: a slowly moving copy of the online encoder (MoCo; LAC and T-MOR use momentum 0.994)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

BUFFER_POLICIES = ("copy", "keep")


def check_momentum(momentum: float) -> float:
    """`momentum` itself, or ValueError where it is not in [0, 1]."""
    if not 0.0 <= momentum <= 1.0:
        raise ValueError(f"momentum must be in [0, 1], got {momentum}")
    return momentum


@torch.no_grad()
def ema_update(
    target: nn.Module, source: nn.Module, momentum: float, *, buffers: Literal["copy", "keep"] = "copy"
) -> None:
    """Move `target` towards `source`: every parameter becomes `momentum * target + (1 - momentum) * source`.

    The step is computed in the target's dtype. Keep the target in float32: in bfloat16 a step of 0.006 of a small
    difference is lost.

    Args:
        target: module that follows.
        source: module of the same structure (parameter names and shapes).
        momentum: 0 copies the source, 1 leaves the target alone.
        buffers: "copy" takes the source's buffers (batch-norm statistics and counters) as they are, so in eval mode
            the target normalises as the source does; "keep" leaves the target's own, which then move only while the
            target runs in train mode.

    Raises:
        ValueError: momentum outside [0, 1], an unknown policy or modules of different structure.
    """
    check_momentum(momentum)
    if buffers not in BUFFER_POLICIES:
        raise ValueError(f"ema_update: buffers must be 'copy' or 'keep', got {buffers!r}")
    into, values = _paired(target.named_parameters(), source.named_parameters(), "parameter")
    if into:
        torch._foreach_lerp_(into, values, 1.0 - momentum)
    if buffers == "copy":
        into, values = _paired(target.named_buffers(), source.named_buffers(), "buffer")
        if into:
            torch._foreach_copy_(into, values)


def _paired(
    target: Iterable[tuple[str, Tensor]], source: Iterable[tuple[str, Tensor]], kind: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors of both modules in the same order, the source's on the target's device and in its dtype."""
    into, values = dict(target), dict(source)
    if into.keys() != values.keys():
        differing = sorted(into.keys() ^ values.keys())
        raise ValueError(f"ema_update: the modules differ in {kind}s {', '.join(differing[:5])}")
    for name, tensor in into.items():
        if tensor.shape != values[name].shape:
            raise ValueError(
                f"ema_update: {kind} {name} is {tuple(tensor.shape)} in the target "
                f"and {tuple(values[name].shape)} in the source"
            )
    return list(into.values()), [values[name].to(tensor.device, tensor.dtype) for name, tensor in into.items()]


class MomentumEncoder(nn.Module):
    """Copies of online modules, applied one after another without gradient.

    `MomentumEncoder(backbone, head)(x)` is `head'(backbone'(x))`, the primes being the copies. Call
    `update(backbone, head)` after every optimiser step. The online modules are not kept: only the copies are
    parameters of this module, they have `requires_grad=False` and start equal to the online ones.

    Args:
        online: modules to follow, in the order in which they are applied.
        momentum: share of the old value that stays, in [0, 1].
        buffers: what happens to buffers, see `ema_update`.

    Raises:
        ValueError: no module, momentum outside [0, 1] or an unknown policy.
    """

    def __init__(self, *online: nn.Module, momentum: float = 0.994, buffers: Literal["copy", "keep"] = "copy") -> None:
        super().__init__()
        if not online:
            raise ValueError("MomentumEncoder: give at least one module to follow")
        if buffers not in BUFFER_POLICIES:
            raise ValueError(f"MomentumEncoder: buffers must be 'copy' or 'keep', got {buffers!r}")
        self.momentum = check_momentum(momentum)
        self.buffer_policy = buffers
        # One deepcopy for all, so that parts shared between the modules stay shared.
        self.targets = nn.ModuleList(copy.deepcopy(list(online)))
        self.targets.requires_grad_(False)

    @torch.no_grad()
    def forward(self, inputs: Any) -> Any:
        """The copies applied one after another; the result has no gradient."""
        for target in self.targets:
            inputs = target(inputs)
        return inputs

    def update(self, *online: nn.Module, momentum: float | None = None) -> None:
        """One step towards the online modules.

        Args:
            online: the modules given at construction, in the same order.
            momentum: for this step only, e.g. from a schedule; the encoder's own if None.

        Raises:
            ValueError: another number of modules or another structure, or momentum outside [0, 1].
        """
        if len(online) != len(self.targets):
            raise ValueError(f"MomentumEncoder: follows {len(self.targets)} modules, got {len(online)}")
        step = self.momentum if momentum is None else momentum
        ema_update(self.targets, nn.ModuleList(online), step, buffers=self.buffer_policy)

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, buffers={self.buffer_policy!r}"
