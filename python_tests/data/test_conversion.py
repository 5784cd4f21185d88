"""Conversions between layouts, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tmor_fast.data import convert_joints, get_layout, register_conversion, register_layout, to_unik17
from tmor_fast.data.layout import SkeletonLayout

LIMBS = [
    f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in ("left", "right")
]

BANDAI = [
    *("UpperArm_L", "UpperArm_R", "LowerArm_L", "LowerArm_R", "Hand_L", "Hand_R"),
    *("UpperLeg_L", "UpperLeg_R", "LowerLeg_L", "LowerLeg_R", "Foot_L", "Foot_R"),
]
CMU = [
    *("lclavicle", "rclavicle", "lhumerus", "rhumerus", "lwrist", "rwrist"),
    *("lhipjoint", "rhipjoint", "lfemur", "rfemur", "ltibia", "rtibia"),
]


def points(layout: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = get_layout(layout).num_joints
    return rng.normal(size=(4, 2, count, 3)), np.ones((4, 2, count), dtype=bool)


@pytest.mark.parametrize(
    ("source", "head", "names"),
    [
        ("penn13", {"head": 1}, {limb: limb for limb in LIMBS}),
        ("coco17", {"nose": 1}, {limb: limb for limb in LIMBS}),
        ("bandai21", {"Head": 2, "Neck": -1}, dict(zip(LIMBS, BANDAI, strict=True))),
        ("cmu31", {"head": 1}, dict(zip(LIMBS, CMU, strict=True))),
    ],
)
def test_to_unik17(source: str, head: dict[str, float], names: dict[str, str]) -> None:
    joints, valid = points(source)
    before, after = get_layout(source), get_layout("unik17")
    out, ok = convert_joints(joints, valid, source, "unik17")

    def old(name: str) -> np.ndarray:
        return joints[..., before.index(name), :]

    def new(name: str) -> np.ndarray:
        return out[..., after.index(name), :]

    crown = sum(weight * old(name) for name, weight in head.items())
    neck = (old(names["left_shoulder"]) + old(names["right_shoulder"])) / 2
    hip = (old(names["left_hip"]) + old(names["right_hip"])) / 2
    for name, value in (("head", crown), ("neck", neck), ("mid_hip", hip)):
        np.testing.assert_allclose(new(name), value, rtol=0, atol=1e-14)
    np.testing.assert_allclose(new("mouth"), (crown + neck) / 2, rtol=0, atol=1e-14)
    np.testing.assert_allclose(new("chest"), (neck + hip) / 2, rtol=0, atol=1e-14)
    for limb in LIMBS:
        np.testing.assert_array_equal(new(limb), old(names[limb]))
    assert ok.all()
    assert out.shape == (4, 2, 17, 3)
    assert out.dtype == joints.dtype


def test_a_joint_made_of_several_is_valid_only_if_all_are() -> None:
    joints, valid = points("penn13")
    penn, unik = get_layout("penn13"), get_layout("unik17")
    valid[0, 0, penn.index("left_shoulder")] = False
    _, ok = convert_joints(joints, valid, "penn13", "unik17")
    lost = {unik.joint_names[j] for j in np.flatnonzero(~ok[0, 0])}
    assert lost == {"mouth", "neck", "chest", "left_shoulder"}
    assert ok[1:].all()
    assert ok[0, 1].all()


def test_same_layout_changes_nothing() -> None:
    joints, valid = points("coco17")
    out, ok = convert_joints(joints, valid, "coco17", get_layout("coco17"))
    assert out is joints
    assert ok is valid


def test_float32_stays_float32() -> None:
    joints, valid = points("penn13")
    out, _ = convert_joints(joints.astype(np.float32), valid, "penn13", "unik17")
    assert out.dtype == np.float32


def test_unknown_pair_lists_what_exists() -> None:
    joints, valid = points("unik17")
    with pytest.raises(ValueError, match=r"no conversion from 'unik17' to 'penn13'; there are: .*penn13 -> unik17"):
        convert_joints(joints, valid, "unik17", "penn13")


def test_wrong_shapes_are_refused() -> None:
    joints, valid = points("penn13")
    with pytest.raises(ValueError, match="13"):
        convert_joints(joints[..., :12, :], valid[..., :12], "penn13", "unik17")
    with pytest.raises(ValueError, match="valid"):
        convert_joints(joints, valid[:2], "penn13", "unik17")


def test_register_conversion_extends_the_table() -> None:
    register_layout(SkeletonLayout("conversion-test", ("top", "bottom"), (-1, 0), 0))
    register_conversion(
        "unik17", "conversion-test", {"top": "head", "bottom": {"left_ankle": 0.25, "right_ankle": 0.75}}
    )
    joints, valid = points("unik17")
    out, _ = convert_joints(joints, valid, "unik17", "conversion-test")
    np.testing.assert_array_equal(out[..., 0, :], joints[..., 0, :])
    np.testing.assert_allclose(out[..., 1, :], 0.25 * joints[..., 15, :] + 0.75 * joints[..., 16, :])


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        ({"top": "head"}, "bottom"),
        ({"top": "head", "bottom": "tail"}, "no joint 'tail'"),
        ({"top": "head", "bottom": {"neck": 0.5}}, "sum to 0.5"),
    ],
)
def test_a_wrong_conversion_is_refused(joints: dict[str, object], message: str) -> None:
    register_layout(SkeletonLayout("conversion-test", ("top", "bottom"), (-1, 0), 0))
    with pytest.raises(ValueError, match=message):
        register_conversion("unik17", "conversion-test", joints)  # type: ignore[arg-type]


def test_to_unik17_names_missing_limbs() -> None:
    with pytest.raises(ValueError, match="right_ankle"):
        to_unik17("head", {limb: limb for limb in LIMBS[:-1]})
