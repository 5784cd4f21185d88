"""Who is who in the frames of a pose estimator, and who is kept."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from tmor_fast.data.clip import Clip
from tmor_fast.data.layout import SkeletonLayout
from tmor_fast.errors import DataError

NOWHERE = 1e30
# A person moves at most so much of its own extent between two frames, and is forgotten after so many frames.
REACH, MEMORY = 0.75, 30


@dataclass(frozen=True)
class PersonPose:
    """One person in one frame.

    Args:
        points: (V, 2) float32 pixels; where the confidence is 0 they mean nothing.
        confidence: (V,) float32 in [0, 1].
        score: how sure the estimator is of the person, any scale.
        track: its track, None for none.
    """

    points: np.ndarray
    confidence: np.ndarray
    score: float
    track: Hashable | None


def clip_of_frames(
    frames: Sequence[Sequence[PersonPose]],
    layout: SkeletonLayout,
    clip_id: str,
    persons: int,
    *,
    fps: float = 30.0,
    image_size: tuple[int, int] | None = None,
) -> Clip:
    """One clip of the persons that count most.

    The tracks with the largest sum of scores (a negative score counts as 0) get the person slots; where a slot's track
    is absent, the best one of those that never appear together with it takes its place.

    Args:
        frames: the persons of each frame.
        layout: their skeleton.
        clip_id: name of the clip.
        persons: person slots.
        fps: frames a second.
        image_size: (width, height).

    Raises:
        DataError: nobody is seen in any frame.
    """
    tracks = _tracks(frames)
    weight: dict[Hashable, float] = {}
    appears: dict[Hashable, set[int]] = {}
    for number, (people, names) in enumerate(zip(frames, tracks, strict=True)):
        for person, name in zip(people, names, strict=True):
            if (person.confidence > 0).any():
                # A person without score still is one.
                weight[name] = weight.get(name, 0.0) + max(person.score, 0.0) + 1e-6
                appears.setdefault(name, set()).add(number)
    if not weight:
        raise DataError(f"{clip_id}: nobody is seen in any of its {len(frames)} frames")
    slot_of: dict[Hashable, int] = {}
    taken: list[set[int]] = [set() for _ in range(persons)]
    for name in sorted(weight, key=lambda key: -weight[key]):
        for slot, busy in enumerate(taken):
            if not busy & appears[name]:
                slot_of[name] = slot
                busy |= appears[name]
                break
    joints = np.zeros((len(frames), persons, layout.num_joints, 2), dtype=np.float32)
    confidence = np.zeros(joints.shape[:3], dtype=np.float32)
    for number, (people, names) in enumerate(zip(frames, tracks, strict=True)):
        for person, name in zip(people, names, strict=True):
            if name in slot_of and number in appears[name] and (person.confidence > 0).any():
                joints[number, slot_of[name]] = person.points
                confidence[number, slot_of[name]] = person.confidence
    valid = confidence > 0
    joints[~valid] = 0
    used = max(slot_of.values()) + 1
    clip = Clip(
        joints[:, :used], valid[:, :used], layout.name, clip_id, "pixels", fps=fps, image_size=image_size,
        confidence=confidence[:, :used],
    )  # fmt: skip
    clip.check()
    return clip


def _tracks(frames: Sequence[Sequence[PersonPose]]) -> list[list[Hashable]]:
    """The track of every person: the one given, or followed by place where one is lacking or given twice in a frame."""
    given = [[person.track for person in people] for people in frames]
    sound = all(None not in names and len(set(names)) == len(names) for names in given)
    return [list(names) for names in given] if sound else _follow(frames)


def _follow(frames: Sequence[Sequence[PersonPose]]) -> list[list[Hashable]]:
    """Join persons of successive frames, the nearest first."""
    centres, extents, seen = np.zeros((0, 2)), np.zeros(0), np.zeros(0, dtype=np.int64)
    result: list[list[Hashable]] = []
    for number, people in enumerate(frames):
        here, size = _places(people)
        recent = np.flatnonzero(number - seen <= MEMORY)
        distance = np.linalg.norm(here[:, None] - centres[recent][None], axis=-1)
        cost = distance / np.maximum(size[:, None], extents[recent][None])
        names: list[Hashable] = [None] * len(people)
        free = set(range(len(recent)))
        for flat in np.argsort(cost, axis=None, kind="stable"):
            person, track = divmod(int(flat), len(recent))
            if cost[person, track] > REACH:
                break
            if names[person] is None and track in free:
                names[person] = int(recent[track])
                free.remove(track)
        for person, name in enumerate(names):
            if name is None:
                names[person] = len(seen)
                centres, extents = (
                    np.append(centres, here[person : person + 1], axis=0),
                    np.append(extents, size[person]),
                )
                seen = np.append(seen, number)
            else:
                assert isinstance(name, int)
                centres[name], extents[name], seen[name] = here[person], size[person], number
        result.append(names)
    return result


def _places(people: Sequence[PersonPose]) -> tuple[np.ndarray, np.ndarray]:
    """Mean (n, 2) of the joints seen and extent (n,) of each person; somebody without a joint is nowhere."""
    centres, extents = np.full((len(people), 2), NOWHERE), np.ones(len(people))
    for number, person in enumerate(people):
        points = person.points[person.confidence > 0]
        if len(points):
            centres[number] = points.mean(axis=0, dtype=np.float64)
            extents[number] = max(float(np.linalg.norm(points.max(axis=0) - points.min(axis=0))), 1e-6)
    return centres, extents
