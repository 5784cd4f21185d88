"""Bone and motion streams."""

from __future__ import annotations

import pytest
import torch

from tmor_fast.data import bone_stream, get_layout, motion_stream


def test_bones_are_child_minus_parent_and_the_root_stays() -> None:
    joints = torch.randn(2, 3, 5, 17, 2, dtype=torch.float64)
    layout = get_layout("unik17")
    expected = joints.clone()
    for child, parent in layout.bones:
        expected[:, :, :, child] = joints[:, :, :, child] - joints[:, :, :, parent]
    torch.testing.assert_close(bone_stream(joints, "unik17"), expected, rtol=0, atol=0)
    torch.testing.assert_close(bone_stream(joints, layout)[:, :, :, 0], joints[:, :, :, 0], rtol=0, atol=0)


def test_bones_ignore_where_the_body_is_except_at_the_root() -> None:
    joints = torch.randn(1, 2, 3, 17, 1, dtype=torch.float64)
    moved = bone_stream(joints + 7.0, "unik17") - bone_stream(joints, "unik17")
    assert moved[:, :, :, 1:].abs().max() < 1e-12
    torch.testing.assert_close(moved[:, :, :, 0], torch.full_like(moved[:, :, :, 0], 7.0))


def test_motion_is_the_forward_difference_with_a_zero_last_frame() -> None:
    joints = torch.tensor([1.0, 4.0, 2.0]).view(1, 1, 3, 1, 1).expand(1, 2, 3, 17, 1)
    assert motion_stream(joints)[0, 1, :, 3, 0].tolist() == [3.0, -2.0, 0.0]
    assert motion_stream(joints[:, :, :1]).eq(0).all()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="V = 17"):
        bone_stream(torch.zeros(1, 2, 3, 13, 1), "unik17")
    with pytest.raises(ValueError, match="N, C, T, V, M"):
        motion_stream(torch.zeros(1, 2, 3))
