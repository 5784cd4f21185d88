"""Synthetic motion: reproducible, anatomically possible, labelled and described as it moves."""

from __future__ import annotations

import json
import re
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tmor_fast.data.synthetic import (
    ACTIONS,
    ZERO_SHOT_ACTIONS,
    SyntheticBatch,
    action_names,
    generate,
    get_actions,
)
from tmor_fast.data.synthetic.action import gerund, inflect, third_person
from tmor_fast.data.synthetic.body import JOINT_NAMES, NUM_CHANNELS, draw_bodies, forward_kinematics
from tmor_fast.data.synthetic.camera import project, side_in_view
from tmor_fast.data.synthetic.motion import (
    NEUTRAL,
    PHASE,
    backwards,
    flight,
    keys,
    mirrored,
    swing,
    table,
    to_units,
    trunk,
)

BONES = [
    (3, 4), (2, 3), (1, 2), (0, 1), (5, 2), (7, 5), (9, 7), (6, 2), (8, 6), (10, 8),
    (11, 4), (13, 11), (15, 13), (12, 4), (14, 12), (16, 14),
]  # fmt: skip
HEAD, NECK, MID_HIP, LEFT_WRIST, RIGHT_WRIST = 0, 2, 4, 9, 10
LEFT_ANKLE, RIGHT_ANKLE = 15, 16
NAMES = action_names()


def only(num_clips: int, **options) -> SyntheticBatch:
    """All clips in one batch."""
    return next(generate(num_clips, batch=num_clips, **options))


@cache
def clean() -> SyntheticBatch:
    """Every action several times in 3D, facing the viewer, without noise or gaps."""
    return only(len(ACTIONS) * 6, seed=11, noise=0.0, missing=0.0, yaw=(0.0, 0.0))


def clips_of(batch: SyntheticBatch, name: str) -> list[np.ndarray]:
    """The clips (T, 17, C) of an action, without padding."""
    found = np.flatnonzero(batch.label == action_names(batch.actions).index(name))
    assert len(found) >= 3
    return [batch.joints[i, : batch.length[i], 0] for i in found]


def assert_same(a: SyntheticBatch, b: SyntheticBatch) -> None:
    for field in ("joints", "valid", "length", "index", "label", "subject", "test", "repetitions"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)
    assert (a.caption, a.view, a.style) == (b.caption, b.view, b.style)


# Reproducibility


@pytest.mark.parametrize("dims", [2, 3])
def test_clips_do_not_depend_on_batch_number_or_start(dims: int) -> None:
    whole = only(300, seed=5, dims=dims)
    again = only(300, seed=5, dims=dims)
    assert_same(whole, again)
    parts = list(generate(300, seed=5, dims=dims, batch=77))
    assert [len(part) for part in parts] == [77, 77, 77, 69]
    for number, part in enumerate(parts):
        assert_same(part, whole.slice(77 * number, 77 * number + len(part)))
    assert_same(only(40, seed=5, dims=dims), whole.slice(0, 40))
    assert_same(only(50, seed=5, dims=dims, start=240), whole.slice(240, 290))


def test_seeds_differ_in_everything() -> None:
    a, b = only(64, seed=1), only(64, seed=2)
    assert (a.label != b.label).any()
    assert (a.length != b.length).any()
    assert a.caption != b.caption
    assert not np.isclose(a.joints[a.valid & b.valid], b.joints[a.valid & b.valid]).all(axis=-1).any()


def test_noise_and_gaps_do_not_change_the_motion_below() -> None:
    plain = only(64, seed=4, noise=0.0, missing=0.0)
    noisy = only(64, seed=4, noise=0.01, missing=0.1)
    np.testing.assert_array_equal(plain.label, noisy.label)
    assert plain.caption == noisy.caption
    error = (noisy.joints - plain.joints)[noisy.valid]
    height = 1.65
    assert 0.7 * 0.01 * height < error.std() < 1.4 * 0.01 * height
    # Half of the noise is slow: errors of neighbouring frames correlate at about one half.
    error = noisy.joints - plain.joints
    both = noisy.valid[:, 1:] & noisy.valid[:, :-1]
    correlation = np.corrcoef(error[:, 1:][both].ravel(), error[:, :-1][both].ravel())[0, 1]
    assert 0.35 < correlation < 0.6


# Shape and bookkeeping


