"""Actions of one leg, on the spot (see `action`)."""

from __future__ import annotations

from tmor_fast.data.synthetic import gaits
from tmor_fast.data.synthetic.action import Action, make_actions
from tmor_fast.data.synthetic.motion import arm, flight, leg, merge, swing, trunk

_KICK = merge(
    leg("left", (0, "stand"), (0.3, "wind"), (0.52, "kick"), (0.6, "kick"), (0.78, (30, 3, 5, 45)), (1, "stand")),
    leg("right", (0, "stand"), (0.3, (8, 2, 7, 16)), (0.55, (4, 1, 7, 8)), (1, "stand")),
    arm("left", (0, "rest"), (0.52, "back"), (1, "rest")),
    arm("right", (0, "rest"), (0.52, (45, 40, 25, 20, 5)), (1, "rest")),
    trunk(spine_bend=[(0, 2), (0.3, 8), (0.55, -12), (1, 2)], spine_twist=[(0, 0), (0.3, -8), (0.55, 14), (1, 0)]),
)
_BACK_KICK = merge(
    leg("left", (0, "stand"), (0.25, (30, 3, 5, 60)), (0.52, (-42, 3, 5, 12)), (0.62, (-42, 3, 5, 12)), (1, "stand")),
    leg("right", (0, "stand"), (0.4, (14, 2, 7, 20)), (0.7, (14, 2, 7, 20)), (1, "stand")),
    arm("both", (0, "rest"), (0.5, (40, 20, 40, 25, 5)), (0.65, (40, 20, 40, 25, 5)), (1, "rest")),
    trunk(spine_bend=[(0, 2), (0.52, 38), (0.62, 38), (1, 2)], head_nod=[(0, 0), (0.52, -20), (0.62, -20), (1, 0)]),
)
_SWING_LEG = merge(
    trunk(left_hip=swing(8, 38), left_knee=swing(14, -9), left_hip_side=4.0, right_hip=3.0, right_knee=6.0),
    trunk(spine_bend=swing(0, -6), spine_side=-4.0, left_spread=22.0, right_spread=26.0),
)
_KNEE = merge(
    leg("left", (0, "stand"), (0.3, "knee_up"), (0.7, "knee_up"), (1, "stand")),
    trunk(spine_side=[(0, 0), (0.3, -5), (0.7, -5), (1, 0)]),
)
_SIDE_LEG = merge(
    leg("left", (0, "stand"), (0.35, (4, 48, 5, 4)), (0.65, (4, 48, 5, 4)), (1, "stand")),
    trunk(spine_side=[(0, 0), (0.35, -14), (0.65, -14), (1, 0)], left_spread=14.0, right_spread=22.0),
)
_LUNGE = gaits.lunge()
_FLAMINGO = merge(
    leg("right", (0, "flamingo")), leg("left", (0, "soft")), trunk(spine_side=5.0, left_hip=5.0, left_knee=9.0)
)
_BALANCE = merge(_FLAMINGO, arm("both", (0, (82, 86, 8, 0, 0))))
_TIPPING = merge(_BALANCE, trunk(spine_side=swing(5, 5), left_arm=swing(82, 12), right_arm=swing(82, -12)))
_HOP = merge(
    leg("right", (0, "flamingo")),
    trunk(
        left_hip=swing(18, 12),
        left_knee=swing(30, 20),
        lift=flight(0.28, 0.72, 0.07)["lift"],
        spine_bend=8.0,
        spine_side=4.0,
    ),
    arm("both", (0, (28, 45, 45, 25, 6)), (0.5, (14, 45, 45, 25, 6)), (1, (28, 45, 45, 25, 6))),
)
_KNEEL = merge(
    leg("left", (0, "stand"), (0.35, (10, 3, 5, 40)), (1, (2, 4, 4, 92))),
    leg("right", (0, "stand"), (0.35, (55, 3, 5, 58)), (1, (90, 5, 6, 88))),
    trunk(spine_bend=[(0, 2), (0.5, 22), (1, 4)]),
)
#: In label order.
LEG_ACTIONS: list[Action] = [
    *make_actions(
        ["*kick with the {side} leg", "*kick forward with the {side} leg", "*kick a ball with the {side} foot"],
        "leg",
        "repeat",
        1.5,
        _KICK,
    ),
    *make_actions(
        [
            "*kick backwards with the {side} leg",
            "*kick behind with the {side} leg",
            "*kick back with the {side} foot",
        ],
        "leg",
        "repeat",
        1.7,
        _BACK_KICK,
    ),
    *make_actions(
        [
            "*swing the {side} leg",
            "*swing the {side} leg back and forth",
            "*swing the {side} leg forward and backwards",
        ],
        "leg",
        "cycle",
        1.4,
        _SWING_LEG,
    ),
    *make_actions(
        ["*raise the {side} knee", "*lift the {side} knee up", "*raise the {side} knee to the chest"],
        "leg",
        "repeat",
        1.8,
        _KNEE,
        amplitude=(0.85, 1.08),
    ),
    *make_actions(
        [
            "*raise the {side} leg to the side",
            "*lift the {side} leg to the side",
            "*put the {side} leg out to the side",
        ],
        "leg",
        "repeat",
        1.9,
        _SIDE_LEG,
    ),
    *make_actions(
        [
            "*lunge with the {side} leg",
            "*lunge forward with the {side} leg",
            "*step far forward into a lunge with the {side} leg",
        ],
        "leg",
        "repeat",
        2.0,
        _LUNGE,
        amplitude=(0.88, 1.05),
    ),
    *make_actions(
        ["*balance on the {side} leg", "*stand on the {side} leg", "*balance on the {side} foot"],
        "leg",
        "cycle",
        1.8,
        _BALANCE,
        _TIPPING,
        _FLAMINGO,
    ),
    *make_actions(
        ["*jump on the {side} leg", "*hop on the {side} leg", "*jump on the {side} foot"],
        "leg",
        "cycle",
        0.6,
        _HOP,
        amplitude=(0.85, 1.1),
    ),
    *make_actions(
        ["*kneel on the {side} knee", "*kneel down on the {side} knee", "*go down on the {side} knee"],
        "leg",
        "once",
        1.4,
        _KNEEL,
        amplitude=(1.0, 1.0),
    ),
]
