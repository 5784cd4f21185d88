"""Actions of the whole body on the spot (see `action`)."""

from __future__ import annotations

from tmor_fast.data.synthetic import gaits
from tmor_fast.data.synthetic.action import Action, make_actions
from tmor_fast.data.synthetic.motion import arm, backwards, hold, leg, merge, trunk

_REACH = merge(
    leg("both", (0, "stand"), (0.45, (16, 4, 7, 16)), (0.6, (16, 4, 7, 16)), (1, "stand")),
    arm("both", (0, "rest"), (0.45, (112, 2, 5, 10, 0)), (0.6, (112, 2, 5, 10, 0)), (1, "rest")),
    trunk(spine_bend=[(0, 2), (0.45, 102), (0.6, 102), (1, 2)], head_nod=[(0, 0), (0.45, 12), (0.6, 12), (1, 0)]),
)
_BOW = merge(
    leg("both", (0, "stand"), (0.4, (9, 2, 7, 3)), (0.6, (9, 2, 7, 3)), (1, "stand")),
    trunk(spine_bend=[(0, 2), (0.4, 58), (0.6, 58), (1, 2)], head_nod=[(0, 0), (0.4, 16), (0.6, 16), (1, 0)]),
)
_HANG = arm("both", (0, "rest"), (0.4, (44, 0, 14, 20, 4)), (0.6, (44, 0, 14, 20, 4)), (1, "rest"))
_ALONG = arm("both", (0, "rest"))
_SIT = merge(
    leg("both", (0, "stand"), (0.5, (70, 5, 8, 84)), (1, "sit")),
    trunk(spine_bend=[(0, 2), (0.5, 40), (1, 4)]),
)
_ON_THIGHS = arm("both", (0, "rest"), (0.5, (52, 0, 25, 20, 4)), (1, (22, 5, 62, 40, 2)))
_STRETCH = merge(
    arm("right", (0, "rest"), (0.35, "over"), (0.65, "over"), (1, "rest")),
    trunk(spine_side=[(0, 0), (0.35, 34), (0.65, 34), (1, 0)]),
)
_BOX = merge(
    leg("both", (0, "stand"), (0.38, "squat"), (0.46, "squat"), (0.85, "stand")),
    arm(
        "both",
        (0, "rest"),
        (0.38, (52, 0, 12, 20, 2)),
        (0.46, (52, 0, 12, 20, 2)),
        (0.85, (22, 5, 78, 25, 0)),
        (1, (22, 5, 78, 25, 0)),
    ),
    trunk(spine_bend=[(0, 2), (0.38, 54), (0.46, 54), (0.85, 0), (1, 0)]),
)
#: In label order.
BODY_ACTIONS: list[Action] = [
    *make_actions(
        ["*touch the toes", "*bow down and *touch the toes", "*touch the feet with both hands"],
        "body",
        "repeat",
        2.3,
        _REACH,
        side="both",
        amplitude=(0.9, 1.05),
    ),
    *make_actions(
        ["*bow", "*bow down", "*bow forward in greeting"],
        "body",
        "repeat",
        2.1,
        merge(_BOW, _HANG),
        merge(_BOW, _ALONG),
        amplitude=(0.7, 1.15),
    ),
    *make_actions(
        ["*sit down", "*sit down on a chair", "*take a seat"],
        "body",
        "once",
        1.5,
        merge(_SIT, _ON_THIGHS),
        _SIT,
        amplitude=(0.95, 1.0),
    ),
    *make_actions(
        ["*stand up", "*stand up from a chair", "*get up from a seat"],
        "body",
        "once",
        1.4,
        backwards(merge(_SIT, _ON_THIGHS)),
        backwards(_SIT),
        amplitude=(0.95, 1.0),
    ),
    *make_actions(
        ["*stretch to the {side} side", "*stretch the body to the {side} side", "*lean over to the {side} side"],
        "body",
        "repeat",
        2.2,
        _STRETCH,
    ),
    *make_actions(
        [
            "*lift a box with both hands",
            "*lift a box up from the floor with both hands",
            "*squat and *lift a box with both hands",
        ],
        "body",
        "once",
        1.9,
        _BOX,
        side="both",
        amplitude=(0.92, 1.05),
    ),
    *make_actions(
        ["*squat", "*squat down", "*squat down and *stand up"],
        "body",
        "repeat",
        1.9,
        merge(gaits.squat_legs(), hold("front", "both", 0.42, 0.58)),
        gaits.squat_legs(),
        merge(gaits.squat_legs(), arm("both", (0, "chest"))),
        amplitude=(0.85, 1.05),
    ),
    *make_actions(
        ["*squat and *raise both hands", "*squat down and *raise both arms", "*squat down and *put both hands up"],
        "body",
        "repeat",
        2.0,
        merge(gaits.squat_legs(), hold("up", "both", 0.45, 0.58)),
        side="both",
        amplitude=(0.88, 1.03),
    ),
    *make_actions(
        ["*do push-ups", "*do push-ups on the floor", "*push the body up from the floor"],
        "body",
        "cycle",
        1.5,
        gaits.push_ups(),
        amplitude=(1.0, 1.0),
    ),
    *make_actions(
        ["*do sit-ups", "*do sit-ups on the floor", "*sit up from the floor again and again"],
        "body",
        "cycle",
        1.7,
        gaits.sit_ups(),
        amplitude=(1.0, 1.0),
    ),
]
