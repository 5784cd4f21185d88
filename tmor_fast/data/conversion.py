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


def _register_known() -> None:
    same = {limb: limb for limb in _LIMBS}
    register_conversion("penn13", "unik17", to_unik17("head", same))
    register_conversion("coco17", "unik17", to_unik17("nose", same))
    # A motion-capture bone is named after its upper joint: the upper arm starts at the shoulder.
    bandai = {
        "shoulder": "UpperArm",
        "elbow": "LowerArm",
        "wrist": "Hand",
        "hip": "UpperLeg",
        "knee": "LowerLeg",
        "ankle": "Foot",
    }
    names = {limb: f"{bandai[limb.split('_')[1]]}_{limb[0].upper()}" for limb in _LIMBS}
    # Its "Head" is the base of the skull, a quarter of a torso above the shoulders. As far again above it as its "Neck"
    # is below lies the middle of the head (0.42 torsos above the shoulders; Penn Action and CMU: 0.40).
    register_conversion("bandai21", "unik17", to_unik17({"Head": 2.0, "Neck": -1.0}, names))
    # CMU joints are the lower ends of bones: the clavicle ends at the shoulder, the tibia at the ankle. The forearm is
    # two bones there, "radius" and "wrist", and the second ends at the wrist.
    cmu = {
        "shoulder": "clavicle",
        "elbow": "humerus",
        "wrist": "wrist",
        "hip": "hipjoint",
        "knee": "femur",
        "ankle": "tibia",
    }
    names = {limb: f"{limb[0]}{cmu[limb.split('_')[1]]}" for limb in _LIMBS}
    register_conversion("cmu31", "unik17", to_unik17("head", names))


_register_known()
