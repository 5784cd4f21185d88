"""Many clips of different lengths in flat arrays: all frames one after another, offsets between clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tmor_fast.data.clip import SPLITS, Clip, check_finite
from tmor_fast.data.layout import SkeletonLayout
from tmor_fast.errors import DataError

# What every clip has beside its arrays, with the value that stands for "not known".
COLUMN_DEFAULTS: Mapping[str, str | int | float] = {
    "label": -1,
    "caption": "",
    "subject": "",
    "view": "",
    "split": "",
    "fps": 30.0,
    "width": 0,
    "height": 0,
}


@dataclass
class ClipBatch:
    """Clips in flat arrays.

    Args:
        joints: (F, M, V, C) float, the frames of all clips one after another.
        valid: (F, M, V) bool.
        offsets: (n + 1,) int64, clip i owns frames offsets[i] to offsets[i + 1].
        persons: (n,) int64, person slots clip i has; slots from there to M are padding, zero and invalid.
        clip_id: n unique names.
        columns: name -> n values: those of `COLUMN_DEFAULTS` and any further ones.
        confidence: (F, M, V) float or None.
        frame_label: (F,) int or None.
    """

    joints: np.ndarray
    valid: np.ndarray
    offsets: np.ndarray
    persons: np.ndarray
    clip_id: list[str]
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    confidence: np.ndarray | None = None
    frame_label: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each clip: (n,)."""
        return np.diff(self.offsets)

    @property
    def clip_of_frame(self) -> np.ndarray:
        """Number of the clip each frame belongs to: (F,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def extra_names(self) -> list[str]:
        """Names of the columns beyond the standard ones."""
        return [name for name in self.columns if name not in COLUMN_DEFAULTS]

    @staticmethod
    def build(
        joints: np.ndarray,
        offsets: np.ndarray,
        clip_id: Sequence[str],
        *,
        valid: np.ndarray | None = None,
        confidence: np.ndarray | None = None,
        frame_label: np.ndarray | None = None,
        persons: np.ndarray | None = None,
        **columns: Any,
    ) -> ClipBatch:
        """Batch with defaults filled in.

        Args:
            joints: (F, M, V, C).
            offsets: (n + 1,).
            clip_id: n names.
            valid: (F, M, V) bool; None means that every joint is valid.
            confidence: (F, M, V) or None.
            frame_label: (F,) or None.
            persons: (n,) person slots in use; None means all M.
            columns: one value for all clips or n values each.

        Raises:
            DataError: a column has not n values.
        """
        count = len(offsets) - 1
        full: dict[str, np.ndarray] = {}
        for name, value in {**COLUMN_DEFAULTS, **columns}.items():
            array = np.asarray(COLUMN_DEFAULTS[name] if value is None else value)
            if array.ndim == 0:
                array = np.full(count, array)
            if array.shape != (count,):
                raise DataError(f"column {name!r} must have one value a clip ({count}), got shape {array.shape}")
            full[name] = array
        return ClipBatch(
            joints=joints,
            valid=np.ones(joints.shape[:3], dtype=bool) if valid is None else valid,
            offsets=np.asarray(offsets, dtype=np.int64),
            persons=np.full(count, joints.shape[1]) if persons is None else np.asarray(persons, dtype=np.int64),
            clip_id=[str(name) for name in clip_id],
            columns=full,
            confidence=confidence,
            frame_label=frame_label,
        )

    @staticmethod
    def from_clip(clip: Clip) -> ClipBatch:
        """Batch of one clip."""
        width, height = clip.image_size or (0, 0)
        extra: dict[str, Any] = dict(clip.extra)
        return ClipBatch.build(
            clip.joints,
            np.array([0, len(clip.joints)]),
            [clip.clip_id],
            valid=clip.valid,
            confidence=clip.confidence,
            frame_label=clip.frame_label,
            label=clip.label,
            caption=clip.caption,
            subject=clip.subject,
            view=clip.view,
            split=clip.split,
            fps=clip.fps,
            width=width,
            height=height,
            **extra,
        )

    def clip(self, index: int, layout: str, units: str) -> Clip:
        """Clip number `index`, with arrays of its own."""
        frames = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        persons = int(self.persons[index])
        values = {name: column[index : index + 1].tolist()[0] for name, column in self.columns.items()}
        width, height = values["width"], values["height"]
        return Clip(
            joints=self.joints[frames, :persons].copy(),
            valid=self.valid[frames, :persons].copy(),
            layout=layout,
            clip_id=self.clip_id[index],
            units=units,
            label=values["label"],
            caption=values["caption"],
            subject=values["subject"],
            view=values["view"],
            split=values["split"],
            fps=values["fps"],
            image_size=(width, height) if width and height else None,
            confidence=None if self.confidence is None else self.confidence[frames, :persons].copy(),
            frame_label=None if self.frame_label is None else self.frame_label[frames].copy(),
            extra={name: values[name] for name in self.extra_names},
        )

    def slice(self, start: int, stop: int) -> ClipBatch:
        """Clips `start` to `stop` (views of the same memory)."""
        frames = slice(int(self.offsets[start]), int(self.offsets[stop]))
        return ClipBatch(
            joints=self.joints[frames],
            valid=self.valid[frames],
            offsets=self.offsets[start : stop + 1] - self.offsets[start],
            persons=self.persons[start:stop],
            clip_id=self.clip_id[start:stop],
            columns={name: column[start:stop] for name, column in self.columns.items()},
            confidence=None if self.confidence is None else self.confidence[frames],
            frame_label=None if self.frame_label is None else self.frame_label[frames],
        )

    def check(self, layout: SkeletonLayout, channels: int, num_labels: int) -> None:
        """Verify shapes and values of the whole batch.

        Raises:
            DataError: naming the clip and, where there is one, the frame and the joint.
        """
        if self.joints.ndim != 4 or self.joints.shape[2:] != (layout.num_joints, channels):
            raise DataError(
                f"joints must be (frames, persons, {layout.num_joints}, {channels}) for layout {layout.name!r}, "
                f"got {self.joints.shape}"
            )
        self._check_shapes()
        for name, array, low, high in (
            ("label", self.columns["label"], -1, num_labels - 1),
            ("frames", self.lengths, 1, len(self.joints)),
            ("persons", self.persons, 1, self.joints.shape[1]),
        ):
            wrong = np.flatnonzero(~((array >= low) & (array <= high)))  # so that NaN, a null of Parquet, is wrong too
            if len(wrong):
                clip = int(wrong[0])
                raise DataError(f"clip {self.clip_id[clip]!r}: {name} {array[clip]} is outside {low} to {high}")
        if self.frame_label is not None and len(self.frame_label):
            self._check_frame_labels(num_labels)
        split, fps = self.columns["split"], self.columns["fps"]
        wrong = np.flatnonzero(~(np.isin(split.astype(object), SPLITS) & (fps > 0) & (fps < np.inf)))
        if len(wrong):
            clip = int(wrong[0])
            raise DataError(
                f"clip {self.clip_id[clip]!r}: split {split[clip]!r} must be 'train', 'test' or '' and fps {fps[clip]} "
                "positive"
            )
        check_finite(self.joints, self.valid, self.locate, layout.joint_names)

    def _check_shapes(self) -> None:
        frames = self.joints.shape[0]
        if self.offsets[0] != 0 or self.offsets[-1] != frames or (np.diff(self.offsets) < 0).any():
            raise DataError(f"offsets must rise from 0 to the {frames} frames, got {self.offsets[:3]}...")
        if len(self.clip_id) != len(self) or len(self.persons) != len(self):
            raise DataError(f"{len(self)} clips, but {len(self.clip_id)} clip_id and {len(self.persons)} persons")
        for name, array, shape in (
            ("valid", self.valid, self.joints.shape[:3]),
            ("confidence", self.confidence, self.joints.shape[:3]),
            ("frame_label", self.frame_label, self.joints.shape[:1]),
        ):
            if array is not None and array.shape != shape:
                raise DataError(f"{name} must have shape {shape} to fit joints, got {array.shape}")
        if self.valid.dtype != np.bool_:
            raise DataError(f"valid must be bool, got {self.valid.dtype}")

    def _check_frame_labels(self, num_labels: int) -> None:
        assert self.frame_label is not None
        wrong = np.flatnonzero((self.frame_label < -1) | (self.frame_label >= num_labels))
        if len(wrong):
            where, local = self.locate(int(wrong[0]))
            raise DataError(
                f"{where}: frame {local} has frame_label {self.frame_label[wrong[0]]}, outside -1 to {num_labels - 1}"
            )

    def locate(self, frame: int) -> tuple[str, int]:
        """Words for the clip that owns a frame, and the frame's number within it."""
        clip = int(np.searchsorted(self.offsets, frame, side="right")) - 1
        return f"clip {self.clip_id[clip]!r}", frame - int(self.offsets[clip])


