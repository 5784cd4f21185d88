"""Clips from the JSON files of pose estimators.

What a file is, is found out by its structure:

==================  ==================================================================================================
OpenPose            one file a frame: {"people": [{"pose_keypoints_2d": [x, y, c, ...], "person_id": [..]}, ...]}
COCO results        [{"image_id": .., "keypoints": [x, y, c, ...], "score": .., "track_id": ..}, ...]
AlphaPose           the same with "box" and the track in "idx"; image_id is the name of the frame
MMPose              {"meta_info": .., "instance_info": [{"frame_id": .., "instances": [{"keypoints": [[x, y], ...],
                    "keypoint_scores": [..], "bbox_score": .., "track_id": ..}, ...]}, ...]}, or the bare list
==================  ==================================================================================================

Joints of confidence 0, of OpenPose also those at (0, 0), count as not seen; NaN does too. Confidences above 1 (some
heads give such) become 1. Pixels, y down.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tmor_fast.data.clip import Clip
from tmor_fast.data.importers.pose_tracks import PersonPose, clip_of_frames
from tmor_fast.data.layout import SkeletonLayout, find_layout, get_layout
from tmor_fast.errors import DataError

# Number of keypoints -> layout. Those of whole-body sets (Halpe, COCO-WholeBody) begin with COCO's 17.
OPENPOSE_LAYOUTS = {18: "openpose18", 25: "openpose25"}
COCO_LAYOUTS = {17: "coco17", 26: "coco17", 133: "coco17", 136: "coco17"}
ACCEPTED = (
    "OpenPose's frames ('people'), COCO keypoint results or AlphaPose (a list with 'image_id' and 'keypoints'), MMPose "
    "('instance_info')"
)
# Frame numbers that leave out more frames than they name are no frame numbers, e.g. the image ids of a data set.
MOST_GAPS = 1.0


@dataclass(frozen=True)
class PoseClips:
    """Clips read from pose files.

    Args:
        clips: in the order of their names.
        kind: "OpenPose", "COCO results", "AlphaPose" or "MMPose".
        layout: skeleton of the clips.
    """

    clips: list[Clip]
    kind: str
    layout: SkeletonLayout


@dataclass
class _Poses:
    """Frames of one clip as found: kind, and (order, persons) of each frame."""

    kind: str
    frames: list[tuple[int | str, list[PersonPose]]]
    layout: SkeletonLayout


def read_poses(
    source: str | Path,
    *,
    layout: str | SkeletonLayout | None = None,
    persons: int = 1,
    fps: float = 30.0,
    image_size: tuple[int, int] | None = None,
) -> PoseClips:
    """Read pose files as clips.

    Args:
        source: one file, or a folder: of OpenPose's frames (those with the same name before the number are one clip),
            or of other files, each of them a clip.
        layout: skeleton, where the number of keypoints does not say it; default by that number, or by the joint names
            that MMPose notes.
        persons: person slots of a clip. Persons are followed by their track, or from frame to frame by place where
            there are no tracks; those with the largest sum of scores are kept, the largest first.
        fps: frames a second to note; the files do not say.
        image_size: (width, height) to note.

    Raises:
        FileNotFoundError: `source` does not exist or holds no JSON.
        DataError: a file is damaged or none of these kinds, or shows nobody; the message names file, frame, person and
            joint.
        ValueError: `persons` below 1 or an unknown layout.
    """
    if persons < 1:
        raise ValueError(f"persons must be at least 1, got {persons}")
    path = Path(source)
    wanted = None if layout is None else get_layout(layout)
    clips, kinds, layouts = [], set(), {}
    for clip_id, poses in _each_clip(path, wanted):
        frames = _in_order(poses.frames)
        try:
            clips.append(clip_of_frames(frames, poses.layout, clip_id, persons, fps=fps, image_size=image_size))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        kinds.add(poses.kind)
        layouts[poses.layout.name] = poses.layout
    if len(kinds) > 1 or len(layouts) > 1:
        found = ", ".join(sorted(kinds | set(layouts)))
        raise DataError(f"{path}: files of different kinds ({found}); put each kind into a folder of its own")
    return PoseClips(clips, kinds.pop(), layouts.popitem()[1])


def _each_clip(path: Path, wanted: SkeletonLayout | None) -> Iterator[tuple[str, _Poses]]:
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise FileNotFoundError(f"{path} holds no .json files; give a pose file or a folder of them")
    elif path.is_file():
        files = [path]
    else:
        raise FileNotFoundError(f"{path} does not exist; give a pose file or a folder of them")
    single: dict[str, _Poses] = {}
    for file in files:
        content = _load(file)
        if isinstance(content, dict) and "people" in content:
            poses = _openpose(content, file, wanted)
            name, number = _split_name(file.name)
            group = single.setdefault(name or path.stem, _Poses(poses.kind, [], poses.layout))
            if poses.frames[0][1] and group.layout != poses.layout:
                if any(people for _, people in group.frames):
                    raise DataError(
                        f"{file}: {poses.layout.name} keypoints, the frames before have {group.layout.name}"
                    )
                group.layout = poses.layout
            group.frames.append((number, poses.frames[0][1]))
        else:
            yield from _many_frames(content, file, wanted)
    yield from single.items()


def _many_frames(content: Any, file: Path, wanted: SkeletonLayout | None) -> Iterator[tuple[str, _Poses]]:
    if isinstance(content, dict) and "instance_info" in content:
        yield file.stem, _mmpose(content["instance_info"], content.get("meta_info"), file, wanted)
    elif isinstance(content, list) and content and isinstance(content[0], dict):
        first = content[0]
        if "instances" in first:
            yield file.stem, _mmpose(content, None, file, wanted)
        elif "image_id" in first and "keypoints" in first:
            yield from _coco(content, file, wanted)
        elif "keypoints" in first and "keypoint_scores" in first:
            yield file.stem, _mmpose([{"frame_id": 0, "instances": content}], None, file, wanted)
        else:
            raise DataError(f"{file}: entries with {_some(first)}; accepted: {ACCEPTED}")
    elif content == []:
        raise DataError(f"{file}: an empty list, it shows nobody; accepted: {ACCEPTED}")
    else:
        what = f"an object with {_some(content)}" if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{file}: {what}; accepted: {ACCEPTED}. AlphaPose writes it with --format coco")


def _some(entry: dict[str, Any]) -> str:
    return ", ".join(repr(key[:40]) for key in list(entry)[:6]) or "nothing"


def _load(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise DataError(f"{file}: no valid JSON ({error}); write or copy it again") from error


# --------------------------------------------------------------------------------------------------------------------
# The kinds of files
# --------------------------------------------------------------------------------------------------------------------


def _openpose(content: dict[str, Any], file: Path, wanted: SkeletonLayout | None) -> _Poses:
    people = _list(content["people"], f"{file}: 'people'")
    persons, layout = [], wanted or get_layout(OPENPOSE_LAYOUTS[25])
    for number, person in enumerate(people):
        where = f"{file}: person {number}"
        values = _list(_entry(person, "pose_keypoints_2d", where), f"{where}: pose_keypoints_2d")
        if not values:  # a hand or face without a body
            continue
        layout = _choose(len(values) // 3, OPENPOSE_LAYOUTS, wanted, where)
        points, confidence = _triples(values, layout, where)
        confidence[(points == 0).all(axis=1)] = 0
        track = person.get("person_id", [-1])
        track = track[0] if isinstance(track, list) and track else track
        persons.append(_person(points, confidence, None, None if track == -1 else track, where))
    return _Poses("OpenPose", [(0, persons)], layout)


def _coco(content: list[Any], file: Path, wanted: SkeletonLayout | None) -> Iterator[tuple[str, _Poses]]:
    kind = "AlphaPose" if "idx" in content[0] or "box" in content[0] else "COCO results"
    groups: dict[str, dict[int | str, list[PersonPose]]] = {}
    layout = None
    for number, entry in enumerate(content):
        where = f"{file}: entry {number}"
        image = _entry(entry, "image_id", where)
        if isinstance(image, bool) or not isinstance(image, (int, str)):
            raise DataError(f"{where}: image_id is {image!r}; a number or a name is needed")
        name, place = _split_name(image) if isinstance(image, str) else ("", image)
        frames = groups.setdefault(name, {})
        where = f"{file}: entry {number} (frame {image!r}, person {len(frames.get(place, ()))})"
        values = _list(_entry(entry, "keypoints", where), f"{where}: keypoints")
        chosen = _choose(len(values) // 3, COCO_LAYOUTS, wanted, where)
        if layout is not None and chosen != layout:
            raise DataError(f"{where}: {len(values) // 3} keypoints, the entries before have {layout.name}")
        layout = chosen
        points, confidence = _triples(values, layout, where)
        person = _person(points, confidence, entry.get("score"), entry.get("track_id", entry.get("idx")), where)
        frames.setdefault(place, []).append(person)
    assert layout is not None
    for name, frames in sorted(groups.items()):
        clip_id = f"{file.stem}/{name}" if len(groups) > 1 else file.stem
        yield clip_id, _Poses(kind, list(frames.items()), layout)


def _mmpose(frames: Any, meta: Any, file: Path, wanted: SkeletonLayout | None) -> _Poses:
    layout = wanted or _named_layout(meta)
    found: list[tuple[int | str, list[PersonPose]]] = []
    for number, frame in enumerate(_list(frames, f"{file}: 'instance_info'")):
        where = f"{file}: frame {number}"
        place = frame.get("frame_id", number) if isinstance(frame, dict) else number
        if isinstance(place, bool) or not isinstance(place, int):
            raise DataError(f"{where}: frame_id is {place!r}; a whole number is needed")
        persons = []
        for count, person in enumerate(_list(_entry(frame, "instances", where), f"{where}: 'instances'")):
            here = f"{where}, person {count}"
            rows = _list(_entry(person, "keypoints", here), f"{here}: keypoints")
            scores = _list(_entry(person, "keypoint_scores", here), f"{here}: keypoint_scores")
            layout = chosen = _choose(len(rows), COCO_LAYOUTS, layout, here)
            if len(rows) != len(scores):
                raise DataError(f"{here}: {len(rows)} keypoints and {len(scores)} keypoint_scores")
            points = _pairs(rows, chosen, here)
            confidence = _numbers(scores[: chosen.num_joints], chosen, here, "its score")
            score = person.get("bbox_score")
            persons.append(_person(points, confidence, score, person.get("track_id"), here))
        found.append((place, persons))
    if layout is None or not any(persons for _, persons in found):
        raise DataError(f"{file}: shows nobody in any of its {len(found)} frames")
    return _Poses("MMPose", found, layout)


def _named_layout(meta: Any) -> SkeletonLayout | None:
    """The layout whose joint names MMPose noted; None where it noted none."""
    names = meta.get("keypoint_id2name") if isinstance(meta, dict) else None
    if not isinstance(names, dict) or not names:
        return None
    ordered = [str(names.get(str(number))) for number in range(len(names))]
    known = find_layout(ordered)
    if known is None and COCO_LAYOUTS.get(len(ordered)) and find_layout(ordered[:17]) == get_layout("coco17"):
        known = get_layout("coco17")
    return known


# --------------------------------------------------------------------------------------------------------------------
# Values, none of them trusted
# --------------------------------------------------------------------------------------------------------------------


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{where} must be a list, got {type(value).__name__}")
    return value


def _entry(value: Any, key: str, where: str) -> Any:
    if not isinstance(value, dict) or key not in value:
        have = _some(value) if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{where}: {key!r} is missing, it has {have}")
    return value[key]


def _choose(count: int, known: dict[int, str], wanted: SkeletonLayout | None, where: str) -> SkeletonLayout:
    if wanted is not None:
        if count != wanted.num_joints and known.get(count) != wanted.name:
            raise DataError(f"{where}: {count} keypoints, but layout {wanted.name!r} has {wanted.num_joints}")
        return wanted
    if count not in known:
        accepted = ", ".join(f"{number} ({name})" for number, name in known.items())
        raise DataError(f"{where}: {count} keypoints; accepted: {accepted}, or say the layout")
    return get_layout(known[count])


def _triples(values: list[Any], layout: SkeletonLayout, where: str) -> tuple[np.ndarray, np.ndarray]:
    """[x, y, c, ...] as points (V, 2) and confidence (V,); joints beyond the layout's are left out."""
    if len(values) % 3:
        raise DataError(f"{where}: {len(values)} numbers, not three (x, y, confidence) for each joint")
    flat = _numbers(values[: 3 * layout.num_joints], layout, where, "x, y or confidence", each=3).reshape(-1, 3)
    confidence = flat[:, 2].copy()
    # COCO's annotations note visibility there: 0 not labelled, 1 hidden, 2 visible.
    if set(np.unique(confidence)) <= {0.0, 1.0, 2.0}:
        confidence = np.minimum(confidence, 1)
    return flat[:, :2].copy(), confidence


