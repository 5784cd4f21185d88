"""Everything a report shows, brought together: what the run folder holds, and what its checkpoint says now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tmor_fast.data.clip import Clip
from tmor_fast.data.store import ClipStore
from tmor_fast.errors import BackendUnavailableError, MissingDependencyError
from tmor_fast.nn.options import TMOROptions
from tmor_fast.report.embedding_map import Clusters, Projection, clusters_of, project
from tmor_fast.report.encoder import Advance, EmbeddedClips, Encoder, embed_clips, open_encoder, predict
from tmor_fast.report.results import Prediction
from tmor_fast.report.run_files import RunFiles, TrainingLog, read_run
from tmor_fast.report.skeletons import choose, encode_clip, find_clips
from tmor_fast.training.recording import RecordedClustering

# What can be wrong with a checkpoint, a store or a teacher without the rest of the report being any worse for it.
EXPECTED = (ValueError, OSError, RuntimeError, BackendUnavailableError, MissingDependencyError)


@dataclass
class Drawing:
    """A clip for the player and what was predicted for it."""

    prediction: Prediction
    clip: Clip
    store: ClipStore
    data: dict[str, Any]


@dataclass
class Material:
    """What a report is made of.

    Args:
        run: the run folder's contents.
        stores: the stores used.
        encoder: the checkpoint, None without one.
        clips: embedded clips, None without checkpoint or store.
        plane: (n, 2) their places on the map.
        method: how they were found, in words.
        clusters: of the points, None without.
        drawings: clips for the player.
        reasons: why a part is not there, by part: "map", "clusters", "skeletons".
    """

    run: RunFiles
    stores: list[Path]
    encoder: Encoder | None = None
    clips: EmbeddedClips | None = None
    plane: np.ndarray | None = None
    method: str = ""
    clusters: Clusters | None = None
    drawings: list[Drawing] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def own_stages(self) -> list[TrainingLog]:
        """The stages that made the encoder; none where it came from elsewhere."""
        if self.encoder is None:
            return []
        home = self.encoder.path.parent
        return next((group for group in self.run.stages if group[0].folder.parent == home), [])


def gather(
    run: str | Path,
    *,
    stores: Sequence[str | Path] = (),
    checkpoint: str | Path | None = None,
    projection: Projection = "auto",
    max_points: int = 3000,
    max_clips: int = 12,
    advance: Advance = lambda *_: None,
) -> Material:
    """Read a run, embed clips of its stores and choose some to draw.

    Args:
        run: the run folder, or one result file.
        stores: clip stores; none takes those in the run folder or noted in it.
        checkpoint: the model; None takes the run's own.
        projection: of the map, see `embedding_map.project`.
        max_points: clips on the map, at most.
        max_clips: skeletons, at most.
        advance: told what is being done.

    Raises:
        FileNotFoundError, DataError: no run there, or a store or checkpoint that was asked for cannot be used.
    """
    advance("reading the run", 0, 1)
    files = read_run(run)
    material = Material(files, [Path(store) for store in stores] or files.stores)
    for store in stores:
        ClipStore(store)
    if checkpoint is not None:
        material.encoder = open_encoder(checkpoint)
    elif files.models:
        try:
            material.encoder = open_encoder(files.models[0])
        except EXPECTED as error:
            material.reasons["map"] = str(error)
    _map(material, projection, max_points, advance)
    _skeletons(material, max_clips, advance)
    return material


def _map(material: Material, projection: Projection, limit: int, advance: Advance) -> None:
    encoder = material.encoder
    if encoder is None or not material.stores:
        lacking = "no checkpoint" if encoder is None else "no clip store is in the run folder or noted in it"
        material.reasons.setdefault("map", lacking)
        return
    try:
        material.clips = embed_clips(encoder, material.stores, limit, advance)
    except EXPECTED as error:
        material.reasons["map"] = str(error)
        return
    advance("drawing the map", 0, 1)
    material.plane, material.method = project(material.clips.features, projection)
    if encoder.model is None:
        material.reasons["clusters"] = "a classifier is not trained with clusters"
        return
    recorded = _last_clustering(material.own_stages)
    options: TMOROptions = encoder.model.options
    eps = _last_eps(material.own_stages) if _complete(material.clips, encoder) else None
    material.clusters, material.reasons["clusters"] = clusters_of(material.clips, recorded, options, eps)


def _last_clustering(stages: Sequence[TrainingLog]) -> RecordedClustering | None:
    recorded = [log.clustering for log in stages if log.clustering is not None]
    return recorded[-1] if recorded else None


def _last_eps(stages: Sequence[TrainingLog]) -> float | None:
    return next((row["eps"] for log in stages[::-1] for row in log.rows[::-1] if "eps" in row), None)


def _complete(clips: EmbeddedClips, encoder: Encoder) -> bool:
    """Whether the map shows all clips of the training, so that its radius means the same here."""
    return int(clips.training.sum()) == encoder.metadata.get("clips")


def _skeletons(material: Material, count: int, advance: Advance) -> None:
    if not material.stores:
        material.reasons["skeletons"] = "no clip store is in the run folder or noted in it"
        return
    predictions = material.run.predictions
    try:
        if not predictions and material.encoder is not None and material.clips is not None:
            advance("naming clips", 0, 1)
            predictions = predict(material.encoder, material.clips)
        if not predictions:
            material.reasons["skeletons"] = "no predictions were recorded"
            return
        advance("drawing skeletons", 0, 1)
        stored = {str(name) for store in material.stores for name in ClipStore(store).column("clip_id")}
        chosen = choose(predictions, stored, count)
        found = find_clips(material.stores, chosen)
    except EXPECTED as error:
        material.reasons["skeletons"] = str(error)
        return
    for prediction in chosen:
        clip, store = found[prediction.clip_id]
        data = encode_clip(clip, store.layout)
        if data is not None:
            material.drawings.append(Drawing(prediction, clip, store, data))
    if not material.drawings:
        material.reasons["skeletons"] = "none of the predicted clips is in the stores"
