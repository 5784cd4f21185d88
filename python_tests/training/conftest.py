"""Small stores and runs that the training tests share."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

# For `limits` and `resuming`, which several tests of this folder import.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from resuming import StoppedError, at_step, run, stop

from tmor_fast.data.packed import PackedClips
from tmor_fast.data.prepare import prepare
from tmor_fast.data.store import ClipStore
from tmor_fast.data.synthetic import write_synthetic_store
from tmor_fast.nn.objective import TeacherFeatures
from tmor_fast.training.datasets import PretrainData
from tmor_fast.training.pretrain import PretrainModule

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


@pytest.fixture(scope="session")
def twenty(packed: PackedClips) -> PretrainData:
    """20 clips with teachers that tell the four actions apart."""
    chosen = packed.subset(torch.arange(20))
    draw = torch.Generator().manual_seed(0)
    video = torch.randn(4, 12, generator=draw)[chosen.label] + 0.2 * torch.randn(20, 12, generator=draw)
    text = torch.randn(4, 10, generator=draw)
    return PretrainData(chosen, TeacherFeatures(video, text, chosen.label.clone()), list(chosen.label_names))


@pytest.fixture(scope="session")
def unbroken(twenty: PretrainData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `resuming.CONFIG` that interrupted ones are compared with."""
    out = tmp_path_factory.mktemp("unbroken")
    run(twenty, out)
    return out


@pytest.fixture(scope="session")
def stopped_once(twenty: PretrainData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretrainModule, "on_train_batch_start", at_step(1, 7, stop))
        with pytest.raises(StoppedError):
            run(twenty, out)
    return out


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A run that was stopped in the second epoch of stage 1, behind checkpoints at the end of epoch 0 and at step 6."""
    return Path(shutil.copytree(stopped_once, tmp_path / "run"))
