"""Synthetic motion as movement: anatomically possible, doing what its name says, seen by a camera."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest

from tmor_fast.data.synthetic import ACTIONS, SyntheticBatch, action_names, generate
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
