"""Packed clips, what training reads: all frames in one tensor, gap-filled and normalised, in memory or mapped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from tmor_fast.atomic import new_folder
from tmor_fast.data.layout import SkeletonLayout
from tmor_fast.errors import DataError

_TENSORS = ("joints", "valid", "offsets", "label", "planar")
_TEXTS = ("clip_ids", "captions", "splits", "subjects", "views", "label_names")
_FORMAT = "tmor-packed-clips"


@dataclass
class PackedClips:
    """Clips of any lengths in flat tensors.

    Args:
        joints: (F, M, V, C) float32, frames of all clips one after another; a person slot nobody fills is all zero.
        valid: (F, M, V) bool, True where the joint was observed rather than filled in.
        offsets: (n + 1,) int64, clip i owns frames offsets[i] to offsets[i + 1].
        label: (n,) int64, -1 for none.
        planar: (n,) bool, True for a 2D clip (y down; z is 0 where C = 3), False for a 3D clip (y up).
        clip_ids, captions, splits, subjects, views: n strings each.
        label_names: names of the classes.
        layout: layout of the V joints.
        embeddings: teacher -> (n, D) float32; an all-zero row stands for a clip without one (`has_embedding`).
        frame_label: (F,) int64 class of every frame, -1 for none, or None.
    """

    joints: Tensor
    valid: Tensor
    offsets: Tensor
    label: Tensor
    planar: Tensor
    clip_ids: list[str]
    captions: list[str]
    splits: list[str]
    subjects: list[str]
    views: list[str]
    label_names: list[str]
    layout: SkeletonLayout
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    frame_label: Tensor | None = None

    def __post_init__(self) -> None:
        count, frames = len(self), len(self.joints)
        if self.joints.dim() != 4 or self.joints.shape[2] != self.layout.num_joints:
            raise ValueError(
                f"joints must be (F, M, {self.layout.num_joints}, C) for layout {self.layout.name!r}, "
                f"got {tuple(self.joints.shape)}"
            )
        if self.valid.shape != self.joints.shape[:3]:
            raise ValueError(f"valid {tuple(self.valid.shape)} does not fit joints {tuple(self.joints.shape)}")
        if count < 0 or int(self.offsets[-1]) != frames:
            raise ValueError(f"offsets must end at the {frames} frames of joints")
        sizes = {"label": len(self.label), "planar": len(self.planar)}
        sizes.update({name: len(getattr(self, name)) for name in _TEXTS[:-1]})
        sizes.update({f"embeddings[{name!r}]": len(rows) for name, rows in self.embeddings.items()})
        wrong = {name: size for name, size in sizes.items() if size != count}
        if wrong:
            raise ValueError(f"{count} clips, but other sizes for {wrong}")
        if self.frame_label is not None and len(self.frame_label) != frames:
            raise ValueError(f"frame_label has {len(self.frame_label)} entries for {frames} frames")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        frames, persons, joints, channels = self.joints.shape
        return (
            f"PackedClips({len(self)} clips, {frames} frames, {persons} persons, {joints} joints ({self.layout.name}), "
            f"{channels} channels, {len(self.label_names)} classes, embeddings {sorted(self.embeddings)})"
        )

    @property
    def lengths(self) -> Tensor:
        """Frames of each clip: (n,) int64."""
        return self.offsets.diff()

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.joints.device

    def has_embedding(self, teacher: str) -> Tensor:
        """Which clips have an embedding of `teacher`: (n,) bool.

        Raises:
            KeyError: no clip has one; the message lists the teachers there are.
        """
        if teacher not in self.embeddings:
            raise KeyError(f"no embeddings of teacher {teacher!r}; there are: {sorted(self.embeddings)}")
        return self.embeddings[teacher].ne(0).any(dim=1)

    def to(self, device: str | torch.device) -> PackedClips:
        """The same clips with every tensor on `device`."""
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in _TENSORS}
        moved["embeddings"] = {name: rows.to(device) for name, rows in self.embeddings.items()}
        if self.frame_label is not None:
            moved["frame_label"] = self.frame_label.to(device)
        return replace(self, **moved)

    def subset(self, indices: Tensor | Sequence[int] | np.ndarray) -> PackedClips:
        """The clips at `indices` (int or a mask of n bools), in that order, copied.

        Raises:
            IndexError: an index is outside the clips.
        """
        chosen = torch.as_tensor(indices, device=self.device)
        if chosen.dtype == torch.bool:
            if len(chosen) != len(self):
                raise IndexError(f"a mask of {len(chosen)} for {len(self)} clips")
            chosen = chosen.nonzero().flatten()
        chosen = chosen.long().flatten()
        if len(chosen) and (int(chosen.min()) < 0 or int(chosen.max()) >= len(self)):
            raise IndexError(f"indices must be 0..{len(self) - 1}")
        lengths = self.lengths[chosen]
        offsets = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))
        shift = self.offsets[:-1][chosen] - offsets[:-1]
        frames = torch.arange(int(offsets[-1]), device=self.device) + shift.repeat_interleave(lengths)
        rows = chosen.tolist()
        texts = {name: [getattr(self, name)[row] for row in rows] for name in _TEXTS[:-1]}
        return PackedClips(
            joints=self.joints[frames],
            valid=self.valid[frames],
            offsets=offsets,
            label=self.label[chosen],
            planar=self.planar[chosen],
            label_names=list(self.label_names),
            layout=self.layout,
            embeddings={name: values[chosen] for name, values in self.embeddings.items()},
            frame_label=None if self.frame_label is None else self.frame_label[frames],
            **texts,
        )

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the clips as .npy files and a JSON; the folder appears when it is complete.

        Raises:
            FileExistsError: `folder` exists and `overwrite` is False.
        """
        with new_folder(folder, overwrite=overwrite) as temporary:
            for name in _TENSORS:
                np.save(temporary / f"{name}.npy", getattr(self, name).cpu().numpy())
            if self.frame_label is not None:
                np.save(temporary / "frame_label.npy", self.frame_label.cpu().numpy())
            files = {}
            for name, rows in self.embeddings.items():
                files[name] = f"embedding-{quote(name, safe='')}.npy"
                np.save(temporary / files[name], rows.cpu().numpy())
            description = {
                "format": _FORMAT,
                "version": 1,
                "layout": self.layout.to_dict(),
                "embeddings": files,
                "frame_label": self.frame_label is not None,
                **{name: getattr(self, name) for name in _TEXTS},
            }
            (temporary / "packed.json").write_text(json.dumps(description), encoding="utf-8")

    @staticmethod
    def open(folder: str | Path, mmap: bool = True) -> PackedClips:
        """Clips that `save` wrote.

        Args:
            folder: the folder.
            mmap: read frames from disk as they are used instead of loading them; changes stay in memory.

        Raises:
            DataError: the folder is no such thing, or a file is absent, truncated or does not fit the rest.
        """
        path = Path(folder)
        try:
            description = json.loads((path / "packed.json").read_text(encoding="utf-8"))
            if description["format"] != _FORMAT or description["version"] != 1:
                raise ValueError("packed.json describes something else")

            def load(file: str) -> Tensor:
                if Path(file).name != file:
                    raise ValueError(f"{file!r} leaves the folder")
                try:
                    return torch.from_numpy(np.load(path / file, mmap_mode="c" if mmap else None, allow_pickle=False))
                except (ValueError, OSError, EOFError) as error:
                    raise DataError(f"{path / file}: cannot be read ({error}); prepare the clips anew") from error

            stored: dict[str, Any] = {name: load(f"{name}.npy") for name in _TENSORS}
            stored.update({name: list(description[name]) for name in _TEXTS})
            return PackedClips(
                **stored,
                layout=SkeletonLayout.from_dict(description["layout"]),
                embeddings={name: load(file) for name, file in description["embeddings"].items()},
                frame_label=load("frame_label.npy") if description["frame_label"] else None,
            )
        except DataError:
            raise
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise DataError(f"{path}: no packed clips ({error}); prepare the clips anew") from error

    @staticmethod
    def concatenate(parts: Sequence[PackedClips]) -> PackedClips:
        """All clips of several packs as one.

        Labels are re-numbered into the union of the label names, in order of appearance. Where 2D and 3D meet, C
        becomes 3 and planar clips get z = 0. Fewer person slots are filled up with empty ones. Where a part lacks a
        teacher's embeddings, its rows are zero.

        Raises:
            ValueError: nothing was given, or the parts differ in layout or in the width of a teacher's embeddings.
        """
        if not parts:
            raise ValueError("concatenate needs at least one PackedClips")
        layout = parts[0].layout
        for part in parts:
            if part.layout != layout:
                raise ValueError(f"layouts differ: {layout.name!r} and {part.layout.name!r}; prepare both in one")
        names = list(dict.fromkeys(name for part in parts for name in part.label_names))
        persons = max(part.joints.shape[1] for part in parts)
        channels = max(part.joints.shape[3] for part in parts)
        shifts = np.cumsum([0] + [len(part.joints) for part in parts])
        offsets = [part.offsets[:-1] + int(shift) for part, shift in zip(parts, shifts, strict=False)]
        frame_label = None
        if any(part.frame_label is not None for part in parts):
            frame_label = torch.cat([_relabel(_frame_labels(part), part.label_names, names) for part in parts])
        return PackedClips(
            joints=torch.cat([_pad(part.joints, persons, channels) for part in parts]),
            valid=torch.cat([_pad(part.valid.unsqueeze(-1), persons, 1).squeeze(-1) for part in parts]),
            offsets=torch.cat([*offsets, parts[0].offsets.new_tensor([int(shifts[-1])])]),
            label=torch.cat([_relabel(part.label, part.label_names, names) for part in parts]),
            planar=torch.cat([part.planar for part in parts]),
            label_names=names,
            layout=layout,
            embeddings=_join_embeddings(parts),
            frame_label=frame_label,
            **{name: [text for part in parts for text in getattr(part, name)] for name in _TEXTS[:-1]},
        )


