"""Filling in joints that were not observed, for all clips at once."""

from __future__ import annotations

import numpy as np

from tmor_fast.data.layout import SkeletonLayout
from tmor_fast.data.ragged import ClipBatch
from tmor_fast.errors import DataError


def fill_gaps(batch: ClipBatch, layout: SkeletonLayout, valid: np.ndarray | None = None) -> np.ndarray:
    """Coordinates with every gap filled.

    Between two observations a joint moves linearly in time; before the first and after the last it stays there. A joint
    never seen in the clip takes the place of its mirror partner if that was seen, else of its nearest seen ancestor,
    else of the nearest seen joint. A person slot in which nothing was ever seen becomes zero.

    Args:
        batch: clips of the layout.
        layout: says which joint may stand in for which.
        valid: (F, M, V) bool to use instead of `batch.valid`.

    Returns:
        (F, M, V, C) float32, finite everywhere.

    Raises:
        DataError: a clip has no valid joint at all.
    """
    valid = batch.valid if valid is None else valid
    frames, persons, count, channels = batch.joints.shape
    seen = np.logical_or.reduceat(valid, batch.offsets[:-1], axis=0)  # (n, M, V)
    blank = np.flatnonzero(~seen.any(axis=(1, 2)))
    if len(blank):
        raise DataError(
            f"clip {batch.clip_id[int(blank[0])]!r}: no joint is valid in any of its "
            f"{batch.lengths[int(blank[0])]} frames ({len(blank)} such clips); remove it from the source"
        )
    joints = np.array(batch.joints, dtype=np.float32, order="C")
    if valid.all():
        return joints
    flat = joints.reshape(frames, persons * count, channels)
    flags = valid.reshape(frames, persons * count)
    start = np.repeat(batch.offsets[:-1], batch.lengths)
    stop = np.repeat(batch.offsets[1:], batch.lengths)
    for column in np.flatnonzero(~flags.all(axis=0)):
        flat[:, column] = _fill_column(flat[:, column], flags[:, column], start, stop)
    return _stand_in(joints, seen, batch.clip_of_frame, layout)


def _fill_column(values: np.ndarray, valid: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """One joint's coordinates (F, C), each clip's frames filled from the same clip; never-seen stretches become 0."""
    frames = len(values)
    time = np.arange(frames)
    before = np.maximum.accumulate(np.where(valid, time, -1))
    after = np.minimum.accumulate(np.where(valid, time, frames)[::-1])[::-1]
    has_before, has_after = before >= start, after < stop
    low = np.where(has_before, before, np.where(has_after, after, 0))
    high = np.where(has_after, after, low)
    gap = high - low
    weight = np.where(gap > 0, (time - low) / np.maximum(gap, 1), 0.0).astype(np.float32)[:, None]
    first, last = values[low], values[high]
    filled = np.where(weight > 0, first + (last - first) * weight, first)
    filled[~(has_before | has_after)] = 0.0
    return filled


def _stand_in(joints: np.ndarray, seen: np.ndarray, clip_of_frame: np.ndarray, layout: SkeletonLayout) -> np.ndarray:
    """Give each joint that its clip never shows the place of its first substitute that the clip shows."""
    present = seen.any(axis=2, keepdims=True)
    lacking = present & ~seen
    if not lacking.any():
        return joints
    order = np.array(layout.substitutes)  # (V, V)
    source = joints.copy()
    for joint in np.flatnonzero(lacking.any(axis=(0, 1))):
        first = seen[:, :, order[joint]].argmax(axis=2)  # (n, M)
        substitute = order[joint][first]
        clip, person = np.nonzero(lacking[:, :, joint])
        for slot in np.unique(person):
            chosen = np.zeros(len(seen), dtype=bool)
            chosen[clip[person == slot]] = True
            frames = np.flatnonzero(chosen[clip_of_frame])
            joints[frames, slot, joint] = source[frames, slot, substitute[clip_of_frame[frames], slot]]
    return joints
