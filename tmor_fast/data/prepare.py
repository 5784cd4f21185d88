"""From a clip store to packed clips: fill gaps, convert the layout, normalise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tmor_fast.data.conversion import convert_joints
from tmor_fast.data.gaps import fill_gaps
from tmor_fast.data.layout import SkeletonLayout, get_layout
from tmor_fast.data.packed import PackedClips
from tmor_fast.data.ragged import ClipBatch, pad_persons
from tmor_fast.data.store import ClipStore
from tmor_fast.errors import DataError, missing

NORMALISATIONS = ("body", "screen", "none")

SIZE_PERCENTILE = 90.0
# A 2D torso is never taken as shorter than this part of the body's extent (diagonal of its bounding box): in 3D motion
# capture the torso measures 0.22 of the extent with arms stretched and 0.27 to 0.28 standing.
TORSO_OF_EXTENT = 0.22


def prepare(
    store: ClipStore,
    *,
    layout: str | SkeletonLayout | None = "unik17",
    normalisation: str = "body",
    teachers: Sequence[str] = (),
    persons: int | None = None,
    min_confidence: float = 0.0,
    screen_size: tuple[int, int] | None = None,
    progress: bool = False,
) -> PackedClips:
    """Clips of a store, ready for training.

    Of every clip: joints below `min_confidence` count as not seen; gaps are filled (`fill_gaps`); the layout is
    converted; the coordinates are normalised:

    - "body": minus the clip's mean mid-hip, divided by the body's size, the 90th percentile over its frames of the
      distance from neck to mid-hip. In 2D the size is never below 0.22 of the 90th percentile of the body's extent, so
      that a torso seen end-on does not blow the skeleton up. 2D and 3D then agree in scale; 2D keeps y down, 3D y up.
    - "screen": x' = 2x/w - 1, y' = 2y/w - h/w (the released UNIK preprocessing, which fixes 640 x 480: pass
      `screen_size=(640, 480)` for that).
    - "none": coordinates as they are.

    Args:
        store: an open clip store.
        layout: layout wanted; None keeps the store's.
        normalisation: "body", "screen" or "none".
        teachers: names of stored embeddings to take along.
        persons: person slots M of the result: fewer than stored keeps the first; None keeps as many as the store has.
        min_confidence: in [0, 1].
        screen_size: (width, height) that "screen" uses instead of each clip's own.
        progress: show a progress bar (needs rich).

    Returns:
        Packed clips in the order of the store. `valid` says which joints were observed; no coordinate is NaN.

    Raises:
        ValueError: an unknown normalisation or layout, or "screen" for 3D.
        DataError: a clip without any valid joint, without the image size "screen" needs, or a damaged store.
    """
    goal = store.layout if layout is None else get_layout(layout)
    slots = store.max_persons if persons is None else persons
    _check_settings(normalisation, store.channels, slots)
    embeddings = {teacher: torch.from_numpy(store.embeddings(teacher)) for teacher in teachers}
    shape = (store.num_frames, slots, goal.num_joints)
    joints, valid = torch.empty(*shape, store.channels), torch.empty(shape, dtype=torch.bool)
    seen: list[ClipBatch] = []
    start = 0
    for batch in _progress(store.batches(), len(store), store.name) if progress else store.batches():
        stop = start + len(batch.joints)
        moved, known = prepare_batch(batch, store.layout, goal, normalisation, min_confidence, screen_size)
        joints[start:stop] = torch.from_numpy(pad_persons(moved[:, :slots], slots))
        valid[start:stop] = torch.from_numpy(pad_persons(known[:, :slots], slots))
        # What the clips are is kept, their frames are not.
        seen.append(replace(batch, joints=batch.joints[:0], valid=batch.valid[:0], confidence=None))
        start = stop
    facts = _facts(seen, planar=store.channels == 2)
    return PackedClips(joints, valid, label_names=store.label_names, layout=goal, embeddings=embeddings, **facts)


def _check_settings(normalisation: str, channels: int, persons: int) -> None:
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation {normalisation!r}; accepted: {', '.join(NORMALISATIONS)}")
    if normalisation == "screen" and channels != 2:
        raise ValueError("normalisation 'screen' is for 2D pixels; use 'body' for 3D")
    if persons < 1:
        raise ValueError(f"persons must be at least 1, got {persons}")


def _facts(batches: Sequence[ClipBatch], planar: bool) -> dict[str, Any]:
    """The fields of PackedClips that say what the clips are rather than how they move."""

    def column(name: str) -> list[Any]:
        return np.concatenate([batch.columns[name] for batch in batches]).tolist()

    frame_label = None
    if any(batch.frame_label is not None for batch in batches):
        parts = [np.full(b.offsets[-1], -1) if b.frame_label is None else b.frame_label for b in batches]
        frame_label = torch.from_numpy(np.concatenate(parts).astype(np.int64))
    lengths = np.concatenate([batch.lengths for batch in batches])
    return {
        "offsets": torch.from_numpy(np.concatenate(([0], np.cumsum(lengths)))),
        "planar": torch.full((len(lengths),), planar),
        "label": torch.tensor(column("label"), dtype=torch.int64),
        "clip_ids": [name for batch in batches for name in batch.clip_id],
        "captions": column("caption"),
        "splits": column("split"),
        "subjects": column("subject"),
        "views": column("view"),
        "frame_label": frame_label,
    }


def prepare_batch(
    batch: ClipBatch,
    source: SkeletonLayout,
    target: SkeletonLayout,
    normalisation: str,
    min_confidence: float = 0.0,
    screen_size: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The numpy core of `prepare` for clips in flat arrays; also what serving uses for a single clip.

    Args:
        batch: clips of layout `source`.
        source: their layout.
        target: layout wanted.
        normalisation: see `prepare`.
        min_confidence: see `prepare`.
        screen_size: see `prepare`.

    Returns:
        joints (F, M, V', C) float32 and valid (F, M, V') bool.

    Raises:
        ValueError, DataError: see `prepare`.
    """
    valid = batch.valid
    if min_confidence > 0 and batch.confidence is not None:
        valid = valid & (batch.confidence >= min_confidence)
    filled = fill_gaps(batch, source, valid)
    joints, valid = convert_joints(filled, valid, source, target)
    occupied = np.logical_or.reduceat(batch.valid.any(axis=2), batch.offsets[:-1], axis=0)[batch.clip_of_frame]
    if normalisation == "body":
        joints = normalise_body(joints, valid, occupied, batch.offsets, target)
    elif normalisation == "screen":
        joints = _normalise_screen(joints, batch, screen_size)
    joints[~occupied] = 0.0
    return joints, valid


