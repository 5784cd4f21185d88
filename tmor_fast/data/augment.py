"""Augmentations of whole batches (N, C, T, V, M), on the batch's device, reproducible from a `torch.Generator`.

2D has x right and y down, 3D x right, y up and z towards the viewer. A person slot that is all zero (nobody) stays all
zero. So does a frame of a person that is all zero (padding), except under `random_move`, which moves it, as released.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tmor_fast.data.draws import choose, normal, uniform
from tmor_fast.data.layout import SkeletonLayout, get_layout

# The node values of the released random_move: degrees, factors, shifts in normalised units.
MOVE_ANGLES = (-10.0, -5.0, 0.0, 5.0, 10.0)
MOVE_SCALES = (0.9, 1.0, 1.1)
MOVE_SHIFTS = (-0.2, -0.1, 0.0, 0.1, 0.2)


def _require(joints: Tensor, channels: tuple[int, ...]) -> None:
    if joints.dim() != 5 or joints.shape[1] not in channels:
        wanted = " or ".join(map(str, channels))
        raise ValueError(f"joints must be (N, C, T, V, M) with C = {wanted}, got {tuple(joints.shape)}")


def _per_clip(value: Tensor, joints: Tensor, tail: tuple[int, ...] = ()) -> Tensor:
    if value.shape != (len(joints), *tail):
        raise ValueError(f"need one row a clip, {(len(joints), *tail)}, got {tuple(value.shape)}")
    return value.to(joints.device)


def _present(joints: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Where anything of the joints is not zero along `dims`: bool, with size 1 along them."""
    return joints.ne(0).any(dim=dims, keepdim=True)


def draw_views(
    n: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    yaw: tuple[float, float] = (-math.pi, math.pi),
    pitch: tuple[float, float] = (-0.3, 0.3),
) -> tuple[Tensor, Tensor]:
    """Random directions of view, drawn evenly.

    Args:
        n: how many.
        generator: source of randomness; None is torch's default.
        device: where the result goes.
        yaw: range in radians.
        pitch: range in radians.

    Returns:
        yaw (n,) and pitch (n,), float32 radians.
    """
    return (
        uniform(n, *yaw, generator=generator, device=device),
        uniform(n, *pitch, generator=generator, device=device),
    )


def project(joints: Tensor, yaw: Tensor, pitch: Tensor, planar: Tensor | None = None) -> Tensor:
    """Orthographic 2D view of 3D clips.

    The body turns about the vertical axis by `yaw` (counter-clockwise seen from above: at +90 degrees what pointed at
    the viewer points to the image's right), then the camera rises by `pitch` (positive looks down, near points move
    down in the image); z is dropped and y turned to point down.

    Args:
        joints: (N, 3, T, V, M), y up.
        yaw: (N,) radians.
        pitch: (N,) radians.
        planar: (N,) bool, clips that are 2D already: they only lose z; None means none are.

    Returns:
        (N, 2, T, V, M), y down.

    Raises:
        ValueError: a shape does not fit.
    """
    _require(joints, (3,))
    yaw, pitch = (_per_clip(angle, joints).to(joints.dtype).view(-1, 1, 1, 1) for angle in (yaw, pitch))
    x, y, z = joints.unbind(1)
    right = x * yaw.cos() + z * yaw.sin()
    near = z * yaw.cos() - x * yaw.sin()
    down = near * pitch.sin() - y * pitch.cos()
    view = torch.stack((right, down), dim=1)
    if planar is None:
        return view
    return torch.where(_per_clip(planar, joints).view(-1, 1, 1, 1, 1), joints[:, :2], view)


def rotate2d(joints: Tensor, angle: Tensor) -> Tensor:
    """Turn x towards y by `angle` about the origin.

    Args:
        joints: (N, 2, T, V, M).
        angle: (N,) radians; with y down this is clockwise as seen.

    Returns:
        (N, 2, T, V, M).
    """
    _require(joints, (2,))
    angle = _per_clip(angle, joints).to(joints.dtype).view(-1, 1, 1, 1)
    x, y = joints.unbind(1)
    return torch.stack((x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()), dim=1)


def rotate3d(joints: Tensor, angles: Tensor) -> Tensor:
    """Turn about the x axis, then the y axis, then the z axis, right-handed, about the origin.

    Args:
        joints: (N, 3, T, V, M).
        angles: (N, 3) radians about x, y and z.

    Returns:
        (N, 3, T, V, M).
    """
    _require(joints, (3,))
    cos, sin = (f(_per_clip(angles, joints, (3,)).to(joints.dtype)).unbind(1) for f in (torch.cos, torch.sin))
    one, zero = torch.ones_like(cos[0]), torch.zeros_like(cos[0])

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, dim=1).view(-1, 3, 3)

    about_x = matrix(one, zero, zero, zero, cos[0], -sin[0], zero, sin[0], cos[0])
    about_y = matrix(cos[1], zero, sin[1], zero, one, zero, -sin[1], zero, cos[1])
    about_z = matrix(cos[2], -sin[2], zero, sin[2], cos[2], zero, zero, zero, one)
    turned = (about_z @ about_y @ about_x) @ joints.flatten(2)
    return turned.view_as(joints)


def random_rotation(joints: Tensor, degrees: float, generator: torch.Generator | None = None) -> Tensor:
    """Turn each clip by angles drawn evenly from [-degrees, degrees]: one in 2D, one about each axis in 3D.

    Args:
        joints: (N, 2 or 3, T, V, M).
        degrees: largest angle, at least 0.
        generator: source of randomness; None is torch's default.

    Returns:
        Same shape as `joints`.

    Raises:
        ValueError: `degrees` is negative or a shape does not fit.
    """
    _require(joints, (2, 3))
    if degrees < 0:
        raise ValueError(f"degrees must be at least 0, got {degrees}")
    limit = math.radians(degrees)
    if joints.shape[1] == 2:
        return rotate2d(joints, uniform(len(joints), -limit, limit, generator=generator, device=joints.device))
    return rotate3d(joints, uniform((len(joints), 3), -limit, limit, generator=generator, device=joints.device))


