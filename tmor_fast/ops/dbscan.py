"""Exact DBSCAN in any dimension.

Two points are neighbours if their float64 distance is at most `eps`. A core point has at least `min_samples`
neighbours, itself included (or that much weight). Clusters are the connected components of the core points, numbered by
their first core point; a border point takes the smallest cluster that reaches it; the rest is noise (-1). These are the
labels of `sklearn.cluster.DBSCAN(metric="precomputed")` on the float64 distances.

Memory beyond the points: "cpu" packs a copy of 1 byte (int8), 2 (bfloat16) or 4 (float32) per coordinate and needs
O(n * min(min_samples, 64)) words; "reference" copies the points in float64. Neighbours are never stored.

Ester, Kriegel, Sander, Xu: A density-based algorithm for discovering clusters, KDD 1996.

The float64 distance, on which all backends agree to the last bit:
- euclidean: the square root of `sum_k (x_k - y_k)^2`, summed from the first coordinate to the last;
- cosine: `1 - cos(x, y)`, evaluated as half of that sum over rows scaled to length 1; a zero vector has distance 1 to
  every other point and 0 to itself, as in scikit-learn.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tmor_fast.build import compiled, extension
from tmor_fast.ops import dbscan_cuda, registry
from tmor_fast.ops.launch import Launch, dtype_code

METRICS = ("euclidean", "cosine")
BACKENDS = ("reference", "cpu", "cuda", "cuda_naive")
MAX_POINTS = 2**31 - 1
# Up to here neighbours fit the lists of one pass (csrc/dbscan/one_pass.hpp).
MAX_LIST_SAMPLES = 64
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Elements of one block of the distance matrix in the reference: on a CPU what stays in the cache and below the size
# from which PyTorch starts threads for every small step; on a GPU enough to fill it.
_BLOCK_ELEMENTS = {"cpu": 1 << 15, "cuda": 1 << 24}
# Elements of the rows that are looked at together where a temporary copy is needed: 32 MB in float64.
_ROWS_ELEMENTS = 1 << 22


def dbscan(
    points: Tensor,
    eps: float,
    min_samples: int,
    *,
    metric: str = "euclidean",
    sample_weight: Tensor | None = None,
    backend: str = "auto",
    progress: Callable[[float], object] | None = None,
    stats: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Cluster `points` by density.

    Args:
        points: (n, d), n and d at least 1, n at most 2^31 - 1, float16, bfloat16, float32 or float64, finite, any
            strides.
        eps: largest distance between neighbours, in the units of `points` (for cosine: of 1 - cos), above 0.
        min_samples: neighbours, the point itself included, that make a core point; at least 1.
        metric: "euclidean" or "cosine".
        sample_weight: (n,) a point's weight in the count of its neighbours; negative ones keep points from being core.
        backend: "auto", "reference" (plain PyTorch, any device), "cpu" (C++ kernel, CPU tensors), "cuda" (CUDA tensors,
            compute capability 8.0 or newer) or "cuda_naive" (its slow twin, for finding bugs). While a CUDA graph is
            captured values are not checked: labels of points that are not finite then mean nothing.
        progress: called by "cpu" from this thread, some ten times a second and at the end, with the share of the work
            that is done, 0 to 1; what it raises ends the call.
        stats: filled by "cpu" and "cuda" with what they did: `pairs` of points there are (once per sweep: 1, or 3 with
            weights or more than 64 samples), `compared` in tiles, `rechecked` in float64; by "cpu" also `inside` tiles
            that bounds placed wholly within eps, `arithmetic` of the tiles, `isa`, `reordered`; by "cuda" `tiles` of
            128 x 128 pairs. With weights "cuda" counts `pairs` 4 times, as one sweep takes them in both orders.

    With `progress` or `stats` the call is eager: torch.compile cannot trace it.

    Returns:
        labels: (n,) int64, -1 for noise; core: (n,) bool. Both on the device of `points`.

    Raises:
        TypeError: a wrong type. ValueError: a wrong shape or value, a non-finite point (its row is named).
        BackendUnavailableError: the backend cannot run here.
    """
    if not isinstance(points, Tensor):
        raise TypeError(f"dbscan: points must be a torch.Tensor, got {type(points).__name__}")
    weight = None if sample_weight is None else sample_weight.detach()
    arguments = (points.detach(), float(eps), operator.index(min_samples), metric, weight, backend)
    if progress is None and stats is None:
        labels, core = torch.ops.tmor_fast.dbscan(*arguments)
        return labels, core
    return _kernel(*arguments, progress=progress, stats=stats)


