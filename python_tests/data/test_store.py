"""The clip store: round trips, open formats, atomic writing."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmor_fast.data import Clip, ClipBatch, ClipStore, ClipStoreWriter, get_layout
from tmor_fast.data.layout import SkeletonLayout
from tmor_fast.errors import DataError

Make = Callable[..., Clip]
Write = Callable[..., ClipStore]
OPTIONS = {"name": "t", "layout": "unik17", "channels": 2, "units": "pixels", "label_names": ["walk", "run"]}


def writer(path: Path, **changes: object) -> ClipStoreWriter:
    return ClipStoreWriter(path, **{**OPTIONS, **changes})  # type: ignore[arg-type]


@st.composite
def clip_lists(draw: st.DrawFn) -> tuple[list[Clip], str, int]:
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    layout = draw(st.sampled_from(["unik17", "penn13"]))
    channels = draw(st.sampled_from([2, 3]))
    clips = []
    for number in range(draw(st.integers(1, 7))):
        shape = (draw(st.integers(1, 9)), draw(st.integers(1, 2)), get_layout(layout).num_joints)
        whole = draw(st.booleans())
        joints = rng.normal(scale=5, size=(*shape, channels)).astype(np.float32)
        valid = np.ones(shape, bool) if whole else rng.random(shape) < 0.6
        joints[~valid] = np.nan
        clips.append(
            Clip(
                joints=joints,
                valid=valid,
                layout=layout,
                clip_id=f"clip {number} é",
                units="metres",
                label=draw(st.integers(-1, 1)),
                caption=draw(st.sampled_from(["", "a person walks", 'says "ü"'])),
                split=draw(st.sampled_from(["train", "test", ""])),
                fps=draw(st.sampled_from([24.0, 29.97])),
                image_size=draw(st.sampled_from([None, (640, 480)])),
                confidence=rng.random(shape).astype(np.float32) if draw(st.booleans()) else None,
                frame_label=rng.integers(-1, 2, shape[0]) if draw(st.booleans()) else None,
                extra={"style": f"s{number}", "weight": number / 2, "rank": number},
            )
        )
    return clips, draw(st.sampled_from(["float16", "float32"])), draw(st.integers(1, 4))


@settings(max_examples=25, deadline=None)
@given(clip_lists())
def test_round_trip(given_clips: tuple[list[Clip], str, int]) -> None:
    clips, dtype, per_shard = given_clips
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        options = {"layout": clips[0].layout, "channels": clips[0].joints.shape[3], "units": "metres", "dtype": dtype}
        with writer(path, clips_per_shard=per_shard, **options) as out:
            out.add_many(clips)
        store = ClipStore(path)
        assert len(store) == len(clips)
        assert store.num_frames == sum(len(clip.joints) for clip in clips)
        assert store.max_persons == max(clip.joints.shape[1] for clip in clips)
        for read in (list(store), [store[i] for i in range(len(store))]):
            for clip, other in zip(clips, read, strict=True):
                assert_same(clip, other, 2e-3 if dtype == "float16" else 0.0)
                other.check()


def assert_same(clip: Clip, other: Clip, tolerance: float) -> None:
    for name in ("clip_id", "layout", "units", "label", "caption", "split", "fps", "image_size", "extra"):
        assert getattr(clip, name) == getattr(other, name), name
    np.testing.assert_array_equal(clip.valid, other.valid)
    np.testing.assert_allclose(
        clip.joints[clip.valid], other.joints[other.valid], rtol=tolerance / 2, atol=tolerance / 20
    )
    assert np.isfinite(other.joints).all()
    assert other.joints.dtype == np.float32
    # where some clips of a shard have confidences or frame labels, the rest reads as "sure" and "none"
    confidence = np.ones(clip.valid.shape) if clip.confidence is None else clip.confidence
    if other.confidence is None:
        assert clip.confidence is None
    else:
        np.testing.assert_allclose(confidence, other.confidence, atol=1e-3)
    labels = np.full(len(clip.joints), -1) if clip.frame_label is None else clip.frame_label
    if other.frame_label is None:
        assert clip.frame_label is None
    else:
        np.testing.assert_array_equal(labels, other.frame_label)


def test_plain_pyarrow_reads_it(clip: Make, write_store: Write) -> None:
    clips = [clip(0, 4, 2, label=1, view="front"), clip(1, 7, 1)]
    clips[1].valid[3, 0, 5] = False
    store = write_store(clips, dtype="float32")
    table = pq.read_table(store.path / "clips" / "00000.parquet")
    row = table.slice(0, 1).to_pylist()[0]
    shape = (row["num_frames"], row["persons"], 17, 2)
    assert shape == (4, 2, 17, 2)
    assert row["label_name"] == "run"
    assert row["view"] == "front"
    np.testing.assert_array_equal(np.array(row["joints"], np.float32).reshape(shape), clips[0].joints)
    assert row["valid"] is None, "a clip with every joint valid stores no flags"
    second = table.slice(1, 1).to_pylist()[0]
    np.testing.assert_array_equal(np.array(second["valid"]).reshape(7, 1, 17), clips[1].valid)
    described = json.loads(table.schema.metadata[b"tmor"])
    assert described["layout"]["joint_names"][0] == "head"
    assert described["channels"] == 2


def test_datasets_reads_it(clip: Make, write_store: Write, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    first = clip(0, 5, caption="a person walks")
    store = write_store([first, clip(1)], dtype="float16")
    rows = datasets.load_dataset(
        "parquet", data_files=str(store.path / "clips" / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(rows) == 2
    assert rows[0]["caption"] == "a person walks"
    joints = np.array(rows[0]["joints"], np.float32).reshape(5, 1, 17, 2)
    np.testing.assert_allclose(joints, first.joints, rtol=1e-3, atol=1e-4)


def test_add_batch_equals_clip_by_clip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    joints = rng.normal(size=(10, 5, 2, 17, 2)).astype(np.float32)
    valid = rng.random((10, 5, 2, 17)) < 0.8
    names = [f"c{i}" for i in range(10)]
    with writer(tmp_path / "a", clips_per_shard=4) as out:
        out.add_batch(joints, names, valid=valid, label=np.arange(10) % 2, caption="same", fps=np.full(10, 25.0))
    with writer(tmp_path / "b", clips_per_shard=4) as out:
        for i, name in enumerate(names):
            out.add(Clip(joints[i], valid[i], "unik17", name, "pixels", label=i % 2, caption="same", fps=25.0))
    one, two = ClipStore(tmp_path / "a"), ClipStore(tmp_path / "b")
    assert [s["clips"] for s in one.info["shards"]] == [4, 4, 2] == [s["clips"] for s in two.info["shards"]]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.joints, b.joints)
        np.testing.assert_array_equal(a.valid, b.valid)
        assert (a.clip_id, a.label, a.caption, a.fps) == (b.clip_id, b.label, b.caption, b.fps)


def test_columns_without_reading_joints(clip: Make, write_store: Write) -> None:
    store = write_store([clip(i, i + 1, extra={"style": f"s{i}"}) for i in range(5)], clips_per_shard=2)
    assert store.column("style") == ["s0", "s1", "s2", "s3", "s4"]
    assert store.column("num_frames").tolist() == [1, 2, 3, 4, 5]  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"no column \['nope'\]; it has clip_id"):
        store.column("nope")
    with pytest.raises(ValueError, match="many values a clip"):
        store.column("joints")
    with pytest.raises(IndexError):
        store[5]
    assert store[-1].clip_id == "clip4"


def test_an_unknown_layout_travels_with_the_store(tmp_path: Path) -> None:
    layout = SkeletonLayout("store-test", ("a", "b"), (-1, 0), 0)
    with writer(tmp_path / "s", layout=layout) as out:
        out.add_batch(np.zeros((1, 3, 1, 2, 2), np.float32), ["x"])
    assert ClipStore(tmp_path / "s").layout == layout
    info = json.loads((tmp_path / "s" / "dataset.json").read_text())
    info["layout"]["parents"] = [1, -1]
    (tmp_path / "s" / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="different layout"):
        ClipStore(tmp_path / "s")


# ---------------------------------------------------------------------------------------------------- writing


def test_nothing_is_left_of_a_failed_write(clip: Make, tmp_path: Path) -> None:
    def fail() -> None:
        with writer(tmp_path / "s") as out:
            out.add(clip())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_store_is_replaced_only_when_asked(clip: Make, tmp_path: Path) -> None:
    with writer(tmp_path / "s") as out:
        out.add(clip(1))
    with pytest.raises(FileExistsError, match="overwrite"):
        writer(tmp_path / "s")
    with pytest.raises(RuntimeError), writer(tmp_path / "s", overwrite=True) as out:
        raise RuntimeError
    assert ClipStore(tmp_path / "s")[0].clip_id == "clip1", "the old store outlives a failed replacement"
    with writer(tmp_path / "s", overwrite=True) as out:
        out.add(clip(2))
        assert ClipStore(tmp_path / "s")[0].clip_id == "clip1", "the old store stands until close"
    assert ClipStore(tmp_path / "s")[0].clip_id == "clip2"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_store_needs_a_clip(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clip was added"), writer(tmp_path / "s"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_writing_after_close_is_refused(clip: Make, tmp_path: Path) -> None:
    out = writer(tmp_path / "s")
    out.add(clip())
    out.close()
    out.close()
    with pytest.raises(RuntimeError, match="closed"):
        out.add(clip(1))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"seed": 0}, "'clip0' occurs twice"),
        ({"units": "metres"}, "unik17 in metres, but the store holds unik17 in pixels"),
        ({"layout": "penn13"}, "penn13 in pixels"),
        ({"channels": 3, "units": "pixels"}, "17, 2"),
        ({"label": 2}, "label 2 is outside -1 to 1"),
        ({"frame_label": np.array([0, 1, 5, 0, 0, 0])}, "frame 2 has frame_label 5"),
        ({"extra": {"style": "x"}}, r"extra columns \['style'\]"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused(clip: Make, tmp_path: Path, second: dict, message: str) -> None:
    with pytest.raises(DataError, match=message), writer(tmp_path / "s") as out:
        out.add_many([clip(0), clip(**{"seed": 1, **second})])


def test_duplicates_within_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'a' occurs twice"), writer(tmp_path / "s") as out:
        out.add_batch(np.zeros((2, 3, 1, 17, 2), np.float32), ["a", "a"])


def test_a_batch_names_clip_frame_and_joint(tmp_path: Path) -> None:
    joints = np.zeros((2, 3, 1, 17, 2), np.float32)
    joints[1, 2, 0, 5, 1] = np.nan
    with (
        pytest.raises(DataError, match=r"clip 'b': frame 2, person 0, joint 'left_shoulder'"),
        writer(tmp_path / "s") as o,
    ):
        o.add_batch(joints, ["a", "b"])


def test_float16_overflow_is_named(tmp_path: Path) -> None:
    joints = np.zeros((1, 3, 1, 17, 2), np.float32)
    joints[0, 1] = 70_000
    with pytest.raises(DataError, match=r"'a': frame 1 .*float32"), writer(tmp_path / "s", dtype="float16") as out:
        out.add_batch(joints, ["a"])


def test_ragged_batches_are_checked(tmp_path: Path) -> None:
    joints = np.zeros((4, 1, 17, 2), np.float32)
    for offsets in ([0, 3], [1, 4], [0, 3, 2, 4], [0, 0, 4]):
        names = [f"c{i}" for i in range(len(offsets) - 1)]
        with pytest.raises(DataError, match=r"offsets|frames 0"), writer(tmp_path / "s") as out:
            out.add_ragged(ClipBatch.build(joints, np.array(offsets), names))
    with pytest.raises(DataError, match="column 'caption'"):
        ClipBatch.build(joints, np.array([0, 4]), ["a"], caption=["x", "y"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 4}, "channels"),
        ({"units": "feet"}, "units"),
        ({"dtype": "int8"}, "dtype"),
        ({"label_names": ["a", "a"]}, "distinct"),
        ({"clips_per_shard": 0}, "clips_per_shard"),
        ({"num_clips": 3}, "num_clips"),
        ({"layout": "nope"}, "unknown skeleton layout"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        writer(tmp_path / "s", **changes)
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"tmor_fast\[train\]"):
        ClipStore(tmp_path)


# ---------------------------------------------------------------------------------------------------- embeddings


def test_embeddings_round_trip(clip: Make, write_store: Write) -> None:
    store = write_store([clip(0), clip(1)])
    array = np.array([[1, 2, 3], [0, 0, 0]], np.float16)
    store.write_embeddings("org/model-1.5:text", array, {"prompt": "a person {}"})
    again = ClipStore(store.path)
    assert again.teachers == ["org/model-1.5:text"] == again.info["teachers"]
    np.testing.assert_array_equal(again.embeddings("org/model-1.5:text"), array)
    assert again.embeddings("org/model-1.5:text").dtype == np.float32
    assert again.embedding_metadata("org/model-1.5:text")["prompt"] == "a person {}"
    assert again.embedding_metadata("other") == {}
    store.write_embeddings("org/model-1.5:text", np.ones((2, 4), np.float32))
    assert again.embeddings("org/model-1.5:text").shape == (2, 4)


@pytest.mark.parametrize("replacement", [1, 2], ids=["rows", "notes"])
def test_an_interrupted_write_leaves_no_notes_of_other_embeddings(
    clip: Make, write_store: Write, monkeypatch: pytest.MonkeyPatch, replacement: int
) -> None:
    store = write_store([clip(0), clip(1)])
    old, new = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    store.write_embeddings("t", old, {"fingerprint": "old"})
    replace, done = os.replace, 0

    def killed(source: object, target: object) -> None:
        nonlocal done
        done += 1
        if done == replacement:
            raise KeyboardInterrupt
        replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write_embeddings("t", new, {"fingerprint": "new"})
    monkeypatch.setattr(os, "replace", replace)
    kept = old if replacement == 1 else new
    np.testing.assert_array_equal(store.embeddings("t"), kept)
    assert store.embedding_metadata("t") == {}, "rows without notes are embedded again"
    store.write_embeddings("t", new, {"fingerprint": "new"})
    assert store.embedding_metadata("t")["fingerprint"] == "new"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 4), np.float32), r"\(2, D\)"),
        (np.ones(2, np.float32), r"\(2, D\)"),
        (np.ones((2, 4), np.float64), "float64"),
        (np.array([[1.0], [np.nan]], np.float32), "clip 1 is not finite"),
    ],
)
def test_wrong_embeddings_are_refused(clip: Make, write_store: Write, array: np.ndarray, message: str) -> None:
    store = write_store([clip(0), clip(1)])
    with pytest.raises(ValueError, match=message):
        store.write_embeddings("t", array)
    assert store.teachers == []


def test_damaged_embeddings_are_named(clip: Make, write_store: Write) -> None:
    store = write_store([clip(0), clip(1)])
    with pytest.raises(DataError, match="no embeddings of teacher 't'; there are: none"):
        store.embeddings("t")
    store.write_embeddings("t", np.ones((2, 400), np.float32))
    file = store.path / "embeddings" / "t.npy"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"t\.npy"):
        store.embeddings("t")
    np.save(file, np.ones((3, 4), np.float32))
    with pytest.raises(DataError, match="one row for each of 2 clips"):
        store.embeddings("t")