@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_types_and_padding(dims: int) -> None:
    batch = only(100, seed=3, dims=dims, frames=(30, 50))
    assert batch.joints.shape == (100, 50, 1, 17, dims)
    assert batch.joints.dtype == np.float32
    assert batch.valid.shape == (100, 50, 1, 17)
    assert np.isfinite(batch.joints).all()
    assert batch.length.min() >= 30
    assert batch.length.max() <= 50
    assert len(set(batch.length.tolist())) > 10
    outside = np.arange(50) >= batch.length[:, None]
    assert not batch.valid[outside].any()
    assert (batch.joints[~batch.valid] == 0).all()
    assert batch.image_size == ((640, 480) if dims == 2 else None)


def test_labels_are_balanced() -> None:
    batch = only(10 * len(ACTIONS), seed=9, frames=(2, 4), noise=0.0, missing=0.0)
    assert (np.bincount(batch.label, minlength=len(ACTIONS)) == 10).all()
    counts = np.bincount(only(1000, seed=9, frames=(2, 4), noise=0.0, missing=0.0, actions=NAMES[:7]).label)
    assert counts.max() - counts.min() <= 1


def test_people_are_held_out_as_a_whole() -> None:
    batch = only(1500, seed=2, frames=(2, 3), noise=0.0, missing=0.0, subjects=50, test_share=0.3)
    held_out = set(batch.subject[batch.test].tolist())
    assert held_out.isdisjoint(batch.subject[~batch.test].tolist())
    assert len(held_out) == 15
    assert not only(10, seed=2, frames=(2, 3), test_share=0.0).test.any()


@pytest.mark.parametrize("rate", [0.02, 0.25])
def test_missing_joints_come_in_runs_at_the_rate_asked_for(rate: float) -> None:
    batch = only(512, seed=6, missing=rate, frames=(60, 60))
    lost = ~batch.valid[:, :, 0]
    assert lost.mean() == pytest.approx(rate, rel=0.12)
    starts = (lost[:, 1:] & ~lost[:, :-1]).sum()
    assert lost[:, 1:].sum() / starts > 4.0


# Anatomy


def test_joint_names_follow_the_layout() -> None:
    from tmor_fast.data.layout import get_layout

    layout = get_layout("unik17")
    assert layout.num_joints == len(JOINT_NAMES) == 17
    assert set(layout.bones) == set(BONES) or {frozenset(b) for b in layout.bones} == {frozenset(b) for b in BONES}
    for left, right in layout.left_right:
        assert JOINT_NAMES[left] == JOINT_NAMES[right].replace("right", "left")


def test_bones_keep_their_length() -> None:
    batch = clean()
    for i in range(len(batch)):
        clip = batch.joints[i, : batch.length[i], 0].astype(np.float64)
        lengths = np.stack([np.linalg.norm(clip[:, a] - clip[:, b], axis=-1) for a, b in BONES], axis=1)
        assert np.ptp(lengths, axis=0).max() < 1e-4
        np.testing.assert_allclose(lengths[0, [4, 5, 6, 10, 11, 12]], lengths[0, [7, 8, 9, 13, 14, 15]], atol=1e-5)
    clip = batch.joints[0, : batch.length[0], 0]
    np.testing.assert_allclose(clip[:, 3], 0.5 * (clip[:, 2] + clip[:, 4]), atol=1e-5)  # chest
    np.testing.assert_allclose(clip[:, 1], 0.5 * (clip[:, 0] + clip[:, 2]), atol=1e-5)  # mouth
    np.testing.assert_allclose(clip[:, 2], 0.5 * (clip[:, 5] + clip[:, 6]), atol=1e-5)  # neck


def test_nothing_is_below_the_floor_and_feet_stay_near_it() -> None:
    batch = clean()
    for i in range(len(batch)):
        name = NAMES[batch.label[i]]
        clip = batch.joints[i, : batch.length[i], 0]
        assert clip[..., 1].min() > 0.0, name
        lower_foot = clip[:, [LEFT_ANKLE, RIGHT_ANKLE], 1].min(axis=1)
        if not re.search("jump|run", name):
            assert lower_foot.max() < 0.18, name
        if name == "jump":
            assert lower_foot.max() > 0.15


