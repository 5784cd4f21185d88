"""UNIK's spatial unit, `dependency_attention`, against its released form, a convolution per head: time, memory, error.

    python benchmarks/run.py dependency_attention [--quick] [--device cuda]

Clips of 150 frames and 17 joints, three heads, at the three widths of the network: the forward pass alone, and with the
gradients of everything. On a GPU 64 clips in bfloat16, replayed as a CUDA graph; on a CPU 8 clips in float32. The floor
is the longer of the equation's operations and of reading x twice and writing the result once (with gradients: x and the
gradient of the result twice more, the gradient of x once).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tmor_fast.benchmark import SECONDS, Call, Case, Claim, Contender, Floor, Settings, asked_seconds

WIDTHS, FRAMES, JOINTS, HEADS = (64, 128, 256), 150, 17, 3
CLIPS = {"cpu": 8, "cuda": 64}
PRECISION = {"cpu": "fp32", "cuda": "bf16"}
QUICK_CLIPS = {"cpu": 2, "cuda": 64}
# Largest error relative to the largest value; bf16 keeps 8 bits.
WRONG = {"fp32": 1e-4, "bf16": 3e-2}
WORK = {"forward": 1, "gradients": 3}  # forward passes' worth of operations


def _dtype(settings: Settings) -> Any:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}[PRECISION[settings.device]]


def _released(channels: int) -> Any:
    """The unit of the released code with random weights, and a dependency matrix that is not 0."""
    import torch

    from tmor_fast.nn.unik_released import ReleasedSpatial

    torch.manual_seed(0)
    unit = ReleasedSpatial(channels, channels, JOINTS, HEADS, 1)
    torch.nn.init.normal_(unit.DepM, std=0.1)
    return unit


def _weights(channels: int) -> list[Any]:
    """The same weights as `tmor_fast.ops.dependency_attention` takes them."""
    import torch

    unit = _released(channels)
    embeddings = [*unit.conv_a, *unit.conv_b]
    return [
        torch.cat([conv.weight.flatten(1) for conv in embeddings]),
        torch.cat([conv.bias for conv in embeddings]),
        unit.DepM,
        torch.cat([conv.weight.flatten(1) for conv in unit.conv_d], dim=1),
        torch.stack([conv.bias for conv in unit.conv_d]).sum(0),
    ]


def _clips(settings: Settings) -> int:
    return (QUICK_CLIPS if settings.quick else CLIPS)[settings.device]


def _inputs(channels: int, settings: Settings, dtype: Any) -> tuple[Any, Any]:
    """x and the gradient of the result, (N, T, V, C)."""
    import torch

    random = torch.Generator().manual_seed(1)
    x, upstream = (torch.randn(_clips(settings), FRAMES, JOINTS, channels, generator=random) for _ in range(2))
    # All contenders get the numbers of the lower precision, so that float64 starts from the same.
    low = _dtype(settings)
    return x.to(low).to(dtype), upstream.to(low).to(dtype)


def _ours(channels: int, work: str, settings: Settings, backend: str = "auto", dtype: Any = None) -> Call:
    """The op; float64 by its reference is what all are checked against."""
    import torch

    from tmor_fast.ops import dependency_attention

    low = _dtype(settings)
    dtype = dtype or low
    x, upstream = (value.to(settings.device) for value in _inputs(channels, settings, dtype))
    leaves = [x] + [weight.detach().to(low).to(settings.device, dtype) for weight in _weights(channels)]
    leaves = [leaf.requires_grad_(work == "gradients") for leaf in leaves]

    def call() -> dict[str, Any]:
        z = dependency_attention(*leaves, num_heads=HEADS, backend=backend)
        if work == "forward":
            return {"z": z}
        found = torch.autograd.grad(z, leaves, upstream)
        return {"z": z.detach(), "x": found[0], "dependency": found[3], "values": found[4]}

    return call


def _peer(channels: int, work: str, settings: Settings, compiled: bool) -> Call:
    import torch

    x, upstream = (
        value.to(settings.device).permute(0, 3, 1, 2).contiguous()
        for value in _inputs(channels, settings, _dtype(settings))
    )
    unit = _released(channels).to(settings.device, _dtype(settings))
    # What follows the sum over heads is no part of the op.
    mixed = torch.compile(unit.mixed) if compiled else unit.mixed
    x.requires_grad_(work == "gradients")
    values = [conv.weight for conv in unit.conv_d]
    used = [unit.DepM, *values, *(p for part in (unit.conv_a, unit.conv_b) for p in part.parameters())]

    def call() -> dict[str, Any]:
        with torch.set_grad_enabled(work == "gradients"):
            z = mixed(x)
        result = {"z": z.detach().permute(0, 2, 3, 1)}
        if work == "forward":
            return result
        found = torch.autograd.grad(z, [x, *used], upstream)
        return result | {
            "x": found[0].permute(0, 2, 3, 1), "dependency": found[1],
            "values": torch.cat([grad.flatten(1) for grad in found[2 : 2 + HEADS]], dim=1),
        }  # fmt: skip

    return call


def _check(outputs: Mapping[str, Any], channels: int, work: str, settings: Settings) -> dict[str, dict[str, Any]]:
    """Largest errors against float64, relative to the largest value."""
    import torch

    truth = _ours(channels, work, settings, "reference", torch.float64)()
    facts: dict[str, dict[str, Any]] = {}
    for contender, output in outputs.items():
        errors = {
            name: float((output[name].to(value) - value).abs().max() / value.abs().max())
            for name, value in truth.items()
        }
        facts[contender] = {f"{name} error": f"{error:.1e}" for name, error in errors.items()}
        wrong = [name for name, error in errors.items() if not error < WRONG[PRECISION[settings.device]]]
        if wrong:
            facts[contender]["wrong"] = f"{', '.join(wrong)} against float64"
    return facts


def _amounts(channels: int, work: str, settings: Settings) -> tuple[float, float]:
    """Operations of the equation, and bytes of the tensors of a joint's size."""
    import torch

    from tmor_fast.nn.flops import dependency_attention_flops

    shape = torch.Size((_clips(settings), FRAMES, JOINTS, channels))
    embedded = torch.Size((2 * HEADS * (channels // 4), channels))
    flops = dependency_attention_flops(shape, embedded, torch.Size((channels, HEADS * channels)), HEADS)
    passes = 3 if work == "forward" else 3 + 5
    return float(WORK[work] * flops), float(passes * shape.numel() * _dtype(settings).itemsize)


def _case(channels: int, work: str, settings: Settings) -> Case:
    precision = PRECISION[settings.device]
    flops, moved = _amounts(channels, work, settings)
    amounts: dict[str, Any] = {"flops": flops, "bytes": moved, "precision": precision, "cuda_graph": True}
    contenders = [
        Contender("tmor_fast", "ours", lambda: _ours(channels, work, settings), headline=True, **amounts),
        Contender("released, eager", "peer", lambda: _peer(channels, work, settings, False), **amounts),
        Contender(
            "reference, eager", "peer", lambda: _ours(channels, work, settings, "reference"), **amounts,
            note="backend 'reference': the same equations in few torch calls, with gradients written by hand",
        ),
    ]  # fmt: skip
    if not settings.quick:
        contenders.append(
            Contender(
                "released, compiled", "peer", lambda: _peer(channels, work, settings, True), one_call_first=True,
                **amounts,
            )
        )  # fmt: skip
    return Case(
        f"{work}, {channels} channels",
        {"clips": _clips(settings), "frames": FRAMES, "joints": JOINTS, "heads": HEADS, "channels": channels},
        contenders,
        check=lambda outputs: _check(outputs, channels, work, settings),
        floors=[Floor("operations or memory", flops, precision, moved)],
        seconds=asked_seconds(settings) or (2.0 if settings.device == "cpu" and not settings.quick else None),
    )


def cases(settings: Settings) -> Sequence[Case]:
    """The forward pass and the gradients at each width; a quick run on a CPU takes the first width."""
    asked = [name for name in settings.options["work"].split(",") if name]
    unknown = sorted(set(asked) - set(WORK))
    if unknown:
        raise ValueError(f"dependency_attention.work: unknown {', '.join(unknown)}; accepted: {', '.join(WORK)}")
    widths = WIDTHS[:1] if settings.quick and settings.device == "cpu" else WIDTHS
    return [_case(channels, work, settings) for work in asked or WORK for channels in widths]


CLAIM = Claim(
    "UNIK's spatial unit in one op, against one convolution per head",
    cases,
    options={"work": ("", "forward, gradients, comma-separated; empty: both"), "seconds": SECONDS},
)
