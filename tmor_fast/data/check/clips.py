"""The rules for clips: what makes one unusable (errors), and what it hardly was meant to be (warnings)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tmor_fast.data.check.findings import Finding
from tmor_fast.data.clip import SPLITS, Clip
from tmor_fast.data.layout import SkeletonLayout, get_layout
from tmor_fast.data.ragged import ClipBatch

#: A step of more than this many body extents between two frames is no movement of a body.
TELEPORT_EXTENTS = 1.0
#: A joint that keeps exactly its place for this many seconds while the others move is frozen.
FROZEN_SECONDS = 2.0
#: The body's extent in metres beyond which "metres" is hardly the unit.
METRES = (0.1, 10.0)

LEAVE_OUT = "repair it at its source, or leave it out (--skip-bad)"


def check_clip(clip: Clip, num_labels: int, warnings: bool = True) -> list[Finding]:
    """Findings about one clip; see `check_batch`.

    A clip whose arrays do not fit each other or its layout gets that one finding.
    """
    found = shape_findings(clip)
    return found or check_batch(ClipBatch.from_clip(clip), get_layout(clip.layout), clip.units, num_labels, warnings)


def shape_findings(clip: Clip) -> list[Finding]:
    """What is wrong with the arrays of a clip, so that the rules for clips cannot be applied to it."""
    return list(_shapes(clip))


def _shapes(clip: Clip) -> Iterator[Finding]:
    if not clip.clip_id:
        yield Finding("error", "clip-id", "the clip has no name", "give every clip a unique clip_id")
    frames, joints = clip.joints.shape[0], get_layout(clip.layout).num_joints
    if clip.joints.ndim != 4 or clip.joints.shape[3] not in (2, 3) or clip.valid.shape != clip.joints.shape[:3]:
        shapes = f"joints {clip.joints.shape} and valid {clip.valid.shape}"
        yield _error(clip, "shape", f"{shapes} must be (T, M, V, 2 or 3) and (T, M, V)", LEAVE_OUT)
    elif clip.joints.shape[2] != joints:
        what = f"{clip.joints.shape[2]} joints, but layout {clip.layout!r} has {joints}"
        yield _error(clip, "layout", what, "choose the layout the joints are in (tmor data import --help)")
    elif frames == 0 or clip.joints.shape[1] == 0:
        what = f"an empty clip: {frames} frames, {clip.joints.shape[1]} persons"
        yield _error(clip, "empty", what, LEAVE_OUT)


def _error(clip: Clip, kind: str, what: str, remedy: str) -> Finding:
    return Finding("error", kind, what, remedy, clip=clip.clip_id)


def check_batch(
    batch: ClipBatch, layout: SkeletonLayout, units: str, num_labels: int, warnings: bool = True
) -> list[Finding]:
    """Findings about clips whose arrays fit each other.

    Errors: a label or frame label outside the list, a split or frame rate that is none, a valid joint that is not
    finite (one finding a joint and stretch of frames), a clip in which nothing was observed.
    Warnings: a clip of one frame, frames in which nothing was observed, joints or bodies that never move or jump, a
    body reduced to a point, an extent that the units hardly mean.

    Args:
        batch: clips in flat arrays.
        layout: their layout.
        units: "pixels", "metres" or "normalised".
        num_labels: number of classes.
        warnings: False looks for errors alone, which is fast.

    Returns:
        Findings without a file, in the order of the rules.
    """
    found = [*_column_findings(batch, num_labels), *_coordinate_findings(batch, layout), *_missing(batch, warnings)]
    if warnings:
        finite = batch.valid & np.isfinite(batch.joints).all(axis=-1)
        extent = body_extent(batch.joints, finite)
        found += [*_lengths(batch), *_sizes(batch, finite, extent, units), *_stillness(batch, finite, layout)]
        found += _jumps(batch, finite, extent, layout)
    return found


# --------------------------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------------------------


def _column_findings(batch: ClipBatch, num_labels: int) -> Iterator[Finding]:
    label, split, fps = batch.columns["label"], batch.columns["split"], batch.columns["fps"]
    accepted = f"-1 (none) to {num_labels - 1}"
    for clip in np.flatnonzero(~((label >= -1) & (label < num_labels))).tolist():  # so that NaN, a null, is wrong too
        what = f"label {_number(label[clip])} is outside the list, {accepted}"
        yield Finding(
            "error", "label", what, "add the class to the list or correct the label", clip=batch.clip_id[clip]
        )
    for clip in np.flatnonzero(~np.isin(split.astype(object), SPLITS)).tolist():
        what = f"split {split[clip]!r} is none of 'train', 'test' and ''"
        yield Finding("error", "split", what, "name the split so", clip=batch.clip_id[clip])
    for clip in np.flatnonzero(~((fps > 0) & (fps < np.inf))).tolist():
        what = f"{fps[clip]} frames a second"
        yield Finding("error", "fps", what, "give a positive frame rate (--fps)", clip=batch.clip_id[clip])
    if batch.frame_label is not None:
        wrong = (batch.frame_label < -1) | (batch.frame_label >= num_labels)
        for clip, first, last in _stretches(batch, wrong):
            value = batch.frame_label[batch.offsets[clip] + first]
            yield Finding(
                "error", "label", f"frame label {value} is outside the list, {accepted}",
                "add the class to the list or correct the label",
                clip=batch.clip_id[clip], frame=first, last_frame=last,
            )  # fmt: skip


def _number(value: object) -> object:
    return "absent" if isinstance(value, float) and np.isnan(value) else value


def _coordinate_findings(batch: ClipBatch, layout: SkeletonLayout) -> Iterator[Finding]:
    with np.errstate(invalid="ignore"):
        if np.isfinite(batch.joints.sum(dtype=np.float64)):
            return
    wrong = batch.valid & ~np.isfinite(batch.joints).all(axis=-1)
    for person, joint in np.argwhere(wrong.any(axis=0)):
        for clip, first, last in _stretches(batch, wrong[:, person, joint]):
            value = batch.joints[batch.offsets[clip] + first, person, joint].tolist()
            yield Finding(
                "error", "not-finite", f"is marked valid but not finite ({value})",
                "mark the joint missing or repair it, or leave the clip out (--skip-bad)",
                clip=batch.clip_id[clip], frame=first, last_frame=last, person=int(person),
                joint=layout.joint_names[joint],
            )  # fmt: skip


def _missing(batch: ClipBatch, warnings: bool) -> Iterator[Finding]:
    seen = batch.valid.any(axis=(1, 2))
    if seen.all():
        return
    blank = ~np.logical_or.reduceat(seen, batch.offsets[:-1])
    for clip in np.flatnonzero(blank).tolist():
        what = f"no joint was observed in any of its {batch.lengths[clip]} frames"
        yield Finding("error", "all-missing", what, LEAVE_OUT, clip=batch.clip_id[clip])
    if warnings:
        for clip, first, last in _stretches(batch, ~seen & ~blank[batch.clip_of_frame]):
            yield Finding(
                "warning", "frames-missing", "no joint was observed",
                "preparing the clip fills the gap from its neighbours; cut it out if it is long",
                clip=batch.clip_id[clip], frame=first, last_frame=last,
            )  # fmt: skip


def _stretches(batch: ClipBatch, wrong: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(clip, first frame, last frame within it) of every stretch of frames where `wrong` (F,)."""
    if not wrong.any():
        return
    flags = np.concatenate(([False], wrong, [False]))
    starts = np.zeros(len(wrong) + 1, dtype=bool)
    starts[batch.offsets] = True  # a stretch ends with its clip
    begin = np.flatnonzero(flags[1:-1] & (~flags[:-2] | starts[:-1]))
    end = np.flatnonzero(flags[1:-1] & (~flags[2:] | starts[1:]))
    owner = np.searchsorted(batch.offsets, begin, side="right") - 1
    for clip, first, last in zip(owner.tolist(), begin.tolist(), end.tolist(), strict=True):
        base = int(batch.offsets[clip])
        yield clip, first - base, last - base


