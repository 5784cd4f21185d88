"""Pre-training: it learns, leaves a complete run folder, repeats itself, and resumes to the same result."""

from __future__ import annotations

import csv
import importlib
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tmor_fast.data.clip_batches import ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.nn.checkpoint import load_model
from tmor_fast.nn.objective import Objective, TeacherFeatures
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.tmor import TMOR
from tmor_fast.training.clustering import Clustering
from tmor_fast.training.config import (
    AugmentationConfig,
    BackboneConfig,
    OptimiserConfig,
    PretrainConfig,
    load_config,
)
from tmor_fast.training.datasets import PretrainData
from tmor_fast.training.pretrain import PretrainModule, pretrain_on

# The package exports a function of the same name.
module = importlib.import_module("tmor_fast.training.pretrain")

TINY = PretrainConfig(
    backbone=BackboneConfig(preset="unik-micro"),
    augmentation=AugmentationConfig(frames=8, view_yaw_degrees=20, rotation_degrees=5),
    optimiser=OptimiserConfig(name="adamw", rate=2e-3, scale_rate=False, batch_size=16, epochs=2),
    options=TMOROptions(embedding_dim=16, head_hidden=32, momentum=0.9, eps=0.02, max_cluster_share=1.0),
    stage2_epochs=1,
)


def epochs(config: PretrainConfig, stage1: int, stage2: int) -> PretrainConfig:
    return replace(config, optimiser=replace(config.optimiser, epochs=stage1), stage2_epochs=stage2)


def options(config: PretrainConfig, **values: Any) -> PretrainConfig:
    return replace(config, options=replace(config.options, **values))


# The radius of the first clustering is kept, so it is part of what a resumed run must know.
LONGER = options(epochs(TINY, 3, 2), eps=None)


@pytest.fixture(scope="module")
def data(packed: PackedClips) -> PretrainData:
    """An easy set: teachers that tell the four actions apart."""
    draw = torch.Generator().manual_seed(0)
    video = torch.randn(4, 12, generator=draw)[packed.label] + 0.2 * torch.randn(len(packed), 12, generator=draw)
    text = torch.randn(4, 10, generator=draw)
    return PretrainData(packed, TeacherFeatures(video, text, packed.label.clone()), list(packed.label_names))


@pytest.fixture(scope="module")
def half(data: PretrainData) -> PretrainData:
    """Half the clips, for tests that look at mechanics."""
    keep = torch.arange(0, len(data.packed), 2)
    teachers = TeacherFeatures(data.teachers.video[keep], data.teachers.text, data.teachers.text_id[keep])
    return PretrainData(data.packed.subset(keep), teachers, data.texts)


def run(data: PretrainData, out: Path, config: PretrainConfig, **more: Any) -> TMOR:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pretrain_on(data, out, config, progress=False, **more)[0]