def pad_persons(array: np.ndarray, persons: int) -> np.ndarray:
    """`array` (F, M, ...) with person slots added up to `persons`, filled with zeros (False)."""
    if array.shape[1] == persons:
        return array
    padded = np.zeros((array.shape[0], persons, *array.shape[2:]), dtype=array.dtype)
    padded[:, : array.shape[1]] = array
    return padded


def concatenate_batches(batches: Sequence[ClipBatch]) -> ClipBatch:
    """One batch of all clips. Where only some have confidence or frame labels, the others get 1 and -1.

    Raises:
        DataError: the batches have different extra columns.
    """
    if len(batches) == 1:
        return batches[0]
    persons = max(batch.joints.shape[1] for batch in batches)
    names = list(batches[0].columns)
    for batch in batches:
        if set(batch.columns) != set(names):
            odd = sorted(set(batch.columns) ^ set(names))
            raise DataError(f"clip {batch.clip_id[0]!r}: extra columns {odd} are not on every clip of this store")
    confidence = frame_label = None
    if any(batch.confidence is not None for batch in batches):
        parts = [np.ones(b.valid.shape, np.float32) if b.confidence is None else b.confidence for b in batches]
        confidence = np.concatenate([pad_persons(part, persons) for part in parts])
    if any(batch.frame_label is not None for batch in batches):
        labels = [np.full(len(b.joints), -1) if b.frame_label is None else b.frame_label for b in batches]
        frame_label = np.concatenate(labels)
    lengths = np.concatenate([batch.lengths for batch in batches])
    return ClipBatch(
        joints=np.concatenate([pad_persons(batch.joints, persons) for batch in batches]),
        valid=np.concatenate([pad_persons(batch.valid, persons) for batch in batches]),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        persons=np.concatenate([batch.persons for batch in batches]),
        clip_id=[name for batch in batches for name in batch.clip_id],
        columns={name: np.concatenate([batch.columns[name] for batch in batches]) for name in names},
        confidence=confidence,
        frame_label=frame_label,
    )
