"""Batches of equal length from packed clips, without a loop over clips, on the device of the data."""

from __future__ import annotations

import torch
from torch import Tensor

from tmor_fast.data.draws import uniform
from tmor_fast.data.packed import PackedClips


def _check(packed: PackedClips, index: Tensor, frames: int) -> Tensor:
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    if index.dim() != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"index must be (N,) integers, got {tuple(index.shape)} {index.dtype}")
    return index.to(packed.device, torch.int64)


def sample_clips(packed: PackedClips, index: Tensor, frames: int, start: Tensor, length: Tensor) -> Tensor:
    """Stretches of clips, resampled to `frames` frames by linear interpolation.

    Frame k of clip i is taken at time start[i] + k / (frames - 1) * (length[i] - 1), counted in frames from the clip's
    first and held within the clip.

    Args:
        packed: the clips.
        index: (N,) int, which clips.
        frames: frames T of the result.
        start: (N,) float, first frame of the stretch.
        length: (N,) float, frames the stretch spans, at least 1.

    Returns:
        (N, C, T, V, M) float32.

    Raises:
        ValueError: `index` is no vector of integers or `frames` is below 1.
    """
    index = _check(packed, index, frames)
    # float64: a float32 position loses sub-frame precision in clips of 10^5 frames.
    steps = torch.linspace(0, 1, frames, dtype=torch.float64, device=packed.device)
    start, length = (value.to(packed.device, torch.float64) for value in (start, length))
    last = (packed.lengths[index] - 1).unsqueeze(1)
    position = start.unsqueeze(1) + steps * (length - 1).clamp_min(0).unsqueeze(1)
    position = torch.minimum(position.clamp_min(0), last.to(torch.float64))
    lower = position.floor().long()
    upper = torch.minimum(lower + 1, last)
    first = packed.offsets[index].unsqueeze(1)
    weight = (position - lower).to(packed.joints.dtype)[..., None, None, None]
    joints = torch.lerp(packed.joints[first + lower], packed.joints[first + upper], weight)
    return joints.permute(0, 4, 1, 3, 2).contiguous()  # (N, T, M, V, C) -> (N, C, T, V, M)


def sample_full(packed: PackedClips, index: Tensor, frames: int) -> Tensor:
    """Whole clips resampled to `frames` frames; deterministic.

    Args:
        packed: the clips.
        index: (N,) int, which clips.
        frames: frames T of the result.

    Returns:
        (N, C, T, V, M) float32.
    """
    index = _check(packed, index, frames)
    length = packed.lengths[index].double()
    return sample_clips(packed, index, frames, torch.zeros_like(length), length)


def sample_crop(
    packed: PackedClips,
    index: Tensor,
    frames: int,
    *,
    min_ratio: float = 0.5,
    max_ratio: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A random stretch of each clip, resampled to `frames` frames.

    The stretch spans a share of the clip drawn evenly from [min_ratio, max_ratio], at least one frame, and lies
    anywhere within it.

    Args:
        packed: the clips.
        index: (N,) int, which clips.
        frames: frames T of the result.
        min_ratio, max_ratio: 0 < min_ratio <= max_ratio <= 1.
        generator: source of randomness; None is torch's default.

    Returns:
        (N, C, T, V, M) float32.

    Raises:
        ValueError: the ratios are out of range.
    """
    if not 0 < min_ratio <= max_ratio <= 1:
        raise ValueError(f"need 0 < min_ratio <= max_ratio <= 1, got {min_ratio} and {max_ratio}")
    index = _check(packed, index, frames)
    full = packed.lengths[index].double()
    draws = uniform((2, len(index)), 0.0, 1.0, generator=generator, device=packed.device).double()
    length = (full * (min_ratio + (max_ratio - min_ratio) * draws[0])).clamp_min(1.0)
    return sample_clips(packed, index, frames, draws[1] * (full - length), length)


def sample_window(
    packed: PackedClips, index: Tensor, frames: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """A window of `frames` frames as they are (the released UNIK feeder's `random_choose`).

    A longer clip is cropped, a shorter one padded with zeros on both sides.

    Args:
        packed: the clips.
        index: (N,) int, which clips.
        frames: frames T of the result.
        generator: draws the offset of the crop or of the padding; None centres it.

    Returns:
        (N, C, T, V, M) float32.
    """
    index = _check(packed, index, frames)
    length = packed.lengths[index]
    room = length - frames  # positive: choices for a crop; negative: choices for the padding
    if generator is None:
        offset = torch.div(room, 2, rounding_mode="trunc")
    else:
        draw = uniform(len(index), 0.0, 1.0, generator=generator, device=packed.device).double()
        choices = room.abs() + 1
        offset = torch.minimum((draw * choices).long(), choices - 1) * room.sign()
    local = torch.arange(frames, device=packed.device) + offset.unsqueeze(1)
    inside = (local >= 0) & (local < length.unsqueeze(1))
    rows = packed.offsets[index].unsqueeze(1) + torch.where(inside, local, 0)
    joints = packed.joints[rows] * inside[..., None, None, None]
    return joints.permute(0, 4, 1, 3, 2).contiguous()
