"""Convolution over time, UNIK's temporal unit, on channels-last skeleton features, forward and backward.

With zeros for frames outside of x, f the frame of the result:

    y[b, f, v, o] = bias[o] + sum_{k, i} weight[o, i, k] x[b, f stride + k dilation - padding, v, i]

    dweight[o, i, k] = sum_{b, f, v} dy[b, f, v, o] x[b, f stride + k dilation - padding, v, i]
    dbias[o] = sum_{b, f, v} dy[b, f, v, o]

The result and dx are torch's. oneDNN takes half as long again for dweight as for either, with as many operations, so it
is a kernel of its own: a product of matrices for every tap, with what it reads copied once for all taps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tmor_fast.build import compiled, extension
from tmor_fast.ops import registry
from tmor_fast.ops.launch import Launch

NAME = "temporal_convolution"
# Asked once: torch.compile cannot trace through a call of the compiled module.
_MISSING = compiled(NAME, "cpu")

registry.define(
    f"{NAME}(Tensor x, Tensor weight, Tensor? bias, int stride, int padding, int dilation, str backend) -> Tensor"
)
registry.define(
    f"{NAME}_backward(Tensor grad, Tensor x, Tensor weight, int stride, int padding, int dilation, bool[] needed, "
    "str backend) -> (Tensor, Tensor, Tensor)"
)


def unavailable(x: Tensor) -> str | None:
    """None if the CPU kernel can take `x`, else the reason why not."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return f"it takes float32 on the CPU, x is {x.dtype} on {x.device} (backend 'reference' takes it)"
    if not x.numel():
        return f"x is empty, shape {tuple(x.shape)} (backend 'reference' takes it)"
    return _MISSING


def temporal_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    backend: str = "auto",
) -> Tensor:
    """Convolve every joint over time, as `torch.nn.functional.conv2d` with a (K, 1) kernel does, channels last.

    Under autocast, tensors other than float64 are cast to its dtype. The first derivative is implemented, the second is
    not.

    Args:
        x: (B, T, V, Cin), any strides.
        weight: (Cout, Cin, K), of x's dtype.
        bias: (Cout,), of x's dtype, or None.
        stride: frames from one output frame to the next.
        padding: zero frames before the first and after the last.
        dilation: frames from one tap to the next.
        backend: "reference" (torch, any floating dtype and device), "cpu" (torch too, but for the gradients of weight
            and bias, which are compiled; float32; these have the same bits for any number of threads, but for a bias
            whose weight has no gradient), or "auto": the first of "cpu", "reference" that can take the tensors.

    Returns:
        (B, T', V, Cout), contiguous, with T' = (T + 2 padding - dilation (K - 1) - 1) // stride + 1.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, there are fewer frames than the taps span, or the
            backend's name is unknown.
        TypeError: an argument is not a tensor, or x not floating point.
        BackendUnavailableError: the backend cannot run.
    """
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if not isinstance(tensor, Tensor) and not (name == "bias" and tensor is None):
            raise TypeError(f"{NAME}: {name} must be a torch.Tensor, got {type(tensor).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{NAME}: x must be floating point, got {x.dtype}")
    x, weight, bias = _cast(x), _cast(weight), None if bias is None else _cast(bias)
    _check(x, weight, bias, stride, padding, dilation)
    registry.refuse_forward_mode(NAME, x, weight, bias)
    backend = registry.choose(NAME, backend, {"cpu": lambda: unavailable(x), "reference": lambda: None})
    result: Tensor = torch.ops.tmor_fast.temporal_convolution(x, weight, bias, stride, padding, dilation, backend)
    return result


