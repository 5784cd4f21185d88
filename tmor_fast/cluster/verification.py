"""Whether labels are a DBSCAN clustering, and if not, why not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tmor_fast.cluster.arrays import ArrayLike, to_points, to_tensor
from tmor_fast.cluster.neighbours import Distances
from tmor_fast.ops.dbscan import unite_edges


@dataclass(frozen=True)
class Verdict:
    """The answer of `verify`: true if valid; `reason` says what is wrong, and with which points."""

    valid: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.valid


def verify(
    points: ArrayLike,
    labels: ArrayLike,
    eps: float,
    min_samples: int,
    metric: str = "euclidean",
    *,
    sample_weight: ArrayLike | None = None,
    strict: bool = False,
) -> Verdict:
    """Check that `labels` are a DBSCAN clustering of `points`.

    Takes O(n^2 * d) time and O(n * d) memory for float64 copies of the points, O(n) beyond them.

    Valid is every labelling that DBSCAN's definition allows: any numbering of the clusters, and a border point in any
    cluster whose core points reach it.

    Args:
        points: (n, d) array or tensor.
        labels: (n,) integers, -1 for noise.
        eps, min_samples, metric, sample_weight: as given to DBSCAN.
        strict: accept only the labels of the dbscan op and of scikit-learn: clusters numbered by their first core
            point, border points in the smallest cluster that reaches them.

    Returns:
        A `Verdict`, true or false with a reason.
    """
    tensor = to_points(points)
    n = tensor.shape[0]
    label, problem = _labels(labels, n, tensor.device)
    if label is None:
        return Verdict(False, problem)
    weight = torch.ones(n, dtype=torch.float64, device=tensor.device)
    if sample_weight is not None:
        weight = to_tensor(sample_weight, "sample_weight").to(tensor.device, torch.float64)
    distances = Distances(tensor, metric)
    core = torch.cat(
        [(distances.neighbours(rows, eps).double() @ weight) >= min_samples for rows in distances.blocks()]
    )

    for wrong in (core & (label < 0)).nonzero():
        return Verdict(False, f"point {int(wrong)} is a core point but labelled noise")
    root = torch.arange(n, device=tensor.device)
    for rows in distances.blocks():
        near = distances.neighbours(rows, eps) & core
        problem = _wrong_in_block(rows, near, label, core, strict)
        if problem:
            return Verdict(False, problem)
        inner, other = (near & core[rows, None]).nonzero(as_tuple=True)
        root = unite_edges(root, rows[inner], other)
    problem = _merged(label, core, root)
    if not problem and strict:
        problem = _numbering(label, core)
    return Verdict(not problem, problem)


def _labels(labels: ArrayLike, n: int, device: torch.device) -> tuple[Tensor | None, str]:
    given = labels if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    if tuple(given.shape) != (n,):
        return None, f"labels have shape {tuple(given.shape)}, expected ({n},)"
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        return None, f"labels must be integers, got {given.dtype}"
    given = given.to(device, torch.int64)
    if bool((given < -1).any()):
        row = int((given < -1).nonzero()[0])
        return None, f"label {int(given[row])} of point {row} is below -1"
    return given, ""


def _wrong_in_block(rows: Tensor, near: Tensor, label: Tensor, core: Tensor, strict: bool) -> str:
    """What is wrong with the labels of the points `rows`, whose core neighbours are `near` (b, n)."""
    own = label[rows, None]
    split = near & core[rows, None] & (label != own)
    for row, other in split.nonzero()[:1].tolist():
        a, b = int(rows[row]), other
        return f"core points {a} and {b} are neighbours but in clusters {int(label[a])} and {int(label[b])}"
    border = ~core[rows]
    reached = near.any(dim=1)
    for wrong in (border & (own[:, 0] < 0) & reached).nonzero()[:1, 0].tolist():
        by = int(near[wrong].nonzero()[0])
        return f"point {int(rows[wrong])} is labelled noise but lies within eps of core point {by}"
    supported = (near & (label == own)).any(dim=1)
    for wrong in (border & (own[:, 0] >= 0) & ~supported).nonzero()[:1, 0].tolist():
        point = int(rows[wrong])
        return f"point {point} is in cluster {int(label[point])} but no core point of it lies within eps"
    if strict:
        smallest = torch.where(near, label, len(label)).amin(dim=1)
        for wrong in (border & reached & (smallest != own[:, 0])).nonzero()[:1, 0].tolist():
            point = int(rows[wrong])
            return (
                f"border point {point} is in cluster {int(label[point])}, "
                f"the smallest cluster that reaches it is {int(smallest[wrong])}"
            )
    return ""


def _merged(label: Tensor, core: Tensor, root: Tensor) -> str:
    """Core points of one cluster that no chain of core points connects."""
    first: dict[int, int] = {}
    for point in (core & (root == torch.arange(len(root), device=root.device))).nonzero()[:, 0].tolist():
        cluster = int(label[point])
        if cluster in first:
            other = first[cluster]
            return (
                f"core points {other} and {point} are in cluster {cluster}, but no chain of core points connects them"
            )
        first[cluster] = point
    return ""


def _numbering(label: Tensor, core: Tensor) -> str:
    seen = -1
    for cluster in label[core].tolist():
        if cluster > seen + 1:
            return (
                f"cluster {cluster} appears before cluster {seen + 1}: clusters are numbered by their first core point"
            )
        seen = max(seen, cluster)
    return ""
