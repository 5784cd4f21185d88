"""Small stores and models that the prediction tests share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tmor_fast.data.clip_batches import AugmentationConfig
from tmor_fast.data.prepare import prepare
from tmor_fast.data.store import ClipStore
from tmor_fast.data.synthetic import write_synthetic_store
from tmor_fast.inference import ActionModel, load
from tmor_fast.nn import TMOR, UNIK, TMOROptions, UNIKConfig, save_classifier, save_model
from tmor_fast.training.config import BackboneConfig, FinetuneConfig, OptimiserConfig, ProbeConfig
from tmor_fast.training.finetune import TransferResult, finetune
from tmor_fast.training.probe import probe

ACTIONS = ("wave the left hand", "squat", "walk", "clap")
METADATA = {
    "layout": "unik17", "normalisation": "body", "frames": 8, "sampling": "resample", "view_yaw_degrees": 60.0,
    "stream": "joint", "label_names": list(ACTIONS), "training": "fine-tuned",
}  # fmt: skip
SEEN = AugmentationConfig(frames=8, view_yaw_degrees=60, rotation_degrees=5)
OPTIMISER = OptimiserConfig(name="adamw", rate=3e-3, scale_rate=False, batch_size=16, epochs=2)


def settled(module: UNIK | TMOR, persons: int = 1, channels: int = 2) -> Any:
    """With batch statistics as after training, so that scores depend on the clip."""
    encoder = module.backbone if isinstance(module, TMOR) else module
    norms = [m for m in encoder.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    for norm in norms:
        norm.momentum = 0.5
    for _ in range(6):
        encoder.features(torch.randn(8, channels, 8, 17, persons))
    return module.eval()


def write_classifier(path: Path, *, persons: int = 1, channels: int = 2, seed: int = 0, **metadata: Any) -> Path:
    """A classifier of random weights."""
    torch.manual_seed(seed)
    encoder = UNIK(UNIKConfig.preset("unik-micro", persons=persons, channels=channels))
    encoder.reset_classifier(len(ACTIONS))
    save_classifier(path, settled(encoder, persons, channels), {**METADATA, **metadata})
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inference")


@pytest.fixture(scope="session")
def model(folder: Path) -> ActionModel:
    return load(write_classifier(folder / "plain.pt"))


@pytest.fixture(scope="session")
def pair(folder: Path) -> ActionModel:
    """A model that sees two persons."""
    return load(write_classifier(folder / "pair.pt", persons=2))


@pytest.fixture(scope="session")
def text_file(folder: Path) -> Path:
    """A T-MOR model of stage 2 whose text teacher is a file of finished embeddings."""
    torch.manual_seed(1)
    torch.save(dict(zip([*ACTIONS, "bow"], torch.randn(5, 6), strict=True)), folder / "texts.pt")
    tmor = TMOR(UNIKConfig.preset("unik-micro", persons=1), TMOROptions(embedding_dim=8), text_dim=6)
    metadata = {
        **{name: METADATA[name] for name in ("layout", "normalisation", "frames", "sampling", "view_yaw_degrees")},
        "stream": "joint", "stage": 2, "text_teacher": f"precomputed:{folder / 'texts.pt'}", "video_teacher": None,
        "trained_on": list(ACTIONS), "held_out": [],
    }  # fmt: skip
    save_model(folder / "model.pt", settled(tmor), metadata)
    return folder / "model.pt"


@pytest.fixture(scope="session")
def store2d(folder: Path) -> ClipStore:
    """40 clips in pixels, a fifth of the joints missing here and there."""
    return write_synthetic_store(folder / "flat", clips=40, seed=4, dims=2, actions=ACTIONS, frames=(20, 50))


@pytest.fixture(scope="session")
def store3d(folder: Path) -> ClipStore:
    """40 clips in metres."""
    return write_synthetic_store(folder / "deep", clips=40, seed=5, actions=ACTIONS, frames=(20, 50), subjects=10)


@dataclass
class Trained:
    """A run and what its training recorded."""

    path: Path
    result: TransferResult


@pytest.fixture(scope="session")
def tuned(store3d: ClipStore, folder: Path) -> Trained:
    """Fine-tuned on joints and bones."""
    config = FinetuneConfig(
        backbone=BackboneConfig(preset="unik-micro"), augmentation=SEEN, optimiser=OPTIMISER, streams=("joint", "bone")
    )
    return Trained(folder / "run", finetune(prepare(store3d), config, folder / "run", progress=False))


@pytest.fixture(scope="session")
def probed(store2d: ClipStore, folder: Path) -> Trained:
    """A linear probe of a random encoder, on standardised bones."""
    config = ProbeConfig(
        backbone=BackboneConfig(preset="unik-micro"), augmentation=SEEN, optimiser=OPTIMISER, standardise=True,
        stream="bone",
    )  # fmt: skip
    path = folder / "probe.pt"
    return Trained(path, probe(prepare(store2d), config, save=path, progress=False))


@pytest.fixture
def make(tmp_path: Path, folder: Path, model: ActionModel) -> Any:
    """Writes a classifier with other settings."""

    def write(**settings: Any) -> Path:
        path = tmp_path / "other.pt"
        if settings.keys() & {"seed", "persons", "channels"}:
            return write_classifier(path, **settings)
        content = torch.load(folder / "plain.pt", weights_only=True)
        torch.save({**content, "metadata": {**content["metadata"], **settings}}, path)
        return path

    return write


@pytest.fixture
def clip() -> np.ndarray:
    """One person of 17 joints in pixels over 12 frames: (12, 17, 2)."""
    rng = np.random.default_rng(0)
    pose = rng.normal(300, 60, size=(1, 17, 2))
    return (pose + rng.normal(0, 8, size=(12, 17, 2)).cumsum(axis=0)).astype(np.float32)


def body(joints: int, frames: int = 9, seed: int = 0, persons: int = 1) -> np.ndarray:
    """Made-up poses (T, M, V, 2)."""
    rng = np.random.default_rng(seed)
    return rng.normal(300, 60, size=(1, persons, joints, 2)) + rng.normal(0, 5, size=(frames, persons, joints, 2))


@pytest.fixture
def poses() -> Any:
    """`body`: made-up poses of any number of joints, frames and persons."""
    return body
