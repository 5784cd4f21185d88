"""Whole-body motions of locomotion and exercise, one cycle each (see `motion`)."""

from __future__ import annotations

import numpy as np

from tmor_fast.data.synthetic.motion import (
    Track,
    arm,
    both_sides,
    bump,
    flight,
    keys,
    leg,
    limb,
    merge,
    swing,
    trunk,
)


def arms_swing(amplitude: float, elbow: float, forward: float = 3.0) -> Track:
    """Arms opposite to the legs of a gait whose left heel lands at phase 0."""

    def one(side: str, delay: float) -> Track:
        return limb(
            side,
            arm=swing(forward, -amplitude, shift=delay),
            azimuth=0.0,
            elbow=swing(elbow, -0.35 * amplitude, shift=delay),
            swivel=22.0,
            spread=9.0,
        )

    return both_sides(one)


def walk_legs(stride: float = 22.0, lift: float = 52.0) -> Track:
    """Legs, hips and shoulders of walking; `stride` is the swing of the thigh, `lift` the bend of the swinging knee."""

    def one(side: str, delay: float) -> Track:
        return limb(
            side,
            hip=swing(9.0, stride, shift=delay) + bump(0.82 + delay, 0.09, 6.0),
            hip_side=2.0,
            hip_turn=5.0,
            knee=5.0 + bump(0.13 + delay, 0.07, 13.0) + bump(0.71 + delay, 0.10, lift),
        )

    return merge(
        both_sides(one),
        trunk(pelvis_twist=swing(0, -0.25 * stride), spine_twist=swing(0, 0.25 * stride), spine_bend=3.0),
        trunk(spine_side=swing(0, 2.0, shift=0.2)),
    )


def walk() -> Track:
    """Walking: one cycle is two steps."""
    return merge(walk_legs(), arms_swing(20.0, 22.0))


def run() -> Track:
    """Running, with both feet off the floor twice a cycle."""

    def one(side: str, delay: float) -> Track:
        return limb(
            side,
            hip=swing(16.0, 36.0, shift=0.95 + delay),
            hip_side=1.0,
            hip_turn=3.0,
            knee=14.0 + bump(0.12 + delay, 0.08, 24.0) + bump(0.66 + delay, 0.115, 88.0),
        )

    return merge(
        both_sides(one),
        arms_swing(36.0, 88.0, 0.0),
        trunk(lift=bump(0.42, 0.045, 0.035) + bump(0.92, 0.045, 0.035), spine_bend=11.0, head_nod=-6.0),
        trunk(pelvis_twist=swing(0, -7.0), spine_twist=swing(0, 11.0)),
    )


def steps_in_place(knee_up: float, shank: float, hop: float = 0.0) -> Track:
    """Lifting the feet in turn on the spot; `knee_up` is the thigh's angle, `shank` the knee's, `hop` the flight."""

    def one(side: str, delay: float) -> Track:
        # Half a sine while the foot is up, standing in the other half.
        up = np.clip(swing(0.0, 1.0, shift=0.25 + delay), 0.0, None) ** 0.8
        return limb(
            side,
            hip=2.0 + knee_up * up,
            hip_side=2.0,
            hip_turn=4.0,
            knee=4.0 + shank * up,
        )

    track = merge(both_sides(one), trunk(spine_bend=2.0, spine_side=swing(0, -2.5, shift=0.25)))
    return merge(track, trunk(lift=bump(0.0, 0.05, hop) + bump(0.5, 0.05, hop))) if hop else track


def in_place_arms(amplitude: float, elbow: float) -> Track:
    """Arms opposite to the legs of `steps_in_place`."""

    def one(side: str, delay: float) -> Track:
        return limb(
            side,
            arm=swing(6.0, -amplitude, shift=0.25 + delay),
            azimuth=0.0,
            elbow=swing(elbow, -0.2 * amplitude, shift=0.25 + delay),
            swivel=20.0,
            spread=9.0,
        )

    return both_sides(one)


