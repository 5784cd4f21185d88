"""`Clip.check` names what is wrong and where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tmor_fast.data import Clip
from tmor_fast.errors import DataError

Make = Callable[..., Clip]


def test_a_good_clip_passes(clip: Make) -> None:
    clip().check()
    clip(persons=2, channels=3, confidence=np.ones((6, 2, 17)), frame_label=np.zeros(6, int)).check()


def test_invalid_joints_may_hold_anything(clip: Make) -> None:
    bad = clip()
    bad.joints[2, 0, 3] = np.nan
    bad.valid[2, 0, 3] = False
    bad.check()


def test_a_valid_joint_that_is_not_finite_is_named(clip: Make) -> None:
    bad = clip(seed=7, persons=2)
    bad.joints[4, 1, 9, 0] = np.inf
    with pytest.raises(DataError, match=r"clip 'clip7': frame 4, person 1, joint 'left_wrist'"):
        bad.check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_id": ""}, "clip_id"),
        ({"layout": "nope"}, "clip0.*unknown skeleton layout 'nope'"),
        ({"layout": "penn13", "joints": np.zeros((6, 1, 17, 2), np.float32)}, "17 joints, but layout 'penn13' has 13"),
        ({"units": "feet"}, "units 'feet'; accepted: pixels"),
        ({"split": "dev"}, "split 'dev'"),
        ({"fps": 0.0}, "fps"),
        ({"joints": np.zeros((6, 17, 2), np.float32)}, "T, M, V, C"),
        ({"joints": np.zeros((0, 1, 17, 2), np.float32)}, "0 frames"),
        ({"valid": np.ones((5, 1, 17), bool)}, "valid must be"),
        ({"valid": np.ones((6, 1, 17))}, "bool"),
        ({"confidence": np.ones((6, 17))}, "confidence must be"),
        ({"frame_label": np.ones(5, int)}, "frame_label must be"),
    ],
)
def test_what_is_wrong_is_said(clip: Make, changes: dict[str, object], message: str) -> None:
    fields = {**changes}
    layout = fields.pop("layout", "unik17")
    bad = clip(**fields)
    bad.layout = str(layout)
    with pytest.raises(DataError, match=message):
        bad.check()
