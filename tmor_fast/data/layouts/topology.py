"""What a skeleton layout is: named joints, their tree, the pairs of left and right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SkeletonLayout:
    """The topology of a skeleton.

    Args:
        name: short unique name, e.g. "unik17".
        joint_names: one name a joint, in the order of the arrays.
        parents: parent of each joint; -1 marks the root (exactly one).
        center: the joint that stands for the body's place (the mid-hip where there is one).
        left_right: pairs (left joint, right joint) that swap when a skeleton is mirrored.

    Raises:
        ValueError: lengths differ, names repeat, the parents are no tree, or a pair is out of range or repeated.
    """

    name: str
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    center: int
    left_right: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        count = len(self.joint_names)
        if not count or len(set(self.joint_names)) != count:
            raise ValueError(f"layout {self.name!r}: joint names must be distinct and at least one is needed")
        if len(self.parents) != count:
            raise ValueError(f"layout {self.name!r}: {count} joint names but {len(self.parents)} parents")
        if any(not -1 <= parent < count for parent in self.parents) or self.parents.count(-1) != 1:
            raise ValueError(f"layout {self.name!r}: parents must be joint numbers with exactly one root (-1)")
        if not 0 <= self.center < count:
            raise ValueError(f"layout {self.name!r}: center {self.center} is not one of {count} joints")
        for joint in range(count):
            self._require_path_to_root(joint)
        paired = [joint for pair in self.left_right for joint in pair]
        if len(set(paired)) != len(paired) or any(not 0 <= joint < count for joint in paired):
            raise ValueError(f"layout {self.name!r}: left_right must pair distinct joints of the {count}")

    def _require_path_to_root(self, joint: int) -> None:
        current = joint
        for _ in self.parents:
            current = self.parents[current]
            if current < 0:
                return
        raise ValueError(f"layout {self.name!r}: joint {self.joint_names[joint]!r} never reaches the root (a cycle)")

    @property
    def num_joints(self) -> int:
        """Number of joints V."""
        return len(self.joint_names)

    @cached_property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """(child, parent) of every joint but the root."""
        return tuple((child, parent) for child, parent in enumerate(self.parents) if parent >= 0)

    @cached_property
    def root(self) -> int:
        """The joint without a parent."""
        return self.parents.index(-1)

    @cached_property
    def mirror(self) -> tuple[int, ...]:
        """Permutation that swaps left and right: `joints[..., mirror, :]`."""
        order = list(range(self.num_joints))
        for left, right in self.left_right:
            order[left], order[right] = right, left
        return tuple(order)

    def index(self, joint_name: str) -> int:
        """Number of a joint.

        Raises:
            ValueError: no joint has that name; the message lists all.
        """
        if joint_name not in self.joint_names:
            raise ValueError(f"layout {self.name!r} has no joint {joint_name!r}; it has {', '.join(self.joint_names)}")
        return self.joint_names.index(joint_name)

    @cached_property
    def substitutes(self) -> tuple[tuple[int, ...], ...]:
        """For every joint, all joints in the order in which they may stand in for it when it was never seen.

        Itself, its mirror partner, then its ancestors from the parent up, then the rest by number of bones between.
        """
        distance = _bone_distances(self)
        orders = []
        for joint in range(self.num_joints):
            first = [joint, self.mirror[joint]]
            parent = self.parents[joint]
            while parent >= 0:
                first.append(parent)
                parent = self.parents[parent]
            rest = np.argsort(distance[joint], kind="stable").tolist()
            orders.append(tuple(dict.fromkeys(first + rest)))
        return tuple(orders)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready description; `from_dict` reads it back."""
        return {
            "name": self.name,
            "joint_names": list(self.joint_names),
            "parents": list(self.parents),
            "center": self.center,
            "left_right": [list(pair) for pair in self.left_right],
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> SkeletonLayout:
        """Layout from `to_dict`'s description.

        Raises:
            ValueError: a key is missing or malformed, or the description is no valid layout.
        """
        try:
            return SkeletonLayout(
                name=str(values["name"]),
                joint_names=tuple(str(name) for name in values["joint_names"]),
                parents=tuple(int(parent) for parent in values["parents"]),
                center=int(values["center"]),
                left_right=tuple((int(left), int(right)) for left, right in values["left_right"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                "a layout needs name, joint_names, parents, center and left_right (pairs of joint numbers); "
                f"reading it failed on {error}"
            ) from error

    @staticmethod
    def from_edges(name: str, joint_names: Sequence[str], edges: Sequence[tuple[int, int]]) -> SkeletonLayout:
        """Layout of an unknown skeleton from its names and its edges.

        The root is the joint that is no edge's second end if there is exactly one, else joint 0. Left and right are
        paired by their names: "left_knee"/"right_knee", "Knee_L"/"Knee_R", "lknee"/"rknee" and the like.

        Args:
            name: name of the new layout.
            joint_names: one name a joint.
            edges: pairs of joint numbers; V - 1 of them, joining all joints.

        Raises:
            ValueError: the edges are no tree over the joints.
        """
        count = len(joint_names)
        pairs = [(int(a), int(b)) for a, b in edges]
        if any(not (0 <= a < count and 0 <= b < count) for a, b in pairs):
            raise ValueError(f"edges name joints outside 0..{count - 1}")
        heads = sorted(set(range(count)) - {second for _, second in pairs})
        root = heads[0] if len(heads) == 1 else 0
        parents = _parents_from_edges(count, pairs, root)
        return SkeletonLayout(name, tuple(joint_names), parents, root, pair_sides(joint_names))


def _bone_distances(layout: SkeletonLayout) -> np.ndarray:
    """Number of bones between any two joints: (V, V)."""
    count = layout.num_joints
    distance = np.full((count, count), count, dtype=np.int64)
    np.fill_diagonal(distance, 0)
    for child, parent in layout.bones:
        distance[child, parent] = distance[parent, child] = 1
    for middle in range(count):
        np.minimum(distance, distance[:, middle, None] + distance[None, middle], out=distance)
    return distance


def _parents_from_edges(count: int, edges: Sequence[tuple[int, int]], root: int) -> tuple[int, ...]:
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        neighbours[a].append(b)
        neighbours[b].append(a)
    parents = [-2] * count
    parents[root] = -1
    queue = [root]
    for joint in queue:
        for other in neighbours[joint]:
            if parents[other] == -2:
                parents[other] = joint
                queue.append(other)
    if len(queue) != count or len(edges) != count - 1:
        raise ValueError(f"{len(edges)} edges over {count} joints are no tree: {count - 1} that join all are needed")
    return tuple(parents)


# How a right joint is named when its left partner is called so: the first rule whose result exists wins.
_SIDE_RULES = (
    (re.compile(r"left"), "right"),
    (re.compile(r"Left"), "Right"),
    (re.compile(r"LEFT"), "RIGHT"),
    (re.compile(r"(?<![A-Za-z])L(?![a-z])"), "R"),
    (re.compile(r"(?<![A-Za-z])l(?![A-Za-z])"), "r"),
    (re.compile(r"^l"), "r"),
    (re.compile(r"^L"), "R"),
)


def pair_sides(joint_names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs (left, right) found by the names of the joints; joints without a partner stay unpaired."""
    index = {name: number for number, name in enumerate(joint_names)}
    pairs: list[tuple[int, int]] = []
    used: set[int] = set()
    for number, name in enumerate(joint_names):
        for pattern, replacement in _SIDE_RULES:
            partner = index.get(pattern.sub(replacement, name))
            if partner is not None and partner != number and not used & {number, partner}:
                pairs.append((number, partner))
                used |= {number, partner}
                break
    return tuple(pairs)
