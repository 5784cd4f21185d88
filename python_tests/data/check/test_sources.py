"""Checking files before they are imported: everything wrong is found, in one pass."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tmor_fast.data import get_layout
from tmor_fast.data.check.findings import Report
from tmor_fast.data.check.paths import FORMATS, check_path, find_format


def found(report: Report) -> list[tuple[str, str]]:
    """(kind, clip) of the errors, sorted by the clip."""
    errors = [(finding.kind, finding.clip) for finding in report if finding.severity == "error"]
    return sorted(errors, key=lambda error: (error[1], error[0]))


def mat(frames: int = 5, **changes: object) -> bytes:
    x = 100 + 10 * np.arange(13.0) + np.arange(frames)[:, None]
    fields: dict[str, object] = {
        "x": x, "y": 2 * x, "visibility": np.ones((frames, 13)), "action": "bowl", "pose": "back", "train": 1,
        "dimensions": np.array([360, 480, frames]), **changes,
    }  # fmt: skip
    stream = io.BytesIO()
    savemat(stream, fields)
    return stream.getvalue()


def test_penn(tmp_path: Path) -> None:
    members = {
        "labels/0001.mat": mat(),
        "labels/0002.mat": mat(x=np.zeros((5, 12))),
        "labels/0003.mat": mat(40)[:700],
        "labels/0004.mat": mat(x=np.zeros((5, 13)), y=np.zeros((5, 13)), visibility=np.zeros((5, 13))),
        "labels/0005.mat": mat(train=7),
    }
    path = tmp_path / "labels.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    report = check_path(path)
    assert (report.format, report.clips) == ("penn", 2)
    assert found(report) == [
        ("unreadable", "0002"), ("unreadable", "0003"), ("all-missing", "0004"), ("unreadable", "0005"),
    ]  # fmt: skip
    assert report.findings[0].file == "labels/0002.mat"
    assert "(5, 12)" in report.findings[0].what
    for name, data in members.items():
        (tmp_path / Path(name).name).write_bytes(data)
    assert found(check_path(tmp_path)) == found(report), "a folder is checked alike"
    path.write_bytes(path.read_bytes()[:-500])
    assert ("unreadable", "") in found(check_path(path)), "what follows the break in an archive cannot be known"


def npz(path: Path, **changes: object) -> Path:
    joints = np.cumsum(np.random.default_rng(0).normal(size=(12, 17, 3)), axis=0) * 0.01 + np.arange(17)[:, None] / 10
    fields: dict[str, object] = {
        "joints": joints, "offsets": np.array([0, 3, 6, 9, 12]),
        "joint_names": np.array(get_layout("unik17").joint_names),
        "label": np.zeros(4, int), "label_names": np.array(["walk"]), "clip_id": np.array(list("abcd")), **changes,
    }  # fmt: skip
    np.savez(path, **{key: np.asarray(value) for key, value in fields.items() if value is not None})
    return path


def test_npz_finds_every_key_and_every_clip(tmp_path: Path) -> None:
    assert found(check_path(npz(tmp_path / "good.npz"))) == []
    joints = np.random.default_rng(0).normal(size=(12, 17, 3))
    joints[7, 3] = np.nan
    path = npz(
        tmp_path / "m.npz",
        joints=joints,
        valid=np.ones((12, 17), bool),
        offsets=np.array([0, 3, 6, 6, 12]),
        label=np.array([5, 0, 0, -2]),
        fps=np.array([0.0]),
        text=np.array(["x"]),
    )
    report = check_path(path)
    assert found(report) == [
        ("key", ""), ("key", ""), ("label", "a"), ("empty", "c"), ("label", "d"), ("not-finite", "d"),
    ]  # fmt: skip
    keys = [finding.what for finding in report if finding.kind == "key"]
    assert "'fps'" in keys[0]
    assert "'text'" in keys[1]
    (spot,) = [finding for finding in report if finding.kind == "not-finite"]
    assert (spot.frame, spot.joint) == (1, "chest")


def test_npz_that_cannot_be_read(tmp_path: Path) -> None:
    path = npz(tmp_path / "m.npz")
    path.write_bytes(path.read_bytes()[:500])
    assert found(check_path(path)) == [("unreadable", "")]
    assert found(check_path(npz(path, joints=np.zeros((12, 17, 4))))) == [("key", "")]
    assert found(check_path(npz(path, joints=None))) == [("unreadable", "")]


def annotation(name: str, **changes: object) -> dict[str, object]:
    points = np.random.default_rng(0).uniform(100, 200, (1, 1, 17, 2)) + np.arange(6)[None, :, None, None]
    return {"frame_dir": name, "label": 0, "total_frames": 6, "keypoint": points.astype(np.float32), **changes}


def test_pyskl_finds_every_annotation_and_every_leak(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    holes = np.array(annotation("x")["keypoint"])
    holes[0, 2, 5, 0] = np.nan
    content = {
        "split": {"xsub_train": ["a", "b", "gone"], "xsub_val": ["b", "c"]},
        "annotations": [
            annotation("a"), annotation("b", keypoint=holes), annotation("c", label=9), annotation("c"),
            annotation("d", keypoint=np.ones((1, 6, 16, 2), np.float32)), {"frame_dir": "e"}, 7,
        ],
    }  # fmt: skip
    path.write_bytes(pickle.dumps(content))
    report = check_path(path, label_names=["walk", "run"])
    assert found(report) == [
        ("fields", "annotation 6"), ("leakage", "b"), ("not-finite", "b"), ("label", "c"), ("layout", "d"),
        ("fields", "e"),
    ]  # fmt: skip
    assert ("split", "") in [(finding.kind, finding.clip) for finding in report if finding.severity == "warning"]
    path.write_bytes(pickle.dumps(content)[:-50])
    assert found(check_path(path)) == [("unreadable", "")]
    path.write_bytes(pickle.dumps([open]))
    (only,) = check_path(path)
    assert "refers to" in only.what


def test_unik_finds_every_clip(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(5, 2, 8, 17, 1)).astype(np.float32)
    data[1] = 0
    data[3, 0, 4, 2] = np.inf
    np.save(tmp_path / "val_data.npy", data)
    assert found(check_path(tmp_path / "val_data.npy")) == [("absent", "")]
    (tmp_path / "val_label.pkl").write_bytes(pickle.dumps((list("abcda"), [0, 0, 5, 0, 1])))
    report = check_path(tmp_path / "val_data.npy", label_names=["x", "y"])
    assert found(report) == [("duplicate-id", "a"), ("all-missing", "b"), ("label", "c"), ("not-finite", "d")]
    (tmp_path / "other.pkl").write_bytes(pickle.dumps((list("abcd"), [0] * 4)))
    (only,) = check_path(tmp_path / "val_data.npy", labels=tmp_path / "other.pkl")
    assert only.file.endswith("other.pkl")
    assert "4 names and 4 labels, but the array has 5 clips" in only.what


def frame(x: float = 100.0) -> dict[str, object]:
    return {"people": [{"pose_keypoints_2d": np.ravel([[x + j, 2 * x + j, 0.9] for j in range(25)]).tolist()}]}


def test_pose_files(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"v_{number:012d}_keypoints.json").write_text(json.dumps(frame(100.0 + number)))
    report = check_path(tmp_path)
    assert (report.format, report.clips, report.frames, found(report)) == ("pose-json", 1, 4, [])
    (tmp_path / "v_000000000001_keypoints.json").write_text("{")
    (tmp_path / "v_000000000002_keypoints.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": [1, 2]}]}))
    (tmp_path / "v_000000000003_keypoints.json").write_text(json.dumps({"people": []}))
    report = check_path(tmp_path)
    assert [Path(finding.file).name for finding in report if finding.severity == "error"] == [
        "v_000000000001_keypoints.json", "v_000000000002_keypoints.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [("labels.tar.xz", "penn"), ("a.npz", "npz"), ("a.pkl", "pyskl"), ("a.npy", "unik"), ("a.json", "pose-json")],
)
def test_formats_by_name(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).touch()
    assert find_format(tmp_path / name) == kind


def test_what_is_none_of_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a clip store nor files"):
        check_path(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_path(tmp_path / "none")
    with pytest.raises(ValueError, match=f"accepted: {', '.join(FORMATS)}"):
        check_path(tmp_path, format="bvh")
