"""From one skeleton layout to another: every target joint is a weighted sum of source joints."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tmor_fast.data.layout import SkeletonLayout, get_layout

_conversions: dict[tuple[str, str], np.ndarray] = {}


def register_conversion(
    source: str | SkeletonLayout,
    target: str | SkeletonLayout,
    joints: Mapping[str, str] | Mapping[str, Mapping[str, float]],
) -> None:
    """Say how the joints of `target` are made from those of `source`.

    Args:
        source: layout (or its name) that is converted.
        target: layout (or its name) that results.
        joints: for every target joint, the name of the source joint it equals, or {source joint: weight} with weights
            that sum to 1. E.g. `{"head": "nose", "neck": {"left_shoulder": 0.5, "right_shoulder": 0.5}, ...}`.

    Raises:
        ValueError: a joint is missing or unknown, or weights do not sum to 1.
    """
    origin, goal = get_layout(source), get_layout(target)
    if set(joints) != set(goal.joint_names):
        wrong = sorted(set(joints) ^ set(goal.joint_names))
        raise ValueError(f"a conversion to {goal.name!r} must give exactly its joints; missing or unknown: {wrong}")
    matrix = np.zeros((goal.num_joints, origin.num_joints))
    for name, parts in joints.items():
        weights = {parts: 1.0} if isinstance(parts, str) else parts
        for part, weight in weights.items():
            matrix[goal.index(name), origin.index(part)] = weight
        if abs(sum(weights.values()) - 1.0) > 1e-9:
            raise ValueError(f"weights of joint {name!r} sum to {sum(weights.values())}, not 1")
    _conversions[origin.name, goal.name] = matrix


def conversions() -> tuple[tuple[str, str], ...]:
    """Every registered (source, target) pair."""
    return tuple(sorted(_conversions))


def convert_joints(
    joints: np.ndarray, valid: np.ndarray, source: str | SkeletonLayout, target: str | SkeletonLayout
) -> tuple[np.ndarray, np.ndarray]:
    """Joints of one layout as joints of another.

    Args:
        joints: (..., V, C), any float dtype; a joint that is not valid may hold anything.
        valid: (..., V) bool.
        source: layout of `joints`.
        target: layout wanted.

    Returns:
        (..., V', C) in the dtype of `joints` and (..., V') bool. A joint built from several is valid only if all are.

    Raises:
        ValueError: shapes disagree with the layout, or no conversion between the two is registered.
    """
    origin, goal = get_layout(source), get_layout(target)
    if joints.shape[:-1] != valid.shape or joints.shape[-2] != origin.num_joints:
        raise ValueError(
            f"joints {joints.shape} and valid {valid.shape} must be (..., {origin.num_joints}, C) and "
            f"(..., {origin.num_joints}) for layout {origin.name!r}"
        )
    if origin == goal:
        return joints, valid
    matrix = _conversions.get((origin.name, goal.name))
    if matrix is None:
        known = ", ".join(f"{a} -> {b}" for a, b in conversions())
        raise ValueError(
            f"no conversion from {origin.name!r} to {goal.name!r}; there are: {known}. See register_conversion"
        )
    new_joints = np.empty((*joints.shape[:-2], goal.num_joints, joints.shape[-1]), dtype=joints.dtype)
    new_valid = np.empty((*valid.shape[:-1], goal.num_joints), dtype=bool)
    for joint, row in enumerate(matrix):
        parts = np.flatnonzero(row)
        new_valid[..., joint] = valid[..., parts].all(axis=-1)
        if len(parts) == 1:
            new_joints[..., joint, :] = joints[..., parts[0], :]
            continue
        total = joints[..., parts[0], :] * joints.dtype.type(row[parts[0]])
        for part in parts[1:]:
            total += joints[..., part, :] * joints.dtype.type(row[part])
        new_joints[..., joint, :] = total
    return new_joints, new_valid


_LIMBS = tuple(
    f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in ("left", "right")
)


def to_unik17(head: str | Mapping[str, float], limbs: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Recipe for UNIK's 17 joints from a head and twelve limb joints.

    neck = mean of the shoulders, mid-hip = mean of the hips, mouth = mean of head and neck, chest = mean of neck and
    mid-hip, everything else one to one.

    Args:
        head: source joint that is the head or nose, or {source joint: weight}.
        limbs: source joint of each of left/right shoulder, elbow, wrist, hip, knee and ankle ("left_shoulder", ...).

    Raises:
        ValueError: a limb is missing.
    """
    lacking = [limb for limb in _LIMBS if limb not in limbs]
    if lacking:
        raise ValueError(f"source joints are missing for {lacking}")
    crown = {head: 1.0} if isinstance(head, str) else dict(head)
    neck = {limbs["left_shoulder"]: 0.5, limbs["right_shoulder"]: 0.5}
    hip = {limbs["left_hip"]: 0.5, limbs["right_hip"]: 0.5}
    recipe = {
        "head": crown,
        "mouth": _middle(crown, neck),
        "neck": neck,
        "chest": _middle(neck, hip),
        "mid_hip": hip,
    }
    recipe.update({limb: {limbs[limb]: 1.0} for limb in _LIMBS})
    return recipe


