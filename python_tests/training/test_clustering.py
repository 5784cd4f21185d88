"""Clustering of embeddings: eps chosen or given, degenerate results fall back with a reason."""

from __future__ import annotations

import math

import pytest
import torch

from tmor_fast.nn.options import TMOROptions
from tmor_fast.training import clustering
from tmor_fast.training.clustering import cluster_embeddings


def blobs(centres: int, each: int, spread: float = 0.02) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centre = torch.nn.functional.normalize(torch.randn(centres, 32, generator=generator), dim=1)
    return centre.repeat_interleave(each, 0) + spread * torch.randn(centres * each, 32, generator=generator)


def test_finds_the_blobs_with_an_eps_of_its_own():
    found = cluster_embeddings(blobs(6, 20), TMOROptions(), None)
    assert found.clusters == 6
    assert not found.warning
    assert found.labels is not None
    truth = torch.arange(6).repeat_interleave(20)
    for label in range(6):
        members = truth[found.labels == label]
        assert (members == members[0]).all()
    assert found.noise_share < 0.2
    assert found.largest_share == pytest.approx(20 / 120, abs=0.02)


def test_lengths_of_the_embeddings_do_not_matter():
    rows = blobs(4, 15)
    a = cluster_embeddings(rows, TMOROptions(), 0.1)
    b = cluster_embeddings(rows * torch.rand(len(rows), 1).add(0.5), TMOROptions(), 0.1)
    assert torch.equal(a.labels, b.labels)


def test_an_eps_of_the_options_wins_over_a_kept_one_and_that_over_the_curve():
    rows = blobs(4, 15)
    assert cluster_embeddings(rows, TMOROptions(eps=0.2), 0.1).eps == 0.2
    assert cluster_embeddings(rows, TMOROptions(), 0.1).eps == 0.1


def test_a_kept_eps_is_lowered_once_clusters_grow_together():
    found = cluster_embeddings(blobs(2, 30), TMOROptions(max_cluster_share=0.6), 1.9)
    assert found.clusters == 2
    assert found.eps < 1.9


def test_groups_of_duplicates_are_the_clusters():
    found = cluster_embeddings(torch.eye(3).repeat_interleave(10, 0), TMOROptions(), None)
    assert found.clusters == 3
    assert found.labels is not None


def test_one_big_cluster_is_not_used():
    found = cluster_embeddings(blobs(1, 50), TMOROptions(eps=0.5), None)
    assert found.labels is None
    assert "100%" in found.warning
    assert "smaller eps" in found.warning


def test_all_noise_is_not_used():
    found = cluster_embeddings(torch.eye(20), TMOROptions(eps=0.1), None)
    assert found.labels is None
    assert found.noise_share == 1.0
    assert "noise" in found.warning


def test_identical_embeddings_are_one_cluster_and_no_crash():
    found = cluster_embeddings(torch.ones(10, 4), TMOROptions(), None)
    assert found.clusters == 1
    assert found.labels is None


def test_an_eps_of_its_own_is_lowered_until_no_cluster_is_too_large(monkeypatch: pytest.MonkeyPatch):
    rows = blobs(2, 30)
    # A knee so far out that it joins both blobs, whose cosine distance is about 1.
    monkeypatch.setattr(clustering, "suggest_eps", lambda *_, **__: 1.9)
    joined = cluster_embeddings(rows, TMOROptions(max_cluster_share=1.0), None)
    split = cluster_embeddings(rows, TMOROptions(max_cluster_share=0.6), None)
    assert (joined.clusters, joined.eps) == (1, 1.9)
    assert split.clusters == 2
    assert split.eps == pytest.approx(1.9 * 0.7 ** round(math.log(split.eps / 1.9, 0.7)))
    assert split.labels is not None
    # An eps that somebody chose is never changed.
    assert cluster_embeddings(rows, TMOROptions(max_cluster_share=0.6, eps=1.9), None).labels is None
