"""What a run leaves on disk for its report, beside models, configuration and metrics.csv.

- `RUN/stores.json`: the clip stores of a pre-training (`record_stores`).
- `RUN/stageN/log/clusters.npz`: the stage's last clustering (`record_clustering`): at most 512 points of the k-distance
  curve, the radius, and eight bytes a clip for its cluster.
- "predictions" in the results of probe, fine-tuning and zero-shot (`top_predictions`): the first classes of at most 400
  test clips, about 50 kB.

Every file is written under a temporary name first.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tmor_fast.atomic import new_file
from tmor_fast.cluster import k_distance
from tmor_fast.errors import DataError
from tmor_fast.evaluation.saving import save_json
from tmor_fast.training.clustering import Clustering

CURVE_POINTS = 512
# As `suggest_eps` draws them, so that a radius taken from the curve lies on it.
CURVE_SAMPLE = 2048
PREDICTED_CLIPS, PREDICTED_CLASSES = 400, 3


@dataclass(frozen=True, eq=False)
class RecordedClustering:
    """A clustering as it was recorded.

    Args:
        epoch: epoch of its stage after which it was made, from 0; -1 before the first.
        eps: the radius, a cosine distance.
        k: the curve holds distances to the k-th nearest other clip.
        curve: (p,) float64, ascending, p at most `CURVE_POINTS`.
        labels: (n,) int32 cluster of each training clip, -1 for noise; all -1 where the clustering was not used.
        clips: (n,) uint32 CRC-32 of the clips' names, in the order of the training data.
        warning: why it was not used, "" where it was.
    """

    epoch: int
    eps: float
    k: int
    curve: np.ndarray
    labels: np.ndarray
    clips: np.ndarray
    warning: str


def name_code(clip_id: str) -> int:
    """CRC-32 of a clip's name."""
    return zlib.crc32(clip_id.encode())


def record_stores(run: str | Path, stores: Sequence[str | Path]) -> None:
    """Note in `stores.json` which stores a run was trained on."""
    save_json(Path(run) / "stores.json", [str(Path(store).resolve()) for store in stores])


def distance_curve(embeddings: Tensor, min_samples: int) -> tuple[int, np.ndarray]:
    """k and the k-distance curve (cosine) from which a radius for `min_samples` is read, at most `CURVE_POINTS` long.

    Args:
        embeddings: (n, d), n at least 2.
        min_samples: as for DBSCAN, the point itself included.
    """
    k = max(1, min(min_samples, len(embeddings)) - 1)
    unit = torch.nn.functional.normalize(embeddings.float(), dim=1).cpu()
    curve = np.asarray(k_distance(unit, k, metric="cosine", sample=CURVE_SAMPLE), dtype=np.float64)
    places = np.linspace(0, len(curve) - 1, min(CURVE_POINTS, len(curve))).round().astype(np.int64)
    return k, curve[places]


def record_clustering(
    path: str | Path, embeddings: Tensor, found: Clustering, clip_ids: Sequence[str], *, min_samples: int, epoch: int
) -> None:
    """Write a clustering and its k-distance curve, replacing the one before.

    Args:
        path: a .npz file.
        embeddings: (n, d) what was clustered.
        found: what came out.
        clip_ids: n names.
        min_samples: as it was clustered with.
        epoch: of its stage, from 0; -1 before the first.
    """
    k, curve = distance_curve(embeddings, min_samples)
    labels = np.full(len(clip_ids), -1, np.int32) if found.labels is None else found.labels.cpu().numpy()
    clips = np.fromiter((name_code(name) for name in clip_ids), dtype=np.uint32, count=len(clip_ids))
    with new_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream, epoch=epoch, eps=found.eps, k=k, curve=curve, labels=labels.astype(np.int32), clips=clips,
            warning=found.warning,
        )  # fmt: skip


def read_clustering(path: str | Path) -> RecordedClustering:
    """What `record_clustering` wrote.

    Raises:
        DataError: the file is damaged or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            read = RecordedClustering(
                epoch=int(stored["epoch"]), eps=float(stored["eps"]), k=int(stored["k"]), curve=stored["curve"],
                labels=stored["labels"], clips=stored["clips"], warning=str(stored["warning"]),
            )  # fmt: skip
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: no recorded clustering ({error}); delete it or train again") from error
    if read.curve.ndim != 1 or read.labels.ndim != 1 or read.labels.shape != read.clips.shape:
        raise DataError(f"{path}: no recorded clustering (shapes do not agree); delete it or train again")
    if not np.isfinite(read.curve).all() or not np.isfinite(read.eps):
        raise DataError(f"{path}: a distance or eps is not finite; delete it or train again")
    return read


def top_predictions(
    scores: Tensor,
    labels: Tensor,
    clip_ids: Sequence[str],
    label_names: Sequence[str],
    *,
    kind: Literal["logits", "probability", "cosine"] = "logits",
    limit: int = PREDICTED_CLIPS,
) -> dict[str, Any]:
    """The best classes of some test clips, for JSON.

    Args:
        scores: (n, K) logits, positive weights that become probabilities, or cosine similarities.
        labels: (n,) true classes.
        clip_ids: n names.
        label_names: K names.
        kind: what the scores are.
        limit: clips kept, spread evenly over the n.

    Returns:
        "clips", "label", "top" and "score" (`PREDICTED_CLASSES` each, best first), "label_names", and "unit":
        "probability" or "cosine similarity".
    """
    chosen = torch.linspace(0, len(scores) - 1, min(limit, len(scores)), dtype=torch.float64).round().long()
    rows = scores[chosen].float()
    if kind == "logits":
        rows = rows.softmax(dim=1)
    elif kind == "probability":
        rows = rows / rows.sum(dim=1, keepdim=True)
    best = rows.topk(min(PREDICTED_CLASSES, rows.shape[1]), dim=1)
    return {
        "unit": "cosine similarity" if kind == "cosine" else "probability",
        "label_names": list(label_names),
        "clips": [clip_ids[i] for i in chosen.tolist()],
        "label": labels[chosen].tolist(),
        "top": best.indices.tolist(),
        "score": [[round(value, 4) for value in row] for row in best.values.tolist()],
    }
