"""One clip: the joints of everybody in it over time, and what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tmor_fast.data.layout import get_layout
from tmor_fast.errors import DataError

UNITS = ("pixels", "metres", "normalised")
SPLITS = ("train", "test", "")


@dataclass
class Clip:
    """A skeleton sequence.

    Args:
        joints: (T, M, V, C) float32, C = 2 (x right, y down) or 3 (x right, y up, z towards the viewer).
        valid: (T, M, V) bool, False where the joint was not observed; its coordinates then mean nothing.
        layout: name of the skeleton layout of the V joints.
        clip_id: name of the clip, unique within its data set.
        units: "pixels", "metres" or "normalised".
        label: class number, -1 for none.
        caption: what happens, in words.
        subject: who is seen.
        view: camera or direction of view.
        split: "train", "test" or "" (neither).
        fps: frames a second.
        image_size: (width, height) of the image the pixels belong to.
        confidence: (T, M, V) float in [0, 1], how far an observation is to be trusted.
        frame_label: (T,) class number of every frame, -1 for none.
        extra: further columns of the store, e.g. {"style": "elderly"}.
    """

    joints: np.ndarray
    valid: np.ndarray
    layout: str
    clip_id: str
    units: str
    label: int = -1
    caption: str = ""
    subject: str = ""
    view: str = ""
    split: str = ""
    fps: float = 30.0
    image_size: tuple[int, int] | None = None
    confidence: np.ndarray | None = None
    frame_label: np.ndarray | None = None
    extra: dict[str, str | int | float] = field(default_factory=dict)

    def check(self) -> None:
        """Verify that the clip is whole.

        Raises:
            DataError: a shape disagrees, a valid joint is not finite, the layout or units are unknown, or the clip has
                no frames. The message names the clip and, where there is one, the frame and the joint.
        """
        where = f"clip {self.clip_id!r}"
        if not self.clip_id:
            raise DataError("a clip without clip_id; give every clip a unique name")
        try:
            layout = get_layout(self.layout)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        if self.units not in UNITS:
            raise DataError(f"{where}: units {self.units!r}; accepted: {', '.join(UNITS)}")
        if self.split not in SPLITS:
            raise DataError(f"{where}: split {self.split!r}; accepted: 'train', 'test' or ''")
        if not self.fps > 0 or not np.isfinite(self.fps):
            raise DataError(f"{where}: fps {self.fps} must be positive")
        if self.joints.ndim != 4 or self.joints.shape[3] not in (2, 3):
            raise DataError(f"{where}: joints must be (T, M, V, C) with C 2 or 3, got {self.joints.shape}")
        frames, persons, joints, _ = self.joints.shape
        if frames == 0 or persons == 0:
            raise DataError(f"{where}: {frames} frames and {persons} persons; a clip needs at least one of each")
        if joints != layout.num_joints:
            raise DataError(f"{where}: {joints} joints, but layout {layout.name!r} has {layout.num_joints}")
        self._check_companions()
        check_finite(self.joints, self.valid, lambda frame: (where, frame), layout.joint_names)

    def _check_companions(self) -> None:
        shape = self.joints.shape[:3]
        for name, array, expected in (
            ("valid", self.valid, shape),
            ("confidence", self.confidence, shape),
            ("frame_label", self.frame_label, shape[:1]),
        ):
            if array is not None and array.shape != expected:
                raise DataError(f"clip {self.clip_id!r}: {name} must be {expected} to fit joints, got {array.shape}")
        if self.valid.dtype != np.bool_:
            raise DataError(f"clip {self.clip_id!r}: valid must be bool, got {self.valid.dtype}")


def check_finite(
    joints: np.ndarray, valid: np.ndarray, locate: Callable[[int], tuple[str, int]], joint_names: Sequence[str]
) -> None:
    """Raise on the first valid joint with a coordinate that is not finite.

    Args:
        joints: (F, M, V, C).
        valid: (F, M, V) bool.
        locate: frame number -> (words for the clip, frame within it).
        joint_names: names of the V joints.

    Raises:
        DataError: naming clip, frame, person and joint.
    """
    if np.isfinite(joints.sum(dtype=np.float64)):  # a sum of finite float16/float32 values is finite in float64
        return
    bad = np.argwhere(valid & ~np.isfinite(joints).all(axis=-1))
    if len(bad):
        frame, person, joint = (int(number) for number in bad[0])
        where, local = locate(frame)
        raise DataError(
            f"{where}: frame {local}, person {person}, joint {joint_names[joint]!r} is marked valid but not finite "
            f"({joints[frame, person, joint].tolist()}); mark it invalid or repair it"
        )
