"""The CUDA backends of `dependency_attention`: workspace, launch, and the last products of the gradients.

Nothing waits for the device, so a call can be captured in a CUDA graph. The same input gives the same bits every time:
sums over blocks are merged in one fixed order.
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tmor_fast.build import compiled, extension
from tmor_fast.ops.launch import Launch, dtype_code, not_taken

NAME = "dependency_attention"
BACKENDS = ("cuda", "cuda_naive")
_CAPABILITY = (8, 0)
# Asked once: torch.compile cannot trace through a call of the compiled module.
_MISSING = {backend: compiled(NAME, backend) for backend in BACKENDS}

# Bytes of the buffer for the gradient of theta and phi, 2 H Ce numbers a joint: clips beyond it wait for their turn.
EMBEDDING_BYTES = 128 << 20


class Weights(NamedTuple):
    """The parameters of `tmor_fast.ops.dependency_attention`, of its shapes, all of x's dtype and device."""

    query_key_weight: Tensor
    query_key_bias: Tensor
    dependency: Tensor
    value_weight: Tensor
    value_bias: Tensor | None  # None: backward, which does not read it


def unavailable(backend: str, x: Tensor, sizes: tuple[int, int, int]) -> str | None:
    """None if `backend` ("cuda" or "cuda_naive") can take x (N, T, V, Cin), else the reason why not.

    Args:
        backend: one of `BACKENDS`.
        x: the input.
        sizes: Cout, H and Ce.
    """
    missing = not_taken(x, "cuda") or _MISSING[backend]
    if missing is not None:
        return missing
    # Constants also to torch.compile with dynamic shapes: a graph that depends on them is made anew when they change.
    integers = [operator.index(size) for size in (x.shape[2], x.shape[3], *sizes)]
    return _refusal(backend, x.device.index or 0, dtype_code(x.dtype), *integers)


def _refusal(backend: str, *integers: int) -> str | None:
    """Why the device cannot run these sizes, or None; for torch.compile the call is a constant."""
    return _find_refusal(backend, *integers)


# What torch.compiler.assume_constant_result does; calling it would import the compiler with this library.
_refusal._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.lru_cache
def _find_refusal(
    backend: str, device: int, dtype: int, joints: int, channels_in: int, channels_out: int, heads: int, embedding: int
) -> str | None:
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        found = ".".join(map(str, capability))
        return f"it needs compute capability {_CAPABILITY[0]}.{_CAPABILITY[1]}, cuda:{device} has {found}"
    if backend == "cuda_naive":
        return None
    sizes = {"joints": joints, "channels_in": channels_in, "channels_out": channels_out, "heads": heads}
    # Neither clips nor frames count beyond the first tile; 128 frames fill it.
    given = {"dtype": dtype, "clips": 1, "frames": 128, "embedding": embedding, "device": device, **sizes}
    reason: str = extension().dependency_attention_cuda_refusal(given)
    return reason or None


def _scale(terms: int) -> float:
    """About 1 / sqrt(terms), as a power of two: scaling theta and phi by it rounds nothing."""
    return 2.0 ** -round(math.log2(terms) / 2)


@functools.lru_cache
def _workspace_bytes(naive: bool, backward: bool, with_statistics: bool, sizes: tuple[tuple[str, int], ...]) -> int:
    # Any pointer: none is followed.
    given = {**dict(sizes), "statistics": 256 if with_statistics else 0}
    needed: int = extension().dependency_attention_cuda_workspace(given, naive, backward)
    return needed


class _Call:
    """The arguments that the passes share, and the calls of the module."""

    def __init__(self, launch: Launch, x: Tensor, weights: Weights, num_heads: int, backend: str) -> None:
        self.launch, self.x, self.module, self.dtypes = launch, x, extension(), (x.dtype,)
        self.naive = backend == "cuda_naive"
        clips, frames, joints, channels = x.shape
        wide, outputs = weights.query_key_weight.shape[0], weights.value_weight.shape[0]
        embedding = wide // (2 * num_heads)
        self.sizes = {
            "dtype": dtype_code(x.dtype),
            "clips": clips,
            "frames": frames,
            "joints": joints,
            "channels_in": channels,
            "channels_out": outputs,
            "heads": num_heads,
            "embedding": embedding,
        }
        scale, device = _scale(embedding * frames), launch.device.index
        self.given: dict[str, Any] = {**self.sizes, "scale": scale, "device": device, "stream": launch.stream}
        self.add(
            x=x,
            query_key_weight=weights.query_key_weight,
            query_key_bias=weights.query_key_bias,
            dependency=weights.dependency,
            value_weight=weights.value_weight,
            value_bias=weights.value_bias,
        )

    def add(self, **tensors: Tensor | None) -> None:
        """Pass tensors of x's dtype; None and empty ones are left out."""
        for name, tensor in tensors.items():
            present = tensor is not None and tensor.numel() > 0
            self.given[name] = self.launch.pointer(name, tensor, dtypes=self.dtypes) if present else 0

    def allocate(self, backward: bool) -> None:
        with_statistics = bool(self.given.get("statistics"))
        needed = _workspace_bytes(self.naive, backward, with_statistics, tuple(self.sizes.items()))
        workspace = self.x.new_empty((needed,), dtype=torch.uint8)
        self.given["workspace"] = self.launch.pointer("workspace", workspace, dtypes=(torch.uint8,), alignment=256)
        self.given["workspace_bytes"] = needed

    def run(self, which: str) -> None:
        self.module.dependency_attention_cuda(self.given, self.naive, which)