def test_knees_and_elbows_bend_the_right_way() -> None:
    batch = clean()
    for i in range(len(batch)):
        clip = batch.joints[i, : batch.length[i], 0].astype(np.float64)
        hips = clip[:, 11] - clip[:, 12]
        for hip, knee, ankle in ((11, 13, 15), (12, 14, 16)):
            thigh, shank = clip[:, knee] - clip[:, hip], clip[:, ankle] - clip[:, knee]
            # The shank turns backwards about the axis from the right to the left hip, never forward.
            turn = np.einsum("tc,tc->t", np.cross(thigh, shank), hips)
            scale = np.linalg.norm(thigh, axis=1) * np.linalg.norm(shank, axis=1) * np.linalg.norm(hips, axis=1)
            bent = np.linalg.norm(np.cross(thigh, shank), axis=1) > 0.5 * scale / np.linalg.norm(hips, axis=1)
            assert (turn[bent] > 0).all(), NAMES[batch.label[i]]
        for shoulder, elbow, wrist in ((5, 7, 9), (6, 8, 10)):
            upper, fore = clip[:, elbow] - clip[:, shoulder], clip[:, wrist] - clip[:, elbow]
            cosine = np.einsum("tc,tc->t", upper, fore) / np.linalg.norm(upper, axis=1) / np.linalg.norm(fore, axis=1)
            assert cosine.min() > np.cos(np.deg2rad(156)), NAMES[batch.label[i]]


def test_carrying_feet_do_not_slide() -> None:
    for clip in clips_of(clean(), "squat") + clips_of(clean(), "raise both hands"):
        middle = 0.5 * (clip[:, LEFT_ANKLE] + clip[:, RIGHT_ANKLE])
        assert np.ptp(middle[:, [0, 2]], axis=0).max() < 0.05


# The motion is what the name says


def test_sides_are_the_body_s_own() -> None:
    for name, high, low in (
        ("raise the left hand", LEFT_WRIST, RIGHT_WRIST),
        ("raise the right hand", RIGHT_WRIST, LEFT_WRIST),
        ("raise the left leg to the side", LEFT_ANKLE, RIGHT_ANKLE),
        ("kick with the right leg", RIGHT_ANKLE, LEFT_ANKLE),
        ("balance on the left leg", RIGHT_ANKLE, LEFT_ANKLE),
    ):
        for clip in clips_of(clean(), name):
            top = np.argmax(clip[:, high, 1] - clip[:, low, 1])
            assert clip[top, high, 1] > clip[top, low, 1] + 0.15, name
    # Facing the viewer, who has x to the right, the left shoulder is on the right.
    for clip in clips_of(clean(), "squat"):
        assert (clip[:, 5, 0] > clip[:, 6, 0]).all()


def test_raised_hands_are_over_the_head() -> None:
    for clip in clips_of(clean(), "raise both hands"):
        assert clip[:, [LEFT_WRIST, RIGHT_WRIST], 1].min(axis=1).max() > clip[:, HEAD, 1].max()


def test_where_people_go() -> None:
    def way(name: str) -> np.ndarray:
        return np.array([clip[-1, MID_HIP] - clip[0, MID_HIP] for clip in clips_of(clean(), name)])

    assert (way("walk")[:, 2] > 0.4).all()
    assert (way("run")[:, 2] > way("walk")[:, 2].mean()).all()
    assert (way("walk backwards")[:, 2] < -0.2).all()
    assert (np.abs(way("walk in place")[:, [0, 2]]) < 0.25).all()
    assert (way("jump forward")[:, 2] > 0.3).all()
    assert (way("step to the left side")[:, 0] > 0.03).all()
    assert way("step to the left side")[:, 0].mean() > 0.15
    assert (way("step to the right side")[:, 0] < -0.03).all()
    assert (way("sit down")[:, 1] < -0.2).all()
    assert (way("stand up")[:, 1] > 0.2).all()


def test_hands_arrive() -> None:
    for clip in clips_of(clean(), "drink with the left hand"):
        assert np.linalg.norm(clip[:, LEFT_WRIST] - clip[:, 1], axis=1).min() < 0.25
    for clip in clips_of(clean(), "clap"):
        assert np.linalg.norm(clip[:, LEFT_WRIST] - clip[:, RIGHT_WRIST], axis=1).min() < 0.16
    for clip in clips_of(clean(), "touch the toes"):
        assert clip[:, LEFT_WRIST, 1].min() < 0.22 * clip[0, HEAD, 1]


