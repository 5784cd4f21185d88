"""Windows of long recordings: where they lie, that each is a clip of its own, and how frames are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmor_fast.data.store import ClipStore
from tmor_fast.errors import DataError
from tmor_fast.inference import ActionModel, clips
from tmor_fast.inference.windows import window_starts

UNIK = {"layout": "unik17"}


@given(st.integers(1, 300), st.integers(1, 80), st.integers(1, 90))
def test_windows_cover_what_they_can(frames: int, window: int, stride: int):
    starts = list(window_starts(frames, window, stride))
    size = min(window, frames)
    assert starts[0] == 0
    assert starts[-1] + size == frames
    steps = np.diff(starts)
    assert (steps[:-1] == stride).all()
    assert (steps > 0).all()
    assert (steps <= stride).all()
    if stride <= size:
        covered = {frame for start in starts for frame in range(start, start + size)}
        assert covered == set(range(frames))


def test_each_window_is_a_clip_of_its_own(model: ActionModel, poses: Any):
    recording = poses(17, frames=50, seed=3)[:, 0]
    recording[20:] += 400  # walks to another place
    recording[:3, 4] = np.nan
    found = model.predict_windows(recording, window=16, stride=10, **UNIK, fps=10.0, top=None, batch_size=2)
    assert [(p.start, p.stop) for p in found] == [(0, 16), (10, 26), (20, 36), (30, 46), (34, 50)]
    assert [p.start_seconds for p in found] == [0.0, 1.0, 2.0, 3.0, 3.4]
    alone = [model.predict(recording[p.start : p.stop], **UNIK, top=None) for p in found]
    assert np.allclose([p.scores for p in found], [p.scores for p in alone], atol=1e-5)
    halves = model.predict_windows(recording, window=16, **UNIK)
    assert [p.start for p in halves] == [0, 8, 16, 24, 32, 34]


@pytest.mark.parametrize("frames", [1, 5, 16])
def test_a_short_recording_is_one_window(model: ActionModel, poses: Any, frames: int):
    recording = poses(17, frames=frames)
    (found,) = model.predict_windows(recording, window=16, **UNIK)
    whole = model.predict(recording, **UNIK)
    assert found == whole


def test_windows_that_show_nobody_are_left_out(model: ActionModel, poses: Any):
    recording = poses(17, frames=40, seed=1)
    recording[8:30] = np.nan
    found = model.predict_windows(recording, window=8, stride=8, **UNIK, batch_size=1)
    assert [p.start for p in found] == [0, 24, 32]
    with pytest.raises(DataError, match="no window shows anybody"):
        model.predict_windows(np.full((40, 17, 2), np.nan), window=8, **UNIK)


def test_several_recordings_and_a_store(model: ActionModel, store2d: ClipStore, poses: Any):
    many = model.predict_windows([poses(17, 20), poses(17, 10)], window=10, stride=10, **UNIK, clip_ids=["a", "b"])
    assert [(p.clip_id, p.start) for p in many] == [("a", 0), ("a", 10), ("b", 0)]
    stored = model.predict_windows(store2d, window=1000)
    assert [p.clip_id for p in stored] == store2d.column("clip_id")
    assert stored[0].names == model.predict(store2d[0]).names


def test_frames_are_read_a_batch_at_a_time(
    model: ActionModel, poses: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    np.save(tmp_path / "long.npy", poses(17, frames=400))
    mapped = np.load(tmp_path / "long.npy", mmap_mode="r")
    read: list[int] = []
    original = clips.Recording.arrays

    def counted(self: clips.Recording) -> Any:
        read.append(len(self))
        return original(self)

    monkeypatch.setattr(clips.Recording, "arrays", counted)
    found = model.predict_windows(mapped, window=20, stride=20, **UNIK, batch_size=3)
    assert len(found) == 20
    assert read == [20] * 20
    # Long clips are not prepared together, however many a batch may hold.
    monkeypatch.setattr(clips, "FRAMES_AT_ONCE", 25)
    group = clips.grouped(iter([clips.Recording(mapped[:n], None, None, "c", False) for n in (10, 15, 1, 60, 5)]), 99)
    assert [[len(one) for one in part] for part in group] == [[10, 15], [1], [60], [5]]


@pytest.mark.parametrize(("window", "stride"), [(0, None), (-1, None), (4, 0), (4, -2)])
def test_sizes_that_cannot_be(model: ActionModel, clip: np.ndarray, window: int, stride: int | None):
    with pytest.raises(ValueError, match="window and stride must be at least 1"):
        model.predict_windows(clip, window=window, stride=stride, **UNIK)