def forward(
    x: Tensor,
    weights: Weights,
    num_heads: int,
    *,
    backend: str = "cuda",
    shortcut: Tensor | None = None,
    relu: bool = False,
    statistics: Tensor | None = None,
) -> Tensor:
    """`dependency_attention`, and in the same pass what follows it: `relu(z + shortcut)`, or a norm's statistics.

    Args:
        x: (N, T, V, Cin), N at least 1, on a CUDA device; copied if it is not contiguous.
        weights: of the op; with a batch norm folded into the value weight and bias where there is one.
        num_heads: H.
        backend: "cuda" or "cuda_naive" (plain loops with float64 sums, for finding bugs).
        shortcut: (N, T, V, Cout) added to z, or None.
        relu: whether negative results become 0.
        statistics: (2, Cout), float32, contiguous, or None: filled with the mean and the biased variance of z over
            clips, frames and joints, from z before it is rounded to x's dtype. Without shortcut and relu alone.

    Returns:
        (N, T, V, Cout), contiguous, of x's dtype.

    Raises:
        ValueError: a shortcut or statistics of another shape, statistics together with shortcut or relu.
        TypeError: statistics that are not float32.
    """
    x = _dense(x)
    weights = _contiguous(weights)
    shape = (*x.shape[:3], weights.value_weight.shape[0])
    if shortcut is not None and shortcut.shape != shape:
        raise ValueError(f"{NAME}: shortcut must be {shape}, got {tuple(shortcut.shape)}")
    with Launch(NAME, x.device) as launch:
        z = x.new_empty(shape)
        call = _Call(launch, x, weights, num_heads, backend)
        call.add(z=z, shortcut=None if shortcut is None else _dense(shortcut))
        call.given["relu"] = relu
        # Not of x's dtype, as `add` has it.
        call.given["statistics"] = launch.pointer(
            "statistics", statistics, dtypes=(torch.float32,), shape=(2, shape[3])
        )
        call.allocate(backward=False)
        call.run("forward")
    return z


def backward(
    grad: Tensor, x: Tensor, weights: Weights, num_heads: int, needed: list[bool], *, backend: str = "cuda"
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x and the five parameters, in the order of `dependency_attention`; those not `needed` are empty.

    The mixed values never reach memory. With "cuda" the gradient of theta and phi does, for at most `EMBEDDING_BYTES`
    of clips at a time; from there torch's matrix products go on to x, query_key_weight and its bias.

    Args:
        grad: (N, T, V, Cout), the gradient of the result.
        x, weights, num_heads, backend: as in `forward`.
        needed: six flags.
    """
    x, grad = _dense(x), _dense(grad)
    weights = _contiguous(weights)
    shapes = [x.shape, *(t.shape for t in weights[:4]), weights.value_weight.shape[:1]]
    with Launch(NAME, x.device) as launch:
        dx, dweight, dbias, ddependency, dvalue, dvalue_bias = (
            x.new_empty(shape if need else (0,)) for shape, need in zip(shapes, needed, strict=True)
        )
        call = _Call(launch, x, weights, num_heads, backend)
        call.add(grad_z=grad, grad_x=dx, grad_dependency=ddependency, grad_value_weight=dvalue)
        if call.naive:
            call.add(grad_query_key_weight=dweight, grad_query_key_bias=dbias, grad_value_bias=dvalue_bias)
        call.given["wants_attention"] = any(needed[:3])
        call.allocate(backward=True)
        call.run("backward")
        if not call.naive:
            if needed[5]:
                torch.sum(grad, (0, 1, 2), out=dvalue_bias)
            if any(needed[:3]):
                _through_embedding(call, weights.query_key_weight, dx, dweight, dbias)
    return dx, dweight, dbias, ddependency, dvalue, dvalue_bias


def _dense(tensor: Tensor) -> Tensor:
    return (tensor.detach() if tensor.requires_grad else tensor).contiguous()


def _contiguous(weights: Weights) -> Weights:
    return Weights(*[None if t is None else _dense(t) for t in weights])  # type: ignore[arg-type]


def _through_embedding(call: _Call, weight: Tensor, dx: Tensor, dweight: Tensor, dbias: Tensor) -> None:
    """Adds to dx what reaches it through theta and phi, and fills the gradients of their weight and bias."""
    x = call.x
    clips, frames, joints, channels = x.shape
    wide = weight.shape[0]
    step = max(1, EMBEDDING_BYTES // (frames * joints * wide * x.element_size()))
    buffer = x.new_empty(min(step, clips), frames, joints, wide)
    weight_sum = torch.zeros(dweight.shape, dtype=torch.float32, device=x.device)
    bias_sum = torch.zeros(dbias.shape, dtype=torch.float32, device=x.device)
    if dweight.numel() and x.data_ptr() % 16:
        x = x.clone()  # cuBLAS chooses its kernel, and so the last bits, by the alignment
    call.add(grad_embedding=buffer)
    for first in range(0, clips, step):
        last = min(first + step, clips)
        call.given.update(first_clip=first, last_clip=last)
        call.run("embedding")
        gradient = buffer[: last - first].view(-1, wide)
        if dx.numel():
            dx[first:last].view(-1, channels).addmm_(gradient, weight)
        if dweight.numel():
            weight_sum += gradient.t() @ x[first:last].view(-1, channels)
        if dbias.numel():
            # theta's bias moves all logits of a softmax alike: its gradient is 0, and a sum would be rounding alone.
            bias_sum[wide // 2 :] += gradient[:, wide // 2 :].sum(0, dtype=torch.float32)
    dweight.copy_(weight_sum)
    dbias.copy_(bias_sum)
