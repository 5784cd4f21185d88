"""The CUDA backends of `dbscan`: workspace, launch, and what the device reports.

Nothing waits for the device before the result is enqueued, so a call can be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tmor_fast.build import compiled, extension
from tmor_fast.ops.launch import Launch, dtype_code

BACKENDS = ("cuda", "cuda_naive")
TILE_PAIRS = 128 * 128  # csrc/dbscan/cuda_field.hpp
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_MAX_POINTS = 2**31 - 1
_MAX_DIMENSIONS = 2**24
_CAPABILITY = (8, 0)


class Scaling(NamedTuple):
    """How rows are scaled to length 1 for the cosine metric: row x stands for `(x / largest) / length` in float64.

    Attributes:
        largest: (n,) float64, the largest magnitude of a row, 1 for a row of zeros.
        length: (n,) float64, the length of the row divided by it, 1 for a row of zeros.
        zero: (n,) bool, rows of zeros: at squared distance 2 from all others.
    """

    largest: Tensor
    length: Tensor
    zero: Tensor


class CudaResult(NamedTuple):
    """What a run leaves on the device.

    Attributes:
        labels: (n,) int64, -1 for noise.
        core: (n,) bool.
        status: (4,) int64: the first row that is not finite (n if none is; the labels are then meaningless), the tiles
            of 128 x 128 pairs that were computed, the pairs decided in float64, the panels of 128 points. The last
            three are 0 for "cuda_naive".
    """

    labels: Tensor
    core: Tensor
    status: Tensor


def check(backend: str, device: torch.device) -> str | None:
    """None if `backend` ("cuda" or "cuda_naive") can run on `device`, else the reason why not."""
    if device.type != "cuda":
        return f"it takes CUDA tensors, points are on {device}"
    reason = compiled("dbscan", backend)
    if reason is None and torch.cuda.get_device_capability(device) < _CAPABILITY:
        found = ".".join(map(str, torch.cuda.get_device_capability(device)))
        reason = f"it needs compute capability {_CAPABILITY[0]}.{_CAPABILITY[1]}, {device} has {found}"
    return reason


def run(
    points: Tensor,
    threshold: float,
    min_samples: int,
    weight: Tensor | None,
    scaling: Scaling | None,
    *,
    backend: str = "cuda",
    reorder: bool | None = None,
) -> CudaResult:
    """Enqueue DBSCAN on the current stream of the points' device.

    Args:
        points: (n, d) contiguous, float32, float64, float16 or bfloat16.
        threshold: largest squared distance between neighbours.
        min_samples: as in `tmor_fast.ops.dbscan`.
        weight: (n,) float64 or None.
        scaling: how rows are scaled to length 1; None: they are taken as they are.
        backend: "cuda" or "cuda_naive" (plain float64 loops, for finding bugs).
        reorder: whether points are sorted by place first; None: where there are enough of them. Labels do not change.

    Raises:
        ValueError: more than 2^31 - 1 points or 2^24 dimensions; RuntimeError: CUDA's message.
    """
    n, d = points.shape
    if n > _MAX_POINTS or d > _MAX_DIMENSIONS:
        raise ValueError(
            f"dbscan: backend {backend!r} takes up to {_MAX_POINTS} points of {_MAX_DIMENSIONS} dimensions, "
            f"got shape {tuple(points.shape)}"
        )
    module = extension()
    largest, length, zero = (None, None, None) if scaling is None else scaling
    bytes_needed = module.dbscan_cuda_workspace(n, d, min_samples, weight is not None)
    with Launch("dbscan", points.device) as launch:
        labels = points.new_empty((n,), dtype=torch.int64)
        core = points.new_empty((n,), dtype=torch.bool)
        status = points.new_empty((4,), dtype=torch.int64)
        workspace = points.new_empty((bytes_needed,), dtype=torch.uint8)
        module.dbscan_cuda(
            naive=backend == "cuda_naive",
            points=launch.pointer("points", points, dtypes=_DTYPES),
            dtype=dtype_code(points.dtype),
            n=n,
            dimensions=d,
            threshold=threshold,
            min_samples=min_samples,
            weight=launch.pointer("sample_weight", weight, dtypes=(torch.float64,), shape=(n,)),
            largest=launch.pointer("largest", largest, dtypes=(torch.float64,), shape=(n,)),
            length=launch.pointer("length", length, dtypes=(torch.float64,), shape=(n,)),
            orthogonal=launch.pointer("zero", zero, dtypes=(torch.bool,), shape=(n,)),
            labels=launch.pointer("labels", labels, dtypes=(torch.int64,)),
            core=launch.pointer("core", core, dtypes=(torch.bool,)),
            status=launch.pointer("status", status, dtypes=(torch.int64,)),
            workspace=launch.pointer("workspace", workspace, dtypes=(torch.uint8,), alignment=256),
            workspace_bytes=bytes_needed,
            device=launch.device.index,
            stream=launch.stream,
            reorder=-1 if reorder is None else int(reorder),
        )
    return CudaResult(labels, core, status)


def readable() -> bool:
    """Whether results may be read back now: not while a CUDA graph is captured."""
    return not torch.cuda.is_current_stream_capturing()
