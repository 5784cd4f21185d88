"""Batch norm in training with the shortcut and the ReLU that follow it, forward and backward.

Over the rows of x, with the biased variance of each channel:

    y = relu((x - mean) / sqrt(variance + eps) * weight + bias + shortcut)

The statistics may come from the op that wrote x (`dependency_attention_statistics`): x is then read once. Backward,
with g the gradient before the ReLU and x^ the normalised x, averages over the rows:

    dx = weight / sqrt(variance + eps) * (g - mean(g) - x^ mean(g x^))
    dweight = sum g x^,  dbias = sum g,  dshortcut = g
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tmor_fast.build import compiled, extension
from tmor_fast.ops import registry
from tmor_fast.ops.launch import FLOATS, Launch, dtype_code, not_taken, single

NAME = "batch_norm_relu"
# Asked once: torch.compile cannot trace through a call of the compiled module.
_MISSING = compiled(NAME, "cpu")

registry.define(
    f"{NAME}(Tensor x, Tensor weight, Tensor bias, Tensor? shortcut, Tensor? statistics, float eps, bool relu, "
    "str backend) -> (Tensor, Tensor)"
)
registry.define(
    f"{NAME}_backward(Tensor grad, Tensor x, Tensor weight, Tensor? out, Tensor statistics, float eps, bool[] needed, "
    "str backend) -> (Tensor, Tensor, Tensor, Tensor)"
)


def unavailable(x: Tensor) -> str | None:
    """None if the CPU kernel can take `x`, else the reason why not."""
    return not_taken(x, "cpu") or _MISSING


def batch_norm_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    shortcut: Tensor | None = None,
    statistics: Tensor | None = None,
    relu: bool = True,
    eps: float = 1e-5,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Batch norm with the statistics of x itself, as in training, plus a shortcut, and ReLU, in one pass over x.

    Statistics and gradients are computed in float32 at least. The first derivative is implemented, the second is not.
    There is no state: running statistics are the caller's (`torch.nn.BatchNorm2d` keeps the variance times
    R / (R - 1) of R rows). Autocast changes nothing: the result has x's dtype.

    Args:
        x: (..., C), channels last, any strides; at least two rows.
        weight, bias: (C,), of x's dtype or, for 16 bits, float32.
        shortcut: of x's shape and dtype, is added before the ReLU.
        statistics: (2, C), at least float32: mean and biased variance of x, where they are known. The gradient takes
            them for functions of x, so statistics from elsewhere (running ones, those of all ranks) give wrong ones.
        relu: whether negative results become 0.
        eps: is added to the variance.
        backend: "reference" (plain torch, any floating dtype and device; several passes over memory), "cpu" (compiled;
            float32, float16 and bfloat16; the same bits for any number of threads), or "auto": the first of "cpu",
            "reference" that can take the tensors. There is no CUDA kernel: `torch.nn.functional.batch_norm` is faster
            than the reference there.

    Returns:
        The result, of x's shape and dtype, contiguous, and the statistics (2, C), without gradient.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, there are fewer than two rows, or the backend's name
            is unknown.
        TypeError: an argument is not a tensor, or x not floating point.
        BackendUnavailableError: the backend cannot run.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"{NAME}: x must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    _check(x, weight, bias, shortcut, statistics)
    registry.refuse_forward_mode(NAME, x, weight, bias, shortcut, statistics)
    backend = registry.choose(NAME, backend, {"cpu": lambda: unavailable(x), "reference": lambda: None})
    result: tuple[Tensor, Tensor] = torch.ops.tmor_fast.batch_norm_relu(
        x, weight, bias, shortcut, statistics, eps, relu, backend
    )
    return result


def _check(x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, statistics: Tensor | None) -> None:
    if x.dim() < 2 or x.shape[-1] < 1 or x.numel() // max(x.shape[-1], 1) < 2:
        raise ValueError(f"{NAME}: x must be (..., C) with at least two rows, got {tuple(x.shape)}")
    wide = torch.promote_types(x.dtype, torch.float32)
    expected: tuple[tuple[str, Tensor | None, tuple[int, ...], tuple[torch.dtype, ...]], ...] = (
        ("weight", weight, x.shape[-1:], (x.dtype, wide)),
        ("bias", bias, x.shape[-1:], (x.dtype, wide)),
        ("shortcut", shortcut, x.shape, (x.dtype,)),
        ("statistics", statistics, (2, x.shape[-1]), (wide,)),
    )
    for name, tensor, shape, dtypes in expected:
        if tensor is None and name in ("shortcut", "statistics"):
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{NAME}: {name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tuple(tensor.shape) != tuple(shape) or tensor.dtype not in dtypes or tensor.device != x.device:
            accepted = " or ".join(str(dtype) for dtype in dict.fromkeys(dtypes))
            raise ValueError(
                f"{NAME}: {name} must be {tuple(shape)}, {accepted} on {x.device} for x {tuple(x.shape)}, {x.dtype}, "
                f"got {tuple(tensor.shape)}, {tensor.dtype} on {tensor.device}"
            )


def _rows(x: Tensor) -> Tensor:
    """(R, C) in float32 at least."""
    return x.reshape(-1, x.shape[-1]).to(torch.promote_types(x.dtype, torch.float32))


def reference_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shortcut: Tensor | None,
    statistics: Tensor | None,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """The equations of this module in plain torch; arguments as in `batch_norm_relu`."""
    rows = _rows(x)
    if statistics is None:
        variance, mean = torch.var_mean(rows, 0, correction=0)
        statistics = torch.stack((mean, variance))
    else:
        statistics = statistics.clone()
    y = (rows - statistics[0]) * (statistics[1] + eps).rsqrt() * weight + bias
    if shortcut is not None:
        y = y + shortcut.reshape(y.shape)
    return (y.relu() if relu else y).to(x.dtype).reshape(x.shape).contiguous(), statistics


def reference_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    out: Tensor | None,
    statistics: Tensor,
    eps: float,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and shortcut; those not `needed` are empty, and so is the last without a ReLU."""
    if out is not None:
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
    rows = _rows(grad)
    inverse = (statistics[1] + eps).rsqrt()
    normalised = (_rows(x) - statistics[0]) * inverse
    total, product = rows.sum(0), (rows * normalised).sum(0)
    dx = x.new_empty(0)
    if needed[0]:
        dx = (rows - total / len(rows) - normalised * (product / len(rows))) * (inverse * weight)
        dx = dx.to(x.dtype).reshape(x.shape).contiguous()
    dweight = product.to(weight.dtype) if needed[1] else weight.new_empty(0)
    dbias = total.to(weight.dtype) if needed[2] else weight.new_empty(0)
    return dx, dweight, dbias, grad.contiguous() if needed[3] and out is not None else x.new_empty(0)