def _normalise_screen(joints: np.ndarray, batch: ClipBatch, size: tuple[int, int] | None) -> np.ndarray:
    """x' = 2x/w - 1, y' = 2y/w - h/w with each clip's own image size, or with `size`."""
    if size is None:
        width, height = batch.columns["width"], batch.columns["height"]
        unknown = np.flatnonzero((width <= 0) | (height <= 0))
        if len(unknown):
            raise DataError(
                f"clip {batch.clip_id[int(unknown[0])]!r}: normalisation 'screen' needs the image size, which the "
                "store does not have; pass screen_size=(width, height) or use 'body'"
            )
    else:
        width, height = (np.full(len(batch), value) for value in size)
    w = width[batch.clip_of_frame].astype(np.float32)[:, None, None]
    h = height[batch.clip_of_frame].astype(np.float32)[:, None, None]
    return np.stack((2 * joints[..., 0] / w - 1, 2 * joints[..., 1] / w - h / w), axis=-1)


def normalise_body(
    joints: np.ndarray, valid: np.ndarray, occupied: np.ndarray, offsets: np.ndarray, layout: SkeletonLayout
) -> np.ndarray:
    """Coordinates in body sizes around the clip's mean mid-hip (see `prepare`).

    Args:
        joints: (F, M, V, C) gap-filled.
        valid: (F, M, V) bool.
        occupied: (F, M) bool, slots that hold somebody.
        offsets: (n + 1,).
        layout: with a "mid_hip" and "neck", or hips and shoulders; else its centre and the extent alone are used.

    Returns:
        (F, M, V, C) float32.
    """
    lengths = np.diff(offsets)
    clip = np.repeat(np.arange(len(lengths)), lengths)
    hips, necks = body_axis(layout)
    hip = joints[:, :, hips].mean(axis=2, dtype=np.float64)  # (F, M, C)
    weight = occupied & valid[:, :, hips].all(axis=2)
    # A clip whose hips were never all seen is centred on the filled-in ones.
    weight = np.where(np.logical_or.reduceat(weight.any(axis=1), offsets[:-1])[clip, None], weight, occupied)
    total = np.add.reduceat((hip * weight[..., None]).sum(axis=1), offsets[:-1], axis=0)
    center = total / np.add.reduceat(weight.sum(axis=1), offsets[:-1])[:, None]
    low = np.where(occupied[..., None], joints.min(axis=2), np.inf)
    high = np.where(occupied[..., None], joints.max(axis=2), -np.inf)
    with np.errstate(invalid="ignore"):
        extent = np.where(occupied, np.linalg.norm(high - low, axis=-1), np.nan)
    size = TORSO_OF_EXTENT * clip_percentile(extent, occupied, offsets)
    if necks:
        torso = np.linalg.norm(joints[:, :, necks].mean(axis=2) - hip, axis=-1)
        measured = occupied & valid[:, :, hips + necks].all(axis=2)
        length = clip_percentile(torso, measured, offsets)
        # In 3D a torso cannot be foreshortened; NaN (never seen) is not above 0.
        size = np.fmax(length, size) if joints.shape[-1] == 2 else np.where(length > 0, length, size)
    size = np.where(size > 0, size, 1.0)  # a body reduced to one point has no size
    scale = (1.0 / size)[clip, None, None, None].astype(np.float32)
    return (joints - center[clip, None, None].astype(np.float32)) * scale