def _cast(tensor: Tensor) -> Tensor:
    """In autocast's dtype where it is on; devices without autocast, such as "meta", raise when asked."""
    device = tensor.device.type
    if tensor.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int) -> None:
    fits = x.dim() == 4 and weight.dim() == 3 and x.shape[-1] == weight.shape[1]
    if not fits or not x.shape[1] * x.shape[2] * weight.numel():
        raise ValueError(
            f"{NAME}: x must be (B, T, V, Cin) and weight (Cout, Cin, K), none of the sizes but B 0, "
            f"got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if bias is not None and tuple(bias.shape) != tuple(weight.shape[:1]):
        raise ValueError(f"{NAME}: bias must be {tuple(weight.shape[:1])} or None, got {tuple(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and (tensor.dtype != x.dtype or tensor.device != x.device):
            raise ValueError(
                f"{NAME}: {name} must be {x.dtype} on {x.device} as x is, got {tensor.dtype} on {tensor.device}"
            )
    for name, value, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{NAME}: {name} must be an integer of at least {least}, got {value!r}")
    if output_frames(x.shape[1], weight.shape[2], stride, padding, dilation) < 1:
        raise ValueError(
            f"{NAME}: {weight.shape[2]} taps with dilation {dilation} span more than the {x.shape[1]} frames of x "
            f"with padding {padding}"
        )


def output_frames(frames: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """T', the frames of the result."""
    return (frames + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def reference_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int
) -> Tensor:
    """The equation of this module by torch's convolution; arguments as in `temporal_convolution`."""
    x = _channels_first(x, weight, stride)
    y = F.conv2d(x, weight.unsqueeze(-1), bias, (stride, 1), (padding, 0), (dilation, 1))
    return _channels_last(y)


def _channels_last(y: Tensor) -> Tensor:
    """(B, T, V, C), contiguous; not a view, which autograd would forbid to change in place."""
    y = y.permute(0, 2, 3, 1).contiguous()
    found: Tensor = torch.ops.aten._unsafe_view(y, y.shape)
    return found


def _channels_first(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """(B, C, T, V), channels last in memory, where torch's convolutions need no copy, unless a stride skips frames.

    For strides above the taps oneDNN reads or writes beyond channels-last memory or is wrong (torch 2.13): one joint,
    forward; few channels, the gradient of the weight.
    """
    skips = stride > weight.shape[-1]
    x = x.permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.contiguous_format if skips else torch.channels_last)


def reference_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, needed: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; those not `needed` are empty."""
    x, grad = (_channels_first(tensor, weight, stride) for tensor in (x, grad))
    sizes = [weight.shape[0]], [stride, 1], [padding, 0], [dilation, 1], False, [0, 0], 1
    dx, dweight, dbias = torch.ops.aten.convolution_backward(grad, x, weight.unsqueeze(-1), *sizes, needed)
    return (
        _channels_last(dx) if needed[0] else x.new_empty(0),
        dweight.squeeze(-1).contiguous() if needed[1] else x.new_empty(0),
        dbias if needed[2] else x.new_empty(0),
    )


def cpu_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, needed: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `reference_backward`, the gradients of weight and bias compiled."""
    dx, dweight, dbias = x.new_empty(0), x.new_empty(0), x.new_empty(0)
    if needed[0]:
        only_x = [True, False, False]
        dx, _, _ = reference_backward(grad, x, weight, stride, padding, dilation, only_x)
    if needed[1]:
        dweight = torch.empty_like(weight, memory_format=torch.contiguous_format)
        dbias = x.new_empty(weight.shape[0] if needed[2] else 0)
        _weight_gradient(grad.detach().contiguous(), x.detach().contiguous(), dweight, dbias, stride, padding, dilation)
    elif needed[2]:
        dbias = grad.sum((0, 1, 2))  # which torch takes as fast
    return dx, dweight, dbias


def _weight_gradient(
    grad: Tensor, x: Tensor, dweight: Tensor, dbias: Tensor, stride: int, padding: int, dilation: int
) -> None:
    """Fill `dweight` and, unless it is empty, `dbias`."""
    length = output_frames(x.shape[1], dweight.shape[2], stride, padding, dilation)
    sizes = {
        "clips": x.shape[0],
        "frames": x.shape[1],
        "output_frames": length,
        "joints": x.shape[2],
        "in_channels": x.shape[3],
        "out_channels": dweight.shape[0],
        "kernel": dweight.shape[2],
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
    }
    float32 = (torch.float32,)
    shape = (x.shape[0], length, x.shape[2], dweight.shape[0])
    # Not x's device: a traced graph keeps its backend where its tensors are moved.
    with Launch(NAME, "cpu") as launch:
        extension().temporal_convolution_weight_gradient_cpu(
            sizes,
            x=launch.pointer("x", x, dtypes=float32),
            grad=launch.pointer("grad", grad, dtypes=float32, shape=shape),
            grad_weight=launch.pointer("grad_weight", dweight, dtypes=float32, shape=(None, x.shape[3], None)),
            grad_bias=launch.pointer("grad_bias", dbias if dbias.numel() else None, dtypes=float32),
            threads=torch.get_num_threads(),
            isa="",
        )


def _forward(x: Tensor, *rest: Any) -> Tensor:
    *arguments, _ = rest
    return reference_forward(x, *arguments)


def _gradients(grad: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *arguments, backend = rest
    kernel: Callable[..., tuple[Tensor, Tensor, Tensor]] = cpu_backward if backend == "cpu" else reference_backward
    return kernel(grad, *arguments)


def _fake_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int, backend: str
) -> Tensor:
    frames = output_frames(x.shape[1], weight.shape[2], stride, padding, dilation)
    return x.new_empty(x.shape[0], frames, x.shape[2], weight.shape[0])


def _fake_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, needed: list[bool], backend: str
) -> tuple[Tensor, ...]:
    shapes = (x.shape, weight.shape, weight.shape[:1])
    return tuple(x.new_empty(shape if need else (0,)) for shape, need in zip(shapes, needed, strict=True))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *ctx.sizes, ctx.backend = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:3])
    found = torch.ops.tmor_fast.temporal_convolution_backward(grad, x, weight, *ctx.sizes, needed, ctx.backend)
    grads = (value if need else None for value, need in zip(found, needed, strict=True))
    return (*grads, None, None, None, None)


registry.implement(NAME, _forward, _fake_forward, ("CPU", "CUDA"))
registry.implement(f"{NAME}_backward", _gradients, _fake_backward, ("CPU", "CUDA"))
registry.differentiate(NAME, _setup, _backward)
registry.differentiate_once(f"{NAME}_backward")
