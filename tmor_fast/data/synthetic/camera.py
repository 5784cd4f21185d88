"""Seeing bodies with a camera: 3D joints to pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tmor_fast.data.synthetic.body import MID_HIP, Array

#: Share of the image that a body may take up at most.
FILL = 0.92
_VIEWS = ("front", "right side", "back", "left side")


def side_in_view(yaw: Array) -> list[str]:
    """Which side of a body the viewer sees, for headings `yaw` (n,), radians: 0 faces the viewer, pi/2 the right."""
    quarter = np.floor((np.asarray(yaw, np.float64) + np.pi / 4.0) / (np.pi / 2.0)).astype(np.int64) % 4
    return [_VIEWS[q] for q in quarter.tolist()]


def project(
    joints: Array,
    inside: NDArray[np.bool_],
    height: Array,
    rng: np.random.Generator,
    draws: int,
    pitch: tuple[float, float],
    camera: str,
    image_size: tuple[int, int],
) -> tuple[Array, Array]:
    """Project n clips, each with a camera of its own that keeps the body in the image.

    Args:
        joints: (V, 3, n, T) float32, metres, y up, z towards the viewer.
        inside: (n, T) bool, the frames that count.
        height: (n,) body heights, metres.
        rng: where elevation, distance, size and place in the image come from.
        draws: how many clips to draw for (at least n); the rest is thrown away.
        pitch: range of the camera's elevation, radians.
        camera: "weak" or "orthographic".
        image_size: (width, height).

    Returns:
        (V, 2, n, T) float32 pixels with y down, and (n,) float32 pixels that a body height takes up.
    """
    n = joints.shape[2]
    elevation = rng.uniform(pitch[0], pitch[1], draws)[:n, None].astype(np.float32)
    distance = rng.uniform(3.5, 9.0, draws)[:n, None].astype(np.float32)
    fill = rng.uniform(0.35, 0.8, draws)[:n]
    place = rng.random((2, draws))[:, :n]
    x, y, z = joints[:, 0], joints[:, 1], joints[:, 2]
    cos, sin = np.cos(elevation), np.sin(elevation)
    # Image plane through the start of mid-hip, seen from above by `elevation`.
    up = y * cos - z * sin
    if camera == "weak":
        toward = y[MID_HIP] * sin + z[MID_HIP] * cos
        nearer = toward - toward[:, :1]
        # Someone who walks up to the camera stops growing at three times the size.
        size = distance / np.maximum(distance - nearer, distance / 3.0)
        middle = up[MID_HIP, :, :1]
        x, up = x * size, (up - middle) * size
    plane = np.stack([x, -up], axis=1)
    low = np.where(inside, plane, np.inf).min(axis=(0, 3))
    high = np.where(inside, plane, -np.inf).max(axis=(0, 3))
    extent = np.maximum(high - low, 1e-3)
    bounds = np.array(image_size, np.float64)[:, None]
    scale = np.minimum(fill * image_size[1] / height, (FILL * bounds / extent).min(axis=0))
    margin = 0.5 * (1.0 - FILL) * bounds
    corner = margin + place * np.maximum(bounds - 2.0 * margin - extent * scale, 0.0)
    plane -= low[None, :, :, None].astype(np.float32)
    plane *= scale.astype(np.float32)[:, None]
    plane += corner[None, :, :, None].astype(np.float32)
    return plane, (scale * height).astype(np.float32)
