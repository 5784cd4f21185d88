"""A parametric human: joint angles and limb lengths in, 17 joints in metres out (the joint order of UNIK).

Frames of reference: y is up, the body faces +z at yaw 0 and its left is +x. Angles are radians. The torso from mid-hip
to neck is rigid, the chest is its middle and the mouth the middle of neck and nose, as the 17-joint layout has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

#: Joints of the layout "unik17", in its order.
JOINT_NAMES = (
    "head",
    "mouth",
    "neck",
    "chest",
    "mid_hip",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
NUM_JOINTS = len(JOINT_NAMES)
HEAD, MOUTH, NECK, CHEST, MID_HIP = range(5)
#: (shoulder, elbow, wrist) and (hip, knee, ankle) of the left (0) and right (1) side.
ARMS = ((5, 7, 9), (6, 8, 10))
LEGS = ((11, 13, 15), (12, 14, 16))

_TRUNK = (
    "yaw",  # turn of the whole body to its left
    "pitch",  # fall of the whole body onto its front
    "lift",  # height of the lowest joint over the floor, in body heights
    "travel",  # way forward, in body heights
    "spine_bend",  # torso forward
    "spine_side",  # torso to the left
    "spine_twist",  # shoulders to the left
    "pelvis_twist",  # hips to the left
    "head_nod",  # chin to the chest
    "head_turn",  # face to the left
)
_LIMB = (
    "arm",  # upper arm from hanging (0) over horizontal (90 degrees) to up (180); negative is backwards
    "azimuth",  # where it is lifted to: 0 forward, 90 degrees outward, negative across the body
    "elbow",  # flexion
    "swivel",  # where the elbow bends to: 0 towards a higher hand, 90 degrees inward
    "spread",  # arm away from the trunk, about the forward axis
    "hip",  # thigh forward
    "hip_side",  # leg outward
    "hip_turn",  # knee and foot turned outward
    "knee",  # flexion
)
#: Every angle the body has; `left_` and `right_` angles mean the same on both sides, so mirroring is a swap.
CHANNELS = _TRUNK + tuple(f"left_{name}" for name in _LIMB) + tuple(f"right_{name}" for name in _LIMB)
CHANNEL_INDEX = {name: index for index, name in enumerate(CHANNELS)}
NUM_CHANNELS = len(CHANNELS)
#: Channels that change sign when left and right are exchanged.
ODD_CHANNELS = ("yaw", "spine_side", "spine_twist", "pelvis_twist", "head_turn")
#: Channels that are lengths in body heights; all others are angles.
LENGTH_CHANNELS = ("lift", "travel")

# Mean segment lengths in body heights and their spread between people (standard deviation as a share of the length).
_SEGMENTS = {
    "torso": (0.285, 0.03),
    "neck": (0.120, 0.05),
    "shoulder": (0.108, 0.07),
    "upper_arm": (0.168, 0.04),
    "forearm": (0.150, 0.04),
    "hip": (0.056, 0.08),
    "thigh": (0.243, 0.035),
    "shank": (0.238, 0.035),
    "ankle": (0.047, 0.08),
}
# Flesh between a joint and the floor when it lies on it, in ankle heights.
_MARGIN = np.array([1.7, 1.7, 1.5, 1.7, 1.7, 1.3, 1.3, 0.9, 0.9, 0.8, 0.8, 1.6, 1.6, 1.0, 1.0, 1.0, 1.0], np.float32)
# The nose is not above the neck but also in front of it.
_NOSE_FORWARD = np.deg2rad(32.0)
# Height over which a foot's grip on the floor fades, in metres.
_GRIP = 0.015


@dataclass(frozen=True)
class Bodies:
    """Segment lengths of n people, each (n,) float32, metres; `shoulder` and `hip` are half widths."""

    height: Array
    torso: Array
    neck: Array
    shoulder: Array
    upper_arm: Array
    forearm: Array
    hip: Array
    thigh: Array
    shank: Array
    ankle: Array

    def __len__(self) -> int:
        return len(self.height)

    def take(self, index: NDArray[np.int64]) -> Bodies:
        """The people `index` (k,), in that order; repeats are fine."""
        return Bodies(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})


def draw_bodies(count: int, rng: np.random.Generator) -> Bodies:
    """Draw `count` people: heights from 1.15 m to 2.0 m (one in eight is a child), proportions that vary independently.

    Args:
        count: number of people, at least 1.
        rng: where the draws come from; the result depends on it alone.
    """
    child = rng.random(count) < 0.125
    height = np.where(child, rng.uniform(1.15, 1.5, count), np.clip(rng.normal(1.71, 0.1, count), 1.48, 2.0))
    build = rng.normal(0.0, 0.05, count)
    lengths = {}
    for name, (mean, spread) in _SEGMENTS.items():
        factor = 1.0 + spread * np.clip(rng.normal(0.0, 1.0, count), -2.2, 2.2)
        if name in ("shoulder", "hip"):
            factor = factor + build
        lengths[name] = (mean * factor * height).astype(np.float32)
    return Bodies(height=height.astype(np.float32), **lengths)


def _turn_x(v: list[Array], cos: Array, sin: Array) -> list[Array]:
    return [v[0], v[1] * cos - v[2] * sin, v[1] * sin + v[2] * cos]


def _turn_y(v: list[Array], cos: Array, sin: Array) -> list[Array]:
    return [v[0] * cos + v[2] * sin, v[1], v[2] * cos - v[0] * sin]


def _turn_z(v: list[Array], cos: Array, sin: Array) -> list[Array]:
    return [v[0] * cos - v[1] * sin, v[0] * sin + v[1] * cos, v[2]]


class _Angles:
    """Cosines and sines of the channels, by name."""

    def __init__(self, channels: Array) -> None:
        self.values = channels
        self.cos, self.sin = np.cos(channels), np.sin(channels)

    def __call__(self, name: str) -> tuple[Array, Array]:
        index = CHANNEL_INDEX[name]
        return self.cos[index], self.sin[index]


def _arm(bodies: Bodies, angle: _Angles, side: str) -> tuple[list[Array], list[Array]]:
    """Upper arm and forearm vectors (3 x (B, T)) in the torso's frame."""
    sign = np.float32(1.0 if side == "left" else -1.0)
    cos_arm, sin_arm = angle(f"{side}_arm")
    cos_azimuth, sin_azimuth = angle(f"{side}_azimuth")
    cos_elbow, sin_elbow = angle(f"{side}_elbow")
    cos_swivel, sin_swivel = angle(f"{side}_swivel")
    upper = [sin_arm * sin_azimuth, -cos_arm, sin_arm * cos_azimuth]
    bend = [
        cos_swivel * cos_arm * sin_azimuth - sin_swivel * cos_azimuth,
        cos_swivel * sin_arm,
        cos_swivel * cos_arm * cos_azimuth + sin_swivel * sin_azimuth,
    ]
    fore = [cos_elbow * u + sin_elbow * b for u, b in zip(upper, bend, strict=True)]
    cos_spread, sin_spread = angle(f"{side}_spread")
    parts = []
    for vector, length in ((upper, bodies.upper_arm), (fore, bodies.forearm)):
        x, y, z = _turn_z(vector, cos_spread, sin_spread)
        parts.append([c * length[:, None] for c in (sign * x, y, z)])
    return parts[0], parts[1]


