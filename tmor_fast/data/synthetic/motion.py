"""Motions as tables of channels over one cycle, and the parts they are put together from.

A track maps channel names (`body.CHANNELS`) to their course over the phase 0..1, in degrees (lengths in body heights).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tmor_fast.data.synthetic.body import CHANNEL_INDEX, CHANNELS, LENGTH_CHANNELS, NUM_CHANNELS, ODD_CHANNELS

Curve = NDArray[np.float64]
Track = dict[str, Curve]

#: Steps of a table over one cycle; row STEPS is phase 1.
STEPS = 256
PHASE: Curve = np.linspace(0.0, 1.0, STEPS + 1)

#: Arm poses: (arm, azimuth, elbow, swivel, spread).
ARM_POSES: Mapping[str, tuple[float, ...]] = {
    "rest": (3, 0, 14, 25, 8),
    "back": (-38, 0, 12, 10, 8),
    "front": (88, 0, 8, 20, 0),
    "side": (90, 85, 8, 0, 0),
    "up": (172, 20, 10, 0, 0),
    "up_side": (168, 85, 8, 0, 0),
    "guard": (48, 5, 119, 25, 4),
    "chest": (9, 25, 140, 38, 22),
    "jab": (92, -8, 6, 20, 0),
    "bent": (8, 0, 82, 25, 8),
    "mouth": (65, 3, 132, 53, 0),
    "crown": (150, 57, 106, 29, 0),
    "ear": (122, 54, 142, 16, 0),
    "cocked": (98, 108, 95, -12, 0),
    "release": (128, 20, 22, 10, 0),
    "through": (42, -28, 18, 20, 0),
    "hips": (-18, 40, 77, 107, 46),
    "over": (162, 88, 24, 0, 0),
    "clap": (33, 10, 89, 59, 0),
    "clap_open": (38, 70, 98, 70, 0),
    "behind_head": (150, 90, 132, -20, 0),
}
#: Leg poses: (hip, hip_side, hip_turn, knee).
LEG_POSES: Mapping[str, tuple[float, ...]] = {
    "stand": (1, 3, 7, 2),
    "soft": (10, 4, 7, 18),
    "dip": (48, 6, 12, 72),
    "squat": (88, 10, 22, 112),
    "sit": (88, 5, 8, 90),
    "wind": (-22, 3, 5, 62),
    "kick": (78, 2, 5, 8),
    "tuck": (70, 3, 5, 92),
    "knee_up": (98, 3, 4, 100),
    "front": (76, 3, 5, 84),
    "behind": (-24, 3, 5, 46),
    "wide": (2, 26, 7, 2),
    "flamingo": (34, 4, 6, 96),
}
_ARM = ("arm", "azimuth", "elbow", "swivel", "spread")
_LEG = ("hip", "hip_side", "hip_turn", "knee")

Pose = str | Sequence[float]
Key = tuple[float, Pose]


def _neutral() -> Curve:
    values = np.zeros(NUM_CHANNELS)
    values[CHANNEL_INDEX["spine_bend"]] = 2.0
    for side in ("left", "right"):
        for names, pose in ((_ARM, ARM_POSES["rest"]), (_LEG, LEG_POSES["stand"])):
            for name, value in zip(names, pose, strict=True):
                values[CHANNEL_INDEX[f"{side}_{name}"]] = value
    return values


#: Standing at rest, (NUM_CHANNELS,), degrees.
NEUTRAL: Curve = _neutral()


def keys(*points: tuple[float, float]) -> Curve:
    """A course through (phase, value) points that rests at each of them (cubic ease between two), constant outside."""
    phases = np.array([p for p, _ in points], float)
    values = np.array([v for _, v in points], float)
    if np.any(np.diff(phases) <= 0):
        raise ValueError(f"phases must increase, got {phases.tolist()}")
    segment = np.clip(np.searchsorted(phases, PHASE, side="right") - 1, 0, max(len(phases) - 2, 0))
    if len(points) == 1:
        return np.full_like(PHASE, values[0])
    share = np.clip((PHASE - phases[segment]) / (phases[segment + 1] - phases[segment]), 0.0, 1.0)
    return values[segment] + (values[segment + 1] - values[segment]) * share**2 * (3.0 - 2.0 * share)


def swing(mean: float, amplitude: float, cycles: int = 1, shift: float = 0.0) -> Curve:
    """`mean + amplitude * cos` with `cycles` periods; `shift` delays it, in phase."""
    return mean + amplitude * np.cos(2.0 * np.pi * cycles * (PHASE - shift))


def bump(centre: float, width: float, height: float) -> Curve:
    """A periodic bell of the given height around phase `centre`."""
    distance = np.abs((PHASE - centre + 0.5) % 1.0 - 0.5)
    return height * np.exp(-0.5 * (distance / width) ** 2)


def flight(start: float, stop: float, height: float) -> Track:
    """Off the floor between two phases, on a parabola of `height` body heights."""
    share = (PHASE - start) / (stop - start)
    return {"lift": np.where((share > 0) & (share < 1), 4.0 * height * share * (1.0 - share), 0.0)}


def _limb(side: str, names: Sequence[str], poses: Mapping[str, tuple[float, ...]], points: Sequence[Key]) -> Track:
    values = [(phase, poses[pose] if isinstance(pose, str) else pose) for phase, pose in points]
    return {f"{side}_{name}": keys(*((phase, pose[i]) for phase, pose in values)) for i, name in enumerate(names)}


def arm(side: str, *points: Key) -> Track:
    """An arm ("left", "right" or "both") through poses: names of `ARM_POSES` or their five angles."""
    sides = ("left", "right") if side == "both" else (side,)
    return merge(*(_limb(s, _ARM, ARM_POSES, points) for s in sides))


def leg(side: str, *points: Key) -> Track:
    """A leg ("left", "right" or "both") through poses: names of `LEG_POSES` or their four angles."""
    sides = ("left", "right") if side == "both" else (side,)
    return merge(*(_limb(s, _LEG, LEG_POSES, points) for s in sides))


def trunk(**courses: Curve | float | Sequence[tuple[float, float]]) -> Track:
    """Single channels by name: a curve, a constant, or (phase, value) points."""
    track: Track = {}
    for name, course in courses.items():
        if isinstance(course, (int, float)):
            track[name] = np.full_like(PHASE, float(course))
        else:
            track[name] = course if isinstance(course, np.ndarray) else keys(*course)
    return track


def limb(side: str, **courses: Curve | float | Sequence[tuple[float, float]]) -> Track:
    """Single channels of one side, as in `trunk`: `limb("left", hip=10.0)` moves "left_hip"."""
    return trunk(**{f"{side}_{name}": course for name, course in courses.items()})


def merge(*tracks: Track) -> Track:
    """Parts together; where two give the same channel, the later one counts."""
    return {name: course for track in tracks for name, course in track.items()}


def both_sides(track: Callable[[str, float], Track], delay: float = 0.5) -> Track:
    """A part for the left side and the same for the right, `delay` of a cycle later: `track(side, delay)`."""
    return merge(track("left", 0.0), track("right", delay))


def backwards(track: Track) -> Track:
    """The same motion with time reversed."""
    return {name: course[::-1].copy() for name, course in track.items()}


def mirrored(track: Track) -> Track:
    """The same motion with left and right exchanged."""
    result: Track = {}
    for name, course in track.items():
        if name.startswith("left_"):
            result["right_" + name[5:]] = course
        elif name.startswith("right_"):
            result["left_" + name[6:]] = course
        else:
            result[name] = -course if name in ODD_CHANNELS else course
    return result


def hold(pose: Pose, side: str = "left", start: float = 0.3, stop: float = 0.75) -> Track:
    """An arm from rest to a pose, which it keeps from `start` to `stop`, and back."""
    return arm(side, (0, "rest"), (start, pose), (stop, pose), (1, "rest"))


def wave(side: str, upper: float, azimuth: float, elbow: float) -> Track:
    """An arm (or both) held up at `upper`, `azimuth`, the forearm swinging about `elbow`."""
    track = arm(side, (0, (upper, azimuth, elbow, -5, 0)))
    for one in ("left", "right") if side == "both" else (side,):
        track[f"{one}_elbow"] = swing(elbow, 26.0)
    return track


def table(track: Track) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The full table of a track, (STEPS + 1, NUM_CHANNELS) in radians and body heights, and which channels it moves."""
    values = np.repeat(NEUTRAL[None], STEPS + 1, axis=0)
    used = np.zeros(NUM_CHANNELS, bool)
    for name, course in track.items():
        if name not in CHANNEL_INDEX:
            raise ValueError(f"no channel '{name}'; channels are {', '.join(CHANNELS)}")
        values[:, CHANNEL_INDEX[name]] = course
        used[CHANNEL_INDEX[name]] = True
    return to_units(values).astype(np.float32), used


def to_units(degrees: Curve) -> Curve:
    """(..., NUM_CHANNELS) with angles in degrees to radians; lengths stay."""
    lengths = [CHANNEL_INDEX[name] for name in LENGTH_CHANNELS]
    result = np.deg2rad(degrees)
    result[..., lengths] = degrees[..., lengths]
    return result
