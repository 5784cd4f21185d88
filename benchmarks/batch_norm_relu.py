"""The end of a unit in training, batch norm with shortcut and ReLU, against torch's three functions: time, error.

    python benchmarks/run.py batch_norm_relu [--quick]

The activations of UNIK for 16 clips of 150 frames and 17 joints, channels last, at its three widths. Forward and
backward, the statistics once known, as `dependency_attention_statistics` leaves them, and once not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from float64_errors import errors_against

from tmor_fast.benchmark import Call, Case, Claim, Contender, Settings

SIZES = {64: 150, 128: 75, 256: 38}  # channels: frames
CLIPS, JOINTS = 16, 17


def _tensors(channels: int, settings: Settings, dtype: Any = None) -> tuple[list[Any], Any]:
    """x, shortcut, weight and bias, and the gradient of the result, which is 0 where a ReLU might be undecided."""
    import torch
    import torch.nn.functional as F

    random = torch.Generator().manual_seed(0)
    shape = (CLIPS, SIZES[channels], JOINTS, channels)
    x, shortcut, upstream = (torch.randn(shape, generator=random) for _ in range(3))
    weight, bias = 1 + 0.1 * torch.randn(2, channels, generator=random)
    bias = bias - 1
    z = F.batch_norm(x.flatten(0, 2), None, None, weight, bias, training=True).view(shape) + shortcut
    upstream[z.abs() < 1e-4] = 0
    return [t.to(settings.device, dtype).requires_grad_() for t in (x, shortcut, weight, bias)], upstream.to(
        settings.device, dtype
    )


def _outputs(leaves: list[Any], out: Any, upstream: Any) -> dict[str, Any]:
    for leaf in leaves:
        leaf.grad = None
    out.backward(upstream)
    return {"out": out.detach(), "x": leaves[0].grad, "weight": leaves[2].grad}


def _ours(channels: int, known: bool, settings: Settings) -> Call:
    from tmor_fast.ops import batch_norm_relu

    leaves, upstream = _tensors(channels, settings)
    x, shortcut, weight, bias = leaves
    statistics = batch_norm_relu(x.detach(), weight.detach(), bias.detach())[1] if known else None

    def call() -> dict[str, Any]:
        out, _ = batch_norm_relu(x, weight, bias, shortcut=shortcut, statistics=statistics)
        return _outputs(leaves, out, upstream)

    return call


def _torch(channels: int, settings: Settings, dtype: Any = None) -> Call:
    import torch.nn.functional as F

    leaves, upstream = _tensors(channels, settings, dtype)
    x, shortcut, weight, bias = leaves

    def call() -> dict[str, Any]:
        # Of channels-last memory, as a convolution leaves it.
        y = F.batch_norm(x.permute(0, 3, 1, 2), None, None, weight, bias, training=True)
        out = F.relu_(y.add_(shortcut.permute(0, 3, 1, 2)))
        return _outputs(leaves, out.permute(0, 2, 3, 1), upstream)

    return call


def _check(outputs: Mapping[str, Any], channels: int, settings: Settings) -> dict[str, dict[str, Any]]:
    """Errors against the same in float64, relative to the largest value."""
    import torch

    return errors_against(_torch(channels, settings, torch.float64)(), outputs)


def cases(settings: Settings) -> Sequence[Case]:
    """One case for each width."""
    widths = [64] if settings.quick else list(SIZES)
    return [
        Case(
            f"{channels} channels, {CLIPS * SIZES[channels] * JOINTS} rows",
            {"clips": CLIPS, "frames": SIZES[channels], "joints": JOINTS, "channels": channels},
            [
                Contender(
                    "tmor_fast, statistics known", "ours", lambda c=channels: _ours(c, True, settings), headline=True
                ),
                Contender("tmor_fast", "ours", lambda c=channels: _ours(c, False, settings)),
                Contender("torch, three functions", "peer", lambda c=channels: _torch(c, settings)),
            ],
            check=lambda outputs, c=channels: _check(outputs, c, settings),
            seconds=2.0,
        )
        for channels in widths
    ]


CLAIM = Claim("Batch norm in training with shortcut and ReLU", cases)
