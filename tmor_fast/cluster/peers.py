"""Other libraries' neighbour searches behind the same estimator, to compare with and to build on.

Each takes points (n, d), eps, min_samples, the metric and weights (n,) or None, and returns labels (n,) int64 and core
(n,) bool on the device of the points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tmor_fast.cluster.assembly import assemble_labels
from tmor_fast.cluster.neighbours import Distances
from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops.dbscan import squared_threshold, unite_edges

Labelling = tuple[Tensor, Tensor]
# Pairs that one range search may return at most: 400 MB.
_BLOCK_PAIRS = 1 << 25


def sklearn_labels(points: Tensor, eps: float, min_samples: int, metric: str, weight: Tensor | None) -> Labelling:
    """scikit-learn's brute-force search; its distances come from products, so pairs at eps may be decided otherwise.

    Raises:
        BackendUnavailableError: scikit-learn is not installed.
    """
    cluster = _library("sklearn.cluster", "sklearn", "scikit-learn")
    peer = cluster.DBSCAN(eps=eps, min_samples=min_samples, metric=metric, algorithm="brute")
    peer.fit(points.to("cpu", torch.float64).numpy(), sample_weight=None if weight is None else weight.cpu().numpy())
    return _tensors(points, peer.labels_, peer.core_sample_indices_)


def cuml_labels(points: Tensor, eps: float, min_samples: int, metric: str, weight: Tensor | None) -> Labelling:
    """cuML's brute-force search in float32; clusters are renumbered, a border between clusters stays where it put it.

    Raises:
        BackendUnavailableError: cuML is not installed.
    """
    cluster = _library("cuml.cluster", "cuml", "cuml-cu12 from NVIDIA's index")
    peer = cluster.DBSCAN(eps=eps, min_samples=min_samples, metric=metric, algorithm="brute", output_type="numpy")
    rows = points.to("cpu", torch.float32).numpy()
    peer.fit(rows, out_dtype="int64", sample_weight=None if weight is None else weight.cpu().numpy())
    labels, core = _tensors(points, peer.labels_, peer.core_sample_indices_)
    return _renumber(labels, core), core


def faiss_labels(points: Tensor, eps: float, min_samples: int, metric: str, weight: Tensor | None) -> Labelling:
    """FAISS's exhaustive range search in float32, widened by its rounding; pairs near eps are decided in float64.

    So the labels are exact. Neighbours are found twice, block by block, and not kept, but for those of border points.

    Raises:
        BackendUnavailableError: FAISS is not installed.
    """
    faiss = _library("faiss", "faiss", "faiss-cpu")
    search = _RangeSearch(faiss, points, eps, metric)
    count = torch.zeros(len(points), dtype=torch.float64)
    mass = torch.ones_like(count) if weight is None else weight.to("cpu", torch.float64)
    for rows, columns in search:
        count.index_add_(0, rows, mass[columns])
    core = count >= min_samples
    root, borders, reached = torch.arange(len(points)), [], []
    for rows, columns in search:
        rows, columns = rows[core[columns]], columns[core[columns]]
        inner = core[rows]
        root = unite_edges(root, rows[inner], columns[inner])
        borders.append(rows[~inner])
        reached.append(columns[~inner])
    labels = assemble_labels(core, root, torch.cat(borders), torch.cat(reached))
    return labels.to(points.device), core.to(points.device)


SEARCHES: dict[str, Callable[[Tensor, float, int, str, Tensor | None], Labelling]] = {
    "sklearn": sklearn_labels, "faiss": faiss_labels, "cuml": cuml_labels,
}  # fmt: skip


class _RangeSearch:
    """Iterates over all ordered pairs of neighbours, a block of rows at a time: (m,), (m,) int64."""

    def __init__(self, faiss: Any, points: Tensor, eps: float, metric: str) -> None:
        self.distances = Distances(points.cpu(), metric)
        self.threshold = squared_threshold(eps, metric)
        self.rows = np.ascontiguousarray(self.distances.centred.to(torch.float32).numpy())
        n, d = self.rows.shape
        # Rounding to float32, products, sums and centring, for the two longest rows.
        self.slack = (2 * d + 32) * 2.0**-24 * 4.0 * float(self.distances.squares.max())
        self.index = faiss.IndexFlatL2(d)
        if points.is_cuda and hasattr(faiss, "StandardGpuResources"):
            self.index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), points.device.index or 0, self.index)
        self.index.add(self.rows)
        self.step = max(1, _BLOCK_PAIRS // n)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        radius = float(np.nextafter(np.float32(self.threshold + self.slack), np.float32(np.inf)))
        zero = self.distances.zero
        for first in range(0, len(self.rows), self.step):
            lengths, near, found = range_search(self.index, self.rows[first : first + self.step], radius)
            rows = torch.from_numpy(np.repeat(np.arange(first, first + len(lengths)), lengths))
            columns, squared = torch.from_numpy(found), torch.from_numpy(near).to(torch.float64)
            # Near eps, and where cosine sets the distance of a zero vector, which is never less than the search's.
            undecided = squared > self.threshold - self.slack
            if zero is not None:
                undecided |= zero[rows] | zero[columns]
            keep = ~undecided
            keep[undecided] = self.distances.of_pairs(rows[undecided], columns[undecided]) <= self.threshold
            yield rows[keep], columns[keep]


def range_search(index: Any, queries: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All points within a squared radius: how many each query has, their squared distances, their numbers.

    An index without range search (FAISS has none on GPUs) is asked for more and more nearest points instead.

    Raises:
        BackendUnavailableError: the index gives fewer nearest points than a query has within the radius.
    """
    try:
        limits, near, found = index.range_search(queries, radius)
        return np.diff(limits.astype(np.int64)), near, found.astype(np.int64)
    except (RuntimeError, AttributeError):
        pass
    wanted = min(64, index.ntotal)
    while True:
        try:
            near, found = index.search(queries, wanted)
        except (RuntimeError, AssertionError) as error:
            raise BackendUnavailableError(
                f"this FAISS index gives no {wanted} nearest points, but a point has that many within eps; use "
                "backend='auto'"
            ) from error
        if wanted == index.ntotal or bool((near[:, -1] >= radius).all()):
            inside = near < radius
            return inside.sum(axis=1), near[inside], found[inside].astype(np.int64)
        wanted = min(2 * wanted, index.ntotal)


def _library(module: str, backend: str, package: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendUnavailableError(
            f"backend {backend!r} needs {module.partition('.')[0]}, which cannot be imported ({error}): pip install "
            f"{package}; backend 'auto' needs nothing more"
        ) from error


def _tensors(points: Tensor, labels: np.ndarray, indices: np.ndarray) -> Labelling:
    found = torch.from_numpy(np.asarray(labels).astype(np.int64)).to(points.device)
    core = torch.zeros(len(found), dtype=torch.bool, device=points.device)
    core[torch.from_numpy(np.asarray(indices).astype(np.int64)).to(points.device)] = True
    return found, core


def _renumber(labels: Tensor, core: Tensor) -> Tensor:
    """Clusters numbered by their first core point."""
    places = core.nonzero().squeeze(1)
    clusters = int(labels.max()) + 1
    first = torch.full((clusters,), len(labels), dtype=torch.int64, device=labels.device)
    first.scatter_reduce_(0, labels[places], places, "amin")
    number = torch.empty(clusters + 1, dtype=torch.int64, device=labels.device)
    number[first.argsort()] = torch.arange(clusters, device=labels.device)
    number[clusters] = -1
    return number[labels]
