"""Which clips are shown, and that gaps stay gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_runs import write_store

from tmor_fast.data.clip import Clip
from tmor_fast.data.layout import get_layout
from tmor_fast.report import skeletons
from tmor_fast.report.results import Prediction
from tmor_fast.report.skeletons import choose, encode_clip, find_clips

LAYOUT = get_layout("unik17")


def clip(joints: np.ndarray, valid: np.ndarray | None = None, fps: float = 30.0) -> Clip:
    seen = np.ones(joints.shape[:3], dtype=bool) if valid is None else valid
    units = "metres" if joints.shape[-1] == 3 else "pixels"
    return Clip(joints.astype(np.float32), seen, "unik17", "c", units, fps=fps)


def values(data: dict) -> np.ndarray:
    return np.array(data["values"]).reshape(data["frames"], data["persons"], data["joints"], data["channels"])


def prediction(number: int, label: str, right: bool, source: str = "s") -> Prediction:
    return Prediction(source, f"{source}{number}", label, ((label if right else "other", 0.9),), "probability")


def test_half_are_mistakes_and_actions_differ():
    made = [prediction(i, "abcd"[i % 4], i % 5 > 0) for i in range(100)]
    chosen = choose(made, [p.clip_id for p in made], 8)
    assert [p.right for p in chosen] == [True] * 4 + [False] * 4
    assert {p.label for p in chosen[:4]} == set("abcd")
    assert {p.label for p in chosen[4:]} == set("abcd")


def test_what_is_there_is_shown_where_one_kind_is_rare():
    made = [prediction(i, "a", i != 3) for i in range(10)]
    chosen = choose(made, [p.clip_id for p in made], 6)
    assert sum(not p.right for p in chosen) == 1
    assert len(chosen) == 6
    wrong = [prediction(i, "a", False) for i in range(10)]
    assert len(choose(wrong, [p.clip_id for p in wrong], 6)) == 6


def test_only_clips_that_are_there_and_no_clip_twice():
    first = [prediction(i, "a", True, "s") for i in range(6)]
    twins = [Prediction("t", p.clip_id, p.label, p.top, p.unit) for p in first]
    chosen = choose([*first, *twins], ["s0", "s1", "s2"], 12)
    assert sorted(p.clip_id for p in chosen) == ["s0", "s1", "s2"]


def test_a_name_in_two_stores_is_looked_up_by_its_action(tmp_path: Path):
    first, second = write_store(tmp_path / "first", 4), write_store(tmp_path / "second", 8, clips_before=1)
    assert first[2].label != second[2].label
    label = second.label_names[second[2].label]
    wanted = Prediction("s", "clip_002", label, ((label, 1.0),), "probability")
    assert find_clips([first.path, second.path], [wanted])["clip_002"][1].path == second.path
    other = Prediction("s", "clip_002", "juggle", (("juggle", 1.0),), "probability")
    assert find_clips([first.path, second.path], [other])["clip_002"][1].path == first.path
    assert find_clips([first.path], [prediction(9, "a", True)]) == {}


def test_a_missing_joint_is_marked_and_never_a_number():
    joints = np.random.default_rng(0).normal(size=(5, 1, 17, 3))
    valid = np.ones((5, 1, 17), dtype=bool)
    valid[2, 0, 4] = False
    joints[2, 0, 4] = np.nan
    data = encode_clip(clip(joints, valid), LAYOUT)
    assert data is not None
    got = values(data)
    assert (got[2, 0, 4] == -1).all()
    got[2, 0, 4] = 500
    assert got.min() >= 10
    assert got.max() <= 990


def test_the_picture_is_upright_and_keeps_proportions():
    joints = np.zeros((1, 1, 17, 3))
    joints[0, 0, 0] = (0, 2, 0)
    joints[0, 0, 1] = (1, 0, 0)
    for channels, top in ((3, 0), (2, 1)):
        data = encode_clip(clip(joints[..., :channels]), LAYOUT)
        assert data is not None
        got = values(data)[0, 0]
        # 3D is stored with y upwards, 2D downwards; the screen counts downwards.
        assert (got[0, 1] < got[1, 1]) == (top == 0)
        assert abs(got[0, 1] - got[1, 1]) == pytest.approx(2 * abs(got[0, 0] - got[1, 0]), abs=2)


def test_a_turned_body_stays_in_the_picture():
    joints = np.random.default_rng(1).normal(size=(20, 2, 17, 3)) * (1, 1, 4)
    data = encode_clip(clip(joints), LAYOUT)
    assert data is not None
    got = values(data) - skeletons.CENTRE
    assert np.hypot(got[..., 0], got[..., 2]).max() <= skeletons.REACH + 1


def test_long_and_crowded_clips_stay_small_and_keep_their_pace():
    data = encode_clip(clip(np.random.default_rng(0).normal(size=(3000, 6, 17, 3)), fps=60.0), LAYOUT)
    assert data is not None
    assert data["persons"] == skeletons.MOST_PERSONS
    assert len(data["values"]) <= skeletons.MOST_VALUES
    assert data["seconds"] == 50.0
    assert data["frames"] / data["fps"] == pytest.approx(50, rel=0.02)


def test_a_walker_is_followed_and_a_waver_is_not():
    body = np.random.default_rng(0).normal(size=(1, 1, 17, 3)) * (0.2, 0.8, 0.2)
    still = np.repeat(body, 60, axis=0)
    walk = still + np.linspace(0, 9, 60)[:, None, None, None] * (1, 0, 0)
    shown = encode_clip(clip(walk), LAYOUT)
    assert shown is not None
    assert shown["followed"]
    travelled = values(shown)[5:-5, 0, :, 0].mean(axis=1)
    assert np.ptp(travelled) < 30
    standing = encode_clip(clip(still), LAYOUT)
    assert standing is not None
    assert not standing["followed"]


def test_a_clip_without_a_valid_joint_is_not_shown():
    assert encode_clip(clip(np.zeros((3, 1, 17, 2)), np.zeros((3, 1, 17), dtype=bool)), LAYOUT) is None