def _pairs(rows: list[Any], layout: SkeletonLayout, where: str) -> np.ndarray:
    points = []
    for name, row in zip(layout.joint_names, rows, strict=False):
        if not isinstance(row, list) or len(row) != 2:
            raise DataError(f"{where}, joint {name!r}: {str(row)[:60]}; [x, y] is needed, 3D poses are not read")
        points += row
    return _numbers(points, layout, where, "x or y", each=2).reshape(-1, 2)


def _numbers(values: Sequence[Any], layout: SkeletonLayout, where: str, what: str, each: int = 1) -> np.ndarray:
    """`each` float32 numbers for every joint, one after another."""
    array = np.zeros(0)
    if all(type(value) in (int, float) for value in values):
        try:
            with np.errstate(over="ignore"):
                array = np.array(values, dtype=np.float64).astype(np.float32)
        except OverflowError:
            array = np.array([np.inf if abs(value) > 1e30 else value for value in values], dtype=np.float32)
    if len(array) == len(values) and not np.isinf(array).any():
        return array
    sound = [(type(value) in (int, float) and abs(value) < 1e30) or value != value for value in values]
    wrong = sound.index(False)
    name = layout.joint_names[wrong // each]
    raise DataError(f"{where}, joint {name!r}: {what} is {str(values[wrong])[:40]!r}; a finite number is needed")


def _person(points: np.ndarray, confidence: np.ndarray, score: Any, track: Any, where: str) -> PersonPose:
    confidence = np.where(np.isnan(points).any(axis=1) | np.isnan(confidence), 0, confidence)
    confidence = np.clip(confidence, 0, 1).astype(np.float32)
    if score is None:
        score = float(confidence.mean())
    if isinstance(score, list) and len(score) == 1:
        score = score[0]
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) < 1e30:
        raise DataError(f"{where}: score is {str(score)[:40]!r}; a number is needed")
    if isinstance(track, float) and track.is_integer():
        track = int(track)
    # Other things than a number or a name are no track, e.g. AlphaPose's nested lists.
    return PersonPose(points, confidence, float(score), track if type(track) in (int, str) else None)


def _split_name(name: str) -> tuple[str, int | str]:
    """Name of the video and number of the frame in "video_000012_keypoints.json"; the name itself without a number."""
    match = re.fullmatch(r"(.*?)[_-]?(\d{1,18})(?:_keypoints)?(?:\.\w+)?", name)
    return (match[1], int(match[2])) if match else ("", name)


def _in_order(frames: list[tuple[int | str, list[PersonPose]]]) -> list[list[PersonPose]]:
    """Persons frame by frame; numbers that are left out become frames without anybody."""
    numbers = [place for place, _ in frames if isinstance(place, int)]
    if len(numbers) < len(frames):
        return [persons for _, persons in frames]
    frames = sorted(frames, key=lambda frame: frame[0])
    first, last = min(numbers), max(numbers)
    if last - first + 1 > (1 + MOST_GAPS) * len(frames):
        return [persons for _, persons in frames]
    line: list[list[PersonPose]] = [[] for _ in range(last - first + 1)]
    for place, persons in frames:
        assert isinstance(place, int)
        line[place - first] += persons
    return line
