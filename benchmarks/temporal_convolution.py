"""The gradients of weight and bias of a convolution over time, against oneDNN's by torch: time, error.

    python benchmarks/run.py temporal_convolution [--quick]

UNIK's convolutions with 9 taps for 16 clips of 150 frames and 17 joints, channels last. The result and the gradient of
x are oneDNN's in both; the forward pass, as many operations as the gradient of the weight, stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from float64_errors import errors_against

from tmor_fast.benchmark import Call, Case, Claim, Contender, Settings

LAYERS = ((64, 64, 150, 1), (128, 128, 150, 2), (128, 128, 75, 1), (256, 256, 75, 2), (256, 256, 38, 1))
CLIPS, JOINTS, TAPS = 16, 17, 9
PADDING = TAPS // 2
FORWARD = "forward pass"

Layer = tuple[int, int, int, int]  # channels in and out, frames, stride


def _tensors(layer: Layer, settings: Settings, dtype: Any = None) -> tuple[Any, Any, Any]:
    """x, weight and the gradient of the result."""
    import torch

    random = torch.Generator().manual_seed(0)
    inputs, outputs, frames, stride = layer
    x = torch.randn(CLIPS, frames, JOINTS, inputs, generator=random)
    weight = torch.randn(outputs, inputs, TAPS, generator=random) / (inputs * TAPS) ** 0.5
    grad = torch.randn(CLIPS, (frames - 1) // stride + 1, JOINTS, outputs, generator=random)
    return x.to(settings.device, dtype), weight.to(settings.device, dtype), grad.to(settings.device, dtype)


def _gradient(layer: Layer, backend: str, settings: Settings, dtype: Any = None) -> Call:
    import torch

    import tmor_fast.ops  # noqa: F401

    x, weight, grad = _tensors(layer, settings, dtype)

    def call() -> dict[str, Any]:
        _, found, bias = torch.ops.tmor_fast.temporal_convolution_backward(
            grad, x, weight, layer[3], PADDING, 1, [False, True, True], backend
        )
        return {"weight": found, "bias": bias}

    return call


def _forward(layer: Layer, settings: Settings) -> Call:
    from tmor_fast.ops import temporal_convolution

    x, weight, _ = _tensors(layer, settings)
    return lambda: temporal_convolution(x, weight, stride=layer[3], padding=PADDING)


def _check(outputs: Mapping[str, Any], layer: Layer, settings: Settings) -> dict[str, dict[str, Any]]:
    """Errors against the same in float64, relative to the largest value."""
    import torch

    return errors_against(_gradient(layer, "reference", settings, torch.float64)(), outputs, without=FORWARD)


def _no_kernel(settings: Settings) -> str | None:
    from tmor_fast.build import compiled

    if settings.device != "cpu":
        return "there is no CUDA kernel: torch's gradient is taken there"
    return compiled("temporal_convolution", "cpu")


def _contenders(layer: Layer, settings: Settings) -> list[Contender]:
    inputs, outputs, frames, stride = layer
    flops = 2.0 * CLIPS * JOINTS * ((frames - 1) // stride + 1) * TAPS * inputs * outputs
    return [
        Contender(
            "tmor_fast", "ours", lambda: _gradient(layer, "cpu", settings), flops=flops, headline=True,
            unavailable=lambda: _no_kernel(settings),
        ),
        Contender("torch", "peer", lambda: _gradient(layer, "reference", settings), flops=flops),
        Contender(FORWARD, "floor", lambda: _forward(layer, settings), flops=flops, note="as many operations"),
    ]  # fmt: skip


def cases(settings: Settings) -> Sequence[Case]:
    """One case for each of the network's layers that differ."""
    return [
        Case(
            f"{layer[0]} to {layer[1]} channels, {layer[2]} frames, stride {layer[3]}",
            {"clips": CLIPS, "joints": JOINTS, "taps": TAPS, "layer": list(layer)},
            _contenders(layer, settings),
            check=lambda outputs, layer=layer: _check(outputs, layer, settings),
            seconds=2.0,
        )
        for layer in (LAYERS[:1] if settings.quick else LAYERS)
    ]


CLAIM = Claim("Gradients of weight and bias of a convolution over time", cases)