def _middle(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Weights of the point halfway between two weighted sums."""
    return {name: (first.get(name, 0.0) + second.get(name, 0.0)) / 2 for name in (*first, *second)}


def same_named(target: str, source: str, **made: Mapping[str, float]) -> dict[str, Mapping[str, float]]:
    """Recipe in which every target joint is the source's joint of that name, save those in `made`.

    Args:
        target: layout that results.
        source: layout it is made from.
        made: target joint -> {source joint: weight}, for joints that are called otherwise or made of several.

    Raises:
        ValueError: a joint is neither in `made` nor in the source.
    """
    origin = get_layout(source)
    recipe: dict[str, Mapping[str, float]] = {name: {name: 1.0} for name in get_layout(target).joint_names}
    recipe.update(made)
    for name, parts in recipe.items():
        lacking = sorted(set(parts) - set(origin.joint_names))
        if lacking:
            raise ValueError(f"joint {name!r} of {target!r}: {source!r} has no joint {', '.join(lacking)}")
    return recipe


def _bone_names(words: str, pattern: str) -> dict[str, str]:
    """Limb -> joint of a layout that names joints after bones; `words` are those for shoulder, elbow, ... ankle."""
    bones = dict(zip(("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), words.split(), strict=True))
    return {limb: pattern.format(bone=bones[limb.split("_")[1]], side=limb[0], SIDE=limb[0].upper()) for limb in _LIMBS}


def _register_known() -> None:
    same = {limb: limb for limb in _LIMBS}
    for source in ("penn13", "kinect20", "ntu25"):  # a Kinect's head is the middle of it
        register_conversion(source, "unik17", to_unik17("head", same))
    for source in ("coco17", "openpose18", "openpose25", "mediapipe33"):
        register_conversion(source, "unik17", to_unik17("nose", same))
    # Human3.6M has the chin and the top of the skull; the middle of the head lies between. Its foot is the ankle.
    feet = {"left_ankle": "left_foot", "right_ankle": "right_foot"}
    register_conversion("h36m17", "unik17", to_unik17({"neck_nose": 0.5, "head": 0.5}, {**same, **feet}))
    # A motion-capture bone is named after its upper joint: the upper arm starts at the shoulder. "Head" is the base of
    # the skull, a quarter of a torso above the shoulders. As far again above it as "Neck" is below lies the middle of
    # the head (0.42 torsos above the shoulders; Penn Action and CMU: 0.40).
    names = _bone_names("UpperArm LowerArm Hand UpperLeg LowerLeg Foot", "{bone}_{SIDE}")
    register_conversion("bandai21", "unik17", to_unik17({"Head": 2.0, "Neck": -1.0}, names))
    # CMU joints are the lower ends of bones: the clavicle ends at the shoulder, the tibia at the ankle. The forearm is
    # two bones there, "radius" and "wrist", and the second ends at the wrist.
    names = _bone_names("clavicle humerus wrist hipjoint femur tibia", "{side}{bone}")
    register_conversion("cmu31", "unik17", to_unik17("head", names))

    for source, target in (("openpose25", "openpose18"), ("openpose25", "coco17"), ("openpose18", "coco17")):
        register_conversion(source, target, same_named(target, source))
    register_conversion("mediapipe33", "coco17", same_named("coco17", "mediapipe33"))
    # OpenPose was trained with the middle of the shoulders as the neck.
    neck = {"left_shoulder": 0.5, "right_shoulder": 0.5}
    for source in ("coco17", "mediapipe33"):
        register_conversion(source, "openpose18", same_named("openpose18", source, neck=neck))
    trunk = {"hip_center": "spine_base", "spine": "spine_mid", "shoulder_center": "spine_shoulder"}
    made = {name: {part: 1.0} for name, part in trunk.items()}
    register_conversion("ntu25", "kinect20", same_named("kinect20", "ntu25", **made))


_register_known()
