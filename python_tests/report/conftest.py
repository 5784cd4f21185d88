"""A run folder with everything in it: two stages, a recorded clustering, results, predictions, a store with gaps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from made_runs import ACTIONS, write_log, write_model, write_results, write_store

from tmor_fast.data.store import ClipStore
from tmor_fast.evaluation.zero_shot import action_text
from tmor_fast.training.clustering import Clustering
from tmor_fast.training.config import PretrainConfig, save_config
from tmor_fast.training.recording import record_clustering, record_stores


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    return write_store(tmp_path_factory.mktemp("data") / "made")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text embeddings of the actions, so that no language model is loaded."""
    path = tmp_path_factory.mktemp("texts") / "texts.pt"
    rows = torch.cat((torch.eye(3), torch.ones(1, 3)))
    torch.save(dict(zip(map(action_text, ACTIONS), rows, strict=True)), path)
    return path


@pytest.fixture(scope="session")
def run(store: ClipStore, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training of two stages with results of a probe in it."""
    folder = tmp_path_factory.mktemp("runs") / "a <b>run</b>"
    save_config(folder, PretrainConfig())
    write_model(folder / "model.pt", texts)
    record_stores(folder, [store.path])
    stage1 = [{"epoch": e, "loss": 9.0 - e, "mm": 4.0 - e, "mv": 5.0, "step": e} for e in range(3)]
    found = {"clusters": 2.0, "noise_share": 0.25, "largest_cluster_share": 0.5, "eps": 0.125}
    stage2 = [{"epoch": e, "loss": 6.0 - e, "mm": 2.0, "mv": 2.0, "mt": 2.0 - e, **found} for e in range(2)]
    write_log(folder / "stage1", stage1)
    write_log(folder / "stage2", stage2)
    ids = [str(name) for name in store.column("clip_id")]
    trained = [name for name, split in zip(ids, store.column("split"), strict=True) if split == "train"]
    labels = torch.arange(len(trained)) % 3 - 1
    clustering = Clustering(labels, 0.125, 2, 1 / 3, 1 / 3)
    points = torch.randn(len(trained), 5, generator=torch.Generator().manual_seed(0))
    record_clustering(folder / "stage2/log/clusters.npz", points, clustering, trained, min_samples=4, epoch=1)
    test = [i for i, split in enumerate(store.column("split")) if split == "test"]
    write_results(folder / "probe.json", [ids[i] for i in test], torch.tensor(test) % len(ACTIONS))
    return folder


@pytest.fixture
def no_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if scikit-learn were not installed."""
    import importlib.util

    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else original(name, *rest)
    )
