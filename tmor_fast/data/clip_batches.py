"""Network inputs from packed clips: cropped, seen from a view, augmented, as the stream asked for."""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tmor_fast.data import augment
from tmor_fast.data.draws import uniform
from tmor_fast.data.packed import PackedClips
from tmor_fast.data.sampling import sample_crop, sample_full, sample_window
from tmor_fast.data.streams import bone_stream
from tmor_fast.errors import check_range


@dataclass(frozen=True)
class AugmentationConfig:
    """How clips become network input (`tmor options`, row 18). At test time only `frames` counts.

    Args:
        frames: T, frames of a network input.
        sampling: "resample" stretches a crop (at test time the whole clip) to T frames; "window" is the released way: T
            frames as they are, a shorter clip padded with zeros at a random place (at test time: in the middle).
        crop_query: in pre-training the query too is a random crop; False gives it the whole clip, the key alone a crop.
        min_crop, max_crop: share of a clip that a random temporal crop keeps.
        rotation_degrees: random in-plane rotation of 2D input, +- so much.
        rotation_radians: random rotation about each axis of 3D input, +- so much.
        view_yaw_degrees, view_pitch_degrees: a 3D clip is seen from a direction drawn within +- so much.
        scale: random scaling by 1 +- so much.
        shift: standard deviation of a random shift, in normalised units.
        mirror: share of clips that are mirrored (swaps left and right). A clip whose action or caption names a side is
            left alone.
        random_move: the released random move over time (2D).
        jitter: standard deviation of noise on every joint, in normalised units.
    """

    frames: int = 150
    sampling: Literal["resample", "window"] = "resample"
    crop_query: bool = False
    min_crop: float = 0.5
    max_crop: float = 1.0
    rotation_degrees: float = 30.0
    rotation_radians: float = 0.3
    view_yaw_degrees: float = 180.0
    view_pitch_degrees: float = 15.0
    scale: float = 0.0
    shift: float = 0.0
    mirror: float = 0.0
    random_move: bool = False
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"augmentation.frames: got {self.frames}, must be at least 1")
        if not 0 < self.min_crop <= self.max_crop <= 1:
            raise ValueError(
                f"augmentation: crops need 0 < min_crop <= max_crop <= 1, got {self.min_crop} and {self.max_crop}"
            )

        for name, low, high in (
            ("rotation_degrees", 0, 180), ("rotation_radians", 0, 3.1416), ("view_yaw_degrees", 0, 180),
            ("view_pitch_degrees", 0, 90), ("scale", 0, 0.99), ("shift", 0, 100), ("mirror", 0, 1), ("jitter", 0, 100),
        ):  # fmt: skip
            check_range("augmentation", self, name, low, high)


