"""Frozen features of clips, a batch at a time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tmor_fast.data.clip_batches import ClipBatches
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik import UNIK


@torch.no_grad()
def embed_in_batches(
    model: TMOR | UNIK,
    batches: ClipBatches,
    index: Tensor | None = None,
    *,
    kind: Literal["features", "projection"] = "features",
    view: int = 0,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Embeddings of clips in eval mode; the model's mode is put back afterwards.

    Args:
        model: T-MOR or a bare encoder.
        batches: makes the network inputs.
        index: (n,) places, None for all clips.
        kind: pooled backbone features (n, F), or unit embeddings of the shared space (n, d).
        view: direction of a 3D clip seen by a 2D network.
        generator: draws one random view of each clip instead of the plain one.
        batch_size: clips at a time.

    Returns:
        (n, F) or (n, d) float32.
    """
    if kind == "projection" and not isinstance(model, TMOR):
        raise ValueError("only a T-MOR model has projections; ask for 'features'")
    training = model.training
    model.eval()
    backbone = model.backbone if isinstance(model, TMOR) else model
    device = next(model.parameters()).device
    places = torch.arange(len(batches.packed)) if index is None else index
    rows = []
    for part in places.split(batch_size):
        part = part.to(batches.packed.device)
        joints = batches.plain(part, view=view) if generator is None else batches.random(part, generator)
        features = backbone.features(joints.to(device))
        if kind == "projection" and isinstance(model, TMOR):
            features = model.project_motion(features)
        rows.append(features.float())
    model.train(training)
    return torch.cat(rows)