def dbscan_share(
    points: Tensor,
    eps: float,
    min_samples: int,
    share: int,
    shares: int,
    *,
    metric: str = "euclidean",
    sort: bool = True,
) -> tuple[Tensor, Tensor, int]:
    """What one of several processes finds in its share of the pairs; `merge_shares` of `cluster` puts them together.

    Every pair of points belongs to one share, provided that all shares have the same points and report the same order.

    Args:
        points: (n, d) all points, on the CPU, as for `dbscan`.
        eps, min_samples, metric: as for `dbscan`; at most 64 samples.
        share, shares: this one, counted from 0, and how many there are, at least 2.
        sort: whether points may be sorted by place first. Machines of different kinds may sort differently; without
            sorting all have the same order.

    Returns:
        lists: (n, min_samples - 1) int32 neighbours of each point, -1 for none; parents: (n,) int32 a point of the same
        component; a checksum of the order.

    Raises:
        TypeError, ValueError: as `dbscan`. BackendUnavailableError: the CPU kernel is not compiled.
    """
    _check(points, eps, min_samples, metric, None)
    if min_samples > MAX_LIST_SAMPLES or not 0 <= share < shares or shares < 2:
        raise ValueError(
            f"dbscan_share: got min_samples {min_samples}, share {share} of {shares}; accepted: at most "
            f"{MAX_LIST_SAMPLES} samples, shares 0 to n - 1 of n >= 2"
        )
    registry.choose("dbscan", "cpu", _candidates(points.device))
    _check_finite("points", points)
    stats: dict[str, Any] = {}
    threshold, reorder = squared_threshold(eps, metric), -1 if sort else 0
    found = _cpu(points, threshold, min_samples, metric, None, stats=stats, reorder=reorder, share=(share, shares))
    return found[0][:, : min_samples - 1], found[1], int(stats["order"])


def squared_threshold(eps: float, metric: str) -> float:
    """The largest float64 t for which a squared distance of t is a neighbour's: sqrt(t) <= eps, or t / 2 <= eps."""
    if metric == "cosine":
        return 2.0 * eps
    threshold = min(eps * eps, 1.7976931348623157e308)
    while threshold > 0.0 and math.sqrt(threshold) > eps:
        threshold = math.nextafter(threshold, 0.0)
    while math.sqrt(above := math.nextafter(threshold, math.inf)) <= eps and above < math.inf:
        threshold = above
    return threshold