def test_turning_and_views() -> None:
    for name, sign in (("turn to the left", 1), ("turn to the right", -1)):
        for clip in clips_of(clean(), name):
            across = clip[-1, 5] - clip[-1, 6]
            # At yaw a the left shoulder lies at (cos a, 0, -sin a).
            turned = np.arctan2(-across[2], across[0])
            assert sign * (turned % (sign * 2 * np.pi)) > 1.2, name
    assert side_in_view(np.deg2rad([0.0, 44.0, 90.0, 180.0, -180.0, -90.0])) == [
        "front", "front", "right side", "back", "back", "left side",
    ]  # fmt: skip
    assert set(clean().view) == {"front"}
    assert len(set(only(64, seed=1, frames=(2, 2)).view)) == 4


# Two dimensions


@pytest.mark.parametrize("camera", ["weak", "orthographic"])
def test_bodies_stay_in_the_image_with_y_down(camera: str) -> None:
    batch = only(200, seed=8, dims=2, noise=0.0, missing=0.0, camera=camera, image_size=(320, 240))
    seen = batch.joints[batch.valid]
    assert seen.min() >= 0
    assert seen[:, 0].max() <= 320
    assert seen[:, 1].max() <= 240
    standing = np.isin(batch.label, [NAMES.index(name) for name in ("walk", "clap", "wave both hands")])
    assert standing.any()
    first = batch.joints[standing, 0, 0]
    assert (first[:, HEAD, 1] < first[:, MID_HIP, 1]).all()
    assert (first[:, MID_HIP, 1] < first[:, LEFT_ANKLE, 1]).all()


def test_projection_of_a_known_point() -> None:
    joints = np.zeros((17, 3, 1, 2), np.float32)
    joints[0, :, 0, :] = np.array([0.5, 1.0, 0.0])[:, None]
    joints[4, :, 0, :] = np.array([0.0, 0.0, 0.3])[:, None]
    inside = np.ones((1, 2), bool)
    height = np.ones(1, np.float32)
    plane, unit = project(joints, inside, height, np.random.default_rng(0), 1, (0.0, 0.0), "orthographic", (400, 400))
    step = plane[0, :, 0, 0] - plane[4, :, 0, 0]
    np.testing.assert_allclose(step, [0.5 * unit[0], -1.0 * unit[0]], rtol=1e-5)
    # From straight above, what is nearer to the viewer is lower in the image.
    plane, unit = project(
        joints, inside, height, np.random.default_rng(0), 1, (np.pi / 2, np.pi / 2), "orthographic", (400, 400)
    )
    np.testing.assert_allclose(plane[4, :, 0, 0] - plane[0, :, 0, 0], [-0.5 * unit[0], 0.3 * unit[0]], rtol=1e-4)


def test_walking_towards_a_weak_camera_grows() -> None:
    batch = only(60, seed=8, dims=2, noise=0.0, missing=0.0, yaw=(0.0, 0.0), pitch=(0.0, 0.0), actions=["walk"])
    for i in range(len(batch)):
        clip = batch.joints[i, : batch.length[i], 0]
        size = np.linalg.norm(clip[:, NECK] - clip[:, MID_HIP], axis=-1)
        assert size[-1] > 1.02 * size[0]


# Words


def test_there_are_enough_actions_with_distinct_names() -> None:
    assert len(ACTIONS) >= 48
    assert len(set(NAMES)) == len(NAMES)
    for action in ACTIONS:
        assert inflect(action.phrases[0], "base") == action.name
        assert len(set(action.phrases)) >= 3
        for word in action.verb.split(" and "):
            assert re.search(rf"\b{word}\b", action.name)
        for side in ("left", "right"):
            assert (side in action.name.split()) == (action.side == side)


def test_words_of_held_out_actions_occur_elsewhere() -> None:
    known = {word for name in NAMES if name not in ZERO_SHOT_ACTIONS for word in name.split()}
    for name in ZERO_SHOT_ACTIONS:
        assert name in NAMES
        assert set(name.split()) <= known


def test_verb_forms() -> None:
    assert [third_person(v) for v in ("wave", "push", "do", "stretch", "carry", "play")] == [
        "waves", "pushes", "does", "stretches", "carries", "plays",
    ]  # fmt: skip
    assert [gerund(v) for v in ("wave", "sit", "run", "kick", "bow")] == [
        "waving", "sitting", "running", "kicking", "bowing",
    ]  # fmt: skip
    assert inflect("*walk and *wave the left hand", "third") == "walks and waves the left hand"


