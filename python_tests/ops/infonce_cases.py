"""Arguments of cluster_infonce for the tests of its CUDA backends, and what comes out of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tmor_fast.ops.cluster_infonce import cluster_infonce

MODES = [(p, d) for p in ("sum", "mean", "supcon", "instance") for d in ("all", "negatives")]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LEAVES = ("query", "keys", "positive", "temperature")


def make_case(
    queries: int = 9,
    keys: int = 300,
    width: int = 16,
    clusters: int = 5,
    temperature: float = 0.1,
    dtype: torch.dtype = torch.float32,
    *,
    own: bool = True,
    captions: bool = False,
    weights: bool = False,
    seed: int = 0,
    device: str = "cpu",
    query_dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Arguments of the op: unit vectors, ids that repeat; `clusters` 0 is noise alone, 1 a cluster of nearly all.

    All vectors are of `dtype`, or those of the queries of `query_dtype`.
    """
    generator = torch.Generator().manual_seed(seed)

    def integers(size: int, low: int, high: int) -> Tensor:
        return torch.randint(low, high, (size,), generator=generator)

    def vectors(rows: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=1).to(kind)

    of_queries = query_dtype or dtype

    case: dict[str, Any] = {
        "query": vectors(queries, of_queries),
        "keys": vectors(keys),
        "positive": vectors(queries, of_queries) if own else None,
        "query_id": integers(queries, 0, keys + 1),
        "key_id": integers(keys, 0, keys + 1),
        "query_cluster": integers(queries, -1 if clusters != 1 else 0, clusters),
        "key_cluster": integers(keys, -1 if clusters != 1 else 0, clusters),
        "temperature": torch.tensor(temperature),
    }
    if captions:
        case |= {"query_caption": integers(queries, -1, 3), "key_caption": integers(keys, -1, 3)}
    if weights:
        case["key_log_weight"] = torch.randn(keys, generator=generator)
    return {name: value if value is None else value.to(device) for name, value in case.items()}


def asking(case: dict[str, Any], dtype: torch.dtype | None = None) -> dict[str, Any]:
    """A copy of `case`, in `dtype` if given, whose vectors and temperature require a gradient."""
    copy = {}
    for name, value in case.items():
        floating = isinstance(value, Tensor) and value.is_floating_point()
        copy[name] = value.detach().to(dtype or value.dtype) if floating else value
        if floating and name in LEAVES:
            copy[name] = copy[name].requires_grad_()
    return copy


def results(case: dict[str, Any], **options: Any) -> dict[str, Tensor]:
    """Loss and the gradients of the losses weighted unevenly."""
    loss = cluster_infonce(**case, **options)
    asked = [name for name in LEAVES if case[name] is not None]
    upstream = torch.linspace(0.5, 1.5, len(loss), dtype=loss.dtype, device=loss.device)
    found = torch.autograd.grad(loss, [case[name] for name in asked], upstream, allow_unused=True)
    gradients = [torch.zeros_like(case[name]) if g is None else g for g, name in zip(found, asked, strict=True)]
    return {"loss": loss.detach(), **dict(zip(asked, gradients, strict=True))}
