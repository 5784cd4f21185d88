"""Augmentations: geometry by hand, invariants, seeds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tmor_fast.data import (
    draw_views,
    get_layout,
    jitter,
    mirror,
    project,
    random_mirror,
    random_move,
    random_rotation,
    random_scale,
    random_shift,
    rotate2d,
    rotate3d,
)


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def batch(n: int = 4, channels: int = 3, persons: int = 1) -> Tensor:
    return torch.randn(n, channels, 6, 17, persons, generator=seed(0), dtype=torch.float64)


def point(x: float, y: float, z: float) -> Tensor:
    return torch.tensor([x, y, z], dtype=torch.float64).view(1, 3, 1, 1, 1)


def view(where: Tensor, yaw: float, pitch: float = 0.0) -> list[float]:
    seen = project(where, torch.tensor([math.radians(yaw)]), torch.tensor([math.radians(pitch)]))
    return [round(value, 6) + 0.0 for value in seen.flatten().tolist()]


def test_projection_by_hand() -> None:
    right, up, near = point(1, 0, 0), point(0, 1, 0), point(0, 0, 1)
    assert view(right, 0) == [1, 0]
    assert view(up, 0) == [0, -1], "y up becomes y down"
    assert view(near, 0) == [0, 0]
    assert view(near, 90) == [1, 0], "what pointed at the viewer points right"
    assert view(right, 90) == [0, 0]
    assert view(right, 180) == [-1, 0]
    assert view(up, 123) == [0, -1]
    assert view(near, 0, 90) == [0, 1], "from above, near points are low in the image"
    assert view(up, 0, 90) == [0, 0]


def test_the_left_hand_of_someone_facing_the_viewer_is_right_in_the_image() -> None:
    facing = torch.zeros(1, 3, 1, 17, 1)
    facing[0, 0, 0, get_layout("unik17").index("left_wrist")] = 0.5  # x right, facing +z: left is +x
    front, back = (project(facing, torch.tensor([yaw]), torch.zeros(1)) for yaw in (0.0, math.pi))
    assert front[0, 0, 0, 9, 0] > 0 > back[0, 0, 0, 9, 0]


def test_projection_is_a_rotation_without_its_depth() -> None:
    joints = batch(8)
    yaw, pitch = draw_views(8, generator=seed(1))
    flat = project(joints, yaw, pitch)
    for n in range(8):
        a, b = float(yaw[n]), float(pitch[n])
        about_y = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
        about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
        turned = np.einsum("ij,jtvm->itvm", about_x @ about_y, joints[n].numpy())
        np.testing.assert_allclose(flat[n].numpy(), np.stack((turned[0], -turned[1])), atol=1e-6)


def test_planar_clips_only_lose_z() -> None:
    joints = batch(3)
    yaw, pitch = torch.full((3,), 1.0), torch.full((3,), 0.2)
    mixed = project(joints, yaw, pitch, torch.tensor([True, False, True]))
    assert torch.equal(mixed[0], joints[0, :2])
    assert torch.equal(mixed[2], joints[2, :2])
    assert torch.equal(mixed[1], project(joints, yaw, pitch)[1])


def test_views_are_within_their_ranges() -> None:
    yaw, pitch = draw_views(1000, generator=seed(0), pitch=(0.1, 0.2))
    assert yaw.min() < -3
    assert yaw.max() > 3
    assert yaw.abs().max() <= math.pi
    assert pitch.min() >= 0.1
    assert pitch.max() <= 0.2


def test_rotate2d_by_hand() -> None:
    joints = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1)
    turned = rotate2d(joints, torch.tensor([math.pi / 2]))
    torch.testing.assert_close(turned.flatten(), torch.tensor([0.0, 1.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("axis", "before", "after"),
    [(0, (0, 1, 0), (0, 0, 1)), (1, (0, 0, 1), (1, 0, 0)), (2, (1, 0, 0), (0, 1, 0))],
)
def test_rotate3d_is_right_handed(axis: int, before: tuple, after: tuple) -> None:
    angles = torch.zeros(1, 3, dtype=torch.float64)
    angles[0, axis] = math.pi / 2
    turned = rotate3d(point(*before), angles).flatten()
    torch.testing.assert_close(turned, torch.tensor(after, dtype=torch.float64), atol=1e-12, rtol=0)


def test_rotate3d_turns_about_x_then_y_then_z() -> None:
    joints, angles = batch(2), torch.tensor([[0.3, -0.8, 1.1], [2.0, 0.1, -0.4]], dtype=torch.float64)
    step = joints
    for axis in range(3):
        single = torch.zeros_like(angles)
        single[:, axis] = angles[:, axis]
        step = rotate3d(step, single)
    torch.testing.assert_close(rotate3d(joints, angles), step, atol=1e-12, rtol=0)


@pytest.mark.parametrize("channels", [2, 3])
def test_random_rotation_keeps_lengths_and_respects_its_limit(channels: int) -> None:
    joints = batch(64, channels)
    turned = random_rotation(joints, 10.0, seed(0))
    torch.testing.assert_close(turned.norm(dim=1), joints.norm(dim=1))
    assert not torch.allclose(turned, joints)
    if channels == 2:
        angle = torch.atan2(turned[:, 1], turned[:, 0]) - torch.atan2(joints[:, 1], joints[:, 0])
        degrees = torch.rad2deg(torch.atan2(angle.sin(), angle.cos()))[:, 0, 0, 0]
        assert degrees.abs().max() <= 10
        assert degrees.min() < -5
        assert degrees.max() > 5
    assert torch.equal(random_rotation(joints, 0.0, seed(0)), joints)


def test_random_move_is_the_released_one() -> None:
    joints = batch(16, 2, persons=2)
    moved = random_move(joints, seed(5))
    # the same draws, applied frame by frame as the feeder does
    draw = seed(5)
    nodes = []
    for values in ((-10.0, -5, 0, 5, 10), (0.9, 1, 1.1), (-0.2, -0.1, 0, 0.1, 0.2), (-0.2, -0.1, 0, 0.1, 0.2)):
        nodes.append(np.array(values)[torch.randint(len(values), (16, 2), generator=draw).numpy()])
    for n in range(16):
        angle, scale, dx, dy = (np.linspace(node[n, 0], node[n, 1], 6) for node in nodes)
        for t in range(6):
            a = np.deg2rad(angle[t])
            theta = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) * scale[t]
            expected = (
                np.einsum("ij,jvm->ivm", theta, joints[n, :, t].numpy()) + np.array([dx[t], dy[t]])[:, None, None]
            )
            np.testing.assert_allclose(moved[n, :, t].numpy(), expected, atol=1e-6)


def test_random_move_moves_padding_but_neither_z_nor_nobody() -> None:
    joints = torch.zeros(32, 3, 4, 17, 2)
    joints[:, 0, 3, :, 0] = 1.0  # three frames of padding, then a person; the second slot is empty
    moved = random_move(joints, seed(0))
    assert moved[:, :2, :3, :, 0].abs().max() > 0.09
    assert moved[:, 2].eq(0).all()
    assert moved[..., 1].eq(0).all()


@pytest.mark.parametrize("layout", ["unik17", "coco17"])
def test_mirror_twice_is_the_identity(layout: str) -> None:
    joints = batch(5, 2, persons=2)
    assert torch.equal(mirror(mirror(joints, layout), layout), joints)


def test_mirror_swaps_sides_and_the_sign_of_x_only() -> None:
    joints = batch(2)
    flipped = mirror(joints, "unik17", torch.tensor([False, True]))
    assert torch.equal(flipped[0], joints[0])
    left, right = 9, 10
    assert torch.equal(flipped[1, 0, :, left], -joints[1, 0, :, right])
    assert torch.equal(flipped[1, 1:, :, left], joints[1, 1:, :, right])
    assert torch.equal(flipped[1, 0, :, 0], -joints[1, 0, :, 0])


def test_random_mirror_hits_its_share() -> None:
    joints = batch(400, 2)
    flipped = random_mirror(joints, "unik17", 0.25, seed(0))
    share = (flipped != joints).flatten(1).any(1).float().mean().item()
    assert 0.18 < share < 0.32
    assert torch.equal(random_mirror(joints, "unik17", 0.0, seed(0)), joints)
    with pytest.raises(ValueError, match="probability"):
        random_mirror(joints, "unik17", 1.5)


def test_jitter_has_its_sigma_and_leaves_nobody_alone() -> None:
    joints = torch.zeros(8, 2, 50, 17, 2)
    joints[..., 0] = 1.0
    noisy = jitter(joints, 0.05, seed(0))
    assert noisy[..., 1].eq(0).all()
    assert abs((noisy[..., 0] - 1).std().item() - 0.05) < 0.002


def test_random_scale_is_one_factor_a_clip() -> None:
    joints = batch(100)
    scaled = random_scale(joints, 0.5, 2.0, seed(0))
    factor = (scaled / joints).flatten(1)
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    assert 0.5 <= factor.min() < 0.6
    assert 1.8 < factor.max() <= 2.0


@pytest.mark.parametrize("channels", [2, 3])
def test_random_shift_is_one_offset_a_clip_of_its_sigma(channels: int) -> None:
    joints = batch(3000, channels, persons=2)
    joints[:, :, 4, :, 0] = 0  # padding
    joints[:, :, :, :, 1] = 0  # nobody
    moved = random_shift(joints, 0.3, seed(0))
    assert moved[joints == 0].eq(0).all()
    offset = (moved - joints)[:, :, [0, 1, 2, 3, 5], :, 0]
    torch.testing.assert_close(offset, offset[:, :, :1, :1].expand_as(offset))
    drawn = offset[:, :, 0, 0]
    assert abs(drawn.std().item() - 0.3) < 0.01
    assert abs(drawn.mean().item()) < 0.02
    correlation = torch.corrcoef(drawn.T) - torch.eye(channels, dtype=torch.float64)
    assert correlation.abs().max() < 0.1, "axes are drawn independently"
    assert torch.equal(random_shift(joints, 0.0, seed(0)), joints)


AUGMENTATIONS: list[Callable[[Tensor, torch.Generator], Tensor]] = [
    lambda joints, generator: random_rotation(joints, 20, generator),
    lambda joints, generator: random_move(joints, generator),
    lambda joints, generator: random_mirror(joints, "unik17", 0.5, generator),
    lambda joints, generator: jitter(joints, 0.1, generator),
    lambda joints, generator: random_scale(joints, 0.8, 1.2, generator),
    lambda joints, generator: random_shift(joints, 0.1, generator),
    lambda joints, generator: project(joints, *draw_views(len(joints), generator=generator)),
]


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_seeds_reproduce_dtypes_stay_and_inputs_are_untouched(
    augment: Callable[[Tensor, torch.Generator], Tensor], dtype: torch.dtype
) -> None:
    joints = batch(16).to(dtype)
    before = joints.clone()
    one, two, other = augment(joints, seed(1)), augment(joints, seed(1)), augment(joints, seed(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.dtype == dtype
    assert torch.equal(joints, before)


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_nobody_stays_nobody(augment: Callable[[Tensor, torch.Generator], Tensor], channels: int) -> None:
    if augment is AUGMENTATIONS[-1] and channels == 2:
        pytest.skip("only 3D is projected")
    joints = batch(8, channels, persons=3)
    joints[..., 1] = 0
    joints[:4, ..., 2] = 0
    changed = augment(joints, seed(3))
    assert changed[..., 1].eq(0).all()
    assert changed[:4, ..., 2].eq(0).all()
    assert changed[4:, ..., 2].ne(0).all()
    assert changed[..., 0].ne(0).all()


def test_wrong_arguments_are_refused() -> None:
    joints = batch(3)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: project(joints[:, :2], torch.zeros(3), torch.zeros(3)), "C = 3"),
        (lambda: project(joints, torch.zeros(2), torch.zeros(3)), "one row a clip"),
        (lambda: project(joints, torch.zeros(3), torch.zeros(3), torch.ones(2, dtype=torch.bool)), "one row a clip"),
        (lambda: rotate2d(joints, torch.zeros(3)), "C = 2"),
        (lambda: rotate3d(joints, torch.zeros(3)), r"\(3, 3\)"),
        (lambda: mirror(joints, "penn13"), "17 joints, but layout 'penn13' has 13"),
        (lambda: random_rotation(joints, -1), "degrees"),
        (lambda: jitter(joints, -0.1), "sigma"),
        (lambda: random_scale(joints, 0.0, 1.0), "low"),
        (lambda: random_shift(joints, -0.1), "sigma"),
        (lambda: random_shift(joints[0], 0.1), "N, C, T, V, M"),
        (lambda: random_move(joints[0]), "N, C, T, V, M"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