def test_captions_say_action_and_style() -> None:
    batch = only(1000, seed=12, noise=0.0, missing=0.0)
    for i, caption in enumerate(batch.caption):
        action = batch.actions[batch.label[i]]
        forms = {inflect(p, form) for p in action.phrases for form in ("base", "third", "gerund")}
        assert any(phrase in caption for phrase in forms), caption
        assert not re.search(r"[*{}]|  ", caption)
    assert any("slow" in c for c, s in zip(batch.caption, batch.style, strict=True) if s == "slow")
    plain = [c for c, s in zip(batch.caption, batch.style, strict=True) if s == "plain"]
    assert not any(re.search(r"slow|fast|quick|tired", c) for c in plain)
    twice = [i for i, c in enumerate(batch.caption) if c.split()[-1] == "twice"]
    assert twice
    assert all(batch.repetitions[i] == 2 for i in twice)
    assert len(set(batch.caption)) > 500
    assert batch.attributes[0] == batch.actions[batch.label[0]].attributes


def test_slow_clips_are_slower() -> None:
    batch = only(600, seed=3, frames=(60, 60), noise=0.0, missing=0.0, actions=["walk"])
    speed = np.abs(np.diff(batch.joints[:, :, 0, LEFT_ANKLE], axis=1)).sum(axis=-1).mean(axis=1)
    style = np.array(batch.style)
    assert speed[style == "slow"].mean() < 0.8 * speed[style == "plain"].mean()
    assert speed[style == "quick"].mean() > 1.2 * speed[style == "plain"].mean()


# Parts


def test_keys_pass_through_their_points_and_rest_there() -> None:
    course = keys((0.0, 1.0), (0.5, 3.0), (1.0, 2.0))
    np.testing.assert_allclose(course[[0, 128, 256]], [1.0, 3.0, 2.0])
    assert abs(course[129] - course[128]) < 1e-3
    assert course[64] == pytest.approx(2.0)
    np.testing.assert_array_equal(keys((0.3, 4.0)), np.full(len(PHASE), 4.0))
    with pytest.raises(ValueError, match="increase"):
        keys((0.5, 0.0), (0.2, 1.0))


def test_mirroring_twice_and_reversing_twice_change_nothing() -> None:
    track = trunk(yaw=swing(0, 5), left_arm=swing(2, 3, shift=0.1), right_knee=4.0, spine_bend=7.0)
    other = mirrored(track)
    np.testing.assert_array_equal(other["right_arm"], track["left_arm"])
    np.testing.assert_array_equal(other["yaw"], -track["yaw"])
    np.testing.assert_array_equal(other["spine_bend"], track["spine_bend"])
    for again in (mirrored(other), backwards(backwards(track))):
        assert again.keys() == track.keys()
        assert all((again[name] == track[name]).all() for name in track)
    with pytest.raises(ValueError, match="no channel 'tail'"):
        table(trunk(tail=1.0))


def test_flight_lifts_by_its_height() -> None:
    bodies = draw_bodies(3, np.random.default_rng(0))
    values, used = table(flight(0.25, 0.75, 0.1))
    joints = forward_kinematics(np.repeat(values.T[:, None], 3, axis=1), bodies)
    assert used.sum() == 1
    np.testing.assert_allclose(joints[MID_HIP, 1, :, 128] - joints[MID_HIP, 1, :, 0], 0.1 * bodies.height, rtol=1e-4)