def metrics(out: Path, stage: int) -> list[dict[str, float]]:
    with (out / f"stage{stage}" / "log" / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def last_state(out: Path, stage: int) -> dict[str, Any]:
    newest = max((out / f"stage{stage}" / "checkpoints").glob("*.ckpt"))
    return torch.load(newest, weights_only=True)["state_dict"]


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal(value, b[name]) if isinstance(value, Tensor) else value == b[name]
        assert same, name


@pytest.fixture(scope="module")
def learned(data: PretrainData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both stages on the easy set."""
    out = tmp_path_factory.mktemp("learned")
    run(data, out, epochs(TINY, 5, 4))
    return out


@pytest.fixture(scope="module")
def unbroken(half: PretrainData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that interrupted ones are compared with."""
    out = tmp_path_factory.mktemp("unbroken")
    run(half, out, LONGER)
    return out


def test_the_loss_falls_in_both_stages(learned: Path):
    first = metrics(learned, 1)
    assert first[-1]["loss"] < 0.8 * first[0]["loss"]
    assert first[-1]["mv"] < 0.8 * first[0]["mv"]
    second = metrics(learned, 2)
    assert second[-1]["loss"] < second[0]["loss"]
    assert second[-1]["mt"] < 0.9 * second[0]["mt"]


def test_the_motion_space_learns_to_name_actions(learned: Path, data: PretrainData):
    model, _ = load_model(learned / "model.pt")
    batches = ClipBatches(data.packed, TINY.augmentation)
    with torch.no_grad():
        motion = model.embed_motion(batches.plain(torch.arange(len(data.packed))))
        named = (motion @ model.embed_text(data.teachers.text).T).argmax(1)
    # A guess is right a quarter of the time.
    assert (named == data.packed.label).float().mean() > 0.5


def test_the_run_folder_is_complete(learned: Path, data: PretrainData):
    config = epochs(TINY, 5, 4)
    assert load_config(PretrainConfig, learned / "config.yaml") == config
    for stage, losses in ((1, {"mm", "mv"}), (2, {"mm", "mv", "mt"})):
        rows = metrics(learned, stage)
        assert [row["epoch"] for row in rows] == list(range(5 if stage == 1 else 4))
        assert set(rows[-1]) >= {"loss", "clusters", "noise_share", "largest_cluster_share", "eps", *losses}
        assert "mt" in losses or "mt" not in rows[-1]
        for row in rows:
            assert row["loss"] == pytest.approx(sum(row[name] for name in losses), rel=1e-5)
        kept = sorted(path.name for path in (learned / f"stage{stage}" / "checkpoints").iterdir())
        last_two = ["epoch-0003.ckpt", "epoch-0004.ckpt"] if stage == 1 else ["epoch-0002.ckpt", "epoch-0003.ckpt"]
        assert kept == sorted([*last_two, *(f"{name}.sha256" for name in last_two)])
    _, metadata = load_model(learned / "model.pt")
    assert metadata["stage"] == 2
    assert metadata["texts"] == data.texts
    assert metadata["clips"] == len(data.packed)
    assert (metadata["frames"], metadata["layout"], metadata["stream"]) == (8, "unik17", "joint")
    assert load_model(learned / "stage1.pt")[1]["stage"] == 1


def test_how_long_clustering_took_is_logged(learned: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(learned / "stage2" / "log"))
    events.Reload()
    noted = [event.value for event in events.Scalars("clustering_seconds")]
    assert len(noted) >= sum("clusters" in row for row in metrics(learned, 2)) > 0
    assert all(0 < seconds < 60 for seconds in noted)


def test_every_file_loads_without_running_code(learned: Path):
    files = [*learned.glob("*.pt"), *learned.glob("stage*/checkpoints/*.ckpt")]
    assert len(files) == 7
    for file in files:
        assert "state_dict" in torch.load(file, weights_only=True), file
    assert not list(learned.rglob("*.tmp"))


def test_stage_2_continues_with_banks_and_clusters_of_stage_1(learned: Path):
    states = [last_state(learned, stage) for stage in (1, 2)]
    steps = [int(state["objective.step"]) for state in states]
    assert steps == [5 * 4, (5 + 4) * 4]
    assert all(bool(state["objective.bank.filled"].all()) for state in states)


def test_the_learned_model_is_that_of_the_last_checkpoint(learned: Path):
    state = last_state(learned, 2)
    model, _ = load_model(learned / "model.pt")
    assert_same(model.state_dict(), {k.removeprefix("objective.model."): v for k, v in state.items()
                                     if k.startswith("objective.model.")})  # fmt: skip
    names = list(state)
    for part in ("objective.key_encoder.targets.0", "objective.bank.rows", "objective.clusters"):
        assert any(name.startswith(part) for name in names), part


def stop(monkeypatch: pytest.MonkeyPatch, stage: int, epoch: int) -> None:
    """Break off at the start of an epoch, as a machine that is taken away would."""

    def strike(self: PretrainModule) -> None:
        if (self.stage, self.current_epoch) == (stage, epoch):
            raise ConnectionAbortedError

    monkeypatch.setattr(PretrainModule, "on_train_epoch_start", strike, raising=False)


@pytest.mark.parametrize(("stage", "epoch"), [(1, 1), (1, 2), (2, 1)])
def test_an_interrupted_run_resumes_to_the_same_result(
    stage: int, epoch: int, half: PretrainData, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        stop(patch, stage, epoch)
        with pytest.raises(ConnectionAbortedError):
            run(half, tmp_path, LONGER)
    assert not (tmp_path / "model.pt").exists()
    # Another process would not have this one's random state.
    torch.manual_seed(12345)
    checkpoint = tmp_path / f"stage{stage}" / "checkpoints" / f"epoch-{epoch - 1:04d}.ckpt"
    run(half, tmp_path, LONGER, resume=checkpoint)
    assert_same(load_model(tmp_path / "model.pt")[0].state_dict(), load_model(unbroken / "model.pt")[0].state_dict())
    # Banks, clusters, eps, key encoder and step counter too.
    for number in range(stage, 3):
        assert_same(last_state(tmp_path, number), last_state(unbroken, number))
        kept, expected = (
            {p.name for p in (out / f"stage{number}" / "checkpoints").iterdir()} for out in (tmp_path, unbroken)
        )
        assert kept == expected
        # Every step and every epoch is on record once.
        for table in ("losses.csv", "metrics.csv"):
            texts = [(out / f"stage{number}" / "log" / table).read_text() for out in (tmp_path, unbroken)]
            assert texts[0] == texts[1]


def test_a_checkpoint_from_elsewhere_is_refused(half: PretrainData, unbroken: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="stage1 or stage2"):
        run(half, tmp_path, TINY, resume=unbroken / "model.pt")
    with pytest.raises(FileNotFoundError, match="gone"):
        run(half, tmp_path, TINY, resume=tmp_path / "stage1" / "checkpoints" / "gone.ckpt")


def test_the_seed_fixes_everything(half: PretrainData, tmp_path: Path):
    config = epochs(TINY, 1, 1)
    states = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(states))
        states.append(run(half, tmp_path / name, replace(config, seed=seed)).state_dict())
    assert_same(states[0], states[1])
    weight = "motion_heads.motion.mlp.0.weight"
    assert not torch.equal(states[0][weight], states[2][weight])


def test_checkpointing_blocks_changes_no_result(half: PretrainData, tmp_path: Path):
    config = epochs(TINY, 1, 1)
    plain = run(half, tmp_path / "plain", config)
    kept = run(half, tmp_path / "kept", replace(config, checkpointing=True))
    assert kept.backbone.checkpointing
    assert not plain.backbone.checkpointing
    assert_same(plain.state_dict(), kept.state_dict())


def test_stage_2_without_text_fails_before_anything_is_trained(half: PretrainData, tmp_path: Path):
    silent = PretrainData(half.packed, TeacherFeatures(video=half.teachers.video), [])
    with pytest.raises(ValueError, match="stage2_epochs=0"):
        run(silent, tmp_path / "run", TINY)
    assert not (tmp_path / "run").exists()
    run(silent, tmp_path / "run", epochs(TINY, 1, 0))
    _, metadata = load_model(tmp_path / "run" / "model.pt")
    assert metadata["stage"] == 1
    assert not (tmp_path / "run" / "stage2").exists()


def test_motion_alone(half: PretrainData, tmp_path: Path):
    alone = PretrainData(half.packed, TeacherFeatures(), [])
    run(alone, tmp_path, options(epochs(TINY, 1, 0), momentum=0.0, motion_bank="fifo", num_negatives=24))
    assert {"mm", "loss"} <= set(metrics(tmp_path, 1)[0])
    assert "mv" not in metrics(tmp_path, 1)[0]


def seen_clusters(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Tensor]]:
    """Stage and clusters of every motion loss."""
    seen: list[tuple[int, Tensor]] = []
    original = Objective._stage_clusters

    def spy(self: Objective, stage: int) -> Tensor:
        clusters = original(self, stage)
        seen.append((stage, clusters.clone()))
        return clusters

    monkeypatch.setattr(Objective, "_stage_clusters", spy)
    return seen


def test_labels_as_clusters_of_stage_2(half: PretrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = seen_clusters(monkeypatch)
    run(half, tmp_path, options(epochs(TINY, 1, 2), stage2_clusters="labels"))
    first = [clusters for stage, clusters in seen if stage == 1]
    second = [clusters for stage, clusters in seen if stage == 2]
    # Labels stay out of stage 1: nothing is clustered before its first epoch ends.
    assert all(bool((clusters == -1).all()) for clusters in first)
    assert all(torch.equal(clusters, half.packed.label) for clusters in second)
    assert "clusters" not in metrics(tmp_path, 2)[-1]


def test_clusters_come_after_the_warm_up_and_as_often_as_asked(
    half: PretrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made: list[int] = []
    original = PretrainModule._cluster

    def spy(self: PretrainModule) -> None:
        made.append(self.current_epoch + 1)
        original(self)

    monkeypatch.setattr(PretrainModule, "_cluster", spy)
    seen = seen_clusters(monkeypatch)
    run(half, tmp_path, options(epochs(TINY, 5, 0), warmup_epochs=2, cluster_every=2))
    assert made == [2, 4]
    used = [bool((clusters >= 0).any()) for _, clusters in seen]
    assert used == [False] * 4 + [True] * 6


def test_an_unusable_clustering_warns_and_training_goes_on(half: PretrainData, tmp_path: Path):
    # Nothing is within such a radius of anything else.
    config = options(epochs(TINY, 2, 0), eps=1e-7)
    with pytest.warns(UserWarning, match="epoch 0: no cluster at eps"):
        model, _ = pretrain_on(half, tmp_path, config, progress=False)
    rows = metrics(tmp_path, 1)
    assert [row["clusters"] for row in rows] == [0, 0]
    assert [row["noise_share"] for row in rows] == [1, 1]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    everything = options(epochs(TINY, 1, 0), eps=2.0, max_cluster_share=0.5)
    with pytest.warns(UserWarning, match="largest cluster holds 100%"):
        pretrain_on(half, tmp_path / "one", everything, progress=False)
    assert int((last_state(tmp_path / "one", 1)["objective.clusters"] >= 0).sum()) == 0


@pytest.mark.parametrize("refresh", [False, True])
def test_eps_is_kept_from_the_first_usable_clustering(
    refresh: bool, half: PretrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given: list[float | None] = []

    def cluster(embeddings: Tensor, options: TMOROptions, eps: float | None) -> Clustering:
        given.append(eps)
        labels = torch.arange(len(embeddings)) % 3
        # The first one fails; its radius must not be kept for good.
        usable = len(given) > 1
        return Clustering(labels if usable else None, eps or len(given) / 10, 3, 0.0, 0.3, "" if usable else "unusable")

    monkeypatch.setattr(module, "cluster_embeddings", cluster)
    run(half, tmp_path, options(epochs(TINY, 3, 1), eps=None, refresh_eps=refresh))
    assert given == ([None] * 4 if refresh else [None, None, 0.2, 0.2])
    assert [row["eps"] for row in metrics(tmp_path, 1)] == pytest.approx([0.1, 0.2, 0.3 if refresh else 0.2])


def test_divergence_is_named_and_says_what_to_do(half: PretrainData, tmp_path: Path):
    config = epochs(TINY, 3, 0)
    wild = replace(config, optimiser=replace(config.optimiser, name="sgd", rate=1e30))
    with pytest.raises(FloatingPointError, match=r"training diverged.* step \d+; lower optimiser\.rate"):
        run(half, tmp_path, wild)


def test_a_stage_2_rate_of_its_own(half: PretrainData):
    objective = module.build_objective(half, TINY)
    batches = ClipBatches(half.packed, TINY.augmentation)
    config = replace(TINY, stage2_rate=5e-4)
    rates = [PretrainModule(objective, batches, config, stage).optimiser_config.rate for stage in (1, 2)]
    assert rates == [2e-3, 5e-4]
    assert PretrainModule(objective, batches, TINY, 2).optimiser_config.rate == 2e-3