def _given(launch: Launch, x: Tensor, weight: Tensor, eps: float) -> dict[str, Any]:
    """What both passes take; `x` and `weight` are contiguous."""
    return {
        "dtype": dtype_code(x.dtype),
        "rows": x.numel() // x.shape[-1],
        "channels": x.shape[-1],
        "x": launch.pointer("x", x, dtypes=FLOATS),
        "weight": launch.pointer("weight", weight, dtypes=(torch.float32,)),
        "eps": eps,
        "threads": torch.get_num_threads(),
        "isa": "",
    }


def cpu_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shortcut: Tensor | None,
    statistics: Tensor | None,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """The compiled `reference_forward`."""
    x, weight, bias = x.detach().contiguous(), single(weight), single(bias)
    added = None if shortcut is None else shortcut.detach().contiguous()
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    found = x.new_empty(2, x.shape[-1], dtype=torch.float32)
    if statistics is not None:
        found.copy_(statistics)
    with Launch(NAME, "cpu") as launch:
        extension().batch_norm_relu_cpu(
            _given(launch, x, weight, eps),
            bias=launch.pointer("bias", bias, dtypes=(torch.float32,)),
            shortcut=launch.pointer("shortcut", added, dtypes=(x.dtype,), shape=tuple(x.shape)),
            relu=relu,
            known=statistics is not None,
            statistics=launch.pointer("statistics", found, dtypes=(torch.float32,)),
            out=launch.pointer("out", out, dtypes=(x.dtype,)),
        )
    return out, found


