"""pyskl annotation pickles, made here as the official ones are."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tmor_fast.data import ClipStore, get_layout, import_pyskl, prepare
from tmor_fast.data.importers.pyskl import open_pyskl
from tmor_fast.errors import DataError

Annotation = dict[str, Any]
Change = Callable[[Annotation], object]


def flat(name: str, label: int = 0, frames: int = 6, persons: int = 1, seed: int = 0) -> Annotation:
    """A 2D annotation of HRNet: 17 joints, half precision, scores."""
    rng = np.random.default_rng(seed)
    return {
        "frame_dir": name,
        "label": label,
        "img_shape": (1080, 1920),
        "original_shape": (1080, 1920),
        "total_frames": frames,
        "keypoint": rng.uniform(100, 900, (persons, frames, 17, 2)).astype(np.float16),
        "keypoint_score": rng.uniform(0.2, 0.9, (persons, frames, 17)).astype(np.float16),
    }


def solid(name: str, label: int = 0, frames: int = 6, persons: int = 2, seed: int = 0) -> Annotation:
    """A 3D annotation of NTU RGB+D: 25 joints, the second body empty."""
    points = np.random.default_rng(seed).normal(size=(persons, frames, 25, 3)).astype(np.float32)
    points[1:] = 0
    return {"frame_dir": name, "label": label, "total_frames": frames, "keypoint": points}


def write(folder: Path, annotations: list[Any], split: dict[str, list[str]] | None = None, protocol: int = 4) -> Path:
    path = folder / "ntu.pkl"
    path.write_bytes(pickle.dumps({"split": split or {}, "annotations": annotations}, protocol))
    return path


SPLIT = {"xsub_train": ["a", "b"], "xsub_val": ["c"], "xview_train": ["c"], "xview_val": ["a", "b"]}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_2d_annotations_become_clips(tmp_path: Path, protocol: int) -> None:
    entries = [flat("a", 1, 4), flat("b", 0, 6, 2, seed=1), flat("c", 2, 5, seed=2)]
    store = import_pyskl(write(tmp_path, entries, SPLIT, protocol), tmp_path / "s", split="xsub", licence="NTU")
    assert (store.layout, store.channels, store.units) == (get_layout("coco17"), 2, "pixels")
    assert store.label_names == ["0", "1", "2"]
    assert store.column("caption") == ["", "", ""], "numbers are no captions"
    assert store.column("split") == ["train", "train", "test"]
    assert store.info["official_split"] == ["xsub_train", "xsub_val"]
    assert store.info["licence"] == "NTU"
    assert store.info["dtype"] == "float16", "nothing is lost, nothing blown up"
    for clip, entry in zip(store, entries, strict=True):
        assert (clip.clip_id, clip.label) == (entry["frame_dir"], entry["label"])
        assert clip.image_size == (1920, 1080)
        np.testing.assert_array_equal(clip.joints, entry["keypoint"].transpose(1, 0, 2, 3).astype(np.float32))
        np.testing.assert_array_equal(clip.confidence, entry["keypoint_score"].transpose(1, 0, 2).astype(np.float32))
        assert clip.valid.all()


def test_3d_annotations_are_turned_to_the_stores_axes(tmp_path: Path) -> None:
    entries = [solid("a"), solid("b", 1, seed=1)]
    names = ["drink water", "eat_meal"]
    store = import_pyskl(write(tmp_path, entries), tmp_path / "s", label_names=names, fps=25)
    assert (store.layout, store.channels, store.units) == (get_layout("ntu25"), 3, "metres")
    clip = store[1]
    points = entries[1]["keypoint"][0]
    np.testing.assert_allclose(clip.joints[:, 0], points * [-1, 1, -1], rtol=1e-6)
    assert (clip.caption, clip.fps, clip.split) == ("eat meal", 25, "")
    assert clip.joints.shape[1] == 1, "the empty second body goes"
    kept = import_pyskl(tmp_path / "ntu.pkl", tmp_path / "t", axes="store")[1]
    np.testing.assert_array_equal(kept.joints[:, 0], points)
    assert prepare(store).joints.isfinite().all()


def test_a_person_facing_the_sensor_has_the_left_shoulder_on_the_right_of_the_image(tmp_path: Path) -> None:
    """The Kinect's x grows to its own left, where the right shoulder of a person facing it is."""
    entry = solid("a")
    ntu = get_layout("ntu25")
    entry["keypoint"][0, :, :, 2] = 3.0
    entry["keypoint"][0, :, ntu.index("right_shoulder"), 0] = 0.2
    entry["keypoint"][0, :, ntu.index("left_shoulder"), 0] = -0.2
    clip = import_pyskl(write(tmp_path, [entry]), tmp_path / "s")[0]
    assert (clip.joints[:, 0, ntu.index("left_shoulder"), 0] > clip.joints[:, 0, ntu.index("right_shoulder"), 0]).all()


