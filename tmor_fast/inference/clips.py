"""Clips as people have them: arrays, tensors, stored clips; and as the network's preparation takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tmor_fast.data.clip import UNITS, Clip, check_finite
from tmor_fast.data.conversion import conversions
from tmor_fast.data.layout import LAYOUTS, SkeletonLayout, get_layout
from tmor_fast.data.ragged import ClipBatch
from tmor_fast.data.store import ClipStore
from tmor_fast.errors import DataError

Array: TypeAlias = np.ndarray | Tensor
Joints: TypeAlias = Array | Clip | ClipStore | Sequence[Array | Clip]

ACCEPTED = (
    "one clip (T, V, C) or (T, M, V, C), a batch (N, T, M, V, C), or a list of clips; T frames, M persons, V joints, "
    "C = 2 or 3 coordinates"
)
# An array with more persons than this is taken for a batch whose person axis was forgotten.
MOST_PERSONS = 16
# Frames of the clips that are prepared together, so that memory stays bounded whatever their length.
FRAMES_AT_ONCE = 100_000
# Coordinates that reach so far are pixels; then a third number that stays within [0, 1] is no depth.
PIXELS_FROM = 50.0


@dataclass(frozen=True)
class Recording:
    """One clip, or a stretch of one, without a copy of its frames.

    Args:
        joints: (T, M, V, C), any real dtype.
        valid: (T, M, V) bool or None (all that is not NaN).
        confidence: (T, M, V) or None.
        clip_id: its name; `named` says whether a person gave it.
        start: number of its first frame in the clip.
        fps: frames a second.
        image_size: (width, height) or None.
    """

    joints: Array
    valid: Array | None
    confidence: Array | None
    clip_id: str
    named: bool
    start: int = 0
    fps: float = 30.0
    image_size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.joints)

    def cut(self, start: int, stop: int) -> Recording:
        """Frames `start` to `stop`."""
        return replace(
            self,
            joints=self.joints[start:stop],
            valid=None if self.valid is None else self.valid[start:stop],
            confidence=None if self.confidence is None else self.confidence[start:stop],
            start=self.start + start,
        )

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """joints (T, M, V, C) float32, valid (T, M, V) bool, and confidence (T, M, V) float32 or None."""
        with np.errstate(over="ignore"):  # what is too large becomes infinite and is reported
            joints = as_numpy(self.joints).astype(np.float32)
        valid = np.logical_not(np.isnan(joints).any(axis=-1))
        confidence = None if self.confidence is None else as_numpy(self.confidence).astype(np.float32)
        if self.valid is not None:
            valid &= as_numpy(self.valid)
        elif confidence is not None:
            valid &= confidence > 0
        return joints, valid, confidence


@dataclass(frozen=True)
class Recordings:
    """Clips to predict for.

    Args:
        each: goes over them once.
        lengths: frames of each.
        layout: their skeleton.
        channels: C.
        single: a single clip was given, not a list.
        units: what was said about the coordinates, None for nothing.
    """

    each: Iterator[Recording]
    lengths: list[int]
    layout: SkeletonLayout
    channels: int
    single: bool
    units: str | None


def as_numpy(array: Array) -> np.ndarray:
    """The array itself, or the tensor's values (numpy knows no bfloat16)."""
    if isinstance(array, np.ndarray):
        return array
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def recordings(
    joints: Joints,
    target: SkeletonLayout,
    *,
    layout: str | SkeletonLayout | None = None,
    valid: Any = None,
    confidence: Any = None,
    clip_ids: Sequence[str] | str | None = None,
    image_size: tuple[int, int] | None = None,
    units: str | None = None,
    fps: float = 30.0,
) -> Recordings:
    """Take apart what `ActionModel.predict` was given; its arguments are described there.

    Args:
        target: layout that the clips will be converted to.

    Raises:
        TypeError, ValueError: what was given is none of the accepted forms.
    """
    if units is not None and units not in UNITS:
        raise ValueError(f"units {units!r}; accepted: {', '.join(UNITS)}")
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps {fps} must be a positive number")
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise ValueError(f"image_size {image_size!r}; give (width, height) in pixels")
    if isinstance(joints, (ClipStore, Clip)) or (isinstance(joints, (list, tuple)) and _are_clips(joints)):
        given = {"valid": valid, "confidence": confidence, "clip_ids": clip_ids, "units": units}
        return _stored(joints, layout, image_size, [name for name, value in given.items() if value is not None])
    clips, single = _split(joints, "joints")
    flags = _companions(valid, "valid", joints, clips)
    weights = _companions(confidence, "confidence", joints, clips)
    names = _names(clip_ids, len(clips), single)
    shapes = {tuple(clip.shape[2:]) for clip in clips} or {(target.num_joints, 2)}
    if len(shapes) > 1:
        raise ValueError(f"clips of one call share joints and coordinates, got (V, C) of {sorted(shapes)}")
    ((count, channels),) = shapes
    each = (
        Recording(clip, flag, weight, name, clip_ids is not None, 0, float(fps), image_size)
        for clip, flag, weight, name in zip(clips, flags, weights, names, strict=True)
    )
    lengths = [len(clip) for clip in clips]
    return Recordings(each, lengths, choose_layout(count, target, layout), channels, single, units)


