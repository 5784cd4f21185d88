"""Two-stream fusion: the scores of separate models (joints and bones) become one score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def fuse_scores(
    streams: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    *,
    method: Literal["softmax", "logits"] = "softmax",
) -> Tensor:
    """Weighted sum of the streams' scores.

    Args:
        streams: logits of each stream, (n, K) each, with the clips in the same order.
        weights: one weight a stream, at least one of them positive; 1 each if None (the papers' alpha = 1).
        method: "softmax" sums class probabilities (UNIK, ViA and the thesis); "logits" sums what the models give
            (the released test script stores raw logits). The two can rank classes differently: logits let a
            confident stream outvote the other.

    Returns:
        (n, K), float32 or wider.

    Raises:
        ValueError: no stream, shapes that differ, a score that is NaN or infinite, bad weights or unknown method.
        TypeError: scores that are not floating point.
    """
    if not streams:
        raise ValueError("fuse_scores: give at least one stream")
    if method not in ("softmax", "logits"):
        raise ValueError(f"fuse_scores: method must be 'softmax' or 'logits', got {method!r}")
    weights = [1.0] * len(streams) if weights is None else list(weights)
    if len(weights) != len(streams):
        raise ValueError(f"fuse_scores: {len(weights)} weights for {len(streams)} streams")
    if not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
        raise ValueError(f"fuse_scores: weights must be finite, not negative and not all zero, got {weights}")
    shape = streams[0].shape
    total: Tensor | None = None
    for position, (scores, weight) in enumerate(zip(streams, weights, strict=True)):
        if scores.ndim != 2 or scores.shape != shape:
            raise ValueError(
                f"fuse_scores: streams must all be (n, K); the first is {tuple(shape)}, "
                f"stream {position} is {tuple(scores.shape)}"
            )
        if not scores.is_floating_point():
            raise TypeError(f"fuse_scores: stream {position} must be floating point, got {scores.dtype}")
        if not bool(torch.isfinite(scores).all()):
            raise ValueError(f"fuse_scores: stream {position} has scores that are not finite")
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        part = weight * (scores.softmax(dim=1) if method == "softmax" else scores)
        total = part if total is None else total + part
    assert total is not None
    return total