def random_move(joints: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A slowly changing rotation, scaling and shift of x and y (the released UNIK feeder's `random_move`).

    Angle, scale and shift are picked at the first and at the last frame and change linearly between; all persons of a
    clip move together; frames of zeros of somebody who is there move too; z stays. Unlike the released one, it leaves
    the slots of nobody zero, so that they do not count as persons afterwards.

    Args:
        joints: (N, 2 or 3, T, V, M), normalised units.
        generator: source of randomness; None is torch's default.

    Returns:
        Same shape as `joints`.
    """
    _require(joints, (2, 3))
    count, frames, device = len(joints), joints.shape[2], joints.device

    def over_time(values: tuple[float, ...]) -> Tensor:
        nodes = choose((count, 2), values, generator=generator, device=device)
        steps = torch.linspace(0, 1, frames, device=device)
        track = torch.lerp(nodes[:, :1], nodes[:, 1:], steps)
        return track.to(joints.dtype)[:, :, None, None]  # (N, T, 1, 1)

    angle = over_time(MOVE_ANGLES) * (math.pi / 180)
    scale = over_time(MOVE_SCALES)
    shift_x, shift_y = over_time(MOVE_SHIFTS), over_time(MOVE_SHIFTS)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    x, y = joints[:, 0], joints[:, 1]
    moved = torch.stack((x * cos - y * sin + shift_x, x * sin + y * cos + shift_y), dim=1)
    moved = moved * _present(joints, (1, 2, 3))
    return moved if joints.shape[1] == 2 else torch.cat((moved, joints[:, 2:]), dim=1)


def mirror(joints: Tensor, layout: str | SkeletonLayout, mask: Tensor | None = None) -> Tensor:
    """Swap left and right: x changes sign and paired joints change places.

    Args:
        joints: (N, C, T, V, M), centred on x = 0.
        layout: layout of the V joints.
        mask: (N,) bool, which clips; None means all.

    Returns:
        Same shape as `joints`; mirroring twice gives the input back.

    Raises:
        ValueError: a shape does not fit the layout.
    """
    _require(joints, (2, 3))
    skeleton = get_layout(layout)
    if joints.shape[3] != skeleton.num_joints:
        raise ValueError(f"{joints.shape[3]} joints, but layout {skeleton.name!r} has {skeleton.num_joints}")
    swapped = joints.index_select(3, torch.tensor(skeleton.mirror, device=joints.device))
    swapped = torch.cat((-swapped[:, :1], swapped[:, 1:]), dim=1)
    if mask is None:
        return swapped
    return torch.where(_per_clip(mask, joints).view(-1, 1, 1, 1, 1), swapped, joints)


def random_mirror(
    joints: Tensor, layout: str | SkeletonLayout, probability: float = 0.5, generator: torch.Generator | None = None
) -> Tensor:
    """Mirror each clip with the given probability (see `mirror`)."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1], got {probability}")
    draw = uniform(len(joints), 0.0, 1.0, generator=generator, device=joints.device)
    return mirror(joints, layout, draw < probability)


def jitter(joints: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """Add independent Gaussian noise to every coordinate of everybody who is there.

    Args:
        joints: (N, C, T, V, M).
        sigma: standard deviation in the units of `joints`, at least 0.
        generator: source of randomness; None is torch's default.

    Returns:
        Same shape as `joints`; frames of a person that are all zero stay so.

    Raises:
        ValueError: `sigma` is negative.
    """
    _require(joints, (2, 3))
    if sigma < 0:
        raise ValueError(f"sigma must be at least 0, got {sigma}")
    noise = normal(joints.shape, generator=generator, device=joints.device).to(joints.dtype)
    return joints + noise * sigma * _present(joints, (1, 3))


def random_shift(joints: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """Move each clip as a whole by a normally distributed offset, the same for all its persons and frames.

    Args:
        joints: (N, 2 or 3, T, V, M).
        sigma: standard deviation of the offset along each axis in the units of `joints`, at least 0.
        generator: source of randomness; None is torch's default.

    Returns:
        Same shape as `joints`; frames of a person that are all zero stay so, and with them the slots of nobody.

    Raises:
        ValueError: `sigma` is negative or a shape does not fit.
    """
    _require(joints, (2, 3))
    if sigma < 0:
        raise ValueError(f"sigma must be at least 0, got {sigma}")
    offset = normal((*joints.shape[:2], 1, 1, 1), generator=generator, device=joints.device).to(joints.dtype)
    return joints + offset * sigma * _present(joints, (1, 3))


def random_scale(
    joints: Tensor, low: float = 0.9, high: float = 1.1, generator: torch.Generator | None = None
) -> Tensor:
    """Multiply each clip by a factor drawn evenly from [low, high].

    Args:
        joints: (N, C, T, V, M).
        low, high: 0 < low <= high.
        generator: source of randomness; None is torch's default.

    Returns:
        Same shape as `joints`.

    Raises:
        ValueError: the range is empty or not positive.
    """
    _require(joints, (2, 3))
    if not 0 < low <= high:
        raise ValueError(f"need 0 < low <= high, got {low} and {high}")
    factor = uniform(len(joints), low, high, generator=generator, device=joints.device)
    return joints * factor.to(joints.dtype).view(-1, 1, 1, 1, 1)