def test_padding_and_what_was_not_found(tmp_path: Path) -> None:
    entry = flat("a", frames=8, persons=3)
    entry["total_frames"] = 5
    entry["keypoint"][1] = 0  # a body that is not there
    entry["keypoint"][0, 2, 7] = 0  # a joint that was not found
    entry["keypoint"][2, 3] = 0  # a frame in which the third body was not
    entry["keypoint_score"][0, 0, 0] = 1.02  # a heatmap's maximum
    clip = import_pyskl(write(tmp_path, [entry]), tmp_path / "s")[0]
    assert clip.joints.shape == (5, 2, 17, 2)
    expected = np.ones((5, 2, 17), dtype=bool)
    expected[2, 0, 7] = False
    expected[3, 1] = False
    np.testing.assert_array_equal(clip.valid, expected)
    assert clip.confidence is not None
    assert clip.confidence[0, 0, 0] == 1
    assert clip.confidence[2, 0, 7] == 0


def test_a_split_must_be_chosen_among_several(tmp_path: Path) -> None:
    path = write(tmp_path, [flat("a"), flat("b"), flat("c")], SPLIT)
    for split in (None, "xset"):
        with pytest.raises(ValueError, match=r"choose one of: xsub, xview"):
            import_pyskl(path, tmp_path / "s", split=split)
    assert import_pyskl(path, tmp_path / "s", split="xview").column("split") == ["test", "test", "train"]
    one = write(tmp_path, [flat("a"), flat("b")], {"train": ["b"], "test": ["a"]})
    assert import_pyskl(one, tmp_path / "t").column("split") == ["test", "train"], "the only pair needs no name"
    assert open_pyskl(one).pairs() == {"train": ("train", "test")}
    assert open_pyskl(write(tmp_path, [flat("a")], {"train1": [], "test1": []})).pairs() == {"1": ("train1", "test1")}


def put(**fields: Any) -> Change:
    return lambda entry: entry.update(fields)


def at(field: str, place: tuple[int, ...], value: float) -> Change:
    return lambda entry: entry[field].__setitem__(place, value)


