"""Small stores that the training tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmor_fast.data.packed import PackedClips
from tmor_fast.data.prepare import prepare
from tmor_fast.data.store import ClipStore
from tmor_fast.data.synthetic import write_synthetic_store

ACTIONS = ("wave the left hand", "squat", "walk", "clap")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """64 clips of four actions, 3D."""
    folder = tmp_path_factory.mktemp("training") / "synthetic"
    return write_synthetic_store(folder, clips=64, seed=3, actions=ACTIONS, yaw=(-0.3, 0.3), subjects=20)


@pytest.fixture(scope="session")
def packed(store: ClipStore) -> PackedClips:
    return prepare(store)


@pytest.fixture(scope="session")
def packed2d(tmp_path_factory: pytest.TempPathFactory) -> PackedClips:
    """32 clips of the same actions as a camera sees them."""
    folder: Path = tmp_path_factory.mktemp("training2d") / "synthetic"
    return prepare(write_synthetic_store(folder, clips=32, seed=4, dims=2, actions=ACTIONS))