class ClipBatches:
    """Turns places in a packed data set into network inputs, on the device where the data is.

    Args:
        packed: the clips.
        augmentation: clip length and random changes.
        channels: C of the network input. 3D clips are projected for a 2D network; 2D clips cannot feed a 3D one.
        stream: "joint" or "bone".

    Raises:
        ValueError: a 3D network is asked for and some clips are 2D.
    """

    def __init__(
        self, packed: PackedClips, augmentation: AugmentationConfig, *, channels: int = 2, stream: str = "joint"
    ) -> None:
        stored = packed.joints.shape[-1]
        if channels == 3 and bool(packed.planar.any()):
            raise ValueError(f"{int(packed.planar.sum())} clips are 2D; a 3D network needs 3D clips alone")
        if channels > stored:
            raise ValueError(f"the network wants {channels} channels, the clips have {stored}")
        self.packed, self.augmentation, self.channels, self.stream = packed, augmentation, channels, stream
        self._projects = stored == 3 and channels == 2
        self._sideless = torch.tensor([not _names_a_side(text) for text in _texts(packed)], dtype=torch.bool)
        self._view = torch.tensor([_fixed_direction(name) for name in packed.clip_ids], dtype=torch.float32)

    def plain(self, index: Tensor, *, view: int = 0) -> Tensor:
        """Whole clips without randomness: (N, C, T, V, M).

        Args:
            index: (N,) int64 places in the data set.
            view: a 3D clip seen by a 2D network gets a direction fixed by its clip id and this number.
        """
        index = index.to(self.packed.device)
        joints = self._whole(index)
        if self._projects:
            # Views of one clip are spread evenly over the circle (golden ratio), from a start fixed by its name.
            self._view = self._view.to(index.device)
            turn = (self._view[index] + 0.618034 * view) % 1.0
            yaw = (2 * turn - 1) * math.radians(self.augmentation.view_yaw_degrees)
            joints = augment.project(joints, yaw, torch.zeros_like(yaw), self.packed.planar[index])
        return self._as_stream(joints)

    def random(self, index: Tensor, generator: torch.Generator, *, crop: bool = True) -> Tensor:
        """One random view of each clip: (N, C, T, V, M), the same for the same generator state.

        Args:
            index: (N,) int64 places in the data set.
            generator: draws everything.
            crop: take a random stretch of the clip; False takes all of it.
        """
        a = self.augmentation
        index = index.to(self.packed.device)
        if not crop:
            joints = self._whole(index)
        elif a.sampling == "window":
            joints = sample_window(self.packed, index, a.frames, generator=generator)
        else:
            joints = sample_crop(
                self.packed, index, a.frames, min_ratio=a.min_crop, max_ratio=a.max_crop, generator=generator
            )
        if self._projects:
            yaw, pitch = augment.draw_views(
                len(index),
                generator=generator,
                device=joints.device,
                yaw=_range(a.view_yaw_degrees),
                pitch=_range(a.view_pitch_degrees),
            )
            joints = augment.project(joints, yaw, pitch, self.packed.planar[index])
        return self._as_stream(self._augment(joints, index, generator))

    def _whole(self, index: Tensor) -> Tensor:
        if self.augmentation.sampling == "window":
            return sample_window(self.packed, index, self.augmentation.frames)
        return sample_full(self.packed, index, self.augmentation.frames)

    def _augment(self, joints: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
        a = self.augmentation
        degrees = a.rotation_degrees if self.channels == 2 else math.degrees(a.rotation_radians)
        if degrees:
            joints = augment.random_rotation(joints, degrees, generator)
        if a.mirror:
            drawn = uniform(len(joints), 0.0, 1.0, generator=generator, device=joints.device) < a.mirror
            # Moved once: a step that asks for the numbers of its clips on the CPU waits for the device.
            self._sideless = self._sideless.to(index.device)
            joints = augment.mirror(joints, self.packed.layout, drawn & self._sideless[index])
        if a.scale:
            joints = augment.random_scale(joints, 1 - a.scale, 1 + a.scale, generator)
        if a.shift:
            joints = augment.random_shift(joints, a.shift, generator)
        if a.random_move and self.channels == 2:
            joints = augment.random_move(joints, generator)
        if a.jitter:
            joints = augment.jitter(joints, a.jitter, generator)
        return joints

    def _as_stream(self, joints: Tensor) -> Tensor:
        return bone_stream(joints, self.packed.layout) if self.stream == "bone" else joints


def _texts(packed: PackedClips) -> list[str]:
    names = ["" if label < 0 else packed.label_names[label] for label in packed.label.tolist()]
    return [f"{name} {caption}" for name, caption in zip(names, packed.captions, strict=True)]


def _names_a_side(text: str) -> bool:
    return re.search(r"(?<![a-z])(left|right)(?![a-z])", text.lower()) is not None


def _fixed_direction(clip_id: str) -> float:
    return zlib.crc32(clip_id.encode()) / 2**32


def _range(degrees: float) -> tuple[float, float]:
    return -math.radians(degrees), math.radians(degrees)