def body_axis(layout: SkeletonLayout) -> tuple[list[int], list[int]]:
    """Joints whose mean is the mid-hip, and joints whose mean is the neck (empty if the layout names none).

    Both are means of a left and a right joint where there are such, so that layouts agree.
    """
    by_name = {name.lower().replace("_", ""): number for number, name in enumerate(layout.joint_names)}

    def find(choices: Iterable[Sequence[str]]) -> list[int]:
        return next(([by_name[name] for name in names] for names in choices if set(names) <= set(by_name)), [])

    hips = find((("midhip",), ("lefthip", "righthip"), ("upperlegl", "upperlegr"), ("lhipjoint", "rhipjoint")))
    shoulders = (("neck",), ("leftshoulder", "rightshoulder"), ("lclavicle", "rclavicle"))
    necks = find((("upperarml", "upperarmr"), *shoulders))
    return hips or [layout.center], necks if hips else []


def clip_percentile(
    values: np.ndarray, mask: np.ndarray, offsets: np.ndarray, percent: float = SIZE_PERCENTILE
) -> np.ndarray:
    """Percentile of `values` where `mask`, clip by clip (linear interpolation, as numpy does).

    Args:
        values: (F, M).
        mask: (F, M) bool.
        offsets: (n + 1,).
        percent: 0 to 100.

    Returns:
        (n,) float64, NaN for a clip without any.
    """
    clip = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    owner = np.broadcast_to(clip[:, None], values.shape)[mask]
    kept = values[mask].astype(np.float64)
    kept = kept[np.lexsort((kept, owner))]
    count = np.bincount(owner, minlength=len(offsets) - 1)
    first = np.cumsum(count) - count
    position = np.maximum(count - 1, 0) * (percent / 100.0)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    result = np.full(len(count), np.nan)
    some = count > 0
    lower, upper = kept[(first + low)[some]], kept[(first + high)[some]]
    result[some] = lower + (upper - lower) * (position - low)[some]
    return result


def _progress(batches: Iterator[ClipBatch], total: int, name: str) -> Iterator[ClipBatch]:
    try:
        from rich.progress import Progress
    except ImportError as error:
        raise missing("rich", "train", "A progress bar") from error
    with Progress() as bar:
        task = bar.add_task(f"preparing {name}", total=total)
        for batch in batches:
            yield batch
            bar.advance(task, len(batch))