def _are_clips(joints: Sequence[Any]) -> bool:
    return bool(joints) and all(isinstance(clip, Clip) for clip in joints)


def _stored(
    joints: Clip | ClipStore | Sequence[Any],
    layout: str | SkeletonLayout | None,
    image_size: tuple[int, int] | None,
    given: list[str],
) -> Recordings:
    """Clips that carry their layout, names and so on with them."""
    if given:
        raise ValueError(f"{', '.join(given)}: stored clips bring these with them; leave them out")
    clips: Any = [joints] if isinstance(joints, Clip) else joints
    if isinstance(joints, ClipStore):
        own, channels, units = joints.layout, joints.channels, joints.units
        lengths = [int(frames) for frames in joints.column("num_frames")]
    else:
        kinds = {(clip.layout, clip.joints.shape[-1], clip.units) for clip in clips}
        if len(kinds) > 1:
            raise ValueError(f"clips of one call share layout, coordinates and units, got {sorted(kinds)}")
        ((name, channels, units),) = kinds
        own, lengths = get_layout(name), [len(clip.joints) for clip in clips]
    if layout is not None and get_layout(layout) != own:
        raise ValueError(
            f"layout {get_layout(layout).name!r} was asked for, but the clips are {own.name!r}; leave it out"
        )
    if not isinstance(joints, ClipStore):  # a store checks what it reads
        for clip in clips:
            clip.check()
    each = (_of_clip(clip, image_size) for clip in clips)
    return Recordings(each, lengths, own, channels, isinstance(joints, Clip), units)


def _of_clip(clip: Clip, image_size: tuple[int, int] | None) -> Recording:
    size = clip.image_size or image_size
    return Recording(clip.joints, clip.valid, clip.confidence, clip.clip_id, True, 0, clip.fps, size)


def _split(joints: Any, what: str) -> tuple[list[Array], bool]:
    """Clips (T, M, V, C), and whether it was a single one."""
    if isinstance(joints, (np.ndarray, Tensor)):
        _check_array(joints, what)
        if joints.ndim == 5:
            return list(joints), False
        return [_with_persons(joints, what)], True
    if not isinstance(joints, (list, tuple)):
        raise TypeError(f"{what} must be a numpy array, a torch tensor or a list of them, got {type(joints).__name__}")
    clips = []
    for number, clip in enumerate(joints):
        name = f"{what}[{number}]"
        if not isinstance(clip, (np.ndarray, Tensor)):
            raise TypeError(f"{name} must be a numpy array or a torch tensor, got {type(clip).__name__}")
        _check_array(clip, name)
        if clip.ndim == 5:
            raise ValueError(f"{name} has shape {tuple(clip.shape)}; a list holds clips: (T, V, C) or (T, M, V, C)")
        clips.append(_with_persons(clip, name))
    return clips, False


