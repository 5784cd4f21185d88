"""Embeddings kept in a clip store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("pyarrow")
pytest.importorskip("cv2")

from moving_figures import figure

from tmor_fast.data.clip import Clip
from tmor_fast.data.store import ClipStore, ClipStoreWriter
from tmor_fast.errors import DataError
from tmor_fast.teachers import ClassicalVideoTeacher, PrecomputedTeacher, embed_store, render_clips


class CountingTeacher:
    """Text: letters and words of a string. Video: mean colour of the first frame. Notes what it was asked."""

    name = "counting"
    dim = 3

    def __init__(self, supports: Sequence[str] = ("text",), version: int = 0) -> None:
        self.supports = frozenset(supports)
        self.settings: Mapping[str, object] = {"version": version}
        self.asked: list[str] = []

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        return torch.tensor([[float(len(text)), float(len(text.split())), 1.0] for text in texts])

    def encode_video(self, frames: Tensor) -> Tensor:
        self.asked += ["clip"] * len(frames)
        return frames[:, 0].float().mean((1, 2))


CLIPS = [("walk", "a man walks"), ("walk", ""), ("squat", "a man walks"), ("squat", ""), ("", "")]


def _store(path: Path, *, labelled: int = 5, unseen: bool = False) -> ClipStore:
    with ClipStoreWriter(
        path, name="toy", layout="unik17", channels=2, units="pixels", label_names=["walk", "deep_squat"]
    ) as writer:
        for number, (label, caption) in enumerate(CLIPS[:labelled]):
            joints = figure(label or "still", frames=10 + number, seed=number)
            valid = np.full(joints.shape[:3], not (unseen and number == 1))
            kind = {"walk": 0, "squat": 1, "": -1}[label]
            writer.add(Clip(joints, valid, "unik17", f"clip{number}", "pixels", label=kind, caption=caption))
    return ClipStore(path)


def test_each_text_is_encoded_once(tmp_path: Path) -> None:
    store, teacher = _store(tmp_path / "s", labelled=4), CountingTeacher()
    rows = embed_store(store, teacher)
    assert teacher.asked == ["a man walks", "walk", "deep squat"]
    np.testing.assert_array_equal(rows, [[11, 3, 1], [4, 1, 1], [11, 3, 1], [10, 2, 1]])
    np.testing.assert_array_equal(store.embeddings("counting"), rows)


def test_same_settings_are_not_computed_again(tmp_path: Path) -> None:
    store, teacher = _store(tmp_path / "s", labelled=4), CountingTeacher()
    first = embed_store(store, teacher, text="label")
    count = len(teacher.asked)
    np.testing.assert_array_equal(embed_store(ClipStore(tmp_path / "s"), teacher, text="label"), first)
    assert len(teacher.asked) == count == 2
    embed_store(store, teacher, text="label", overwrite=True)
    assert len(teacher.asked) == 2 * count
    embed_store(store, CountingTeacher(version=0), text="label")
    changed = CountingTeacher(version=1)
    embed_store(store, changed, text="label")
    assert changed.asked, "another version of the teacher counts as another teacher"
    np.testing.assert_array_equal(embed_store(store, teacher)[0], [11, 3, 1])  # other texts are encoded


def test_missing_text_is_named_or_left_empty(tmp_path: Path) -> None:
    store = _store(tmp_path / "s")
    with pytest.raises(DataError, match="1 of 5 clips have no caption and no label, the first is clip 'clip4'"):
        embed_store(store, CountingTeacher())
    with pytest.raises(DataError, match="3 of 5 clips have no caption, the first is clip 'clip1'"):
        embed_store(store, CountingTeacher(), text="caption")
    rows = embed_store(store, CountingTeacher(), skip_missing=True)
    assert not rows[4].any()
    assert rows[:4].any(1).all()


def test_video_equals_drawing_and_encoding_by_hand(tmp_path: Path) -> None:
    store, teacher = _store(tmp_path / "s"), ClassicalVideoTeacher()
    rows = embed_store(store, teacher, batch_size=2)
    frames = render_clips([clip.joints for clip in store], "unik17", settings=teacher.render_settings)
    np.testing.assert_allclose(rows, teacher.encode_video(frames), atol=1e-6)
    notes = store.embedding_metadata("classical-video")
    assert notes["settings"]["modality"] == "video"
    assert notes["settings"]["render"]["frames"] == 10


def test_clips_without_a_valid_joint(tmp_path: Path) -> None:
    store = _store(tmp_path / "s", unseen=True)
    with pytest.raises(DataError, match="'clip1' has no valid joint"):
        embed_store(store, ClassicalVideoTeacher())
    rows = embed_store(store, ClassicalVideoTeacher(), skip_missing=True)
    np.testing.assert_array_equal(rows.any(1), [True, False, True, True, True])


def test_teachers_of_both_kinds_need_a_choice(tmp_path: Path) -> None:
    store, teacher = _store(tmp_path / "s"), CountingTeacher(("text", "video"))
    with pytest.raises(ValueError, match="say which"):
        embed_store(store, teacher)
    embed_store(store, teacher, modality="video")
    embed_store(store, teacher, modality="text", skip_missing=True)
    assert store.teachers == ["counting-text", "counting-video"]
    with pytest.raises(ValueError, match="encodes text, not 'video'"):
        embed_store(store, CountingTeacher(), modality="video")
    with pytest.raises(ValueError, match="'title' is not one of"):
        embed_store(store, CountingTeacher(), text="title")


def test_precomputed_by_clip_and_by_text(tmp_path: Path) -> None:
    store = _store(tmp_path / "s", labelled=4)
    by_clip = PrecomputedTeacher({f"clip{number}": [number, 1.0] for number in range(4)}, name="a")
    np.testing.assert_array_equal(embed_store(store, by_clip)[:, 0], [0, 1, 2, 3])
    by_text = PrecomputedTeacher({"walk": [7.0], "deep squat": [8.0]}, name="b")
    np.testing.assert_array_equal(embed_store(store, by_text, text="label")[:, 0], [7, 7, 8, 8])
    by_row = PrecomputedTeacher(np.arange(8.0).reshape(4, 2), name="c")
    np.testing.assert_array_equal(embed_store(store, by_row), np.arange(8.0).reshape(4, 2))
    some = PrecomputedTeacher({"clip2": [5.0]}, name="d")
    with pytest.raises(DataError, match="lacks 3 of 4 clips: 'clip0'"):
        embed_store(store, some)
    np.testing.assert_array_equal(embed_store(store, some, skip_missing=True)[:, 0], [0, 0, 5, 0])


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar_can_be_asked_for(
    tmp_path: Path, progress: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the output for a terminal
    embed_store(_store(tmp_path / "s", labelled=4), CountingTeacher(), progress=progress)
    assert ("counting: texts" in capsys.readouterr().err) == progress
