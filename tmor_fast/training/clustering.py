"""Clustering the motion embeddings of the whole data set, and what to do when that goes wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tmor_fast.cluster import DBSCAN, suggest_eps
from tmor_fast.nn.options import TMOROptions
from tmor_fast.ops import dbscan_cuda

# An eps from the curve is lowered at most so often, each time by this factor: down to a fiftieth.
LOWERINGS, LOWER_BY = 11, 0.7


@dataclass(frozen=True)
class Clustering:
    """What one clustering found.

    Args:
        labels: (n,) int64 cluster of each sample, -1 for noise, on the CPU; None where it was not usable.
        eps: the radius used.
        clusters: number of clusters.
        noise_share: share of samples outside all clusters.
        largest_share: share of samples in the largest cluster.
        warning: why the clusters are not used, "" where they are.
    """

    labels: Tensor | None
    eps: float
    clusters: int
    noise_share: float
    largest_share: float
    warning: str = ""


def cluster_embeddings(embeddings: Tensor, options: TMOROptions, eps: float | None) -> Clustering:
    """DBSCAN by cosine distance with the options' settings (`tmor options`, rows 10 to 14).

    Unless the options set eps, it is that of the first clustering, and at first the knee of the k-distance curve. It is
    lowered step by step while one cluster holds more than `max_cluster_share` of the samples: embeddings draw together
    as training goes on, and a chain through the middle of their cloud joins all.

    Args:
        embeddings: (n, d) motion embeddings.
        options: min_samples, largest usable cluster and, if set, eps.
        eps: radius of an earlier clustering, None for the curve's. A radius set in the options wins and stays.

    Returns:
        The clustering; `labels` is None and `warning` says why where one cluster swallows too much or nothing is
        clustered, so that training falls back to instance discrimination.
    """
    unit = torch.nn.functional.normalize(embeddings.float(), dim=1)
    if dbscan_cuda.check("cuda", unit.device) is not None:
        # The compiled kernel of the CPU; the reference would be far slower, even on a GPU.
        unit = unit.cpu()
    if options.eps is not None:
        return _cluster(unit, options, options.eps)
    radius = _knee(unit, options) if eps is None else eps
    first = found = _cluster(unit, options, radius)
    for _ in range(LOWERINGS):
        if found.labels is not None or found.clusters == 0:
            break
        radius *= LOWER_BY
        found = _cluster(unit, options, radius)
    return first if found.labels is None else found


def _knee(unit: Tensor, options: TMOROptions) -> float:
    try:
        return suggest_eps(unit, min(options.min_samples, len(unit)), metric="cosine")
    except ValueError:
        # Groups of duplicates have no curve to find a knee in; any radius shows the clusters they are.
        return 0.0


def _cluster(unit: Tensor, options: TMOROptions, radius: float) -> Clustering:
    # DBSCAN asks for a positive radius.
    radius = max(radius, 1e-6)
    estimator = DBSCAN(eps=radius, min_samples=options.min_samples, metric="cosine")
    labels = torch.as_tensor(estimator.fit_predict(unit), dtype=torch.int64).cpu()
    clusters = int(labels.max()) + 1
    noise = float((labels < 0).float().mean())
    largest = float(torch.bincount(labels[labels >= 0]).max()) / len(labels) if clusters else 0.0
    warning = ""
    if clusters == 0:
        warning = f"no cluster at eps {radius:.4g}: all samples are noise; instance discrimination goes on"
    elif largest > options.max_cluster_share:
        warning = (
            f"the largest cluster holds {largest:.0%} of the samples (limit {options.max_cluster_share:.0%}) at eps "
            f"{radius:.4g}; instance discrimination goes on, a smaller eps would split it"
        )
    return Clustering(None if warning else labels, radius, clusters, noise, largest, warning)