def _leg(bodies: Bodies, angle: _Angles, side: str) -> tuple[list[Array], list[Array]]:
    """Thigh and shank vectors (3 x (B, T)) in the pelvis' frame."""
    sign = np.float32(1.0 if side == "left" else -1.0)
    cos_hip, sin_hip = angle(f"{side}_hip")
    cos_knee, sin_knee = angle(f"{side}_knee")
    shank_forward = sin_hip * cos_knee - cos_hip * sin_knee
    shank_down = cos_hip * cos_knee + sin_hip * sin_knee
    parts = []
    for down, forward, length in ((cos_hip, sin_hip, bodies.thigh), (shank_down, shank_forward, bodies.shank)):
        vector = _turn_y([np.zeros_like(down), -down, forward], *angle(f"{side}_hip_turn"))
        x, y, z = _turn_z(vector, *angle(f"{side}_hip_side"))
        parts.append([c * length[:, None] for c in (sign * x, y, z)])
    return parts[0], parts[1]


def _root_path(joints: Array, bodies: Bodies, angle: _Angles) -> list[Array]:
    """Where mid-hip goes (3 x (B, T)) so that the lowest joint is on the floor and the feet that carry do not slide."""
    lowest = (joints[:, 1] - _MARGIN[:, None, None] * bodies.ankle[:, None]).min(axis=0)
    lift = angle.values[CHANNEL_INDEX["lift"]] * bodies.height[:, None]
    left, right = joints[LEGS[0][2]], joints[LEGS[1][2]]
    grip = 1.0 / (1.0 + np.exp(np.clip((left[1] - right[1]) / np.float32(_GRIP), -30.0, 30.0)))
    grip = 0.5 * (grip[:, 1:] + grip[:, :-1])
    travel = np.diff(angle.values[CHANNEL_INDEX["travel"]], axis=1) * bodies.height[:, None]
    cos_yaw, sin_yaw = angle("yaw")
    path: list[Array] = [np.zeros_like(lift), lift - lowest, np.zeros_like(lift)]
    for axis, heading in ((0, sin_yaw), (2, cos_yaw)):
        step = grip * np.diff(left[axis], axis=1) + (1.0 - grip) * np.diff(right[axis], axis=1)
        np.cumsum(travel * heading[:, 1:] - step, axis=1, out=path[axis][:, 1:])
    return path


