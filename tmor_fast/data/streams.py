"""Input streams derived from joints: bones and motion. Two-stream fusion trains one model a stream."""

from __future__ import annotations

import torch
from torch import Tensor

from tmor_fast.data.layout import SkeletonLayout, get_layout


def bone_stream(joints: Tensor, layout: str | SkeletonLayout) -> Tensor:
    """Each joint minus its parent; the root keeps its coordinates (the released UNIK bone stream).

    Args:
        joints: (N, C, T, V, M).
        layout: layout of the V joints.

    Returns:
        (N, C, T, V, M), bone vectors at the child's place.

    Raises:
        ValueError: V is not the layout's number of joints.
    """
    skeleton = get_layout(layout)
    if joints.dim() != 5 or joints.shape[3] != skeleton.num_joints:
        raise ValueError(
            f"joints must be (N, C, T, V, M) with V = {skeleton.num_joints} for layout {skeleton.name!r}, "
            f"got {tuple(joints.shape)}"
        )
    parents = torch.tensor(skeleton.parents, device=joints.device)
    base = joints.index_select(3, parents.clamp_min(0))
    return joints - base * (parents >= 0).to(joints.dtype).view(1, 1, 1, -1, 1)


def motion_stream(joints: Tensor) -> Tensor:
    """Forward difference over time; the last frame is 0 (the released UNIK motion stream).

    Args:
        joints: (N, C, T, V, M).

    Returns:
        (N, C, T, V, M).

    Raises:
        ValueError: `joints` has not five dimensions.
    """
    if joints.dim() != 5:
        raise ValueError(f"joints must be (N, C, T, V, M), got {tuple(joints.shape)}")
    return torch.cat((joints[:, :, 1:] - joints[:, :, :-1], torch.zeros_like(joints[:, :, :1])), dim=2)