def _row_blocks(points: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of `points`, a block at a time, in float64."""
    step = max(1, _ROWS_ELEMENTS // points.shape[1])
    for first in range(0, points.shape[0], step):
        rows = slice(first, first + step)
        yield rows, points[rows].to(torch.float64)


def row_lengths(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What scales rows to length 1 as `(x / largest) / length` in float64, and which rows are zero (both are 1 then):
    (n,), (n,), (n,) bool."""
    largest, length = (points.new_empty(points.shape[0], dtype=torch.float64) for _ in range(2))
    zero = points.new_empty(points.shape[0], dtype=torch.bool)
    for rows, values in _row_blocks(points):
        largest[rows] = values.abs().amax(dim=1)
        zero[rows] = largest[rows] == 0
        largest[rows].masked_fill_(zero[rows], 1.0)
        values = values / largest[rows, None]  # no square overflows or vanishes
        length[rows] = values.square().sum(dim=1).sqrt().masked_fill_(zero[rows], 1.0)
    return largest, length, zero


def unit_rows(points: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in float64, scaled to length 1, and which rows are zero (they stay zero): (n, d), (n,) bool."""
    largest, length, zero = row_lengths(points)
    return points.to(torch.float64).div_(largest[:, None]).div_(length[:, None]), zero


def _check(points: Tensor, eps: float, min_samples: int, metric: str, weight: Tensor | None) -> None:
    if points.dim() != 2 or 0 in points.shape:
        raise ValueError(f"dbscan: points must have shape (n, d) with n, d >= 1, got {tuple(points.shape)}")
    if points.shape[0] > MAX_POINTS:
        raise ValueError(f"dbscan: at most 2^31 - 1 = {MAX_POINTS:,} points, got {points.shape[0]:,}; cluster a sample")
    if points.dtype not in _DTYPES:
        raise TypeError(f"dbscan: points have dtype {points.dtype}; accepted: {', '.join(map(str, _DTYPES))}")
    if not (0.0 < eps < math.inf):
        raise ValueError(f"dbscan: eps must be finite and above 0, got {eps}")
    if min_samples < 1:
        raise ValueError(f"dbscan: min_samples must be at least 1, got {min_samples}")
    if metric not in METRICS:
        raise ValueError(f"dbscan: unknown metric {metric!r}; accepted: {', '.join(map(repr, METRICS))}")
    if weight is None:
        return
    if tuple(weight.shape) != (points.shape[0],):
        raise ValueError(f"dbscan: sample_weight must have shape ({points.shape[0]},), got {tuple(weight.shape)}")
    if weight.device != points.device:
        raise ValueError(f"dbscan: sample_weight is on {weight.device}, points are on {points.device}")


def first_non_finite(values: Tensor) -> tuple[int, float] | None:
    """Row and value of the first number of `values` (n, ...), n at least 1, that is NaN or infinite; None if none is.

    Takes 32 MB at most beyond the values.
    """
    # A sum is finite only if all its terms are; where it is not, for overflow perhaps, the terms are looked at.
    step = max(1, _ROWS_ELEMENTS // max(1, values[0].numel()))
    for first in range(0, values.shape[0], step):
        block = values[first : first + step]
        if bool(torch.isfinite(block.sum())):
            continue
        finite = torch.isfinite(block)
        if bool(finite.all()):
            continue
        place = tuple((~finite).nonzero()[0].tolist())
        return first + place[0], float(block[place])
    return None


def _check_finite(name: str, values: Tensor) -> None:
    found = first_non_finite(values)
    if found is not None:
        raise ValueError(
            f"dbscan: {name} must be finite, but row {found[0]} holds {found[1]}; "
            "remove such rows or fill their gaps first"
        )


def _candidates(device: torch.device) -> dict[str, registry.Check]:
    def cpu() -> str | None:
        if device.type != "cpu":
            return f"it takes CPU tensors, points are on {device}"
        return compiled("dbscan", "cpu")

    return {
        "cuda": lambda: dbscan_cuda.check("cuda", device),
        "cpu": cpu,
        "reference": lambda: None,
        "cuda_naive": lambda: dbscan_cuda.check("cuda_naive", device),
    }


def _kernel(
    points: Tensor,
    eps: float,
    min_samples: int,
    metric: str,
    sample_weight: Tensor | None,
    backend: str,
    progress: Callable[[float], object] | None = None,
    stats: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    _check(points, eps, min_samples, metric, sample_weight)
    chosen = registry.choose("dbscan", backend, _candidates(points.device))
    weight = None if sample_weight is None else sample_weight.to(torch.float64).contiguous()
    threshold = squared_threshold(eps, metric)
    if chosen in dbscan_cuda.BACKENDS:
        return _cuda(points, threshold, min_samples, metric, weight, chosen, stats)
    _check_finite("points", points)
    if weight is not None:
        _check_finite("sample_weight", weight)
    if chosen == "cpu":
        return _cpu(points, threshold, min_samples, metric, weight, progress=progress, stats=stats)
    values, orthogonal = unit_rows(points) if metric == "cosine" else (points, None)
    return _reference(values, threshold, min_samples, weight, orthogonal)


def _fake(
    points: Tensor, eps: float, min_samples: int, metric: str, sample_weight: Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    _check(points, eps, min_samples, metric, sample_weight)
    n = points.shape[0]
    return points.new_empty((n,), dtype=torch.int64), points.new_empty((n,), dtype=torch.bool)


def _cuda(
    points: Tensor,
    threshold: float,
    min_samples: int,
    metric: str,
    weight: Tensor | None,
    backend: str,
    stats: dict[str, Any] | None,
) -> tuple[Tensor, Tensor]:
    points = points.contiguous()
    scaling = dbscan_cuda.Scaling(*row_lengths(points)) if metric == "cosine" else None
    result = dbscan_cuda.run(points, threshold, min_samples, weight, scaling, backend=backend)
    # Only now does the host wait, to refuse values that are not finite.
    if dbscan_cuda.readable():
        if int(result.status[0]) < points.shape[0]:
            _check_finite("points", points)
        if weight is not None:
            _check_finite("sample_weight", weight)
        if stats is not None and backend == "cuda":
            n = points.shape[0]
            # Weighing visits whole rows of tiles, so it counts twice.
            sweeps = 4 if weight is not None else 3 if min_samples > MAX_LIST_SAMPLES else 1
            pairs, tiles = sweeps * (n * (n - 1) // 2), int(result.status[1])
            compared = min(pairs, tiles * dbscan_cuda.TILE_PAIRS)  # tiles of the diagonal have fewer pairs
            stats.update(pairs=pairs, compared=compared, tiles=tiles, rechecked=int(result.status[2]))
    return result.labels, result.core


def _cpu(
    points: Tensor,
    threshold: float,
    min_samples: int,
    metric: str,
    weight: Tensor | None,
    *,
    progress: Callable[[float], object] | None = None,
    stats: dict[str, Any] | None = None,
    arithmetic: str = "auto",
    reorder: int = -1,
    share: tuple[int, int] = (0, 1),
) -> tuple[Tensor, Tensor]:
    """The C++ kernel. `arithmetic` and `reorder` (0 or 1) force what it otherwise chooses, for tests.

    With `share` (i, of how many), lists and parents instead of labels and core: see `dbscan_share`.
    """
    n, d = points.shape
    points = points.contiguous()
    largest, length, orthogonal = row_lengths(points) if metric == "cosine" else (None, None, None)
    labels = points.new_empty((n,), dtype=torch.int64)
    core = points.new_empty((n,), dtype=torch.bool)
    part = share[1] > 1
    # One column more than nothing: an empty tensor has no address.
    lists = points.new_full((n, max(1, min_samples - 1)), -1, dtype=torch.int32) if part else None
    parents = points.new_empty((n,), dtype=torch.int32) if part else None
    with Launch("dbscan", points.device) as launch:
        isa = extension().select_isa("")
        report = extension().dbscan_cpu(
            points=launch.pointer("points", points, dtypes=_DTYPES),
            dtype=dtype_code(points.dtype),
            n=n,
            dimensions=d,
            threshold=threshold,
            min_samples=min_samples,
            weight=launch.pointer("sample_weight", weight, dtypes=(torch.float64,), shape=(n,)),
            largest=launch.pointer("largest", largest, dtypes=(torch.float64,), shape=(n,)),
            length=launch.pointer("length", length, dtypes=(torch.float64,), shape=(n,)),
            orthogonal=launch.pointer("orthogonal", orthogonal, dtypes=(torch.bool,), shape=(n,)),
            labels=launch.pointer("labels", labels, dtypes=(torch.int64,)),
            core=launch.pointer("core", core, dtypes=(torch.bool,)),
            share=share[0],
            shares=share[1],
            lists=launch.pointer("lists", lists, dtypes=(torch.int32,)),
            parents=launch.pointer("parents", parents, dtypes=(torch.int32,)),
            threads=torch.get_num_threads(),
            isa=isa,
            arithmetic=arithmetic,
            reorder=reorder,
            progress=progress,
        )
    if progress is not None:
        progress(1.0)
    if stats is not None:
        stats.update(report, isa=isa)
    return (labels, core) if lists is None or parents is None else (lists, parents)


class _Neighbours:
    """Blocks of the neighbour matrix, in float64 and in the order of summation that the module's docstring fixes."""

    def __init__(self, values: Tensor, threshold: float, orthogonal: Tensor | None) -> None:
        self.columns = values.to(torch.float64).t().contiguous()
        self.threshold = threshold
        self.orthogonal = orthogonal
        self.step = max(1, _BLOCK_ELEMENTS[values.device.type] // values.shape[0])

    def __call__(self, first: int) -> Tensor:
        """(step, n) bool: the neighbours of the points from `first` on."""
        last = min(first + self.step, self.columns.shape[1])
        total = self.columns.new_zeros((last - first, self.columns.shape[1]))
        for column in self.columns:
            difference = column[first:last, None] - column
            total += difference.mul_(difference)  # two rounded steps: a fused one would differ
        if self.orthogonal is not None:
            total[self.orthogonal[first:last, None] | self.orthogonal] = 2.0
            rows = torch.arange(first, last, device=total.device)
            total[rows - first, rows] = 0.0
        return total <= self.threshold


def _reference(
    values: Tensor, threshold: float, min_samples: int, weight: Tensor | None, orthogonal: Tensor | None
) -> tuple[Tensor, Tensor]:
    n, device = values.shape[0], values.device
    neighbours = _Neighbours(values, threshold, orthogonal)
    blocks = range(0, n, neighbours.step)

    amount = torch.ones(n, dtype=torch.float64, device=device) if weight is None else weight
    core = torch.cat([torch.where(neighbours(first), amount, 0.0).sum(dim=1) >= min_samples for first in blocks])

    root = torch.arange(n, device=device)
    for first in blocks:
        block = neighbours(first) & core & core[first : first + neighbours.step, None]
        row, column = block.nonzero(as_tuple=True)
        root = unite_edges(root, row + first, column)

    # The first core point of a cluster is its root, so clusters are numbered in the order of their roots.
    is_root = core & (root == torch.arange(n, device=device))
    number = is_root.cumsum(0) - 1
    labels = torch.where(core, number[root], -1)
    for first in blocks:
        reached = torch.where(neighbours(first) & core, labels, n).amin(dim=1)
        rows = slice(first, first + neighbours.step)
        labels[rows] = torch.where(core[rows] | (reached == n), labels[rows], reached)
    return labels, core


def unite_edges(root: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Merge the sets of `a[e]` and `b[e]` for every edge e. `root` names the smallest of each set."""
    while True:
        low, high = torch.minimum(root[a], root[b]), torch.maximum(root[a], root[b])
        differ = low != high
        if not bool(differ.any()):
            return root
        root = root.scatter_reduce(0, high[differ], low[differ], "amin")
        while not torch.equal(root[root], root):
            root = root[root]


registry.define(
    "dbscan(Tensor points, float eps, int min_samples, str metric, Tensor? sample_weight, str backend) "
    "-> (Tensor labels, Tensor core)"
)
registry.implement("dbscan", _kernel, _fake, ("CPU", "CUDA"))