def forward_kinematics(channels: Array, bodies: Bodies) -> Array:
    """Joint positions of bodies in motion; feet stay on the floor and do not slide while they carry.

    Mid-hip is placed so that the lowest joint touches the floor y = 0 (plus the channel `lift`); its way over the floor
    is the opposite of what the carrying foot does below it (plus `travel`), so that walking moves forward by itself.
    Mid-hip starts at x = z = 0.

    Args:
        channels: (NUM_CHANNELS, B, T) float32, radians and body heights, channels in the order of `CHANNELS`.
        bodies: the B people.

    Returns:
        (17, 3, B, T) float32, metres, joints in the order of `JOINT_NAMES`.

    Raises:
        ValueError: shapes that do not fit together.
    """
    if channels.ndim != 3 or channels.shape[0] != NUM_CHANNELS or channels.shape[1] != len(bodies):
        raise ValueError(
            f"channels must be ({NUM_CHANNELS}, {len(bodies)}, T) for {len(bodies)} bodies, not {channels.shape}"
        )
    angle = _Angles(np.ascontiguousarray(channels, dtype=np.float32))
    joints = np.zeros((NUM_JOINTS, 3, *channels.shape[1:]), np.float32)
    zero = joints[MID_HIP, 0]

    def body_frame(v: list[Array]) -> list[Array]:
        return _turn_y(_turn_x(v, *angle("pitch")), *angle("yaw"))

    def torso_frame(v: list[Array]) -> list[Array]:
        v = _turn_x(_turn_y(v, *angle("spine_twist")), *angle("spine_bend"))
        cos, sin = angle("spine_side")
        return body_frame(_turn_z(v, cos, -sin))

    def place(joint: int, parent: int, vector: list[Array]) -> None:
        for axis in range(3):
            np.add(joints[parent, axis], vector[axis], out=joints[joint, axis])

    place(NECK, MID_HIP, torso_frame([zero, zero + bodies.torso[:, None], zero]))
    joints[CHEST] = 0.5 * joints[NECK]
    forward, up = bodies.neck * np.float32(np.sin(_NOSE_FORWARD)), bodies.neck * np.float32(np.cos(_NOSE_FORWARD))
    nose = _turn_x([zero, zero + up[:, None], zero + forward[:, None]], *angle("head_nod"))
    place(HEAD, NECK, torso_frame(_turn_y(nose, *angle("head_turn"))))
    joints[MOUTH] = 0.5 * (joints[HEAD] + joints[NECK])
    across = torso_frame([zero + bodies.shoulder[:, None], zero, zero])
    hips = body_frame(_turn_y([zero + bodies.hip[:, None], zero, zero], *angle("pelvis_twist")))
    for sign, side, arm, leg in ((1.0, "left", ARMS[0], LEGS[0]), (-1.0, "right", ARMS[1], LEGS[1])):
        place(arm[0], NECK, [np.float32(sign) * c for c in across])
        place(leg[0], MID_HIP, [np.float32(sign) * c for c in hips])
        upper, fore = _arm(bodies, angle, side)
        place(arm[1], arm[0], torso_frame(upper))
        place(arm[2], arm[1], torso_frame(fore))
        thigh, shank = _leg(bodies, angle, side)
        place(leg[1], leg[0], body_frame(thigh))
        place(leg[2], leg[1], body_frame(shank))
    for axis, path in enumerate(_root_path(joints, bodies, angle)):
        joints[:, axis] += path
    return joints
