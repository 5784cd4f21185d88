"""The pretended device, and clips that fit on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# For `pretended_cuda`, which the tests of this folder import.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from pretended_cuda import pretended_cuda, why_not

from tmor_fast.data.packed import PackedClips
from tmor_fast.data.prepare import prepare
from tmor_fast.data.synthetic import write_synthetic_store

ACTIONS = ("wave the left hand", "squat", "walk", "clap")


@pytest.fixture
def device() -> Iterator[torch.device]:
    """`cuda:0`, pretended."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with pretended_cuda() as place:
        yield place


@pytest.fixture(scope="session")
def packed3d(tmp_path_factory: pytest.TempPathFactory) -> PackedClips:
    """16 clips of four actions with embeddings of a video teacher, one of them without."""
    folder = tmp_path_factory.mktemp("device3d") / "synthetic"
    packed = prepare(write_synthetic_store(folder, clips=16, seed=3, actions=ACTIONS, yaw=(-0.3, 0.3), subjects=20))
    packed.embeddings["video"] = torch.randn(len(packed), 6, generator=torch.Generator().manual_seed(0))
    packed.embeddings["video"][2] = 0
    return packed


@pytest.fixture(scope="session")
def packed2d(tmp_path_factory: pytest.TempPathFactory) -> PackedClips:
    """8 clips of the same actions as a camera sees them."""
    folder = tmp_path_factory.mktemp("device2d") / "synthetic"
    return prepare(write_synthetic_store(folder, clips=8, seed=4, dims=2, actions=ACTIONS, subjects=20))
