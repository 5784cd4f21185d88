"""What every frozen teacher offers, and the checks they share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


class TeacherUnavailableError(OSError):
    """A teacher's weights or files cannot be loaded. The message says what was looked for and the remedy."""


@runtime_checkable
class Teacher(Protocol):
    """A frozen encoder of text, of video, or of both, whose embeddings a motion encoder is aligned with.

    Attributes:
        name: short name; embeddings are cached under it.
        dim: width D of the embeddings.
        supports: which of `"text"` and `"video"` it encodes.
        settings: everything the embeddings depend on, JSON-ready; equal settings mean equal embeddings.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def supports(self) -> frozenset[str]: ...

    @property
    def settings(self) -> Mapping[str, object]: ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (n, D) float32 of n strings, without gradient."""

    def encode_video(self, frames: Tensor) -> Tensor:
        """Embeddings (B, D) float32 of `frames` (B, T, H, W, 3) uint8 RGB, without gradient."""


def unsupported(teacher: Teacher, modality: str) -> TypeError:
    """The error to raise when `teacher` is asked for a modality it does not encode."""
    have = " and ".join(sorted(teacher.supports)) or "nothing"
    return TypeError(
        f"teacher {teacher.name!r} encodes {have}, not {modality}; choose a teacher that supports {modality}"
    )


def check_texts(texts: Sequence[str]) -> list[str]:
    """`texts` as a list. A single string, or a member that is not a string, raises TypeError."""
    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of strings, got one string; pass [text]")
    strings = list(texts)
    for position, text in enumerate(strings):
        if not isinstance(text, str):
            raise TypeError(f"texts[{position}] must be a string, got {type(text).__name__}")
    return strings


def check_frames(frames: Tensor | np.ndarray) -> Tensor:
    """`frames` as a uint8 tensor (B, T, H, W, 3) with at least one frame a clip; anything else raises."""
    tensor = torch.from_numpy(frames) if isinstance(frames, np.ndarray) else frames
    if not isinstance(tensor, Tensor):
        raise TypeError(f"frames must be a tensor or an array, got {type(frames).__name__}")
    if tensor.dtype != torch.uint8:
        raise TypeError(f"frames must be uint8 RGB in 0..255, got {tensor.dtype}")
    if tensor.ndim != 5 or tensor.shape[-1] != 3:
        raise ValueError(f"frames must have shape (B, T, H, W, 3), got {tuple(tensor.shape)}")
    if min(tensor.shape[1:4]) < 1:
        raise ValueError(f"frames need at least one frame and one pixel a clip, got shape {tuple(tensor.shape)}")
    return tensor


def even_positions(length: int, count: int) -> list[int]:
    """`count` frame indices evenly spread over 0..length-1, both ends included; repeats where length < count.

    One position alone is the middle frame.
    """
    if length < 1 or count < 1:
        raise ValueError(f"length and count must be at least 1, got length={length}, count={count}")
    if count == 1:
        return [(length - 1) // 2]
    return [int(position) for position in np.floor(np.linspace(0, length - 1, count) + 0.5)]


def fingerprint(settings: Mapping[str, object]) -> str:
    """A short stable hash of JSON-ready settings, whatever the order of their keys."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
