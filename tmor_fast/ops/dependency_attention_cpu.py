"""The compiled CPU kernels of `dependency_attention`: from tensors to pointers and back.

Tensors of activations are read and written in their own type, tile by tile; weights are small and converted at once.
The forward pass gives the same bits for any number of threads, the backward pass for the same number
(csrc/dependency_attention/cpu_params.hpp).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tmor_fast.build import compiled, extension, multiplies_bfloat16
from tmor_fast.ops.launch import FLOATS, Launch, dtype_code, not_taken, single

NAME = "dependency_attention"
WEIGHTS = ("query_key_weight", "query_key_bias", "dependency", "value_weight")
# Asked once: torch.compile cannot trace through a call of the compiled module.
_MISSING = compiled(NAME, "cpu")
_NATIVE_BFLOAT16 = multiplies_bfloat16()


def unavailable(x: Tensor) -> str | None:
    """None if the CPU kernel can take `x`, else the reason why not."""
    return not_taken(x, "cpu") or _MISSING


def torch_is_faster(x: Tensor) -> bool:
    """Whether plain torch is: the kernel multiplies in float32, torch in bfloat16 where the CPU can."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and _NATIVE_BFLOAT16


class _Call:
    """The arguments that both passes share; keeps what was converted alive until the kernel has run."""

    def __init__(self, x: Tensor, weights: tuple[Tensor, ...], num_heads: int) -> None:
        self.x = x.detach().contiguous()
        self.weights = tuple(single(weight) for weight in weights)
        self.num_heads = num_heads

    def arguments(self, launch: Launch) -> dict[str, Any]:
        clips, frames, joints, channels = self.x.shape
        result: dict[str, Any] = {
            "dtype": dtype_code(self.x.dtype),
            "clips": clips,
            "frames": frames,
            "joints": joints,
            "channels_in": channels,
            "channels_out": self.weights[3].shape[0],
            "heads": self.num_heads,
            "embedding": self.weights[0].shape[0] // (2 * self.num_heads),
            "x": launch.pointer("x", self.x, dtypes=FLOATS),
            "threads": torch.get_num_threads(),
            "isa": "",
        }
        for name, weight in zip(WEIGHTS, self.weights, strict=True):
            result[name] = launch.pointer(name, weight, dtypes=(torch.float32,))
        return result


def cpu_forward(
    x: Tensor,
    query_key_weight: Tensor,
    query_key_bias: Tensor,
    dependency: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    shortcut: Tensor | None,
    num_heads: int,
    relu: bool,
    statistics: Tensor | None = None,
) -> Tensor:
    """The op's result; arguments as in `dependency_attention`.

    `statistics` (2, Cout), float32, is filled with mean and biased variance of the result.
    """
    out = x.new_empty(*x.shape[:3], value_weight.shape[0])
    if not out.numel():
        return out
    call = _Call(x, (query_key_weight, query_key_bias, dependency, value_weight), num_heads)
    bias = single(value_bias)
    added = None if shortcut is None else shortcut.detach().contiguous()
    with Launch(NAME, x.device) as launch:
        extension().dependency_attention_cpu(
            call.arguments(launch),
            value_bias=launch.pointer("value_bias", bias, dtypes=(torch.float32,)),
            shortcut=launch.pointer("shortcut", added, dtypes=(x.dtype,), shape=tuple(out.shape)),
            relu=relu,
            z=launch.pointer("z", out, dtypes=(x.dtype,)),
            statistics=launch.pointer("statistics", statistics, dtypes=(torch.float32,)),
        )
    return out


def cpu_backward(
    grad: Tensor,
    x: Tensor,
    query_key_weight: Tensor,
    query_key_bias: Tensor,
    dependency: Tensor,
    value_weight: Tensor,
    num_heads: int,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the six tensor arguments; those not `needed` are empty. Arguments as in `reference_backward`."""
    shapes = (query_key_weight.shape, query_key_bias.shape, dependency.shape, value_weight.shape)
    grad_x = x.new_empty(x.shape if needed[0] else 0)
    gradients = [
        torch.empty(shape, dtype=torch.float32) if need else None
        for shape, need in zip((*shapes, value_weight.shape[:1]), needed[1:], strict=True)
    ]
    if x.numel() and any(needed):
        call = _Call(x, (query_key_weight, query_key_bias, dependency, value_weight), num_heads)
        upstream = grad.detach().contiguous()
        with Launch(NAME, x.device) as launch:
            pointers = {
                name: launch.pointer(name, value, dtypes=(torch.float32,))
                for name, value in zip((*WEIGHTS, "value_bias"), gradients, strict=True)
            }
            extension().dependency_attention_backward_cpu(
                call.arguments(launch),
                grad=launch.pointer("grad", upstream, dtypes=(x.dtype,), shape=(*x.shape[:3], value_weight.shape[0])),
                x=launch.pointer("x", grad_x if needed[0] else None, dtypes=(x.dtype,)),
                **pointers,
            )
    else:
        for value in gradients:
            if value is not None:
                value.zero_()
    weights = [x.new_empty(0) if value is None else value.to(x.dtype) for value in gradients]
    return grad_x, weights[0], weights[1], weights[2], weights[3], weights[4]
