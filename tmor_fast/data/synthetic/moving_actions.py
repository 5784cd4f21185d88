"""Actions that step, run, jump or turn (see `action`)."""

from __future__ import annotations

from tmor_fast.data.synthetic import gaits
from tmor_fast.data.synthetic.action import EXACT, Action, make_actions
from tmor_fast.data.synthetic.motion import Track, arm, backwards, leg, merge, mirrored, swing, trunk, wave


def _walk_wave(upper: float, azimuth: float, elbow: float) -> Track:
    return merge(wave("left", upper, azimuth, elbow), {"left_elbow": swing(elbow, 26.0, cycles=2)})


def _walk_clap() -> Track:
    return arm(
        "both",
        (0, "clap_open"),
        (0.22, "clap"),
        (0.28, "clap"),
        (0.5, "clap_open"),
        (0.72, "clap"),
        (0.78, "clap"),
        (1, "clap_open"),
    )


def _march_swing() -> Track:
    one = trunk(left_arm=swing(8, 50, cycles=2), left_azimuth=0.0, left_elbow=12.0, left_spread=9.0)
    return merge(one, mirrored(one))


_JUMP_ARMS = arm(
    "both", (0, "rest"), (0.32, "back"), (0.52, (120, 15, 20, 10, 0)), (0.74, (50, 15, 25, 15, 5)), (1, "rest")
)
_JUMP_UP = arm("both", (0, "rest"), (0.32, "back"), (0.5, "up"), (0.68, "up"), (1, "rest"))
_FORWARD = trunk(travel=[(0, 0), (0.44, 0), (0.74, 0.42), (1, 0.42)])
_ASIDE = merge(
    leg("left", (0, "stand"), (0.25, (16, 16, 5, 30)), (0.5, (2, 24, 7, 2)), (1, "stand")),
    leg("right", (0, "stand"), (0.3, (8, -6, 7, 16)), (0.5, (2, 10, 7, 2)), (0.75, (16, 8, 5, 30)), (1, "stand")),
    trunk(spine_side=swing(0, 3)),
)
_PACE = gaits.steps_in_place(34, 62)
_TURN = merge(
    gaits.steps_in_place(20, 38), trunk(yaw=[(0, 0), (1, 105)], head_turn=[(0, 0), (0.25, 28), (0.7, 14), (1, 0)])
)
_TURN_MORE = merge(
    gaits.steps_in_place(20, 38), trunk(yaw=[(0, 0), (1, 180)], head_turn=[(0, 0), (0.25, 28), (0.7, 14), (1, 0)])
)
#: In label order.
MOVING_ACTIONS: list[Action] = [
    *make_actions(["*walk", "*walk forward", "*take a walk"], "legs", "cycle", 1.1, gaits.walk()),
    *make_actions(
        ["*walk backwards", "*step backwards", "*walk back"],
        "legs",
        "cycle",
        1.25,
        backwards(merge(gaits.walk_legs(17, 40), gaits.arms_swing(12, 24))),
        amplitude=(0.8, 1.1),
    ),
    *make_actions(
        ["*walk in place", "*walk on the spot", "*step in place"],
        "legs",
        "cycle",
        1.1,
        merge(_PACE, gaits.in_place_arms(20, 25)),
    ),
    *make_actions(["*run", "*run forward", "*jog"], "legs", "cycle", 0.72, gaits.run()),
    *make_actions(
        ["*run in place", "*run on the spot", "*jog in place"],
        "legs",
        "cycle",
        0.66,
        merge(gaits.steps_in_place(44, 92, 0.025), gaits.in_place_arms(34, 88), trunk(spine_bend=6.0)),
    ),
    *make_actions(
        ["*march", "*march in place", "*march with high knees"],
        "legs",
        "cycle",
        1.05,
        merge(gaits.steps_in_place(84, 88), gaits.in_place_arms(50, 18)),
    ),
    *make_actions(
        ["*step to the {side} side", "*step aside to the {side}", "*walk to the {side} side"],
        "legs",
        "cycle",
        1.15,
        _ASIDE,
    ),
    *make_actions(
        ["*turn to the {side}", "*turn the body to the {side}", "*turn around to the {side}"],
        "body",
        "once",
        1.6,
        _TURN,
        _TURN_MORE,
        amplitude=(0.85, 1.1),
    ),
    *make_actions(
        ["*jump", "*jump up", "*jump into the air"],
        "legs",
        "repeat",
        1.25,
        merge(gaits.jump_body(), _JUMP_ARMS),
        gaits.jump_body(0.1),
    ),
    *make_actions(
        ["*jump forward", "*jump far forward", "*jump forward with both legs"],
        "legs",
        "repeat",
        1.35,
        merge(gaits.jump_body(0.1), _JUMP_ARMS, _FORWARD),
    ),
    *make_actions(
        ["*jump and *raise both hands", "*jump up and *raise both arms", "*jump up and *put both hands up"],
        "body",
        "repeat",
        1.35,
        merge(gaits.jump_body(0.12), _JUMP_UP),
        side="both",
    ),
    *make_actions(
        ["*do jumping jacks", "*do jumping jacks in place", "*jump and *open both arms and both legs"],
        "body",
        "cycle",
        1.05,
        gaits.jumping_jack(),
        side="both",
        amplitude=(0.85, 1.05),
    ),
    *make_actions(
        ["*jump rope", "*jump over a rope", "*jump with a rope in both hands"],
        "body",
        "cycle",
        0.55,
        gaits.jump_rope(),
        amplitude=(0.85, 1.15),
    ),
    *make_actions(
        [
            "*walk and *wave the {side} hand",
            "*walk forward and *wave the {side} hand",
            "*wave the {side} arm while walking",
        ],
        "body",
        "cycle",
        1.1,
        merge(gaits.walk(), _walk_wave(128, 62, 42)),
        merge(gaits.walk(), _walk_wave(74, 66, 92)),
    ),
    *make_actions(
        ["*walk and *clap", "*walk forward and *clap", "*clap both hands while walking"],
        "body",
        "cycle",
        1.1,
        merge(gaits.walk(), _walk_clap()),
        side="both",
        amplitude=EXACT,
    ),
    *make_actions(
        [
            "*march and *swing both arms",
            "*march in place and *swing both arms",
            "*swing both arms back and forth while marching",
        ],
        "body",
        "cycle",
        1.1,
        merge(gaits.steps_in_place(80, 86), _march_swing()),
        side="both",
    ),
]