# --------------------------------------------------------------------------------------------------------------------
# Warnings
# --------------------------------------------------------------------------------------------------------------------


def body_extent(joints: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Diagonal of the box around each body's valid joints.

    Args:
        joints: (F, M, V, C).
        valid: (F, M, V) bool, of finite joints only.

    Returns:
        (F, M) float32, NaN where fewer than two joints are valid.
    """
    low = np.where(valid[..., None], joints, np.inf).min(axis=2)
    high = np.where(valid[..., None], joints, -np.inf).max(axis=2)
    enough = valid.sum(axis=2) >= 2
    size = np.zeros(joints.shape[:2], dtype=np.float32)
    size[enough] = np.linalg.norm(high[enough] - low[enough], axis=-1)
    return np.where(enough, size, np.nan).astype(np.float32)


def clip_extent(batch: ClipBatch, extent: np.ndarray) -> np.ndarray:
    """Median body extent of each clip: (n,), NaN where no frame shows a body."""
    result = np.full(len(batch), np.nan)
    for clip, (start, stop) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:], strict=True)):
        known = extent[start:stop]
        known = known[np.isfinite(known)]
        if len(known):
            result[clip] = np.median(known)
    return result


def _lengths(batch: ClipBatch) -> Iterator[Finding]:
    for clip in np.flatnonzero(batch.lengths == 1).tolist():
        yield Finding(
            "warning", "one-frame", "one frame only, so nothing moves", "leave it out unless stills are meant",
            clip=batch.clip_id[clip],
        )  # fmt: skip


def _sizes(batch: ClipBatch, valid: np.ndarray, extent: np.ndarray, units: str) -> Iterator[Finding]:
    size = clip_extent(batch, extent)
    for person in range(extent.shape[1]):
        for clip, first, last in _stretches(batch, extent[:, person] == 0):
            yield Finding(
                "warning", "zero-size", "all joints are in one point",
                "mark them missing where the estimator found nobody",
                clip=batch.clip_id[clip], frame=first, last_frame=last, person=person,
            )  # fmt: skip
    if units == "metres":
        for clip in np.flatnonzero((size > 0) & ((size < METRES[0]) | (size > METRES[1]))).tolist():
            yield Finding(
                "warning", "units", f"a body {size[clip]:.3g} metres across",
                "divide by 1000 if the source has millimetres, or name the units it has", clip=batch.clip_id[clip],
            )  # fmt: skip


def _stillness(batch: ClipBatch, valid: np.ndarray, layout: SkeletonLayout) -> Iterator[Finding]:
    """Joints, and whole bodies, that keep exactly their place for long while the camera runs."""
    if len(batch.joints) < 2:
        return
    both = valid[1:] & valid[:-1]
    same = np.zeros(valid.shape, dtype=bool)
    same[1:] = both & (batch.joints[1:] == batch.joints[:-1]).all(axis=-1)
    same[batch.offsets[:-1]] = False
    moves = np.zeros(valid.shape[:2], dtype=bool)
    moves[1:] = (both & ~same[1:]).any(axis=2)
    moves[batch.offsets[:-1]] = False
    moving = np.add.reduceat(moves, batch.offsets[:-1], axis=0)
    longest = np.maximum(np.ceil(FROZEN_SECONDS * batch.columns["fps"].astype(np.float64)), 2)
    for person in range(valid.shape[1]):
        still = same[:, person].any(axis=1) & ~moves[:, person]
        yield from _frozen(batch, still, longest, person, "", "the body does not move at all")
        for joint in np.flatnonzero(same[:, person].any(axis=0)).tolist():
            stuck = same[:, person, joint] & (moving[:, person] > 0)[batch.clip_of_frame]
            stuck &= ~still
            name = layout.joint_names[joint]
            yield from _frozen(batch, stuck, longest, person, name, "keeps exactly its place while others move")


def _frozen(
    batch: ClipBatch, still: np.ndarray, longest: np.ndarray, person: int, joint: str, what: str
) -> Iterator[Finding]:
    for clip, first, last in _stretches(batch, still):
        if last - first + 1 >= longest[clip]:
            yield Finding(
                "warning", "frozen", what, "mark it missing there if the tracker lost it",
                clip=batch.clip_id[clip], frame=first - 1, last_frame=last, person=person, joint=joint,
            )  # fmt: skip


def _jumps(batch: ClipBatch, valid: np.ndarray, extent: np.ndarray, layout: SkeletonLayout) -> Iterator[Finding]:
    """Steps between neighbouring frames that no body makes."""
    if len(batch.joints) < 2:
        return
    limit = TELEPORT_EXTENTS * clip_extent(batch, extent)[batch.clip_of_frame]
    with np.errstate(invalid="ignore", over="ignore"):
        step = np.linalg.norm(np.diff(batch.joints, axis=0).astype(np.float32), axis=-1)
        far = np.zeros(valid.shape, dtype=bool)
        far[1:] = valid[1:] & valid[:-1] & (step > limit[1:, None, None]) & (limit[1:, None, None] > 0)
    far[batch.offsets[:-1]] = False
    known = np.maximum(valid.sum(axis=2), 1)
    body = far.sum(axis=2) * 2 > known
    for frame, person in np.argwhere(body):
        yield from _jump(batch, int(frame), int(person), "", "the whole body jumps by more than its size")
    for frame, person, joint in np.argwhere(far & ~body[..., None]):
        name = layout.joint_names[joint]
        yield from _jump(batch, int(frame), int(person), name, "jumps by more than the size of the body")


def _jump(batch: ClipBatch, frame: int, person: int, joint: str, what: str) -> Iterator[Finding]:
    clip = int(np.searchsorted(batch.offsets, frame, side="right")) - 1
    yield Finding(
        "warning", "teleport", what,
        "mark the joint missing where the estimator erred" if joint else "cut the clip there, or sort out the persons",
        clip=batch.clip_id[clip], frame=frame - int(batch.offsets[clip]), person=person, joint=joint,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------------
# Across clips
# --------------------------------------------------------------------------------------------------------------------


def repeated_ids(names: Sequence[str]) -> Iterable[tuple[str, int]]:
    """(name, number of times) of every name that occurs more than once, in order of first occurrence."""
    counted: dict[str, int] = {}
    for name in names:
        counted[name] = counted.get(name, 0) + 1
    return [(name, number) for name, number in counted.items() if number > 1]