def _pad(array: Tensor, persons: int, channels: int) -> Tensor:
    frames, slots, joints, have = array.shape
    if (slots, have) == (persons, channels):
        return array
    padded = array.new_zeros(frames, persons, joints, channels)
    padded[:, :slots, :, :have] = array
    return padded


def _relabel(label: Tensor, old: Sequence[str], new: Sequence[str]) -> Tensor:
    position = {name: number for number, name in enumerate(new)}
    table = torch.tensor([*(position[name] for name in old), -1], device=label.device)
    return table[label]  # -1 picks the last entry


def _frame_labels(part: PackedClips) -> Tensor:
    if part.frame_label is not None:
        return part.frame_label
    return torch.full((len(part.joints),), -1, dtype=torch.int64, device=part.device)


def _join_embeddings(parts: Sequence[PackedClips]) -> dict[str, Tensor]:
    joined = {}
    for teacher in dict.fromkeys(name for part in parts for name in part.embeddings):
        widths = {part.embeddings[teacher].shape[1] for part in parts if teacher in part.embeddings}
        if len(widths) != 1:
            raise ValueError(f"embeddings of teacher {teacher!r} have different widths: {sorted(widths)}")
        empty = torch.zeros(1, widths.pop())
        joined[teacher] = torch.cat(
            [
                part.embeddings[teacher] if teacher in part.embeddings else empty.to(part.device).expand(len(part), -1)
                for part in parts
            ]
        )
    return joined
