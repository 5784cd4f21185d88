"""The rules for clips, each on the clip it is made for and on one it must leave alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmor_fast.data import Clip, ClipBatch, get_layout
from tmor_fast.data.check.across import AcrossClips
from tmor_fast.data.check.clips import _stretches, check_batch, check_clip
from tmor_fast.data.check.findings import Finding, Report

Make = Callable[..., Clip]
UNIK = get_layout("unik17")


def walking(clip: Make, frames: int = 90, **fields: object) -> Clip:
    """A body 2 metres tall that moves smoothly."""
    made = clip(0, frames, channels=3)
    body = np.random.default_rng(1).uniform(-1, 1, (made.joints.shape[2], 3))
    time = np.arange(frames)[:, None, None] / 30
    made.joints[:, 0] = body + 0.05 * np.sin(time + body)
    return replace(made, **fields)


def errors(found: Sequence[Finding]) -> list[str]:
    return [bad.kind for bad in found if bad.severity == "error"]


def kinds(found: Sequence[Finding]) -> list[str]:
    return [bad.kind for bad in found]


def test_a_sound_clip_has_no_findings(clip: Make) -> None:
    assert check_clip(walking(clip), 2) == []


def test_every_joint_and_stretch_that_is_not_finite_is_found(clip: Make) -> None:
    bad = walking(clip)
    bad.joints[3:6, 0, 7, 1] = np.nan
    bad.joints[8, 0, 7, 0] = np.inf
    bad.joints[5, 0, 16, 2] = -np.inf
    bad.joints[20, 0, 2] = np.nan
    bad.valid[20, 0, 2] = False  # what an unseen joint holds does not matter
    found = check_clip(bad, 2)
    assert [(item.kind, item.frame, item.last_frame, item.person, item.joint) for item in found] == [
        ("not-finite", 3, 5, 0, "left_elbow"),
        ("not-finite", 8, 8, 0, "left_elbow"),
        ("not-finite", 5, 5, 0, "right_ankle"),
    ]
    assert str(found[0]).startswith("clip 'clip0', frame 3 to 5, person 0, joint 'left_elbow': is marked valid but")
    assert all(item.remedy for item in found)


def test_labels_splits_and_rates(clip: Make) -> None:
    bad = walking(clip, label=2, split="dev", fps=0.0, frame_label=np.array([0] * 4 + [5] * 3 + [-2] + [1] * 82))
    found = check_clip(bad, 2)
    assert errors(found) == ["label", "split", "fps", "label"]
    assert (found[3].frame, found[3].last_frame) == (4, 7)
    assert "label 2 is outside the list, -1 (none) to 1" in found[0].what


def test_what_is_missing(clip: Make) -> None:
    blank = walking(clip)
    blank.valid[:] = False
    (found,) = check_clip(blank, 2)
    assert (found.severity, found.kind) == ("error", "all-missing")
    assert "in any of its 90 frames" in found.what
    partly = walking(clip)
    partly.valid[10:15] = False
    partly.valid[89] = False
    gaps = check_clip(partly, 2)
    assert [(item.severity, item.kind, item.frames) for item in gaps] == [
        ("warning", "frames-missing", "10 to 14"),
        ("warning", "frames-missing", "89"),
    ]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"joints": np.zeros((0, 1, 17, 3), np.float32), "valid": np.zeros((0, 1, 17), bool)}, "empty"),
        ({"joints": np.zeros((4, 0, 17, 3), np.float32), "valid": np.zeros((4, 0, 17), bool)}, "empty"),
        ({"joints": np.zeros((4, 1, 16, 3), np.float32), "valid": np.zeros((4, 1, 16), bool)}, "layout"),
        ({"joints": np.zeros((4, 1, 17, 4), np.float32), "valid": np.zeros((4, 1, 17), bool)}, "shape"),
        ({"valid": np.zeros((4, 1, 17), bool)}, "shape"),
        ({"clip_id": ""}, "clip-id"),
    ],
)
def test_shapes_that_do_not_fit(clip: Make, change: dict[str, object], kind: str) -> None:
    assert errors(check_clip(walking(clip, **change), 2)) == [kind]


def test_one_frame_is_a_warning(clip: Make) -> None:
    (found,) = check_clip(walking(clip, frames=1), 2)
    assert (found.severity, found.kind) == ("warning", "one-frame")


def test_frozen_joints_and_bodies(clip: Make) -> None:
    stuck = walking(clip)
    stuck.joints[10:80, 0, 9] = stuck.joints[10, 0, 9]
    found = check_clip(stuck, 2)
    assert [(item.kind, item.frames, item.joint) for item in found] == [("frozen", "10 to 79", "left_wrist")]
    short = walking(clip)
    short.joints[10:60, 0, 9] = short.joints[10, 0, 9]
    assert check_clip(short, 2) == [], "less than two seconds may be rest"
    still = walking(clip)
    still.joints[:] = still.joints[0]
    (whole,) = check_clip(still, 2)
    assert (whole.kind, whole.joint, whole.frames) == ("frozen", "", "0 to 89")


def test_jumps(clip: Make) -> None:
    jumping = walking(clip)
    jumping.joints[40, 0, 9] += 20
    found = check_clip(jumping, 2)
    assert [(item.kind, item.frame, item.joint) for item in found] == [
        ("teleport", 40, "left_wrist"),
        ("teleport", 41, "left_wrist"),
    ]
    swapped = walking(clip)
    swapped.joints[40:] += 20
    assert [(item.kind, item.frame, item.joint) for item in check_clip(swapped, 2)] == [("teleport", 40, "")]
    unseen = walking(clip)
    unseen.joints[40, 0, 9] += 20
    unseen.valid[40, 0, 9] = False
    assert check_clip(unseen, 2) == [], "an unseen joint jumps nowhere"


def test_bodies_in_a_point_and_in_other_units(clip: Make) -> None:
    point = walking(clip)
    point.joints[5:8] = 1.0
    assert ("zero-size", "5 to 7") in [(item.kind, item.frames) for item in check_clip(point, 2)]
    millimetres = walking(clip)
    millimetres.joints *= 1000
    (found,) = check_clip(millimetres, 2)
    assert (found.kind, found.severity) == ("units", "warning")
    assert "millimetres" in found.remedy
    millimetres.units = "normalised"
    assert check_clip(millimetres, 2) == []


def test_errors_alone_on_request(clip: Make) -> None:
    bad = walking(clip, frames=1, label=9)
    assert kinds(check_clip(bad, 2)) == ["label", "one-frame"]
    assert kinds(check_clip(bad, 2, warnings=False)) == ["label"]


def test_clips_of_a_batch_are_told_apart(clip: Make) -> None:
    parts = [walking(clip) for _ in range(3)]
    batch = ClipBatch.build(
        np.concatenate([part.joints for part in parts]), np.array([0, 90, 180, 270]), ["a", "b", "c"],
        valid=np.ones((270, 1, 17), bool), label=np.array([0, 5, 1]),
    )  # fmt: skip
    batch.joints[90:93, 0, 0] = np.nan
    batch.joints[89, 0, 0] = np.nan
    found = check_batch(batch, UNIK, "metres", 2)
    assert [(item.clip, item.kind, item.frames) for item in found] == [
        ("b", "label", ""),
        ("a", "not-finite", "89"),
        ("b", "not-finite", "0 to 2"),
    ]


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=5))
def test_stretches_are_the_runs_of_each_clip(clips: list[list[bool]]) -> None:
    offsets = np.cumsum([0, *map(len, clips)])
    batch = ClipBatch.build(np.zeros((offsets[-1], 1, 1, 2)), offsets, [str(n) for n in range(len(clips))])
    found = list(_stretches(batch, np.array([flag for flags in clips for flag in flags])))
    covered = [[False] * len(flags) for flags in clips]
    for number, first, last in found:
        assert 0 <= first <= last < len(clips[number])
        assert not (first and clips[number][first - 1]), "a run begins where its frames do"
        for frame in range(first, last + 1):
            assert not covered[number][frame]
            covered[number][frame] = True
    assert covered == clips
    assert found == sorted(found)


def test_names_and_motion_that_repeat(clip: Make) -> None:
    across = AcrossClips()

    def add(**fields: object) -> list[tuple[str, str, str]]:
        found = across.add(ClipBatch.from_clip(walking(clip, **fields)), "file")
        return [(item.severity, item.kind, item.clip) for item in found]

    assert add(clip_id="a", split="train") == []
    assert add(clip_id="b", split="train") == [], "the same motion twice in training is no leak"
    assert add(clip_id="c", split="test") == [("warning", "leakage", "c")]
    assert add(clip_id="a", split="test", frames=20) == [("error", "leakage", "a")]
    assert add(clip_id="b", split="train", frames=20) == [("error", "duplicate-id", "b")]
    assert add(clip_id="", frames=20) == [("error", "clip-id", "")]


def test_captions_and_units_of_all_clips(clip: Make) -> None:
    none, some = AcrossClips(), AcrossClips()
    for number in range(4):
        none.add(ClipBatch.from_clip(walking(clip, clip_id=f"c{number}")))
        made = walking(clip, clip_id=f"c{number}", caption="" if number == 2 else "walks")
        if number == 3:
            made.joints *= 1000
        some.add(ClipBatch.from_clip(made))
    assert [(item.kind, item.clip) for item in none.finish()] == [("caption", "")]
    assert [(item.kind, item.clip) for item in some.finish()] == [("caption", "c2"), ("mixed-units", "c3")]


def test_a_report_counts_and_orders() -> None:
    report = Report("p", "npz")
    report.add([Finding("warning", "caption", "w", "r", clip="a")] * 3 + [Finding("error", "label", "w", "r")], "f")
    assert report.kinds() == [("error", "label", 1, 0), ("warning", "caption", 3, 1)]
    assert (report.ok, report.count("error"), report.count("warning")) == (False, 1, 3)
    assert {found.file for found in report} == {"f"}
    with pytest.raises(ValueError, match="accepted: error, warning"):
        Finding("fatal", "k", "w", "r")
