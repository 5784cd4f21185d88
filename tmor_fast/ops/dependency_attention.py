"""Dependency attention: the spatial unit (S-LSU) of UNIK, forward and backward.

For head h of H, with `Ce` embedding channels (UNIK Eq. 3.9 and 3.11 of the thesis; scale as released):

    theta_h = x Wq_h + bq_h,  phi_h = x Wk_h + bk_h                                         (N, T, V, Ce)
    A_h[v, w] = softmax over v of  sum_{t,c} theta_h[t, v, c] phi_h[t, w, c] / (Ce * T)     (N, V, V)
    z[t, w] = sum_h E_h ( sum_v x[t, v] (D_h + A_h)[v, w] ) + b                             (N, T, V, Cout)

`D` is the learned dependency matrix. theta and phi are kept scaled by `_embedding_scale`, so that their product is of
the size of the logits: the plain sum over Ce * T terms would overflow float16. Everything stays channels-last; the
attention is recomputed in the backward pass, so only the inputs are kept.

Where a shortcut s and a ReLU follow at once, as they do in UNIK once its norm is folded into the value weights, the op
returns relu(z + s): z is then never read again. Where a batch norm in training follows,
`dependency_attention_statistics` finds the mean and the variance of z while z is still in registers or the cache, for
`tmor_fast.ops.batch_norm_relu` to take.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tmor_fast.ops import dependency_attention_cuda, registry
from tmor_fast.ops.dependency_attention_cpu import cpu_backward, cpu_forward, torch_is_faster, unavailable

NAME = "dependency_attention"

# Mixed values, H times the size of x, exist for one group of clips at a time: 4 MB in float32 instead of 53 MB at
# 128 channels and 32 clips of 64 frames. Time is the same within noise from 2**18 to 2**30.
GROUP_ELEMENTS = 1 << 20

_TENSORS = "Tensor x, Tensor query_key_weight, Tensor query_key_bias, Tensor dependency, Tensor value_weight, "
registry.define(
    f"{NAME}({_TENSORS}Tensor value_bias, Tensor? shortcut, int num_heads, bool relu, str backend) -> Tensor"
)
STATISTICS = f"{NAME}_statistics"
registry.define(f"{STATISTICS}({_TENSORS}Tensor value_bias, int num_heads, str backend) -> (Tensor, Tensor)")
registry.define(
    f"{NAME}_backward(Tensor grad, {_TENSORS}int num_heads, bool[] needed, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)

ARGUMENT_NAMES = ("x", "query_key_weight", "query_key_bias", "dependency", "value_weight", "value_bias")


def _candidates(x: Tensor, sizes: tuple[int, int, int]) -> dict[str, registry.Check]:
    """Backends and their checks for x and (Cout, H, Ce); "auto" takes the first that can run."""
    return {
        "cuda": lambda: dependency_attention_cuda.unavailable("cuda", x, sizes),
        "cpu": lambda: unavailable(x),
        "reference": lambda: None,
        "cuda_naive": lambda: dependency_attention_cuda.unavailable("cuda_naive", x, sizes),
    }


def dependency_attention(
    x: Tensor,
    query_key_weight: Tensor,
    query_key_bias: Tensor,
    dependency: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    *,
    num_heads: int,
    shortcut: Tensor | None = None,
    relu: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Spatial attention over joints with a learned dependency matrix (UNIK's S-LSU), for all heads at once.

    Under autocast, floating inputs are cast to the autocast dtype. Softmax and its gradient are computed in float32 for
    half-precision inputs, by the compiled CPU backend all else too. The first derivative is implemented, the second is
    not.

    Args:
        x: (N, T, V, Cin) joint features, channels last, any strides.
        query_key_weight: (2 * H * Ce, Cin); theta of head 0 to H-1 (Ce rows each), then phi of head 0 to H-1.
        query_key_bias: (2 * H * Ce,).
        dependency: (H, V, V); `dependency[h, v, w]` is what joint v gives to joint w.
        value_weight: (Cout, H * Cin); column `h * Cin + c` belongs to channel c of head h.
        value_bias: (Cout,), the sum of the heads' biases.
        num_heads: H.
        shortcut: (N, T, V, Cout), any strides, is added to the result before it is written.
        relu: the result is relu(z + shortcut), or relu(z) without a shortcut. The backward pass then keeps the result.
        backend: "reference" (plain torch, any floating dtype), "cpu" (compiled; float32, float16 and bfloat16 on the
            CPU, multiplied in float32; the same bits for any number of threads, gradients for the same number), "cuda"
            (float32, float16 and bfloat16; compute capability 8.0), "cuda_naive" (plain loops, for finding bugs), or
            "auto": the first of "cuda", "cpu", "reference" that can take the tensors, but "reference" for bfloat16 on
            CPUs with bfloat16 products.

    Returns:
        (N, T, V, Cout), contiguous, dtype of `x` (or of autocast).

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, or the backend's name is unknown.
        TypeError: an argument is not a floating-point tensor.
        BackendUnavailableError: the backend cannot run.
    """
    arguments: tuple[Tensor, ...] = (x, query_key_weight, query_key_bias, dependency, value_weight, value_bias)
    arguments, shortcut, backend = _prepare(arguments, shortcut, num_heads, backend)
    result: Tensor = torch.ops.tmor_fast.dependency_attention(*arguments, shortcut, num_heads, relu, backend)
    return result


