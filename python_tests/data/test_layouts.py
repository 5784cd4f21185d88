"""The layouts that come with the library: their official orders, and what holds for every one and every conversion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmor_fast.data import LAYOUTS, conversions, convert_joints, get_layout
from tmor_fast.data.conversion import same_named
from tmor_fast.data.layout import pair_sides

JOINTS = {
    "unik17": 17,
    "penn13": 13,
    "coco17": 17,
    "openpose18": 18,
    "openpose25": 25,
    "mediapipe33": 33,
    "h36m17": 17,
    "kinect20": 20,
    "ntu25": 25,
    "bandai21": 21,
    "cmu31": 31,
}
# Official lists, as their sources write them.
BODY_25 = (
    "Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist MidHip RHip RKnee RAnkle LHip LKnee LAnkle REye LEye "
    "REar LEar LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel"
)
COCO_18 = (
    "Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist RHip RKnee RAnkle LHip LKnee LAnkle REye LEye REar LEar"
)
H36M = (
    "MidHip RHip RKnee RFoot LHip LKnee LFoot Spine Thorax NeckNose Head LShoulder LElbow LWrist "
    "RShoulder RElbow RWrist"
)
NTU_BONES = (  # child<-parent, counted from 1, of the released UNIK code
    "1<-2 2<-21 3<-21 4<-3 5<-21 6<-5 7<-6 8<-7 9<-21 10<-9 11<-10 12<-11 13<-1 14<-13 15<-14 16<-15 17<-1 18<-17 "
    "19<-18 20<-19 22<-23 23<-8 24<-25 25<-12"
)
names = st.sampled_from(sorted(JOINTS))
pairs = st.sampled_from([pair for pair in conversions() if set(pair) <= set(JOINTS)])


def official(name: str) -> list[str]:
    """Our names as OpenPose and Human3.6M write them: left_big_toe -> LBigToe."""
    shown = []
    for joint in get_layout(name).joint_names:
        side, _, rest = joint.partition("_")
        words = rest.split("_") if side in ("left", "right") else joint.split("_")
        shown.append((side[0].upper() if side in ("left", "right") else "") + "".join(map(str.capitalize, words)))
    return shown


@pytest.mark.parametrize(("name", "listed"), [("openpose25", BODY_25), ("openpose18", COCO_18), ("h36m17", H36M)])
def test_orders_of_openpose_and_h36m(name: str, listed: str) -> None:
    assert official(name) == listed.split()


def test_ntu25_has_the_released_bones() -> None:
    bones = {tuple(int(number) - 1 for number in bone.split("<-")) for bone in NTU_BONES.split()}
    layout = get_layout("ntu25")
    assert set(layout.bones) == bones
    numbered = {
        1: "spine_base",
        4: "head",
        5: "left_shoulder",
        9: "right_shoulder",
        12: "right_hand",
        21: "spine_shoulder",
    }
    assert {number: layout.joint_names[number - 1] for number in numbered} == numbered
    assert layout.joint_names[21:] == ("left_hand_tip", "left_thumb", "right_hand_tip", "right_thumb")


def test_kinect20_is_the_order_of_the_first_sdk() -> None:
    layout = get_layout("kinect20")
    assert [layout.index(joint) for joint in ("hip_center", "head", "left_hand", "right_shoulder", "left_hip")] == [
        0, 3, 7, 8, 12,
    ]  # fmt: skip
    assert {layout.joint_names[child]: layout.joint_names[parent] for child, parent in layout.bones}["left_hip"] == (
        "hip_center"
    )


def test_mediapipe33_numbers_its_landmarks_as_the_enumeration() -> None:
    numbered = {
        0: "nose",
        3: "left_eye_outer",
        6: "right_eye_outer",
        9: "mouth_left",
        11: "left_shoulder",
        16: "right_wrist",
        17: "left_pinky",
        22: "right_thumb",
        23: "left_hip",
        28: "right_ankle",
        29: "left_heel",
        32: "right_foot_index",
    }
    layout = get_layout("mediapipe33")
    assert {number: layout.joint_names[number] for number in numbered} == numbered


def test_every_layout_is_there_with_its_joints() -> None:
    assert {name: LAYOUTS[name].num_joints for name in JOINTS} == JOINTS


@given(names)
def test_a_layout_is_a_tree_with_symmetric_sides(name: str) -> None:
    layout = get_layout(name)
    assert len(layout.bones) == layout.num_joints - 1
    for joint in range(layout.num_joints):
        steps = 0
        while joint != layout.root:
            joint = layout.parents[joint]
            steps += 1
            assert joint >= 0
            assert steps < layout.num_joints
    assert set(layout.left_right) == set(pair_sides(layout.joint_names)), "sides are those of the names, left first"
    for left, right in layout.left_right:
        first, second = layout.parents[left], layout.parents[right]
        assert first == second or layout.mirror[first] == second, "partners hang from partners"
    lone = set(range(layout.num_joints)) - {joint for pair in layout.left_right for joint in pair}
    assert not any("left" in layout.joint_names[joint] or "right" in layout.joint_names[joint] for joint in lone)


@given(names, st.integers(0, 2**32 - 1))
def test_mirroring_twice_changes_nothing(name: str, seed: int) -> None:
    layout = get_layout(name)
    joints = np.random.default_rng(seed).normal(size=(2, layout.num_joints, 3))
    order = list(layout.mirror)
    np.testing.assert_array_equal(joints[:, order][:, order], joints)


@given(pairs, st.integers(0, 2**32 - 1), st.sampled_from([2, 3]))
@settings(max_examples=200)
def test_a_conversion_commutes_with_the_mirror(pair: tuple[str, str], seed: int, channels: int) -> None:
    source, target = map(get_layout, pair)
    rng = np.random.default_rng(seed)
    joints = rng.normal(size=(3, source.num_joints, channels))
    valid = rng.random((3, source.num_joints)) < 0.8
    flipped = joints.copy()
    flipped[..., 0] *= -1
    one, one_ok = convert_joints(flipped[:, source.mirror], valid[:, source.mirror], *pair)
    two, two_ok = convert_joints(joints, valid, *pair)
    two[..., 0] *= -1
    np.testing.assert_array_equal(one_ok, two_ok[:, target.mirror])
    np.testing.assert_allclose(one, two[:, target.mirror], rtol=0, atol=1e-12)


@given(pairs, st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=3))
def test_a_conversion_keeps_a_body_in_one_point(pair: tuple[str, str], point: list[float]) -> None:
    source, target = map(get_layout, pair)
    joints = np.broadcast_to(np.array(point), (source.num_joints, len(point))).copy()
    out, ok = convert_joints(joints, np.ones(source.num_joints, dtype=bool), *pair)
    assert ok.all()
    np.testing.assert_allclose(out, np.broadcast_to(point, (target.num_joints, len(point))), rtol=0, atol=1e-9)


@given(pairs, st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_a_joint_is_valid_only_if_all_it_is_made_of_are(pair: tuple[str, str], seed: int) -> None:
    source = get_layout(pair[0])
    rng = np.random.default_rng(seed)
    lost = int(rng.integers(source.num_joints))
    joints, valid = rng.normal(size=(source.num_joints, 2)), np.ones(source.num_joints, dtype=bool)
    before, _ = convert_joints(joints, valid, *pair)
    valid[lost] = False
    joints[lost] += 1.0  # what an unseen joint holds must reach no joint that is said to be valid
    after, ok = convert_joints(joints, valid, *pair)
    np.testing.assert_array_equal(ok, (before == after).all(axis=-1))


def test_every_layout_reaches_unik17() -> None:
    assert {(name, "unik17") for name in JOINTS if name != "unik17"} <= set(conversions())


def test_conversions_between_estimators_by_hand() -> None:
    rng = np.random.default_rng(0)
    for source, target in (("openpose25", "coco17"), ("openpose18", "coco17"), ("mediapipe33", "coco17")):
        origin, goal = get_layout(source), get_layout(target)
        joints = rng.normal(size=(origin.num_joints, 2))
        out, _ = convert_joints(joints, np.ones(origin.num_joints, dtype=bool), source, target)
        for name in goal.joint_names:
            np.testing.assert_array_equal(out[goal.index(name)], joints[origin.index(name)])
    coco, goal = get_layout("coco17"), get_layout("openpose18")
    joints = rng.normal(size=(17, 2))
    out, _ = convert_joints(joints, np.ones(17, dtype=bool), "coco17", "openpose18")
    np.testing.assert_allclose(out[1], (joints[5] + joints[6]) / 2)
    np.testing.assert_array_equal(out[goal.index("left_ear")], joints[coco.index("left_ear")])


def test_ntu25_as_kinect20_has_the_trunk_of_the_first_sensor() -> None:
    joints = np.arange(75.0).reshape(25, 3)
    out, _ = convert_joints(joints, np.ones(25, dtype=bool), "ntu25", "kinect20")
    np.testing.assert_array_equal(out[[0, 1, 2, 3]], joints[[0, 1, 20, 3]])
    np.testing.assert_array_equal(out[4:], joints[4:20])


@pytest.mark.parametrize(
    ("source", "head", "ankle"),
    [
        ("h36m17", {"neck_nose": 0.5, "head": 0.5}, "left_foot"),
        ("ntu25", {"head": 1.0}, "left_ankle"),
        ("kinect20", {"head": 1.0}, "left_ankle"),
        ("openpose18", {"nose": 1.0}, "left_ankle"),
        ("openpose25", {"nose": 1.0}, "left_ankle"),
        ("mediapipe33", {"nose": 1.0}, "left_ankle"),
    ],
)
def test_heads_and_ankles_of_unik17(source: str, head: dict[str, float], ankle: str) -> None:
    origin, goal = get_layout(source), get_layout("unik17")
    joints = np.random.default_rng(1).normal(size=(origin.num_joints, 3))
    out, _ = convert_joints(joints, np.ones(origin.num_joints, dtype=bool), source, "unik17")
    np.testing.assert_allclose(out[0], sum(weight * joints[origin.index(name)] for name, weight in head.items()))
    np.testing.assert_array_equal(out[goal.index("left_ankle")], joints[origin.index(ankle)])
    shoulders = joints[[origin.index("left_shoulder"), origin.index("right_shoulder")]].mean(axis=0)
    np.testing.assert_allclose(out[goal.index("neck")], shoulders)


def test_same_named_says_which_joint_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"joint 'left_hand' of 'kinect20': 'coco17' has no joint left_hand"):
        same_named("kinect20", "coco17", hip_center={"nose": 1.0}, spine={"nose": 1.0}, shoulder_center={"nose": 1.0},
                   head={"nose": 1.0})  # fmt: skip
