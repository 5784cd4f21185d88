"""Who is who: tracks that are given, persons followed by place, and who gets a slot."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmor_fast.data.importers.pose_tracks import MEMORY, PersonPose, clip_of_frames
from tmor_fast.data.layout import get_layout
from tmor_fast.errors import DataError

LAYOUT = get_layout("coco17")
SHAPE = np.random.default_rng(0).uniform(-40, 40, size=(17, 2))


def pose(x: float, y: float = 200.0, score: float = 1.0, track: Hashable | None = None) -> PersonPose:
    points = (SHAPE + np.array([x, y])).astype(np.float32)
    return PersonPose(points, np.full(17, 0.8, np.float32), score, track)


def places(frames: list[list[PersonPose]], persons: int = 1) -> list[list[int | None]]:
    """Mean x of each slot in each frame, None where it is empty."""
    clip = clip_of_frames(frames, LAYOUT, "c", persons)
    return [
        [
            round(float((row - SHAPE)[:, 0].mean())) if seen.any() else None
            for row, seen in zip(rows, valid, strict=True)
        ]
        for rows, valid in zip(clip.joints, clip.valid, strict=True)
    ]


def test_tracks_that_are_given_decide():
    # The two swap places, their tracks do not.
    frames = [[pose(100 + 10 * i, track="a"), pose(190 - 10 * i, track="b")] for i in range(10)]
    frames[4].reverse()
    assert places(frames, 2) == [[100 + 10 * i, 190 - 10 * i] for i in range(10)]


def test_persons_without_tracks_are_followed_by_place():
    # The estimator lists them by score, which changes from frame to frame.
    frames = [[pose(100 + i), pose(400 - i)] for i in range(20)]
    for people in frames[::3]:
        people.reverse()
    assert sorted(places(frames, 2)[0]) == [100, 400]
    slots = np.array(places(frames, 2))
    assert set(np.abs(np.diff(slots, axis=0)).ravel().tolist()) == {1}


def test_ids_that_repeat_within_a_frame_are_no_tracks():
    frames = [[pose(100 + i, track=0), pose(400 - i, track=0)] for i in range(8)]
    slots = np.array(places(frames, 2))
    assert set(np.abs(np.diff(slots, axis=0)).ravel().tolist()) == {1}


def test_the_person_with_the_largest_sum_of_scores_is_kept():
    frames = [[pose(100, score=0.5), pose(400, score=0.9)] for _ in range(6)]
    assert places(frames) == [[400]] * 6
    # A passer-by with a high score for two frames is not the one.
    frames = [[pose(100, score=0.5)] + ([pose(400, score=0.9)] if i < 2 else []) for i in range(6)]
    assert places(frames) == [[100]] * 6


def test_a_broken_track_goes_on_in_its_slot():
    frames = [[pose(100, track=1)] for _ in range(4)] + [[]] + [[pose(110, track=7)] for _ in range(3)]
    assert places(frames) == [[100]] * 4 + [[None]] + [[110]] * 3
    # Somebody who was there at the same time is not taken for it.
    frames[3].append(pose(400, track=9))
    frames[4].append(pose(400, track=9))
    assert places(frames) == [[100]] * 4 + [[None]] + [[110]] * 3


@pytest.mark.parametrize(("pause", "same"), [(1, True), (MEMORY - 1, True), (MEMORY + 5, False)])
def test_how_long_somebody_is_remembered(pause: int, same: bool):
    frames = [[pose(100), pose(300)] for _ in range(5)] + [[]] * pause + [[pose(300), pose(105)] for _ in range(5)]
    found = places(frames, 2)
    first, last = found[0], found[-1]
    if same:
        assert [abs(a - b) < 10 for a, b in zip(first, last, strict=True)] == [True, True]  # type: ignore[operator]
    assert {100, 300} == set(first)
    assert {105, 300} == set(last)


def test_a_jump_is_somebody_else():
    frames = [[pose(100, score=2.0)]] * 5 + [[pose(900, score=2.0), pose(101, score=0.1)]] * 3
    assert places(frames) == [[100]] * 5 + [[101]] * 3


def test_nobody():
    blind = PersonPose(np.zeros((17, 2), np.float32), np.zeros(17, np.float32), 1.0, None)
    for frames in ([], [[]], [[blind], [blind]]):
        with pytest.raises(DataError, match="hall: nobody is seen"):
            clip_of_frames(frames, LAYOUT, "hall", 1)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    persons=st.integers(1, 3),
    tracked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_whatever_comes_every_slot_holds_persons_of_its_frame(
    counts: list[int], persons: int, tracked: bool, seed: int
):
    rng = np.random.default_rng(seed)
    frames = [
        [
            pose(float(x), score=float(rng.normal()), track=i if tracked else None)
            for i, x in enumerate(rng.choice(900, n, replace=False))
        ]
        for n in counts
    ]
    if not any(counts):
        return
    clip = clip_of_frames(frames, LAYOUT, "c", persons)
    assert clip.joints.shape[0] == len(frames)
    assert 1 <= clip.joints.shape[1] <= persons
    for people, rows, valid in zip(frames, clip.joints, clip.valid, strict=True):
        used = [row for row, seen in zip(rows, valid, strict=True) if seen.any()]
        sources = [next(i for i, p in enumerate(people) if np.array_equal(p.points, row)) for row in used]
        assert len(set(sources)) == len(sources)
        assert (rows[~valid] == 0).all()