def _check_array(joints: Array, what: str) -> None:
    if isinstance(joints, Tensor):
        real = not joints.is_complex() and joints.dtype != torch.bool
    else:
        real = joints.dtype.kind in "fiu"
    if not real:
        raise TypeError(f"{what} must hold real numbers, got {joints.dtype}")
    shape = tuple(joints.shape)
    if len(shape) not in (3, 4, 5) or shape[-1] not in (2, 3):
        raise ValueError(f"{what} has shape {shape}; accepted: {ACCEPTED}")
    if 0 in shape[-4 if len(shape) == 5 else 0 :]:
        raise ValueError(f"{what} has shape {shape}; a clip needs at least one frame, person and joint")
    if len(shape) > 3 and shape[-3] > MOST_PERSONS:
        raise ValueError(
            f"{what} of shape {shape} would be {shape[-4]} frames of {shape[-3]} persons; a batch of clips of one "
            "person is (N, T, 1, V, C). Keep at most "
            f"{MOST_PERSONS} persons of a clip"
        )


def _with_persons(clip: Array, what: str) -> Array:
    return clip[:, None] if clip.ndim == 3 else clip


def _companions(value: Any, what: str, joints: Any, clips: list[Array]) -> list[Array | None]:
    """`valid` or `confidence` of each clip, shaped as its joints without the last axis."""
    if value is None:
        return [None] * len(clips)
    if isinstance(joints, (np.ndarray, Tensor)):
        parts = list(value) if joints.ndim == 5 and isinstance(value, (np.ndarray, Tensor)) else [value]
    else:
        parts = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(parts) != len(clips):
        raise ValueError(f"{what} is given for {len(parts)} clips, joints for {len(clips)}; nest them in the same way")
    return [_companion(part, what, number, clip) for number, (part, clip) in enumerate(zip(parts, clips, strict=True))]


def _companion(part: Any, what: str, number: int, clip: Array) -> Array | None:
    if part is None:
        return None
    if not isinstance(part, (np.ndarray, Tensor)):
        raise TypeError(f"{what} of clip {number} must be a numpy array or a torch tensor, got {type(part).__name__}")
    kind = "b" if (part.dtype in (torch.bool, np.bool_)) else "f"
    if (kind == "b") != (what == "valid"):
        wanted = "bool (e.g. mask > 0)" if what == "valid" else "numbers in [0, 1]"
        raise TypeError(f"{what} of clip {number} must be {wanted}, got {part.dtype}")
    if part.ndim == 2:
        part = part[:, None]
    if tuple(part.shape) != tuple(clip.shape[:3]):
        raise ValueError(
            f"{what} of clip {number} has shape {tuple(part.shape)}; joints without the last axis are needed, "
            f"{tuple(clip.shape[:3])} with the person axis"
        )
    if what == "confidence":
        low, high = (float(part.min()), float(part.max()))
        if not (low >= 0 and high <= 1):  # so that NaN is refused too
            raise ValueError(f"confidence of clip {number} runs from {low:.4g} to {high:.4g}; it must be in [0, 1]")
    return part


def _names(clip_ids: Sequence[str] | str | None, count: int, single: bool) -> list[str]:
    if clip_ids is None:
        return ["clip"] if single else [f"clip-{number}" for number in range(count)]
    names = [clip_ids] if isinstance(clip_ids, str) else list(clip_ids)
    if len(names) != count or not all(isinstance(name, str) for name in names):
        raise ValueError(f"clip_ids must be {count} strings, one a clip, got {len(names)}")
    return names


def choose_layout(count: int, target: SkeletonLayout, given: str | SkeletonLayout | None) -> SkeletonLayout:
    """The layout given, or the only known one of `count` joints that can become `target`.

    Raises:
        ValueError: it has another number of joints, or none or several could be meant.
    """
    if given is not None:
        layout = get_layout(given)
        if layout.num_joints != count:
            raise ValueError(f"layout {layout.name!r} has {layout.num_joints} joints, the clips have {count}")
        return layout
    known = conversions()
    usable = [layout for layout in LAYOUTS.values() if layout == target or (layout.name, target.name) in known]
    fitting = [layout for layout in usable if layout.num_joints == count]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(repr(layout.name) for layout in fitting)
        raise ValueError(f"{count} joints may be any of {names}; say which with layout=")
    every = ", ".join(f"{layout.name!r} ({layout.num_joints})" for layout in usable)
    raise ValueError(
        f"no known layout of {count} joints can become {target.name!r}, this model's; known: {every}. "
        "See register_layout and register_conversion"
    )


