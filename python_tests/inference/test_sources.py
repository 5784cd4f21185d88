"""What `tmor predict` opens, and that a pose file, a store and an array of the same motion get the same names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tmor_fast.data.layout import get_layout
from tmor_fast.data.store import ClipStore
from tmor_fast.errors import DataError
from tmor_fast.inference import ActionModel, open_source

UNIK = get_layout("unik17")


def write_npz(path: Path, clips: list[np.ndarray], **more: Any) -> Path:
    joints = np.concatenate(clips)
    offsets = np.cumsum([0, *(len(clip) for clip in clips)])
    np.savez(path, joints=joints, offsets=offsets, joint_names=np.array(UNIK.joint_names), **more)
    return path


def test_a_store(model: ActionModel, store2d: ClipStore):
    with open_source(store2d.path) as source:
        assert (source.kind, source.layout) == ("clip store", store2d.layout)
        assert str(source) == "clip store: 40 clips of unik17"
        assert model.predict(source.clips) == model.predict(store2d)
    with open_source(store2d.path, layout="unik17") as source:
        assert len(source.clips) == 40
    with pytest.raises(ValueError, match="frame rates of their own"), open_source(store2d.path, fps=25.0):
        pass
    with (
        pytest.raises(ValueError, match="its clips are 'unik17', not 'coco17'"),
        open_source(store2d.path, layout="coco17"),
    ):
        pass


def test_an_npz(model: ActionModel, clip: np.ndarray, tmp_path: Path):
    longer = np.concatenate((clip, clip[::-1]))
    path = write_npz(tmp_path / "motion.npz", [clip, longer], clip_id=np.array(["a", "b"]), fps=12.5)
    with open_source(path) as source:
        assert str(source) == "npz: 2 clips of unik17"
        found = model.predict(source.clips)
        temporary = source.clips.path  # type: ignore[union-attr]
    assert found == model.predict([clip, longer], layout="unik17", clip_ids=["a", "b"], fps=12.5)
    assert not temporary.exists()
    np.savez(tmp_path / "bare.npz", joints=clip)
    with pytest.raises(DataError, match=r"bare\.npz: lacks offsets, joint_names"), open_source(tmp_path / "bare.npz"):
        pass


def test_a_pose_file_is_named_as_the_array_is(model: ActionModel, poses: Any, tmp_path: Path):
    points = poses(17, frames=10, seed=4)[:, 0].astype(np.float32)
    weight = np.random.default_rng(0).uniform(0, 1, points.shape[:2]).round(3)
    weight[weight < 0.2] = 0
    entries = [
        {"image_id": i, "category_id": 1, "score": 1.0, "keypoints": np.c_[p, w].astype(float).ravel().tolist()}
        for i, (p, w) in enumerate(zip(points, weight, strict=True))
    ]
    (tmp_path / "dance.json").write_text(json.dumps(entries))
    with open_source(tmp_path / "dance.json", fps=20.0) as source:
        assert str(source) == "COCO results: 1 clip of coco17"
        (found,) = model.predict(source.clips)
    assert found == model.predict(points, layout="coco17", confidence=weight, clip_ids="dance", fps=20.0)
    with open_source(tmp_path) as source:
        assert model.predict(source.clips) == [model.predict(source.clips[0])]


def test_a_model_of_two_gets_two(pair: ActionModel, poses: Any, tmp_path: Path):
    points = poses(17, frames=6, persons=2)
    points[:, 1] += 900
    entries = [
        {"image_id": i, "score": 1.0, "keypoints": np.c_[p, np.ones(17)].ravel().tolist()}
        for i, frame in enumerate(points)
        for p in frame
    ]
    (tmp_path / "two.json").write_text(json.dumps(entries))
    with open_source(tmp_path / "two.json", persons=pair.persons) as source:
        (found,) = pair.predict(source.clips)
    expected = pair.predict(points, layout="coco17", clip_ids="two")
    assert found.names == expected.names
    assert found.scores == pytest.approx(expected.scores, abs=1e-5)


def test_other_paths(tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, error, message in (
        ("gone", FileNotFoundError, "does not exist; give a clip store"),
        ("gone.npz", FileNotFoundError, "does not exist"),
        ("gone.json", FileNotFoundError, "does not exist"),
        ("clip.mp4", ValueError, "accepted are the folder of a clip store, a .npz"),
        ("empty", FileNotFoundError, "holds no .json files"),
    ):
        with pytest.raises(error, match=message), open_source(tmp_path / name):
            pass
