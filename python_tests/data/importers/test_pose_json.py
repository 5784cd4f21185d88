"""Pose files: every kind is recognised, persons are followed, and what is malformed is named with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tmor_fast.data.importers.pose_json import read_poses
from tmor_fast.data.layout import get_layout
from tmor_fast.errors import DataError

COCO = get_layout("coco17").joint_names


def person(x: float, joints: int = 17, confidence: float = 0.9) -> list[float]:
    """A body around x: joint j at (x + j, 100 + 2 j)."""
    return [value for joint in range(joints) for value in (x + joint, 100.0 + 2 * joint, confidence)]


def expected(x: float, joints: int = 17) -> np.ndarray:
    return np.array([[x + joint, 100 + 2 * joint] for joint in range(joints)], dtype=np.float32)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def openpose(folder: Path, frames: list[list[list[float]]], name: str = "video") -> Path:
    for number, people in enumerate(frames):
        found = [{"person_id": [-1], "pose_keypoints_2d": keypoints} for keypoints in people]
        write(folder / f"{name}_{number:012d}_keypoints.json", {"version": 1.3, "people": found})
    return folder


def results(xs: list[float], **more: Any) -> list[dict[str, Any]]:
    return [{"image_id": i, "category_id": 1, "keypoints": person(x), "score": 1.0, **more} for i, x in enumerate(xs)]


def mmpose(xs: list[float], meta: Any = None) -> dict[str, Any]:
    frames = []
    for number, x in enumerate(xs):
        instance = {"keypoints": expected(x).tolist(), "keypoint_scores": [0.9] * 17, "bbox_score": 0.8}
        frames.append({"frame_id": number + 1, "instances": [instance]})
    return {"meta_info": meta or {}, "instance_info": frames}


@pytest.mark.parametrize(("joints", "layout"), [(25, "openpose25"), (18, "openpose18")])
def test_a_folder_of_openpose_frames_is_one_clip(tmp_path: Path, joints: int, layout: str):
    frames = [[person(10.0 + i, joints)] for i in range(4)]
    frames[2] = []
    frames[3][0][3:6] = [0.0, 0.0, 0.0]
    found = read_poses(openpose(tmp_path / "run", frames), fps=25.0, image_size=(640, 480))
    assert (found.kind, found.layout.name) == ("OpenPose", layout)
    (clip,) = found.clips
    assert (clip.clip_id, clip.fps, clip.image_size, clip.units) == ("video", 25.0, (640, 480), "pixels")
    assert clip.joints.shape == (4, 1, joints, 2)
    assert np.array_equal(clip.joints[1, 0], expected(11.0, joints))
    assert clip.valid[:2].all()
    assert not clip.valid[2].any()
    assert clip.valid[3, 0].tolist() == [joint != 1 for joint in range(joints)]
    assert clip.confidence is not None
    assert clip.confidence[0, 0, 0] == np.float32(0.9)


def test_one_openpose_file_and_several_videos_in_a_folder(tmp_path: Path):
    openpose(tmp_path, [[person(1.0, 25)]] * 3, "kitchen")
    openpose(tmp_path, [[person(5.0, 25)]] * 2, "hall_2")
    found = read_poses(tmp_path)
    assert [(clip.clip_id, len(clip.joints)) for clip in found.clips] == [("hall_2", 2), ("kitchen", 3)]
    single = read_poses(tmp_path / "kitchen_000000000001_keypoints.json")
    assert [(clip.clip_id, len(clip.joints)) for clip in single.clips] == [("kitchen", 1)]


def test_frame_order_is_by_number_and_gaps_are_frames_without_anybody(tmp_path: Path):
    for number in (2, 10, 9, 11, 7, 8):
        write(tmp_path / f"v_{number}_keypoints.json", {"people": [{"pose_keypoints_2d": person(float(number), 25)}]})
    (clip,) = read_poses(tmp_path).clips
    assert len(clip.joints) == 10
    assert clip.valid.any(axis=(1, 2)).tolist() == [True, False, False, False, False, *[True] * 5]
    assert clip.joints[[0, 5, 9], 0, 0, 0].tolist() == [2.0, 7.0, 11.0]


def test_coco_results(tmp_path: Path):
    content = results([10.0, 11.0, 12.0])
    content[1]["image_id"] = 3  # out of order, with a gap at 1
    content[1]["keypoints"][5] = 0.0
    found = read_poses(write(tmp_path / "dance.json", content))
    assert (found.kind, found.layout.name) == ("COCO results", "coco17")
    (clip,) = found.clips
    assert clip.clip_id == "dance"
    assert clip.joints[:, 0, 0, 0].tolist() == [10.0, 0.0, 12.0, 11.0]
    assert clip.valid.any(axis=(1, 2)).tolist() == [True, False, True, True]
    assert not clip.valid[3, 0, 1]


def test_image_ids_that_are_no_frame_numbers_only_order(tmp_path: Path):
    content = results([1.0, 2.0, 3.0])
    for entry, image in zip(content, (397133, 37777, 252219), strict=True):
        entry["image_id"] = image
    (clip,) = read_poses(write(tmp_path / "x.json", content)).clips
    assert clip.joints[:, 0, 0, 0].tolist() == [2.0, 3.0, 1.0]


def test_visibility_is_taken_for_what_it_is(tmp_path: Path):
    (entry,) = results([10.0])
    entry["keypoints"][2::3] = [2] * 15 + [1, 0]
    (clip,) = read_poses(write(tmp_path / "x.json", [entry])).clips
    assert clip.valid[0, 0].tolist() == [True] * 16 + [False]
    assert clip.confidence is not None
    assert set(clip.confidence[0, 0, :16].tolist()) == {1.0}


def test_alphapose_tracks_and_whole_bodies(tmp_path: Path):
    content = []
    for number in range(12):
        for track, x in ((1, 10.0), (2, 500.0)):
            content.append(
                {"image_id": f"{number}.jpg", "category_id": 1, "keypoints": person(x, 136), "score": 1.0 + track,
                 "box": [0, 0, 9, 9], "idx": float(track)}
            )  # fmt: skip
    path = write(tmp_path / "alphapose-results.json", content)
    found = read_poses(path)
    assert (found.kind, found.layout.name) == ("AlphaPose", "coco17")
    (clip,) = found.clips
    assert clip.joints.shape == (12, 1, 17, 2)
    assert (clip.joints[:, 0] == expected(500.0)).all()
    (both,) = read_poses(path, persons=2).clips
    assert (both.joints[:, 1] == expected(10.0)).all()
    (three,) = read_poses(path, persons=3).clips
    assert three.joints.shape[1] == 2


def test_names_of_several_videos_are_several_clips(tmp_path: Path):
    content = results([1.0, 2.0, 3.0])
    for entry, image in zip(content, ("a/0001.jpg", "b/0001.jpg", "a/0002.jpg"), strict=True):
        entry["image_id"] = image
    found = read_poses(write(tmp_path / "x.json", content))
    assert [(clip.clip_id, len(clip.joints)) for clip in found.clips] == [("x/a/", 2), ("x/b/", 1)]


def test_mmpose_with_and_without_names(tmp_path: Path):
    names = {"keypoint_id2name": {str(i): name for i, name in enumerate(COCO)}}
    for meta in ({}, names):
        found = read_poses(write(tmp_path / "p.json", mmpose([1.0, 2.0], meta)))
        assert (found.kind, found.layout.name) == ("MMPose", "coco17")
        assert (found.clips[0].joints[:, 0] == np.stack((expected(1.0), expected(2.0)))).all()
    bare = mmpose([1.0, 2.0])["instance_info"]
    assert len(read_poses(write(tmp_path / "p.json", bare)).clips[0].joints) == 2
    image = bare[0]["instances"]
    assert len(read_poses(write(tmp_path / "p.json", image)).clips[0].joints) == 1
    other = {"keypoint_id2name": {str(i): name for i, name in enumerate(get_layout("h36m17").joint_names)}}
    assert read_poses(write(tmp_path / "p.json", mmpose([1.0], other))).layout.name == "h36m17"


def test_scores_above_one_and_nan_of_mmpose(tmp_path: Path):
    content = mmpose([1.0, 2.0])
    instance = content["instance_info"][0]["instances"][0]
    instance["keypoint_scores"][:2] = [1.7, -0.1]
    instance["keypoints"][3] = [float("nan"), 4.0]
    (clip,) = read_poses(write(tmp_path / "p.json", content)).clips
    assert clip.confidence is not None
    assert clip.confidence[0, 0, :4].tolist() == [1.0, 0.0, np.float32(0.9), 0.0]
    assert np.isfinite(clip.joints).all()


def test_the_layout_can_be_said(tmp_path: Path):
    path = write(tmp_path / "p.json", results([1.0]))
    assert read_poses(path, layout="h36m17").clips[0].layout == "h36m17"
    with pytest.raises(DataError, match="17 keypoints, but layout 'penn13' has 13"):
        read_poses(path, layout="penn13")
    with pytest.raises(ValueError, match="unknown skeleton layout"):
        read_poses(path, layout="cocoa")


def test_a_folder_of_results_is_a_clip_a_file(tmp_path: Path):
    for name in ("b", "a"):
        write(tmp_path / f"{name}.json", results([1.0]))
    assert [clip.clip_id for clip in read_poses(tmp_path).clips] == ["a", "b"]
    openpose(tmp_path, [[person(1.0, 25)]])
    with pytest.raises(DataError, match="different kinds"):
        read_poses(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "an object with nothing; accepted"),
        ({"0.jpg": {"version": "AlphaPose", "bodies": []}}, "--format coco"),
        ([], "shows nobody"),
        ([1, 2], "list; accepted"),
        ("text", "str; accepted"),
        ([{"frames": []}], "entries with 'frames'"),
        ([{"image_id": None, "keypoints": []}], r"entry 0: image_id is None"),
        ([{"image_id": 1, "keypoints": {}}], r"entry 0 \(frame 1, person 0\): keypoints must be a list, got dict"),
        ([{"image_id": 1, "keypoints": [1.0] * 50}], "50 numbers|16 keypoints"),
        ([{"image_id": 1, "keypoints": [1.0] * 52}], "52 numbers, not three"),
        ([{"image_id": 1, "keypoints": [1.0] * 51}, {"image_id": 2}], r"entry 1 .*'keypoints' is missing"),
        ([{"image_id": 1, "keypoints": [1.0] * 51}, 7], "entry 1: 'image_id' is missing, it has int"),
        ([{"image_id": 1, "keypoints": [1.0] * 51, "score": "high"}], "person 0.*: score is 'high'"),
        ([{"image_id": 1, "keypoints": [1.0] * 8 + ["2"] + [1.0] * 42}], r"person 0\), joint 'right_eye': .* is '2'"),
        ([{"image_id": 1, "keypoints": [1.0] * 50 + [None]}], r"joint 'right_ankle': .* is 'None'"),
        ([{"image_id": 1, "keypoints": [True] * 51}], "joint 'nose': .* is 'True'"),
        ([{"image_id": 1, "keypoints": [1e300] * 51}], "joint 'nose'.*finite"),
        ([{"image_id": 1, "keypoints": [10**400] * 51}], "joint 'nose'.*finite"),
        ([{"image_id": 1, "keypoints": [float("inf")] * 51}], "joint 'nose': .* is 'inf'"),
        ({"people": {}}, "'people' must be a list"),
        ({"people": [{"pose_keypoints_2d": [1.0] * 30}]}, "person 0: 10 keypoints; accepted: 18"),
        ({"people": [{"face": []}]}, "person 0: 'pose_keypoints_2d' is missing, it has 'face'"),
        ({"people": []}, "nobody is seen"),
        ({"people": [{"pose_keypoints_2d": [0.0] * 75}]}, "nobody is seen"),
        ({"instance_info": []}, "shows nobody in any of its 0 frames"),
        ({"instance_info": [{"frame_id": 1}]}, "frame 0: 'instances' is missing"),
        ({"instance_info": [{"frame_id": 1.5, "instances": []}]}, "frame 0: frame_id is 1.5"),
        (
            {"instance_info": [{"instances": [{"keypoints": [[1.0, 2.0, 3.0]] * 17, "keypoint_scores": [1.0] * 17}]}]},
            r"frame 0, person 0, joint 'nose': \[1.0, 2.0, 3.0\]; \[x, y\] is needed, 3D poses are not read",
        ),
        (
            {"instance_info": [{"instances": [{"keypoints": [[1.0, 2.0]] * 17, "keypoint_scores": [1.0] * 16}]}]},
            "17 keypoints and 16 keypoint_scores",
        ),
        (
            {"instance_info": [{"instances": [{"keypoints": [[1.0, 2.0]] * 20, "keypoint_scores": [1.0] * 20}]}]},
            "20 keypoints; accepted: 17",
        ),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, content: Any, message: str):
    path = write(tmp_path / "poses.json", content)
    with pytest.raises(DataError, match=message) as caught:
        read_poses(path)
    assert "poses" in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1" + b"1" * 10_000 + b"]"])
def test_files_that_are_no_json(tmp_path: Path, text: bytes):
    (tmp_path / "p.json").write_bytes(text)
    with pytest.raises(DataError, match=r"p\.json: no valid JSON"):
        read_poses(tmp_path / "p.json")


def test_paths_without_poses(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_poses(tmp_path / "gone.json")
    with pytest.raises(FileNotFoundError, match=r"holds no \.json files"):
        read_poses(tmp_path)
    with pytest.raises(ValueError, match="persons must be at least 1"):
        read_poses(write(tmp_path / "p.json", results([1.0])), persons=0)


def test_a_change_of_skeleton_within_a_clip(tmp_path: Path):
    openpose(tmp_path, [[person(1.0, 25)], [], [person(1.0, 18)]])
    with pytest.raises(
        DataError, match=r"000002_keypoints\.json: openpose18 keypoints, the frames before have openpose25"
    ):
        read_poses(tmp_path)
    content = results([1.0, 2.0])
    content[1]["keypoints"] = person(1.0, 15)
    with pytest.raises(DataError, match=r"entry 1 \(frame 1, person 0\): 15 keypoints"):
        read_poses(write(tmp_path / "c" / "x.json", content))
