"""Clips to show: which ones, and their joints as small integers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tmor_fast.data.clip import Clip
from tmor_fast.data.layout import SkeletonLayout
from tmor_fast.data.store import ClipStore
from tmor_fast.evaluation.zero_shot import action_text
from tmor_fast.report.results import Prediction

MOST_FRAMES, MOST_PERSONS = 150, 4
# Coordinates of one clip altogether: with 12 clips under 4 MB of text.
MOST_VALUES = 60_000
CENTRE, REACH = 500, 490
# A body that travels farther than so many times its height is followed by the camera.
FOLLOW_BEYOND = 1.5


def choose(predictions: Sequence[Prediction], known: Iterable[str], count: int) -> list[Prediction]:
    """Clips worth looking at: half of them wrong where there are so many, and as many different actions as there are.

    Args:
        predictions: of any sources; the clips are dealt out among the three that are right most often.
        known: names of the clips that can be drawn.
        count: at most so many.
    """
    drawable = set(known)
    sources: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        if prediction.clip_id in drawable:
            sources.setdefault(prediction.source, []).append(prediction)
    best = sorted(sources.values(), key=lambda found: -sum(p.right for p in found) / len(found))[:3]
    chosen: list[Prediction] = []
    taken: set[str] = set()
    for number, found in enumerate(best):
        quota = (count - len(chosen)) // (len(best) - number)
        fresh = [p for p in found if p.clip_id not in taken]
        wrong = _spread([p for p in fresh if not p.right])
        right = _spread([p for p in fresh if p.right])
        mistakes = min(len(wrong), max(quota // 2, quota - len(right)))
        picked = [*right[: quota - mistakes], *wrong[:mistakes]]
        taken |= {p.clip_id for p in picked}
        chosen += picked
    return chosen


def _spread(predictions: list[Prediction]) -> list[Prediction]:
    """The same, one of every action first, then a second of each."""
    seen: dict[str, int] = {}
    turns = []
    for prediction in predictions:
        seen[prediction.label] = seen.get(prediction.label, 0) + 1
        turns.append(seen[prediction.label])
    return [predictions[i] for i in sorted(range(len(predictions)), key=lambda i: turns[i])]


def find_clips(stores: Sequence[str | Path], wanted: Sequence[Prediction]) -> dict[str, tuple[Clip, ClipStore]]:
    """The clips that were predicted, by name.

    Names are unique within a store only: of several that have one, the first whose clip shows the predicted clip's
    action is taken.
    """
    found: dict[str, tuple[Clip, ClipStore]] = {}
    fitting: set[str] = set()
    for path in stores:
        store = ClipStore(path)
        places = {str(name): place for place, name in enumerate(store.column("clip_id"))}
        for prediction in wanted:
            name = prediction.clip_id
            if name not in places or name in fitting:
                continue
            clip = store[places[name]]
            fits = clip.label >= 0 and action_text(store.label_names[clip.label]) == action_text(prediction.label)
            if fits or name not in found:
                found[name] = (clip, store)
            if fits:
                fitting.add(name)
    return found


def encode_clip(clip: Clip, layout: SkeletonLayout) -> dict[str, Any] | None:
    """A clip for the player, as plain values.

    Args:
        clip: joints as stored, gaps included.
        layout: its skeleton.

    Returns:
        "values": coordinates of (frame, person, joint) one after another, 10 to 990 with y downwards, -1 for a joint
        that was not observed; "frames", "persons", "joints", "channels", "fps" (of the kept frames), "seconds",
        "bones" as pairs, "side" of each joint (-1 left, 1 right, 0 neither), "followed". None where no joint is valid.
    """
    joints = np.asarray(clip.joints, dtype=np.float64)[:, :MOST_PERSONS]
    valid = np.asarray(clip.valid)[:, :MOST_PERSONS]
    total, persons, number, channels = joints.shape
    step = max(1, -(-total // max(2, min(MOST_FRAMES, MOST_VALUES // (persons * number * channels)))))
    joints, valid = joints[::step].copy(), valid[::step]
    if not valid.any():
        return None
    joints[~valid] = np.nan
    if channels == 3:
        # Stored with y upwards; screens count downwards.
        joints[..., 1] *= -1
    followed = _follow(joints)
    points = joints[valid]
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    away = points - centre
    across = np.hypot(away[:, 0], away[:, 2]) if channels == 3 else np.abs(away[:, 0])
    reach = max(float(across.max()), float(np.abs(away[:, 1]).max()), 1e-9)
    values = np.where(valid[..., None], np.nan_to_num((joints - centre) * (REACH / reach) + CENTRE), -1.0)
    side = np.zeros(number, dtype=np.int64)
    for left, right in layout.left_right:
        side[left], side[right] = -1, 1
    return {
        "values": values.round().astype(np.int64).ravel().tolist(),
        "frames": len(joints), "persons": persons, "joints": number, "channels": channels,
        "fps": round(clip.fps / step, 4), "seconds": round(total / clip.fps, 3),
        "bones": [list(bone) for bone in layout.bones], "side": side.tolist(), "followed": followed,
    }  # fmt: skip


def _follow(joints: np.ndarray) -> bool:
    """Take out the way that a travelling body makes over the ground, in place; says whether it did."""
    ground = [0, 2] if joints.shape[-1] == 3 else [0]
    extent = np.nanmax(joints, axis=(0, 1, 2)) - np.nanmin(joints, axis=(0, 1, 2))
    if extent[ground].max() <= FOLLOW_BEYOND * extent[1]:
        return False
    seen = ~np.isnan(joints[..., 0]).all(axis=(1, 2))
    frames = np.arange(len(joints))
    window = np.ones(9) / 9
    for axis in ground:
        middle = [np.nanmean(frame[..., axis]) for frame in joints[seen]]
        path = np.pad(np.interp(frames, frames[seen], middle), 4, mode="edge")
        joints[..., axis] -= np.convolve(path, window, mode="valid")[:, None, None]
    return True