def grouped(each: Iterator[Recording], batch_size: int) -> Iterator[list[Recording]]:
    """At most `batch_size` recordings, and not many frames, at a time."""
    group: list[Recording] = []
    frames = 0
    for recording in each:
        if group and (len(group) == batch_size or frames + len(recording) > FRAMES_AT_ONCE):
            yield group
            group, frames = [], 0
        group.append(recording)
        frames += len(recording)
    if group:
        yield group


def build_batch(
    group: Sequence[Recording],
    layout: SkeletonLayout,
    channels: int,
    slots: int,
    units: str | None,
    *,
    skip_empty: bool,
) -> tuple[ClipBatch | None, list[Recording]]:
    """Flat arrays of some recordings.

    Args:
        group: the recordings, all of `layout` with `channels` coordinates.
        slots: persons that the network sees; the first ones count.
        units: None lets a confidence in the place of z be noticed.
        skip_empty: leave out recordings that show nobody, instead of an error.

    Returns:
        The batch (None if nothing is left) and the recordings in it.

    Raises:
        DataError: a recording shows nobody, or a value is infinite; the message names clip, frame, person and joint.
    """
    kept, arrays = [], []
    for recording in group:
        joints, valid, confidence = recording.arrays()
        where = f"clip {recording.clip_id!r}"
        check_finite(joints, valid, lambda frame, w=where, s=recording.start: (w, s + frame), layout.joint_names)  # type: ignore[misc]
        if not valid[:, :slots].any():
            if skip_empty:
                continue
            raise DataError(_nobody(where, recording, valid, slots))
        if channels == 3 and units is None:
            _refuse_confidence(where, joints[valid])
        joints[~valid] = 0.0
        kept.append(recording)
        arrays.append((joints, valid, confidence))
    if not kept:
        return None, []
    persons = max(joints.shape[1] for joints, _, _ in arrays)
    offsets = np.cumsum([0, *(len(recording) for recording in kept)])
    flat = np.zeros((offsets[-1], persons, layout.num_joints, channels), dtype=np.float32)
    flags = np.zeros(flat.shape[:3], dtype=bool)
    weights = np.ones(flat.shape[:3], dtype=np.float32)
    for start, (joints, valid, confidence) in zip(offsets, arrays, strict=False):
        place = np.s_[start : start + len(joints), : joints.shape[1]]
        flat[place], flags[place] = joints, valid
        if confidence is not None:
            weights[place] = confidence
    sizes = [recording.image_size or (0, 0) for recording in kept]
    batch = ClipBatch.build(
        flat, offsets, [recording.clip_id for recording in kept], valid=flags, confidence=weights,
        persons=np.array([joints.shape[1] for joints, _, _ in arrays]),
        width=[width for width, _ in sizes], height=[height for _, height in sizes],
    )  # fmt: skip
    return batch, kept


def _nobody(where: str, recording: Recording, valid: np.ndarray, slots: int) -> str:
    if valid.any():
        return (
            f"{where}: the model sees {slots} person(s) and the first {slots} of {valid.shape[1]} show no joint; put "
            "the persons that count first"
        )
    return f"{where}: no joint is present in any of its {len(recording)} frames; leave the clip out"


def _refuse_confidence(where: str, seen: np.ndarray) -> None:
    """(x, y, confidence) is how pose files come; taken for 3D it would be named wrongly and nobody would know."""
    far = np.abs(seen[:, :2]).max() > PIXELS_FROM
    if far and seen[:, 2].min() >= 0 and seen[:, 2].max() <= 1:
        raise ValueError(
            f"{where}: coordinates up to {np.abs(seen[:, :2]).max():.0f} with a third one within [0, 1] look like "
            "(x, y, confidence); pass joints[..., :2] and confidence=joints[..., 2], or units= if it is 3D"
        )
