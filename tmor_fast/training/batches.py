"""Network inputs from packed clips: cropped, seen from a view, augmented, as the stream asked for."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tmor_fast.data import augment
from tmor_fast.data.packed import PackedClips
from tmor_fast.data.sampling import sample_crop, sample_full, sample_window
from tmor_fast.data.streams import bone_stream
from tmor_fast.training.config import AugmentationConfig


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
            turn = (self._view[index.cpu()].to(joints.device) + 0.618034 * view) % 1.0
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
            drawn = torch.rand(len(joints), generator=generator) < a.mirror
            joints = augment.mirror(joints, self.packed.layout, (drawn & self._sideless[index.cpu()]).to(joints.device))
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


class Places(Dataset[int]):
    """Numbers of clips: what the loader shuffles. The clips themselves are gathered a batch at a time."""

    def __init__(self, places: Sequence[int] | Tensor) -> None:
        self.places = torch.as_tensor(places, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, item: int) -> int:
        return int(self.places[item])


class EpochShuffle(torch.utils.data.Sampler[int]):
    """A permutation that depends on the seed and the epoch alone, so a resumed run sees the same order.

    `skip` leaves out so many of its first numbers, once: those that a run had used when it was saved.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch, self.skip = length, seed, 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        skip, self.skip = self.skip, 0
        return iter(torch.randperm(self.length, generator=generator)[skip:].tolist())


class EpochLoader(DataLoader[Any]):
    """A data loader in this process (no workers that could die) that knows its place in the epoch.

    Lightning saves that place with every checkpoint and gives it back to a run that goes on.

    Args:
        dataset: what is loaded.
        batch_size: samples a step.
        seed: of the order.
        drop_last: leave out a last batch that is not full.
    """

    def __init__(self, dataset: Dataset[Any], batch_size: int, seed: int, *, drop_last: bool = False) -> None:
        # A generator of its own: the loader would draw from the global one at every epoch.
        own = torch.Generator().manual_seed(seed)
        self.order, self._given, self._resume_at = EpochShuffle(len(dataset), seed), 0, 0  # type: ignore[arg-type]
        super().__init__(
            dataset, batch_size=batch_size, sampler=self.order, drop_last=drop_last, num_workers=0, generator=own
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._given, self._resume_at = self._resume_at, 0
        self.order.skip = self._given * (self.batch_size or 1)
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch were given out; 0 at its end."""
        return {"batches": self._given % max(1, len(self))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind so many batches."""
        self._resume_at = int(state["batches"])


def shuffled_loader(places: Sequence[int] | Tensor, batch_size: int, seed: int) -> EpochLoader:
    """Batches of places, shuffled anew each epoch. A last batch of one clip is left out: it has no batch statistics."""
    dataset = Places(places)
    alone = len(dataset) > batch_size and len(dataset) % batch_size == 1
    return EpochLoader(dataset, min(batch_size, len(dataset)), seed, drop_last=alone)


def _texts(packed: PackedClips) -> list[str]:
    names = ["" if label < 0 else packed.label_names[label] for label in packed.label.tolist()]
    return [f"{name} {caption}" for name, caption in zip(names, packed.captions, strict=True)]


def _names_a_side(text: str) -> bool:
    return re.search(r"(?<![a-z])(left|right)(?![a-z])", text.lower()) is not None


def _fixed_direction(clip_id: str) -> float:
    return zlib.crc32(clip_id.encode()) / 2**32


def _range(degrees: float) -> tuple[float, float]:
    return -math.radians(degrees), math.radians(degrees)
