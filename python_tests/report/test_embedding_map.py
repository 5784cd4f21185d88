"""The map's coordinates, its clusters, and the sample of clips behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_runs import write_store

from tmor_fast.data.clip_batches import ClipBatches
from tmor_fast.data.prepare import prepare
from tmor_fast.data.store import ClipStore
from tmor_fast.errors import MissingDependencyError
from tmor_fast.evaluation.features import embed_in_batches
from tmor_fast.nn.options import TMOROptions
from tmor_fast.report.embedding_map import NOT_CLUSTERED, clusters_of, match_recorded, project
from tmor_fast.report.encoder import embed_clips, open_encoder, predict
from tmor_fast.report.run_files import read_run
from tmor_fast.report.sampled_store import SampledStore, draw_rows


def test_pca_finds_the_plane_of_largest_variance():
    angle = torch.linspace(0, 6.28, 50, dtype=torch.float64)
    rows = torch.zeros(50, 6, dtype=torch.float64)
    rows[:, 4], rows[:, 1], rows[:, 0] = 2 * angle.cos(), angle.sin(), 5.0
    plane, words = project(rows, "pca")
    assert "PCA" in words
    assert "100 %" in words or "99 %" in words
    assert plane.min() == pytest.approx(0, abs=1e-9)
    assert plane.max() == pytest.approx(1, abs=1e-9)
    # One scale for both axes: unit length bends the ellipse a little, it stays twice as wide as high.
    assert np.ptp(plane[:, 0]) / np.ptp(plane[:, 1]) == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_points(rows: int):
    plane, _ = project(torch.randn(rows, 4), "auto")
    assert plane.shape == (rows, 2)
    assert np.isfinite(plane).all()


def test_identical_points_and_zero_rows():
    plane, _ = project(torch.zeros(5, 4), "pca")
    assert np.allclose(plane, 0.5)


def test_tsne_says_so_and_keeps_groups_together():
    pytest.importorskip("sklearn")
    centres = torch.eye(3, 8).repeat_interleave(15, 0)
    plane, words = project(centres + 0.02 * torch.randn(45, 8, generator=torch.Generator().manual_seed(0)), "tsne")
    assert "t-SNE" in words
    groups = plane.reshape(3, 15, 2)
    inside = np.linalg.norm(groups - groups.mean(axis=1, keepdims=True), axis=-1).max()
    means = groups.mean(axis=1)
    assert inside < np.linalg.norm(means[0] - means[1])


def test_without_scikit_learn(no_sklearn: None):
    assert "PCA" in project(torch.randn(60, 4))[1]
    with pytest.raises(MissingDependencyError, match="scikit-learn"):
        project(torch.randn(60, 4), "tsne")


def test_an_unknown_projection_is_refused():
    with pytest.raises(ValueError, match="'umap'"):
        project(torch.randn(5, 4), "umap")  # type: ignore[arg-type]


def test_rows_are_drawn_in_proportion():
    drawn = draw_rows([1000, 10, 100], 100)
    assert [len(rows) for rows in drawn] == [90, 1, 9]
    assert all(rows == sorted(set(rows)) for rows in drawn)
    assert draw_rows([3, 2], 5) == [[0, 1, 2], [0, 1]]
    assert draw_rows([1000], 10) == draw_rows([1000], 10)


def test_sampled_clips_are_prepared_as_the_whole_is(store: ClipStore):
    rows = [0, 7, 8, 31]
    whole, part = prepare(store), prepare(SampledStore(store.path, rows))
    expected = whole.subset(rows)
    assert part.clip_ids == expected.clip_ids
    assert torch.equal(part.joints, expected.joints)
    assert torch.equal(part.valid, expected.valid)


def test_embeddings_are_those_of_the_checkpoint(run: Path, store: ClipStore):
    encoder = open_encoder(run / "model.pt")
    clips = embed_clips(encoder, [store.path], 1000, lambda *_: None)
    batches = ClipBatches(prepare(store, persons=encoder.backbone.config.persons), encoder.augmentation)
    assert torch.allclose(clips.features, embed_in_batches(encoder.backbone, batches), atol=1e-5)
    assert clips.total == len(store)
    assert clips.training.tolist() == [split == "train" for split in store.column("split")]


def test_recorded_clusters_are_found_again_in_a_sample(run: Path, store: ClipStore):
    encoder = open_encoder(run / "model.pt")
    recorded = read_run(run).logs[1].clustering
    assert recorded is not None
    clips = embed_clips(encoder, [store.path], 20, lambda *_: None)
    found, reason = clusters_of(clips, recorded, TMOROptions())
    assert not reason
    assert found is not None
    assert (found.eps, found.k) == (0.125, 3)
    trained = [name for name, split in zip(clips.codes, store.column("split"), strict=True) if split == "train"]
    for name, cluster in zip(clips.packed.clip_ids, found.of_point.tolist(), strict=True):
        assert cluster == (trained.index(name) % 3 - 1 if name in trained else NOT_CLUSTERED)


def test_clusters_of_other_stores_are_not_taken(run: Path):
    recorded = read_run(run).logs[1].clustering
    assert recorded is not None
    assert match_recorded(recorded, [f"other_{i}" for i in range(100)]) is None


def test_clusters_are_found_anew_where_none_were_recorded(run: Path, store: ClipStore):
    clips = embed_clips(open_encoder(run / "model.pt"), [store.path], 1000, lambda *_: None)
    found, _ = clusters_of(clips, None, TMOROptions(min_samples=2), 0.5)
    assert found is not None
    assert "found for this report among 26 clips" in found.note
    assert (found.of_point[~clips.training.numpy()] == NOT_CLUSTERED).all()
    clips.training[:] = False
    none, reason = clusters_of(clips, None, TMOROptions())
    assert none is None
    assert "too few" in reason


def test_the_model_names_test_clips_by_its_texts(run: Path, store: ClipStore):
    encoder = open_encoder(run / "model.pt")
    clips = embed_clips(encoder, [store.path], 1000, lambda *_: None)
    found = predict(encoder, clips)
    test = [n for n, split in zip(store.column("clip_id"), store.column("split"), strict=True) if split == "test"]
    assert [p.clip_id for p in found] == test
    assert {p.unit for p in found} == {"cosine similarity"}
    encoder.metadata["held_out"] = ["wave", "clap"]
    assert {name for p in predict(encoder, clips) for name, _ in p.top} == {"wave", "clap"}
    encoder.metadata["stage"] = 1
    with pytest.raises(ValueError, match="stage 1"):
        predict(encoder, clips)


def test_a_3d_model_and_2d_clips(tmp_path: Path):
    from tmor_fast.nn.checkpoint import save_classifier
    from tmor_fast.nn.unik import UNIK
    from tmor_fast.nn.unik_config import UNIKConfig

    unik = UNIK(UNIKConfig.preset("unik-micro", num_classes=2, channels=3))
    metadata = {"layout": "unik17", "normalisation": "body", "frames": 8, "stream": "joint", "label_names": ["a", "b"]}
    save_classifier(tmp_path / "joint.pt", unik, metadata)
    flat = write_store(tmp_path / "flat", 6, channels=2)
    with pytest.raises(ValueError, match="2D"):
        embed_clips(open_encoder(tmp_path / "joint.pt"), [flat.path], 10, lambda *_: None)
