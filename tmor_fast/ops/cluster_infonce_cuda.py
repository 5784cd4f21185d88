"""The CUDA backends of `cluster_infonce`: workspace and launch.

Nothing waits for the device, so a call can be captured in a CUDA graph. Two equal calls give equal bits: the bank is
cut by the sizes and the device's multiprocessors alone, and the parts are merged in their order. A float32 bank is
multiplied as exactly as float32 allows (three products of TF32), a bank of 16 bits in its own type with float32 sums.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from tmor_fast.build import compiled, extension
from tmor_fast.ops.cluster_infonce_cpu import KernelCall
from tmor_fast.ops.cluster_infonce_reference import Rows
from tmor_fast.ops.launch import FLOATS, Launch, dtype_code, single

NAME = "cluster_infonce"
BACKENDS = ("cuda", "cuda_naive")
# As csrc/cluster_infonce/cuda_plan.hpp has it.
MAX_DIMENSIONS = 768
_CAPABILITY = (8, 0)
# Asked once: torch.compile cannot trace through a call of the compiled module.
_MISSING = {backend: compiled(NAME, backend) for backend in BACKENDS}


def unavailable(backend: str, query: Tensor, keys: Tensor, positive: Tensor | None) -> str | None:
    """None if `backend` ("cuda" or "cuda_naive") can take these tensors, else the reason why not."""
    if query.device.type != "cuda":
        return f"it takes CUDA tensors, query is on {query.device}"
    for name, value in (("query", query), ("keys", keys), ("positive", positive)):
        if value is not None and value.dtype not in FLOATS:
            accepted = ", ".join(map(str, FLOATS))
            return f"it takes {accepted}, {name} is {value.dtype} (backends 'tiled' and 'reference' take it)"
    if backend == "cuda" and query.shape[1] > MAX_DIMENSIONS:
        return f"it takes up to {MAX_DIMENSIONS} dimensions, got {query.shape[1]} (backend 'tiled' takes them)"
    if _MISSING[backend] is not None:
        return _MISSING[backend]
    properties = torch.cuda.get_device_properties(query.device)
    if (properties.major, properties.minor) < _CAPABILITY:
        found = f"{properties.major}.{properties.minor}"
        return f"it needs compute capability {_CAPABILITY[0]}.{_CAPABILITY[1]}, {query.device} has {found}"
    return None


@functools.lru_cache
def _limits(device: int) -> tuple[int, int, int]:
    """Multiprocessors of a device, and bytes of shared memory of a block and of a multiprocessor."""
    multiprocessors, block, multiprocessor = extension().cluster_infonce_cuda_limits(device)
    return multiprocessors, block, multiprocessor


def workspace_bytes(
    key_dtype: torch.dtype,
    batch: int,
    bank: int,
    dimensions: int,
    limits: tuple[int, int, int],
    *,
    chosen_count: int = 0,
    gradient: bool = True,
    wants_aligned: bool = True,
) -> int:
    """Memory of the forward pass of backend "cuda" besides inputs and outputs: O(splits * batch * dimensions).

    Args:
        key_dtype, batch, bank, dimensions: type and sizes of the bank and the queries.
        limits: the device's multiprocessors, and its bytes of shared memory for a block and for a multiprocessor.
        chosen_count: drawn positives of a query.
        gradient: whether the gradient of the query is wanted.
        wants_aligned: whether the rows of a query's cluster count as positives.

    Raises:
        ValueError: a size is out of range; TypeError: an unknown type.
    """
    needed: int = extension().cluster_infonce_cuda_workspace(
        dtype_code(key_dtype), batch, bank, dimensions, chosen_count, gradient, wants_aligned, *limits
    )
    return needed


def forward(
    query: Tensor,
    keys: Tensor,
    positive: Tensor | None,
    temperature: Tensor,
    rows: Rows,
    chosen: Tensor | None,
    positives: str,
    denominator: str,
    save_gradient: bool,
    *,
    backend: str = "cuda",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and what its gradients need, float32; arguments and results as in `tiled_forward`.

    B and N are at least 1. With "supcon" the statistics LP, a of "cuda" are another pair than `tiled_forward`'s that
    gives the same derivatives. Rows in `chosen` must be of the query's cluster, as `draw_positives` draws them.

    Raises:
        ValueError: sizes out of range; RuntimeError: CUDA's message.
    """
    size, width = query.shape
    naive = backend == "cuda_naive"
    call = KernelCall(query, keys, positive, temperature, rows, chosen, positives, denominator)
    like = call.query
    loss, own_gradient, statistics = like.new_empty(size), like.new_empty(size), like.new_empty(4, size)
    gradient = like.new_empty(size, width if save_gradient else 0)
    with Launch(NAME, query.device) as launch:
        if naive:
            needed = extension().cluster_infonce_naive_cuda_workspace(size, width)
        else:
            needed = workspace_bytes(
                keys.dtype,
                size,
                keys.shape[0],
                width,
                _limits(_index(launch)),
                chosen_count=0 if call.chosen is None else call.chosen.shape[1],
                gradient=save_gradient,
                wants_aligned=not call.listed,
            )
        given = _arguments(call, launch, needed)
        out = {"loss": loss, "own_gradient": own_gradient, "statistics": statistics}
        pointers = {name: launch.pointer(name, value, dtypes=(torch.float32,)) for name, value in out.items()}
        pointers["gradient"] = launch.pointer("gradient", gradient, dtypes=(torch.float32,)) if save_gradient else 0
        extension().cluster_infonce_cuda(given, naive, **pointers)
    return loss, gradient, own_gradient, statistics


def key_gradient(
    grad: Tensor,
    query: Tensor,
    keys: Tensor,
    temperature: Tensor,
    rows: Rows,
    chosen: Tensor | None,
    statistics: Tensor,
    *,
    backend: str = "cuda",
) -> Tensor:
    """Gradient of the keys (N, d), float32; arguments as in `tiled_key_gradient`."""
    call = KernelCall(query, keys, None, temperature, rows, chosen, "sum", "all")
    size, width = query.shape
    naive = backend == "cuda_naive"
    result = call.query.new_empty(keys.shape)
    upstream, statistics = single(grad), single(statistics)
    needed = 1
    if not naive:
        needed = extension().cluster_infonce_keys_cuda_workspace(dtype_code(keys.dtype), size, width)
    with Launch(NAME, query.device) as launch:
        given = _arguments(call, launch, needed)
        extension().cluster_infonce_keys_cuda(
            given,
            naive,
            upstream=launch.pointer("grad", upstream, dtypes=(torch.float32,), shape=(size,)),
            statistics=launch.pointer("statistics", statistics, dtypes=(torch.float32,), shape=(4, size)),
            key_gradient=launch.pointer("key_gradient", result, dtypes=(torch.float32,)),
        )
    return result


def _index(launch: Launch) -> int:
    index = launch.device.index
    assert index is not None  # Launch has filled it in
    return index


def _arguments(call: KernelCall, launch: Launch, workspace_size: int) -> dict[str, object]:
    """What both passes take; the workspace is new, and the launch keeps it until it has run."""
    workspace = torch.empty(workspace_size, dtype=torch.uint8, device=launch.device)
    temperature = single(call.temperature)
    return call.arguments(launch) | {
        "temperature": launch.pointer("temperature", temperature, dtypes=(torch.float32,), shape=()),
        "workspace": launch.pointer("workspace", workspace, dtypes=(torch.uint8,), alignment=256),
        "workspace_bytes": workspace_size,
        "device": _index(launch),
        "stream": launch.stream,
    }