def test_forward_kinematics_by_hand() -> None:
    bodies = draw_bodies(1, np.random.default_rng(1))
    pose = np.zeros(NUM_CHANNELS)
    joints = forward_kinematics(to_units(pose)[:, None, None].astype(np.float32), bodies)[:, :, 0, 0]
    total = bodies.ankle[0] + bodies.shank[0] + bodies.thigh[0]
    np.testing.assert_allclose(joints[MID_HIP], [0, total, 0], atol=1e-5)
    np.testing.assert_allclose(joints[NECK], [0, total + bodies.torso[0], 0], atol=1e-5)
    arm = bodies.upper_arm[0] + bodies.forearm[0]
    np.testing.assert_allclose(joints[LEFT_WRIST], [bodies.shoulder[0], total + bodies.torso[0] - arm, 0], atol=1e-5)
    with pytest.raises(ValueError, match="channels must be"):
        forward_kinematics(np.zeros((3, 1, 1), np.float32), bodies)
    assert NEUTRAL.shape == (NUM_CHANNELS,)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 4}, "dims must be 2 or 3"),
        ({"frames": (10, 5)}, "frames"),
        ({"noise": -0.1}, "noise"),
        ({"missing": 1.0}, "missing"),
        ({"camera": "fisheye"}, "camera"),
        ({"seed": -1}, "seed"),
        ({"subjects": 0}, "subjects"),
        ({"batch": 0}, "batch"),
        ({"actions": ["fly"]}, "no synthetic action 'fly'"),
        ({"actions": []}, "at least one"),
        ({"actions": ["walk", "walk"]}, "once"),
    ],
)
def test_bad_options_are_named_at_the_call(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(10, **{"seed": 0, **options})


def test_chosen_actions_give_the_labels() -> None:
    chosen = ["run", "bow", "wave the left hand"]
    assert action_names(get_actions(chosen)) == chosen
    batch = only(30, seed=0, actions=chosen, frames=(10, 10))
    assert action_names(batch.actions) == chosen
    assert set(batch.label.tolist()) == {0, 1, 2}


# Use


def test_a_linear_classifier_tells_actions_apart() -> None:
    batch = only(25 * len(ACTIONS), seed=21, yaw=(-0.5, 0.5))
    place = np.linspace(0, 1, 12)[None] * (batch.length - 1)[:, None]
    joints = batch.joints[:, :, 0] - batch.joints[:, :1, 0, MID_HIP : MID_HIP + 1]
    sampled = np.take_along_axis(joints, place.astype(int)[:, :, None, None], axis=1)
    inside = batch.valid[:, :, 0].any(axis=2)[:, :, None, None]
    spread = np.sqrt((joints**2 * inside).sum(axis=1) / batch.length[:, None, None])
    features = np.concatenate([sampled.reshape(len(batch), -1), spread.reshape(len(batch), -1)], axis=1)
    features = (features - features[~batch.test].mean(axis=0)) / features[~batch.test].std(axis=0).clip(1e-6)
    train, test = features[~batch.test].astype(np.float64), features[batch.test]
    targets = np.eye(len(ACTIONS))[batch.label[~batch.test]] - 1.0 / len(ACTIONS)
    weights = np.linalg.solve(train.T @ train + 100.0 * np.eye(train.shape[1]), train.T @ targets)
    accuracy = ((test @ weights).argmax(axis=1) == batch.label[batch.test]).mean()
    assert accuracy > 0.4  # chance is 1/78


def test_fast_enough_for_training_sets() -> None:
    start = time.perf_counter()
    made = sum(len(batch) for batch in generate(2000, seed=0))
    assert made == 2000
    assert time.perf_counter() - start < 10.0


@pytest.mark.parametrize("dims", [2, 3])
def test_written_stores_read_back(tmp_path: Path, dims: int) -> None:
    pytest.importorskip("pyarrow")
    from tmor_fast.data.synthetic import write_synthetic_store

    store = write_synthetic_store(
        tmp_path / "store", clips=120, seed=7, dims=dims, frames=(20, 30), dtype="float32", clips_per_shard=50
    )
    batch = only(120, seed=7, dims=dims, frames=(20, 30))
    assert len(store) == 120
    assert store.label_names == NAMES
    assert store.units == ("metres" if dims == 3 else "pixels")
    for i in (0, 49, 50, 119):
        clip = store[i]
        clip.check()
        length = batch.length[i]
        np.testing.assert_array_equal(clip.joints, batch.joints[i, :length])
        np.testing.assert_array_equal(clip.valid, batch.valid[i, :length])
        assert (clip.label, clip.caption, clip.view) == (batch.label[i], batch.caption[i], batch.view[i])
        assert clip.split == ("test" if batch.test[i] else "train")
        assert clip.subject == f"person_{batch.subject[i]:04d}"
        assert clip.image_size == ((640, 480) if dims == 2 else None)
        assert clip.extra["style"] == batch.style[i]
    info = json.loads((tmp_path / "store" / "dataset.json").read_text())
    assert info["attributes"]["wave the left hand"] == {"verb": "wave", "part": "hand", "side": "left"}
    assert info["synthetic"]["seed"] == 7


def test_a_refused_store_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from tmor_fast.data.synthetic import write_synthetic_store

    with pytest.raises(ValueError, match="clips must be at least 1"):
        write_synthetic_store(tmp_path / "store", clips=0, seed=1)
    with pytest.raises(ValueError, match="no synthetic action"):
        write_synthetic_store(tmp_path / "store", clips=5, seed=1, actions=["fly"])
    assert list(tmp_path.iterdir()) == []
