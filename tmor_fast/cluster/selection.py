"""The choice of eps: how far the k-th neighbour is, where that curve bends, how many neighbours an eps gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tmor_fast.cluster.arrays import ArrayLike, like, to_points
from tmor_fast.cluster.neighbours import Distances


def _sampled(n: int, sample: int | None, seed: int, device: torch.device) -> Tensor:
    if sample is not None and sample < 1:
        raise ValueError(f"sample must be at least 1 or None for all points, got {sample}")
    if sample is None or sample >= n:
        return torch.arange(n, device=device)
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:sample]
    return drawn.sort().values.to(device)


def k_distance(
    points: ArrayLike, k: int, metric: str = "euclidean", *, sample: int | None = None, seed: int = 0
) -> Any:
    """Distance from each point to its k-th nearest other point, in ascending order: the k-distance curve.

    With `k = min_samples - 1` a value is the smallest eps for which its point is a core point: DBSCAN's `min_samples`,
    here as in scikit-learn, counts the point itself, so the (min_samples - 1)-th nearest other point is the
    min_samples-th neighbour, at distance 0 from itself the point being the first. It is the same value that a search
    among all points gives at k = min_samples (`sklearn.neighbors.NearestNeighbors(min_samples).kneighbors(points)`).

    Args:
        points: (n, d) array or tensor.
        k: 1 .. n - 1; the point itself does not count.
        metric: "euclidean" or "cosine".
        sample: for how many points, drawn without replacement; None for all. Neighbours are always sought among all.
        seed: of that draw.

    Returns:
        (n,) or (sample,) float64, of the kind of `points`.

    Source: Ester et al., KDD 1996, section 4.2.
    """
    tensor = to_points(points)
    n = tensor.shape[0]
    if not 1 <= k <= n - 1:
        raise ValueError(f"k must be in 1 .. n - 1 = {n - 1}, got {k}")
    distances = Distances(tensor, metric)
    parts = []
    for rows in _sampled(n, sample, seed, tensor.device).split(distances.step):
        squared = distances.approximate(rows)
        # The point itself comes first, whatever rounding makes of duplicates.
        squared[torch.arange(len(rows), device=squared.device), rows] = -1.0
        nearest = squared.topk(min(n, k + 9), dim=1, largest=False).indices
        # A few candidates more than needed, measured anew: products round too much where points almost coincide.
        exact = distances.of_pairs(rows.repeat_interleave(nearest.shape[1]), nearest.reshape(-1)).view(nearest.shape)
        exact[nearest == rows[:, None]] = -1.0
        parts.append(exact.sort(dim=1).values[:, k])
    squared = torch.cat(parts)
    values = squared / 2.0 if metric == "cosine" else squared.sqrt()
    return like(values.sort().values, points)


def suggest_eps(
    points: ArrayLike, min_samples: int = 4, metric: str = "euclidean", *, sample: int | None = 2048, seed: int = 0
) -> float:
    """An eps for DBSCAN: the knee of the k-distance curve with `k = min_samples - 1`.

    The knee is the point of the ascending curve that lies farthest below the straight line between its ends, both axes
    scaled to 0 .. 1 (Satopaa et al., Finding a "kneedle" in a haystack, 2011). A flat curve gives its one value.

    Args:
        points: (n, d) array or tensor, n at least 2.
        min_samples: as for DBSCAN, the point itself included; at least 1 and at most n.
        metric: "euclidean" or "cosine".
        sample, seed: as for `k_distance`.

    Raises:
        ValueError: every point has `k` exact duplicates, so every distance is 0 and any eps above 0 gives the same.
    """
    if min_samples < 1:
        raise ValueError(f"min_samples must be at least 1, got {min_samples}")
    curve = torch.as_tensor(k_distance(points, max(1, min_samples - 1), metric, sample=sample, seed=seed)).cpu()
    if float(curve[-1]) == 0.0:
        raise ValueError(
            "every k-distance is 0: all points are duplicates, so any eps above 0 gives the same clusters; choose one"
        )
    height = curve[-1] - curve[0]
    if float(height) == 0.0:
        return float(curve[0])
    across = torch.linspace(0.0, 1.0, len(curve), dtype=torch.float64)
    below = across - (curve - curve[0]) / height
    knee = float(curve[int(below.argmax())])
    # Duplicates can put the knee at 0, which is no eps: the smallest distance that is one.
    return knee if knee > 0.0 else float(curve[curve > 0][0])


def epsilon_degree(
    points: ArrayLike, eps: float, metric: str = "euclidean", *, sample: int | None = None, seed: int = 0
) -> Any:
    """How many points lie within `eps` of each point, itself included: `degree >= min_samples` makes a core point.

    Args:
        points: (n, d) array or tensor.
        eps: above 0.
        metric: "euclidean" or "cosine".
        sample, seed: as for `k_distance`; with a sample the result is in the order of the points drawn.

    Returns:
        (n,) or (sample,) int64, of the kind of `points`.
    """
    if not 0.0 < eps < float("inf"):
        raise ValueError(f"eps must be finite and above 0, got {eps}")
    tensor = to_points(points)
    distances = Distances(tensor, metric)
    drawn = _sampled(tensor.shape[0], sample, seed, tensor.device)
    degree = torch.cat([distances.neighbours(rows, eps).sum(dim=1) for rows in drawn.split(distances.step)])
    return like(degree, points)