def cpu_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    out: Tensor | None,
    statistics: Tensor,
    eps: float,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The compiled `reference_backward`."""
    x, grad, wide = x.detach().contiguous(), grad.detach().contiguous(), single(weight)
    result = None if out is None else out.detach().contiguous()
    dx = x.new_empty(x.shape if needed[0] else 0)
    dshortcut = x.new_empty(x.shape if needed[3] and out is not None else 0)
    gradients = [x.new_empty(weight.shape, dtype=torch.float32) if need else None for need in needed[1:3]]
    with Launch(NAME, "cpu") as launch:
        extension().batch_norm_relu_backward_cpu(
            _given(launch, x, wide, eps),
            statistics=launch.pointer("statistics", statistics.contiguous(), dtypes=(torch.float32,)),
            grad=launch.pointer("grad", grad, dtypes=(x.dtype,), shape=tuple(x.shape)),
            out=launch.pointer("out", result, dtypes=(x.dtype,), shape=tuple(x.shape)),
            grad_x=launch.pointer("grad_x", dx if needed[0] else None, dtypes=(x.dtype,)),
            grad_shortcut=launch.pointer("grad_shortcut", dshortcut if dshortcut.numel() else None, dtypes=(x.dtype,)),
            grad_weight=launch.pointer("grad_weight", gradients[0], dtypes=(torch.float32,)),
            grad_bias=launch.pointer("grad_bias", gradients[1], dtypes=(torch.float32,)),
        )
    dweight, dbias = (weight.new_empty(0) if value is None else value.to(weight.dtype) for value in gradients)
    return dx, dweight, dbias, dshortcut


def _forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *arguments, backend = rest
    kernel: Callable[..., tuple[Tensor, Tensor]] = cpu_forward if backend == "cpu" else reference_forward
    return kernel(x, *arguments)


def _gradients(grad: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *arguments, backend = rest
    kernel: Callable[..., Any] = cpu_backward if backend == "cpu" else reference_backward
    return kernel(grad, *arguments)


def _fake_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(2, x.shape[-1], dtype=torch.promote_types(x.dtype, torch.float32))


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    out: Tensor | None,
    statistics: Tensor,
    eps: float,
    needed: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    shapes = (x.shape, weight.shape, weight.shape, x.shape)
    wanted = [*needed[:3], needed[3] and out is not None]
    likes = (x, weight, weight, x)
    return tuple(
        like.new_empty(shape if need else (0,)) for like, shape, need in zip(likes, shapes, wanted, strict=True)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, _, _, ctx.eps, ctx.relu, ctx.backend = inputs
    out, statistics = output
    ctx.mark_non_differentiable(statistics)
    # Only the ReLU needs the result, to tell where it was 0.
    ctx.save_for_backward(x, weight, statistics, *([out] if ctx.relu else []))


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    x, weight, statistics, *rest = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:4])
    found: tuple[Any, ...] = (None,) * 4
    if any(needed):
        out = rest[0] if ctx.relu else None
        found = torch.ops.tmor_fast.batch_norm_relu_backward(
            grad, x, weight, out, statistics, ctx.eps, needed, ctx.backend
        )
    *grads, dshortcut = (g if need else None for g, need in zip(found, needed, strict=True))
    return (*grads, grad if needed[3] and not ctx.relu else dshortcut, None, None, None, None)


registry.implement(NAME, _forward, _fake_forward, ("CPU", "CUDA"))
registry.implement(f"{NAME}_backward", _gradients, _fake_backward, ("CPU", "CUDA"))
registry.differentiate(NAME, _setup, _backward)
registry.differentiate_once(f"{NAME}_backward")
