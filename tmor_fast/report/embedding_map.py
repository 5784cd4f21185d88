"""The map of embeddings: two dimensions of many, and the cluster of each point."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tmor_fast.errors import missing
from tmor_fast.nn.options import TMOROptions
from tmor_fast.report.encoder import EmbeddedClips
from tmor_fast.training.clustering import cluster_embeddings
from tmor_fast.training.recording import RecordedClustering, distance_curve, name_code

Projection = Literal["auto", "pca", "tsne"]
# t-SNE looks at so many principal components; fewer points have no neighbourhoods worth one.
TSNE_COMPONENTS, TSNE_LEAST = 50, 30
NOT_CLUSTERED = -2


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of the points of a map.

    Args:
        of_point: (n,) int64, -1 for noise, `NOT_CLUSTERED` for a clip that was not among those clustered.
        note: where they come from.
        eps: the radius, a cosine distance.
        k: the curve holds distances to the k-th nearest other clip.
        curve: (p,) the k-distance curve, ascending.
    """

    of_point: np.ndarray
    note: str
    eps: float
    k: int
    curve: np.ndarray


def project(features: Tensor, projection: Projection = "auto") -> tuple[np.ndarray, str]:
    """Two coordinates a clip in [0, 1], both axes to one scale, and the words for how they were found.

    The features are brought to length 1 first: the clusters are found by cosine distance too.

    Args:
        features: (n, F).
        projection: "pca" (torch), "tsne" (scikit-learn), or "auto": t-SNE where scikit-learn is installed.

    Returns:
        (n, 2) float64, and a sentence.

    Raises:
        ValueError: unknown projection.
        MissingDependencyError: "tsne" without scikit-learn.
    """
    if projection not in ("auto", "pca", "tsne"):
        raise ValueError(f"projection {projection!r}; accepted: 'auto', 'pca', 'tsne'")
    installed = importlib.util.find_spec("sklearn") is not None
    if projection == "tsne" and not installed:
        raise missing("scikit-learn", "test", "A t-SNE map")
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    centred = unit - unit.mean(dim=0)
    _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
    if projection == "tsne" or (projection == "auto" and installed and len(features) >= TSNE_LEAST):
        components = centred @ directions[:TSNE_COMPONENTS].T
        return _fit(
            _tsne(components.numpy())
        ), "t-SNE (scikit-learn): near points are alike, far distances mean little."
    plane = torch.zeros(len(features), 2, dtype=torch.float64)
    shown = centred @ directions[:2].T
    plane[:, : shown.shape[1]] = shown
    share = float(spread[:2].square().sum() / spread.square().sum().clamp_min(1e-30))
    return _fit(plane.numpy()), f"PCA: the two directions of largest variance, {100 * share:.0f} % of all of it."


def _tsne(components: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(components) - 1) / 3)
    found = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(components)
    return np.asarray(found, dtype=np.float64)


def _fit(plane: np.ndarray) -> np.ndarray:
    low, high = plane.min(axis=0), plane.max(axis=0)
    scale = max(float((high - low).max()), 1e-12)
    return (plane - (low + high) / 2) / scale + 0.5


def clusters_of(
    clips: EmbeddedClips, recorded: RecordedClustering | None, options: TMOROptions, eps: float | None = None
) -> tuple[Clusters | None, str]:
    """Clusters of the points: the recorded ones where they are of these stores, else found anew among the points.

    Args:
        clips: the points.
        recorded: what the training recorded, None for a run that did not.
        options: of the training.
        eps: the training's last radius where the points are all clips it clustered, else None.

    Returns:
        The clusters, or None and the reason.
    """
    if recorded is not None:
        labels = match_recorded(recorded, clips.codes)
        if labels is not None:
            note = "Clusters of the last clustering of the training."
            if recorded.warning:
                note += f" They were not used for training: {recorded.warning}."
            return Clusters(labels[clips.places], note, recorded.eps, recorded.k, recorded.curve), ""
    inside = clips.training.nonzero().squeeze(1)
    if len(inside) <= options.min_samples:
        return None, f"{len(inside)} clips of the training split are too few to cluster"
    features = clips.features[inside]
    found = cluster_embeddings(features, options, eps)
    of_point = np.full(len(clips.features), NOT_CLUSTERED, dtype=np.int64)
    if found.labels is not None:
        of_point[inside.numpy()] = found.labels.numpy()
    radius = "an eps from their own k-distance curve" if eps is None else "the training's last eps"
    note = f"Clusters found for this report among {len(inside)} clips of the training split, with {radius}"
    note += f"; not usable: {found.warning}." if found.warning else "."
    k, curve = distance_curve(features, options.min_samples)
    return Clusters(of_point, note, found.eps, k, curve), ""


def match_recorded(recorded: RecordedClustering, clip_ids: Sequence[str]) -> np.ndarray | None:
    """The recorded cluster of every clip of the stores: the training's clips are some of them, in the same order.

    Returns:
        (all clips,) int64 with `NOT_CLUSTERED` for clips outside the training, or None where the stores are others.
    """
    labels = np.full(len(clip_ids), NOT_CLUSTERED, dtype=np.int64)
    wanted = recorded.clips.tolist()
    place = 0
    for number, name in enumerate(clip_ids):
        if place < len(wanted) and name_code(name) == wanted[place]:
            labels[number] = recorded.labels[place]
            place += 1
    return labels if place == len(wanted) else None
