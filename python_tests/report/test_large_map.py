"""The largest map and the longest clips together stay under the limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from made_runs import write_store

from tmor_fast.report import MAX_BYTES, gather, render
from tmor_fast.report.embedding_map import Clusters
from tmor_fast.report.encoder import EmbeddedClips
from tmor_fast.report.gather import Drawing
from tmor_fast.report.results import Prediction
from tmor_fast.report.skeletons import MOST_VALUES, encode_clip


def test_the_most_that_can_be_asked_for(run: Path, tmp_path: Path):
    material = gather(run, projection="pca")
    clips = material.clips
    assert clips is not None
    points, rows = 20_000, torch.arange(20_000) % 40
    packed = clips.packed.subset(rows)
    packed.clip_ids[:] = [f"{i:06d}" + "n" * 500 for i in range(points)]
    packed.captions[:] = ["c" * 5000] * points
    packed.label_names = [f"action {i} " + "long " * 50 for i in range(400)]
    packed.label = torch.arange(points) % 400
    material.clips = EmbeddedClips(
        clips.features[rows], packed, ["store " + "s" * 300] * points, points, rows >= 0, [], list(range(points))
    )
    material.plane = np.random.default_rng(0).random((points, 2))
    material.clusters = Clusters(np.arange(points) % 3000, "note " * 1000, 0.1, 3, np.linspace(0, 1, 512))
    store = write_store(tmp_path / "made", 2)
    joints = np.random.default_rng(0).normal(size=(4000, 4, 17, 3)).astype(np.float32)
    clip = store[0]
    clip.joints, clip.valid = joints, np.ones(joints.shape[:3], dtype=bool)
    data = encode_clip(clip, store.layout)
    assert data is not None
    assert len(data["values"]) > 0.5 * MOST_VALUES
    predicted = Prediction("s" * 900, "c" * 900, "l" * 900, (("l" * 900, 0.5), ("m" * 900, 0.3)), "probability")
    material.drawings = [Drawing(predicted, clip, store, data)] * 24
    size = len(render(material).encode())
    assert size < MAX_BYTES
    assert size > 5_000_000, "the test should come near the limit"
