"""Actions of hands and arms (see `action`)."""

from __future__ import annotations

import numpy as np

from tmor_fast.data.synthetic.action import EXACT, Action, make_actions
from tmor_fast.data.synthetic.motion import (
    Key,
    Track,
    arm,
    backwards,
    hold,
    leg,
    limb,
    merge,
    mirrored,
    swing,
    trunk,
    wave,
)

_GUARD = arm("both", (0, "guard"))
_STANCE = trunk(left_hip=14.0, left_knee=16.0, right_hip=-4.0, right_knee=14.0, spine_bend=6.0)


def _circle(side: str, delay: float = 0.0) -> Track:
    # A full turn of the upper arm in the sagittal plane: front, up, back, down.
    turn = 360.0 * np.linspace(0.0, 1.0, len(swing(0, 1))) + 360.0 * delay
    return limb(side, arm=turn, azimuth=8.0, elbow=10.0, swivel=0.0, spread=12.0)


_THROW = merge(
    arm("left", (0, "rest"), (0.38, "cocked"), (0.56, "release"), (0.72, "through"), (1, "rest")),
    arm("right", (0, "rest"), (0.38, (55, 10, 25, 20, 0)), (0.6, "back"), (1, "rest")),
    trunk(
        spine_twist=[(0, 0), (0.38, 38), (0.6, -30), (0.75, -30), (1, 0)],
        spine_bend=[(0, 2), (0.38, -8), (0.65, 22), (1, 2)],
    ),
    leg("right", (0, "stand"), (0.25, (40, 3, 5, 50)), (0.45, (24, 3, 5, 14)), (0.75, (26, 3, 5, 26)), (1, "stand")),
    leg("left", (0, "stand"), (0.38, (-4, 3, 5, 14)), (0.6, (-18, 3, 5, 22)), (0.75, (-16, 3, 5, 24)), (1, "stand")),
)
_THROW_BOTH = merge(
    arm(
        "both",
        (0, "rest"),
        (0.4, "behind_head"),
        (0.58, (120, 8, 12, 10, 0)),
        (0.72, (60, 0, 10, 10, 0)),
        (1, "rest"),
    ),
    trunk(spine_bend=[(0, 2), (0.4, -14), (0.65, 26), (1, 2)]),
    leg("both", (0, "stand"), (0.4, (14, 3, 7, 30)), (0.6, "stand"), (1, "stand")),
)
_PUSH: list[Key] = [(0, "chest"), (0.4, (84, 0, 8, 10, 0)), (0.6, (84, 0, 8, 10, 0)), (1, "chest")]
_LEAN = trunk(spine_bend=[(0, 4), (0.4, 20), (0.6, 20), (1, 4)])
_PUNCH = merge(_GUARD, _STANCE, arm("left", (0, "guard"), (0.22, "jab"), (0.34, "jab"), (0.62, "guard"), (1, "guard")))
_TWIST = trunk(spine_twist=[(0, 6), (0.22, -30), (0.34, -30), (0.62, 6), (1, 6)])
_COMBINATION = merge(
    _STANCE,
    arm("left", (0, "guard"), (0.18, "jab"), (0.24, "jab"), (0.46, "guard"), (1, "guard")),
    arm("right", (0, "guard"), (0.5, "guard"), (0.68, "jab"), (0.74, "jab"), (1, "guard")),
    trunk(spine_twist=[(0, 0), (0.2, -28), (0.46, 0), (0.7, 28), (1, 0)]),
)
_SIP = trunk(head_nod=[(0, 0), (0.3, 0), (0.45, -20), (0.6, -20), (0.75, 0)])
_SWING_LEFT = trunk(left_arm=swing(8, 48), left_azimuth=0.0, left_elbow=12.0, left_spread=9.0)
_SWING_BOTH = merge(
    _SWING_LEFT,
    mirrored(_SWING_LEFT),
    trunk(
        spine_bend=swing(4, 5),
        left_knee=swing(12, 8),
        right_knee=swing(12, 8),
        left_hip=swing(7, 4),
        right_hip=swing(7, 4),
    ),
)
_CLAP = arm("both", (0, "clap_open"), (0.42, "clap"), (0.52, "clap"), (1, "clap_open"))
_CROSS = merge(arm("both", (0, (76, 78, 10, 40, 0)), (0.5, (78, -8, 12, 60, 0)), (1, (76, 78, 10, 40, 0))))
#: In label order.
HAND_ACTIONS: list[Action] = [
    *make_actions(
        ["*wave the {side} hand", "*wave hello with the {side} hand", "*wave the {side} arm in greeting"],
        "hand",
        "cycle",
        0.75,
        wave("left", 128, 62, 42),
        wave("left", 72, 66, 92),
        wave("left", 150, 60, 28),
    ),
    *make_actions(
        ["*wave both hands", "*wave hello with both hands", "*wave both arms in greeting"],
        "hand",
        "cycle",
        0.8,
        wave("both", 132, 66, 38),
        wave("both", 78, 70, 88),
        side="both",
    ),
    *make_actions(
        ["*raise the {side} hand", "*lift the {side} hand up", "*put the {side} arm up"],
        "hand",
        "repeat",
        2.0,
        hold("up"),
        hold("up_side"),
        amplitude=(0.88, 1.0),
    ),
    *make_actions(
        ["*raise both hands", "*lift both hands up", "*put both arms up"],
        "hand",
        "repeat",
        2.0,
        hold("up", "both"),
        hold("up_side", "both"),
        side="both",
        amplitude=(0.88, 1.0),
    ),
    *make_actions(
        ["*punch with the {side} hand", "*throw a punch with the {side} fist", "*hit forward with the {side} hand"],
        "hand",
        "cycle",
        0.85,
        merge(_PUNCH, _TWIST),
    ),
    *make_actions(
        [
            "*punch with both hands",
            "*throw punches with both fists",
            "*box with the left hand and the right hand in turn",
        ],
        "hand",
        "cycle",
        1.2,
        _COMBINATION,
        side="both",
    ),
    *make_actions(
        ["*throw with the {side} hand", "*throw a ball with the {side} hand", "*pitch a ball with the {side} arm"],
        "hand",
        "repeat",
        1.7,
        _THROW,
    ),
    *make_actions(
        ["*throw with both hands", "*throw a ball with both hands", "*throw a ball over the head with both arms"],
        "hand",
        "repeat",
        1.7,
        _THROW_BOTH,
        side="both",
    ),
    *make_actions(
        [
            "*push with the {side} hand",
            "*push something away with the {side} hand",
            "*push forward with the {side} arm",
        ],
        "hand",
        "repeat",
        1.8,
        merge(arm("left", *_PUSH), _LEAN),
    ),
    *make_actions(
        ["*push with both hands", "*push something away with both hands", "*push forward with both arms"],
        "hand",
        "repeat",
        1.8,
        merge(arm("both", *_PUSH), _LEAN),
        side="both",
    ),
    *make_actions(
        [
            "*drink with the {side} hand",
            "*drink from a cup in the {side} hand",
            "*lift a cup to the mouth with the {side} hand",
        ],
        "hand",
        "repeat",
        2.4,
        merge(hold("mouth", stop=0.72), _SIP),
        amplitude=EXACT,
    ),
    *make_actions(
        [
            "*point with the {side} hand",
            "*point forward with the {side} hand",
            "*point at something with the {side} arm",
        ],
        "hand",
        "repeat",
        2.2,
        hold("front"),
        hold((95, 25, 6, 10, 0)),
        amplitude=(0.9, 1.08),
    ),
    *make_actions(
        [
            "*touch the head with the {side} hand",
            "*put the {side} hand on the head",
            "*scratch the head with the {side} hand",
        ],
        "hand",
        "repeat",
        2.0,
        hold("crown"),
        amplitude=EXACT,
    ),
    *make_actions(
        ["*touch the head with both hands", "*put both hands on the head", "*hold the head with both hands"],
        "hand",
        "repeat",
        2.0,
        hold("crown", "both"),
        side="both",
        amplitude=EXACT,
    ),
    *make_actions(
        [
            "*swing the {side} arm",
            "*swing the {side} arm back and forth",
            "*swing the {side} hand forward and backwards",
        ],
        "arm",
        "cycle",
        1.25,
        _SWING_LEFT,
    ),
    *make_actions(
        ["*swing both arms", "*swing both arms back and forth", "*swing both hands forward and backwards"],
        "arm",
        "cycle",
        1.3,
        _SWING_BOTH,
        side="both",
    ),
    *make_actions(
        ["*circle the {side} arm", "*turn the {side} arm in circles", "*make big circles with the {side} arm"],
        "arm",
        "cycle",
        1.3,
        _circle("left"),
        backwards(_circle("left")),
        amplitude=(1.0, 1.0),
    ),
    *make_actions(
        ["*circle both arms", "*turn both arms in circles", "*make big circles with both arms"],
        "arm",
        "cycle",
        1.35,
        merge(_circle("left"), _circle("right")),
        merge(_circle("left"), _circle("right", 0.5)),
        side="both",
        amplitude=(1.0, 1.0),
    ),
    *make_actions(
        ["*clap", "*clap both hands", "*applaud with both hands"],
        "hand",
        "cycle",
        0.55,
        _CLAP,
        side="both",
        amplitude=EXACT,
    ),
    *make_actions(
        ["*stretch both arms", "*stretch both arms to the side", "*open and *close both arms"],
        "arm",
        "repeat",
        2.0,
        _CROSS,
        side="both",
        amplitude=(0.92, 1.05),
    ),
]
