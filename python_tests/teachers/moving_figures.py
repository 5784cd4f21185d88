"""Simple moving figures for the tests of this folder."""

from __future__ import annotations

import numpy as np

# UNIK's 17 joints of a person who faces the viewer: x to the right of the image, y up, metres.
STANDING = np.array(
    [
        *[(0, 1.7), (0, 1.6), (0, 1.45), (0, 1.2), (0, 0.95)],
        *[(0.2, 1.45), (-0.2, 1.45), (0.25, 1.15), (-0.25, 1.15), (0.27, 0.9), (-0.27, 0.9)],
        *[(0.1, 0.95), (-0.1, 0.95), (0.12, 0.5), (-0.12, 0.5), (0.13, 0.05), (-0.13, 0.05)],
    ],
    np.float32,
)
MOTIONS = ("wave left", "wave right", "raise both", "squat", "walk", "still")


def figure(motion: str, *, frames: int = 40, seed: int = 0, planar: bool = True) -> np.ndarray:
    """A clip (T, 1, 17, C) of one motion: phase, speed, place and size differ with the seed."""
    rng = np.random.default_rng((seed, MOTIONS.index(motion)))
    body = np.zeros((frames, 17, 3), np.float32)
    body[:, :, :2] = STANDING
    angle = 2 * np.pi * (rng.uniform(1.5, 2.5) * np.arange(frames) / frames + rng.uniform(0, 1))
    swing = np.sin(angle)[:, None]
    if motion in ("wave left", "raise both"):
        _lift_arm(body, 5, 7, 9, 1, swing, both=motion == "raise both")
    if motion in ("wave right", "raise both"):
        _lift_arm(body, 6, 8, 10, -1, swing, both=motion == "raise both")
    if motion == "squat":
        depth = 0.2 * (1 + swing)
        body[:, :13, 1] -= depth
        body[:, 13:15, 1] -= depth / 2
        body[:, 13:15, 0] += depth / 2 * np.array([1, -1])
    if motion == "walk":
        body[:, [13, 15], 0] += swing * np.array([0.1, 0.25])
        body[:, [14, 16], 0] -= swing * np.array([0.1, 0.25])
        body[:, :, 0] += np.linspace(0, 0.8, frames)[:, None]
    body += rng.normal(0, 0.01, body.shape)
    body *= rng.uniform(0.8, 1.2)
    if planar:
        body = body[..., :2] * np.array([200, -200]) + rng.uniform(300, 900, 2)
    return body[:, None].astype(np.float32)


def _lift_arm(
    body: np.ndarray, shoulder: int, elbow: int, wrist: int, side: int, swing: np.ndarray, both: bool
) -> None:
    body[:, elbow, :2] = body[:, shoulder, :2] + np.array([side * 0.15, 0.22])
    body[:, wrist, :2] = body[:, elbow, :2] + np.array([0.0, 0.25])
    if both:
        body[:, [elbow, wrist], 1] -= (1 - swing) * np.array([0.15, 0.35])
    else:
        body[:, wrist, 0] += 0.2 * swing[:, 0]