def squat_legs(low: float = 0.45, hold: float = 0.55) -> Track:
    """Down to a squat and up again."""
    return merge(
        leg("both", (0, "stand"), (low, "squat"), (hold, "squat"), (1, "stand")),
        trunk(spine_bend=[(0, 2), (low, 40), (hold, 40), (1, 2)], head_nod=[(0, 0), (low, -22), (hold, -22), (1, 0)]),
    )


def jump_body(height: float = 0.13) -> Track:
    """Crouch, leave the floor, land."""
    return merge(
        leg(
            "both",
            (0, "stand"),
            (0.32, "dip"),
            (0.46, "stand"),
            (0.6, (12, 3, 7, 26)),
            (0.72, "soft"),
            (0.82, "dip"),
            (1, "stand"),
        ),
        trunk(spine_bend=[(0, 2), (0.32, 32), (0.48, 0), (0.7, 5), (0.82, 26), (1, 2)]),
        flight(0.46, 0.72, height),
    )


def jumping_jack() -> Track:
    """Feet together and arms down, then feet apart and arms up."""
    return merge(
        leg("both", (0, "stand"), (0.12, (12, 4, 7, 24)), (0.5, "wide"), (0.62, (12, 24, 7, 26)), (1, "stand")),
        arm("both", (0, (8, 85, 8, 0, 0)), (0.48, "up_side"), (0.56, "up_side"), (1, (8, 85, 8, 0, 0))),
        trunk(lift=keys((0.14, 0), (0.3, 0.05), (0.46, 0)) + keys((0.64, 0), (0.8, 0.05), (0.96, 0))),
    )


def jump_rope() -> Track:
    """Small hops with both feet while the wrists turn a rope, one turn a hop."""
    track: Track = {}
    for side in ("left", "right"):
        track |= limb(
            side,
            arm=swing(0, 6.0),
            azimuth=20.0,
            elbow=swing(72, 9.0, shift=0.25),
            swivel=swing(-22, 12.0),
            spread=18.0,
        )
    soft = swing(0.5, 0.5)
    for side in ("left", "right"):
        track |= {f"{side}_hip": 3 + 9 * soft, f"{side}_knee": 5 + 19 * soft}
    return merge(track, flight(0.25, 0.75, 0.05), trunk(spine_bend=4.0))


def lunge(side: str = "left") -> Track:
    """A long step forward with `side`, down on the bent leg, and back."""
    other = "right" if side == "left" else "left"
    return merge(
        leg(
            side,
            (0, "stand"),
            (0.2, (66, 3, 5, 72)),
            (0.46, "front"),
            (0.58, "front"),
            (0.8, (58, 3, 5, 70)),
            (1, "stand"),
        ),
        leg(
            other,
            (0, "stand"),
            (0.2, (-4, 3, 5, 4)),
            (0.46, "behind"),
            (0.58, "behind"),
            (0.8, (-6, 3, 5, 6)),
            (1, "stand"),
        ),
        trunk(spine_bend=[(0, 2), (0.46, 10), (0.58, 10), (1, 2)]),
    )


def push_ups() -> Track:
    """Face down on hands and toes, bending and stretching the arms; one cycle is one push-up."""
    down = swing(0.5, -0.5)
    track: Track = {}
    for side in ("left", "right"):
        track |= {f"{side}_arm": 80 - 42 * down, f"{side}_azimuth": 8 + 38 * down, f"{side}_elbow": 6 + 88 * down}
        track |= limb(side, swivel=0.0, spread=6.0, hip=0.0, knee=4.0)
    return merge(track, trunk(pitch=66 + 12 * down, spine_bend=0.0, head_nod=-22.0))


def sit_ups() -> Track:
    """On the back with bent knees, lifting the torso; one cycle is one sit-up."""
    up = 0.5 - 0.5 * np.cos(2 * np.pi * np.linspace(0.0, 1.0, len(swing(0, 1))))
    return merge(
        leg("both", (0, (48, 6, 4, 96))),
        arm("both", (0, (112, 58, 128, 42, 0))),
        trunk(pitch=-88.0, spine_bend=4 + 70 * up, head_nod=8 + 14 * up),
    )