def dependency_attention_statistics(
    x: Tensor,
    query_key_weight: Tensor,
    query_key_bias: Tensor,
    dependency: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    *,
    num_heads: int,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`dependency_attention` for a batch norm to follow: its result z and the statistics of z, in one pass.

    Args:
        x, query_key_weight, query_key_bias, dependency, value_weight, value_bias, num_heads, backend: as in
            `dependency_attention`.

    Returns:
        z (N, T, V, Cout), and (2, Cout), float32 at least: mean and biased variance of z over clips, frames and joints,
        without gradient (`tmor_fast.ops.batch_norm_relu`, to which they go, derives through them itself).

    Raises:
        ValueError: as `dependency_attention`, or there is no clip.
        TypeError, BackendUnavailableError: as `dependency_attention`.
    """
    arguments: tuple[Tensor, ...] = (x, query_key_weight, query_key_bias, dependency, value_weight, value_bias)
    arguments, _, backend = _prepare(arguments, None, num_heads, backend)
    if not x.shape[0]:
        raise ValueError(f"{NAME}: x must have at least one clip for its statistics, got {tuple(x.shape)}")
    result: tuple[Tensor, Tensor] = torch.ops.tmor_fast.dependency_attention_statistics(*arguments, num_heads, backend)
    return result


def _prepare(
    arguments: tuple[Tensor, ...], shortcut: Tensor | None, num_heads: int, backend: str
) -> tuple[tuple[Tensor, ...], Tensor | None, str]:
    """The checked tensors, in autocast's dtype where it is on, and the backend that takes them."""
    x = arguments[0]
    _check_tensors(arguments)
    registry.refuse_forward_mode(NAME, *arguments, shortcut)
    # Devices without autocast, such as "meta", raise when asked whether it is on.
    if torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        # Float64 keeps its precision, as in torch's own autocast ops.
        if x.dtype != torch.float64:
            arguments = tuple(tensor.to(dtype) for tensor in arguments)
            shortcut = shortcut.to(dtype) if isinstance(shortcut, Tensor) else shortcut
    _check_shapes(arguments, num_heads)
    _check_shortcut(shortcut, arguments[0], arguments[4])
    if backend == "auto" and torch_is_faster(arguments[0]):
        backend = "reference"
    sizes = (arguments[4].shape[0], num_heads, arguments[1].shape[0] // (2 * num_heads))
    return arguments, shortcut, registry.choose(NAME, backend, _candidates(arguments[0], sizes))


def _check_tensors(arguments: tuple[Tensor, ...]) -> None:
    for name, value in zip(ARGUMENT_NAMES, arguments, strict=True):
        if not isinstance(value, Tensor):
            raise TypeError(f"{NAME}: {name} must be a torch.Tensor, got {type(value).__name__}")
        if not value.is_floating_point():
            raise TypeError(f"{NAME}: {name} must be floating point, got {value.dtype}")


def _check_shapes(arguments: tuple[Tensor, ...], num_heads: int) -> None:
    x, query_key_weight, query_key_bias, dependency, value_weight, value_bias = arguments
    if isinstance(num_heads, bool) or not isinstance(num_heads, int) or num_heads < 1:
        raise ValueError(f"{NAME}: num_heads must be an integer of at least 1, got {num_heads!r}")
    if x.dim() != 4 or min(x.shape[1:]) < 1:
        raise ValueError(f"{NAME}: x must be (N, T, V, Cin) with T, V, Cin >= 1, got {tuple(x.shape)}")
    _, _, joints, channels = x.shape
    if query_key_weight.dim() != 2 or query_key_weight.shape[0] % (2 * num_heads) or not query_key_weight.shape[0]:
        raise ValueError(
            f"{NAME}: query_key_weight must be (2 * num_heads * Ce, Cin) = ({2 * num_heads} * Ce, {channels}), "
            f"got {tuple(query_key_weight.shape)}"
        )
    outputs = value_weight.shape[0] if value_weight.dim() == 2 else 0
    expected = (
        ("query_key_weight", query_key_weight, (query_key_weight.shape[0], channels)),
        ("query_key_bias", query_key_bias, (query_key_weight.shape[0],)),
        ("dependency", dependency, (num_heads, joints, joints)),
        ("value_weight", value_weight, (max(outputs, 1), num_heads * channels)),
        ("value_bias", value_bias, (max(outputs, 1),)),
    )
    for name, tensor, shape in expected:
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{NAME}: {name} must have shape {shape} for x {tuple(x.shape)} and {num_heads} heads, "
                f"got {tuple(tensor.shape)}"
            )
        if tensor.dtype != x.dtype or tensor.device != x.device:
            raise ValueError(
                f"{NAME}: {name} must have x's dtype and device ({x.dtype}, {x.device}), "
                f"got {tensor.dtype}, {tensor.device}"
            )


def _check_shortcut(shortcut: Tensor | None, x: Tensor, value_weight: Tensor) -> None:
    if shortcut is None:
        return
    if not isinstance(shortcut, Tensor):
        raise TypeError(f"{NAME}: shortcut must be a torch.Tensor or None, got {type(shortcut).__name__}")
    shape = (*x.shape[:3], value_weight.shape[0])
    if tuple(shortcut.shape) != shape or shortcut.dtype != x.dtype or shortcut.device != x.device:
        raise ValueError(
            f"{NAME}: shortcut must be {shape}, {x.dtype} on {x.device} for this x and value_weight, "
            f"got {tuple(shortcut.shape)}, {shortcut.dtype} on {shortcut.device}"
        )


def _embedding_scale(terms: int) -> float:
    """About 1 / sqrt(terms), as a power of two: scaling by it rounds nothing."""
    return 2.0 ** -round(math.log2(terms) / 2)


def _attention(x: Tensor, weight: Tensor, bias: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """theta and phi (N, 2, H, Ce*T, V), both scaled, and the attention (N, H, V, V), its columns summing to 1.

    One GEMM per clip writes both embeddings channels first, (2*H*Ce, T*V): the sum over (c, t) is then a plain batched
    matmul on views, with no permuted copy.
    """
    clips, frames, joints, channels = x.shape
    rows = weight.shape[0]
    terms = rows // (2 * num_heads) * frames
    scale = _embedding_scale(terms)
    flat, wide = x.view(clips, frames * joints, channels), weight.expand(clips, rows, channels)
    embedding = torch.baddbmm(bias[:, None], wide, flat.transpose(1, 2), beta=scale, alpha=scale)
    embedding = embedding.view(clips, 2, num_heads, terms, joints)
    logits = embedding[:, 0].transpose(-1, -2) @ embedding[:, 1]
    accumulate = torch.promote_types(x.dtype, torch.float32)
    return embedding, torch.softmax(logits.to(accumulate) / (terms * scale**2), dim=-2)


def _mixing(attention: Tensor, dependency: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, V*H, V): row `w*H + h` holds what every joint v gives to joint w in head h.

    In this order the mixed values (N, T, V*H, Cin) are also (N, T, V, H*Cin), the input of the value GEMM.
    """
    clips, heads, joints, _ = attention.shape
    mixing = (attention + dependency).to(dtype)
    return mixing.permute(0, 3, 1, 2).reshape(clips, joints * heads, joints)


def _groups(x: Tensor, num_heads: int) -> list[slice]:
    """Slices of clips whose mixed values fit the cache; one slice on a device, where launches cost more."""
    clips, frames, joints, channels = x.shape
    step = max(1, GROUP_ELEMENTS // (frames * joints * channels * num_heads)) if x.device.type == "cpu" else clips
    return [slice(start, min(start + step, clips)) for start in range(0, clips, max(step, 1))]


def reference_forward(
    x: Tensor,
    query_key_weight: Tensor,
    query_key_bias: Tensor,
    dependency: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    shortcut: Tensor | None,
    num_heads: int,
    relu: bool,
) -> Tensor:
    """The equations of this module in plain torch; arguments as in `dependency_attention`.

    Joints are mixed before the value GEMM: UNIK never has Cout < Cin, so mixing Cin channels is the cheaper order.
    """
    x = x.contiguous()
    clips, frames, joints, channels = x.shape
    _, attention = _attention(x, query_key_weight, query_key_bias, num_heads)
    mixing = _mixing(attention, dependency, x.dtype)[:, None]
    out = x.new_empty(clips, frames, joints, value_weight.shape[0])
    for group in _groups(x, num_heads):
        mixed = (mixing[group] @ x[group]).view(-1, num_heads * channels)
        torch.addmm(value_bias, mixed, value_weight.t(), out=out[group].view(-1, value_weight.shape[0]))
    if shortcut is not None:
        out.add_(shortcut)
    return out.relu_() if relu else out


def reference_backward(
    grad: Tensor,
    x: Tensor,
    query_key_weight: Tensor,
    query_key_bias: Tensor,
    dependency: Tensor,
    value_weight: Tensor,
    num_heads: int,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the six tensor arguments; those not `needed` are empty.

    With M = D + A as rows (w, h) and G = grad Wv (the gradient of the mixed values y = M x):
    dWv = grad^T y, dM = sum_t G x^T, dx = M^T G, dD = sum_n dM, dlogits = A (dA - sum_v A dA) / (Ce T),
    dtheta = phi dlogits^T, dphi = theta dlogits, and from there as in a linear layer.
    """
    grad, x = grad.contiguous(), x.contiguous()
    embedding, attention = _attention(x, query_key_weight, query_key_bias, num_heads)
    mixing = _mixing(attention, dependency, x.dtype)[:, None]
    dx, dmixing, dvalue = _value_backward(grad, x, mixing, value_weight, num_heads, needed)

    clips, frames, joints, _ = x.shape
    dmatrix = dmixing.view(clips, joints, num_heads, joints).permute(0, 2, 3, 1)
    ddependency = dmatrix.sum(0).to(x.dtype) if needed[3] else x.new_empty(0)
    dweight, dbias = x.new_empty(0), x.new_empty(0)
    if needed[0] or needed[1] or needed[2]:
        # One scale of dlogits / (Ce T) = dlogits * scale**2 / (terms * scale**2) is in the embeddings already.
        terms = embedding.shape[3]
        dlogits = attention * (dmatrix - (attention * dmatrix).sum(-2, keepdim=True))
        dlogits = (dlogits / (terms * _embedding_scale(terms))).to(x.dtype)
        # theta times dlogits is the gradient of phi and the other way round, so the halves come out swapped;
        # swapping the weights instead of the embeddings spares a copy of the latter.
        both = torch.stack((dlogits, dlogits.transpose(-1, -2)), dim=1)
        swapped = (embedding @ both).view(clips, query_key_weight.shape[0], frames * joints)
        if needed[1]:
            dweight = _swap_halves((swapped @ x.flatten(1, 2)).sum(0))
        if needed[2]:
            dbias = _swap_halves(swapped.sum((0, 2)))
        if needed[0]:
            weight = _swap_halves(query_key_weight).expand(clips, -1, -1)
            dx = torch.baddbmm(dx.flatten(1, 2), swapped.transpose(1, 2), weight).view(x.shape)
    dvalue_bias = grad.sum((0, 1, 2)) if needed[5] else x.new_empty(0)
    return dx, dweight, dbias, ddependency, dvalue, dvalue_bias


def _value_backward(
    grad: Tensor, x: Tensor, mixing: Tensor, value_weight: Tensor, num_heads: int, needed: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Value part of the backward pass, group by group: dx (its value share), dM (N, 1, V*H, V) and dWv."""
    clips, frames, joints, channels = x.shape
    accumulate = torch.promote_types(x.dtype, torch.float32)
    dx = x.new_empty(x.shape if needed[0] else 0)
    dmixing = x.new_empty(clips, joints * num_heads, joints, dtype=accumulate)
    dvalue = x.new_zeros(value_weight.shape if needed[4] else 0, dtype=accumulate)
    for group in _groups(x, num_heads):
        flat_grad = grad[group].view(-1, value_weight.shape[0])
        if needed[4]:
            mixed = (mixing[group] @ x[group]).view(-1, num_heads * channels)
            dvalue += flat_grad.t() @ mixed
        if any(needed[:4]):
            dmixed = (flat_grad @ value_weight).view(-1, frames, joints * num_heads, channels)
            torch.sum(dmixed @ x[group].transpose(-1, -2), dim=1, dtype=accumulate, out=dmixing[group])
            if needed[0]:
                torch.matmul(mixing[group].transpose(-1, -2), dmixed, out=dx[group])
    return dx, dmixing, dvalue.to(x.dtype)


def _swap_halves(tensor: Tensor) -> Tensor:
    """The rows of phi before the rows of theta, or back."""
    return tensor.roll(tensor.shape[0] // 2, 0)


def _forward(x: Tensor, *rest: Any) -> Tensor:
    *tensors, shortcut, num_heads, relu, backend = rest
    # An empty batch has no memory to point at.
    if backend in dependency_attention_cuda.BACKENDS and x.shape[0]:
        weights = dependency_attention_cuda.Weights._make(tensors)
        return dependency_attention_cuda.forward(x, weights, num_heads, backend=backend, shortcut=shortcut, relu=relu)
    kernel: Callable[..., Tensor] = cpu_forward if backend == "cpu" else reference_forward
    return kernel(x, *tensors, shortcut, num_heads, relu)


def _forward_statistics(
    x: Tensor,
    query_key_weight: Tensor,
    query_key_bias: Tensor,
    dependency: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    num_heads: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    tensors = (query_key_weight, query_key_bias, dependency, value_weight, value_bias)
    statistics = x.new_empty(2, value_weight.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))
    if backend in dependency_attention_cuda.BACKENDS:
        weights = dependency_attention_cuda.Weights._make(tensors)
        z = dependency_attention_cuda.forward(x, weights, num_heads, backend=backend, statistics=statistics)
    elif backend == "cpu":
        z = cpu_forward(x, *tensors, None, num_heads, False, statistics)
    else:
        z = reference_forward(x, *tensors, None, num_heads, False)
        statistics[1], statistics[0] = torch.var_mean(z.flatten(0, 2).to(statistics.dtype), 0, correction=0)
    return z, statistics


def _gradients(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    *tensors, num_heads, needed, backend = rest
    if backend in dependency_attention_cuda.BACKENDS and x.shape[0]:
        weights = dependency_attention_cuda.Weights._make([*tensors, None])
        return dependency_attention_cuda.backward(grad, x, weights, num_heads, needed, backend=backend)
    kernel: Callable[..., Any] = cpu_backward if backend == "cpu" else reference_backward
    return kernel(grad, x, *tensors, num_heads, needed)


def _fake_forward(
    x: Tensor,
    query_key_weight: Tensor,
    query_key_bias: Tensor,
    dependency: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    shortcut: Tensor | None,
    num_heads: int,
    relu: bool,
    backend: str,
) -> Tensor:
    return x.new_empty(*x.shape[:3], value_weight.shape[0])


def _fake_statistics(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    outputs = rest[3].shape[0]
    statistics = x.new_empty(2, outputs, dtype=torch.promote_types(x.dtype, torch.float32))
    return x.new_empty(*x.shape[:3], outputs), statistics


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    query_key_weight: Tensor,
    query_key_bias: Tensor,
    dependency: Tensor,
    value_weight: Tensor,
    num_heads: int,
    needed: list[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    shapes = (x.shape, query_key_weight.shape, query_key_bias.shape, dependency.shape, value_weight.shape)
    return tuple(
        x.new_empty(shape if need else (0,))
        for shape, need in zip((*shapes, value_weight.shape[:1]), needed, strict=True)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _, _, num_heads, relu, backend = inputs
    # Only the ReLU needs the result, to tell where it was 0.
    ctx.save_for_backward(*tensors, *([output] if relu else []))
    ctx.num_heads, ctx.backend, ctx.relu = num_heads, backend, relu


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    if ctx.relu:
        grad = torch.ops.aten.threshold_backward(grad, saved[5], 0)
    needed = list(ctx.needs_input_grad[:6])
    grads: tuple[Any, ...] = (None,) * 6
    if any(needed):
        grads = torch.ops.tmor_fast.dependency_attention_backward(grad, *saved[:5], ctx.num_heads, needed, ctx.backend)
    of_shortcut = grad if ctx.needs_input_grad[6] else None
    return (*(g if need else None for g, need in zip(grads, needed, strict=True)), of_shortcut, None, None, None)


def _setup_statistics(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.num_heads, ctx.backend = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors[:5])


def _backward_statistics(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    needed = list(ctx.needs_input_grad[:6])
    saved = ctx.saved_tensors
    grads = torch.ops.tmor_fast.dependency_attention_backward(grad, *saved, ctx.num_heads, needed, ctx.backend)
    return (*(g if need else None for g, need in zip(grads, needed, strict=True)), None, None)


registry.implement(NAME, _forward, _fake_forward, ("CPU", "CUDA"))
registry.implement(STATISTICS, _forward_statistics, _fake_statistics, ("CPU", "CUDA"))
registry.implement(f"{NAME}_backward", _gradients, _fake_backward, ("CPU", "CUDA"))
registry.differentiate(NAME, _setup, _backward)
registry.differentiate(STATISTICS, _setup_statistics, _backward_statistics)
registry.differentiate_once(f"{NAME}_backward")