BAD: list[tuple[Change, str]] = [
    (at("keypoint", (0, 3, 7, 1), np.nan), r"frame 3, person 0, joint 'left_elbow': is marked valid but not finite"),
    (at("keypoint", (0, 3, 7, 0), np.inf), r"frame 3, person 0, joint 'left_elbow'"),
    (at("keypoint_score", (0, 2, 0), np.nan), r"frame 2, person 0, joint 'nose': keypoint_score nan"),
    (put(keypoint=np.zeros((1, 6, 17, 2), np.float32)), "no joint was observed in any of its 6 frames"),
    (put(keypoint=np.ones((0, 6, 17, 2), np.float32)), "an empty clip: 6 frames, 0 persons"),
    (put(keypoint=np.ones((1, 0, 17, 2), np.float32), total_frames=0), "an empty clip: 0 frames"),
    (put(keypoint=np.ones((1, 6, 18, 2), np.float32)), "18 joints in 2D, but 'coco17' in 2D has 17"),
    (put(keypoint=np.ones((1, 6, 17, 3), np.float32)), "17 joints in 3D"),
    (put(keypoint=np.ones((6, 17, 2), np.float32)), r"keypoint is float32 \(6, 17, 2\)"),
    (put(keypoint=np.ones((1, 6, 17, 2), np.int64)), "keypoint is int64"),
    (put(keypoint=[[1.0]]), "keypoint is list"),
    (put(keypoint_score=np.ones((1, 5, 17), np.float32)), r"keypoint_score is float32 \(1, 5, 17\)"),
    (put(total_frames=9), "total_frames is 9, but keypoint has 6 frames"),
    (put(total_frames="x"), "total_frames is x"),
    (put(label="walk"), "label 'walk' is no whole number"),
    (put(label=-1), "label -1 is outside the list, 0 to 1"),
    (put(label=2**40), "label 1099511627776 is outside the list, 0 to 1"),
    (put(img_shape=(1080,)), r"img_shape \(1080,\) is not \(height, width\)"),
    (lambda entry: entry.pop("label"), "lacks label"),
    (put(frame_dir="a"), "'a' occurs twice"),
    (put(frame_dir="both"), "is in training and in test"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_bad_clip_is_named_or_left_out_by_name(tmp_path: Path, change: Change, message: str) -> None:
    entries = [flat("a", 0), flat("bad", 1), flat("z", 1)]
    change(entries[1])
    path = write(tmp_path, entries, {"train": ["a", "both"], "val": ["z", "both"]})
    out = tmp_path / "s"
    earlier = import_pyskl(write_other(tmp_path), out)
    name = entries[1]["frame_dir"]
    with pytest.raises(DataError, match=rf"ntu\.pkl: clip '{name}'.*{message}.*tmor data check .*ntu\.pkl"):
        import_pyskl(path, out, overwrite=True)
    assert [clip.clip_id for clip in ClipStore(out)] == [clip.clip_id for clip in earlier], "an earlier store is whole"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ntu.pkl", "other", "s"], "and nothing half-written"

    store = import_pyskl(path, out, overwrite=True, skip_bad=True)
    assert store.column("clip_id") == ["a", "z"]
    (skipped,) = store.info["skipped"]
    assert skipped["clip"] == name
    assert "ntu.pkl" in skipped["what"]


def write_other(folder: Path) -> Path:
    (folder / "other").mkdir()
    return write(folder / "other", [flat("earlier")])


def test_all_bad_clips_leave_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clip was added"):
        import_pyskl(write(tmp_path, [flat("a") | {"label": "x"}]), tmp_path / "s", skip_bad=True)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "lacks split; a pyskl file has 'split' and 'annotations'"),
        ({"split": {}, "annotations": []}, "'annotations' must be a list of clips"),
        ({"split": [], "annotations": [flat("a")]}, "'split' a dictionary"),
        ({"split": {}, "annotations": [{"frame_dir": "a", "label": 0, "raw_file": "x"}]}, "raw_file"),
        ({"split": {}, "annotations": [{"frame_dir": "a"}]}, "no annotation has a 'keypoint'"),
        ({"split": {}, "annotations": [{**flat("a"), "keypoint": np.ones((1, 6, 9, 2))}]}, "9 joints in 2D may be"),
        ((["a"], [0]), "'annotations' must be a list"),
    ],
)  # fmt: skip
def test_what_is_no_annotation_file_is_named(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=rf"x\.pkl: .*{message}"):
        import_pyskl(tmp_path / "x.pkl", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_plain_list_of_annotations_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([flat("a")]))
    assert import_pyskl(tmp_path / "x.pkl", tmp_path / "s").column("split") == [""]


class Hostile:
    def __reduce__(self) -> tuple[Any, tuple]:
        return os.mkdir, (str(Path(os.environ["TMOR_PROOF"]) / "run"),)


def test_code_in_a_pickle_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMOR_PROOF", str(tmp_path))
    path = write(tmp_path, [flat("a") | {"extra": Hostile()}])
    with pytest.raises(DataError, match=r"ntu\.pkl: refers to (posix|nt)\.mkdir"):
        import_pyskl(path, tmp_path / "s")
    assert not (tmp_path / "run").exists()


def test_a_damaged_pickle_leaves_an_earlier_store_whole(tmp_path: Path) -> None:
    path = write(tmp_path, [flat("a"), flat("b", 1)])
    out = tmp_path / "s"
    import_pyskl(path, out)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"ntu\.pkl: truncated"):
        import_pyskl(path, out, overwrite=True)
    assert ClipStore(out).column("clip_id") == ["a", "b"]
    assert {file.name for file in tmp_path.iterdir()} == {"ntu.pkl", "s"}


def test_arguments_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path, [flat("a")])
    with pytest.raises(ValueError, match=r"axes 'kinect' for 2D; accepted: 'image': x right, y down"):
        import_pyskl(path, tmp_path / "s", axes="kinect")
    with pytest.raises(ValueError, match="unknown skeleton layout"):
        import_pyskl(path, tmp_path / "s", layout="x17")
    with pytest.raises(DataError, match=r"clip 'a': label 0 .*no list|clip 'a'"):
        import_pyskl(write(tmp_path, [flat("a", 3)]), tmp_path / "s", label_names=["walk", "run"])
    with pytest.raises(FileNotFoundError, match=r"none\.pkl"):
        import_pyskl(tmp_path / "none.pkl", tmp_path / "s")
    import_pyskl(path, tmp_path / "s")
    with pytest.raises(FileExistsError):
        import_pyskl(path, tmp_path / "s")
