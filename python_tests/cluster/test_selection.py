from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tmor_fast.cluster import DBSCAN, epsilon_degree, k_distance, suggest_eps, verify
from tmor_fast.cluster import neighbours as neighbours_module


def blobs(seed: int = 0, n: int = 600, d: int = 16, clusters: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    which = rng.integers(clusters, size=n)
    points = 8 * rng.normal(size=(clusters, d))[which] + rng.normal(size=(n, d))
    outliers = rng.choice(n, n // 20, replace=False)
    points[outliers] = rng.uniform(-40, 40, size=(len(outliers), d))
    which[outliers] = -1
    return points, which


def brute_k_distance(points: np.ndarray, k: int) -> np.ndarray:
    matrix = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    np.fill_diagonal(matrix, -1.0)
    return np.sort(np.sort(matrix, axis=1)[:, k])


def test_k_distance_by_hand() -> None:
    points = np.array([[0.0], [1.0], [3.0], [7.0]])
    assert k_distance(points, 1).tolist() == [1.0, 1.0, 2.0, 4.0]
    assert k_distance(points, 3).tolist() == [4.0, 6.0, 7.0, 7.0]
    assert k_distance(np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), 1, "cosine").tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("k", [1, 3, 59])
def test_k_distance_equals_brute_force_in_small_blocks(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours_module, "_BLOCK_ELEMENTS", 60 * 7)
    points = np.random.default_rng(0).normal(size=(60, 5)) + 1e5
    np.testing.assert_allclose(k_distance(points, k), brute_k_distance(points, k), rtol=1e-12)


@pytest.mark.parametrize("min_samples", [2, 4, 9])
def test_k_of_min_samples_less_one_is_scikit_learns_min_samples(min_samples: int) -> None:
    sklearn_neighbors = pytest.importorskip("sklearn.neighbors")
    points, _ = blobs(n=200)
    search = sklearn_neighbors.NearestNeighbors(n_neighbors=min_samples, algorithm="kd_tree").fit(points)
    distance, index = search.kneighbors(points)
    assert (index[:, 0] == np.arange(200)).all(), "a point given as a query is its own first neighbour"
    np.testing.assert_allclose(k_distance(points, min_samples - 1), np.sort(distance[:, -1]), rtol=1e-12)


def test_k_distance_of_near_duplicates_is_exact() -> None:
    points = np.random.default_rng(1).normal(size=(50, 8))
    twins = np.concatenate([points, points + 1e-12])
    np.testing.assert_allclose(k_distance(twins, 1), brute_k_distance(twins, 1), rtol=1e-12)
    assert (k_distance(np.concatenate([points, points]), 1) == 0).all()


def test_sample_is_reproducible_and_among_all_points() -> None:
    points, _ = blobs()
    some = k_distance(points, 3, sample=50, seed=1)
    assert some.shape == (50,)
    np.testing.assert_array_equal(some, k_distance(points, 3, sample=50, seed=1))
    assert not np.array_equal(some, k_distance(points, 3, sample=50, seed=2))
    whole = k_distance(points, 3)
    assert np.abs(whole[:, None] - some[None]).min(axis=0).max() < 1e-12


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_suggested_eps_recovers_the_blobs(kind: str) -> None:
    points, which = blobs()
    given = points if kind == "numpy" else torch.from_numpy(points)
    eps = suggest_eps(given, 4)
    assert isinstance(eps, float)
    labels = np.asarray(DBSCAN(eps=eps, min_samples=4).fit(given).labels_)
    for cluster in range(6):
        members = labels[which == cluster]
        counts = np.bincount(members[members >= 0])
        assert counts.max() > 0.9 * len(members)
    assert (labels[which == -1] == -1).mean() > 0.9
    assert labels.max() + 1 >= 6
    assert suggest_eps(given, 4, sample=200) == pytest.approx(eps, rel=0.5)


def test_suggested_eps_on_curves_without_a_knee() -> None:
    assert suggest_eps(np.arange(20.0)[:, None], 2) == 1.0
    duplicates = np.repeat(np.array([[0.0], [1.0], [3.0]]), 10, axis=0)
    duplicates = np.concatenate([duplicates, [[8.0]]])
    assert suggest_eps(duplicates, 4) == 5.0
    with pytest.raises(ValueError, match="duplicates"):
        suggest_eps(np.zeros((10, 2)), 4)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_epsilon_degree_decides_core_points(metric: str) -> None:
    points, _ = blobs(n=200)
    eps = 5.0 if metric == "euclidean" else 0.2
    degree = epsilon_degree(points, eps, metric)
    core = np.zeros(200, dtype=bool)
    core[DBSCAN(eps, 4, metric).fit(points).core_sample_indices_] = True
    np.testing.assert_array_equal(degree >= 4, core)
    assert core.any()
    assert not core.all()
    assert epsilon_degree(torch.from_numpy(points), eps, metric, sample=10).shape == (10,)


def test_epsilon_degree_on_exact_ties() -> None:
    steps = np.random.default_rng(3).integers(0, 3, size=(150, 5))
    points = steps * 0.1
    squared = np.zeros((150, 150))
    for column in points.T:
        squared += (column[:, None] - column[None]) ** 2
    for eps in (0.1, 0.2, 0.1 * math.sqrt(5)):
        np.testing.assert_array_equal(epsilon_degree(points, eps), (np.sqrt(squared) <= eps).sum(axis=1))


def test_bad_input() -> None:
    points, _ = blobs(n=20)
    for k in (0, 20):
        with pytest.raises(ValueError, match=r"k must be in 1 .. n - 1 = 19"):
            k_distance(points, k)
    with pytest.raises(ValueError, match="unknown metric 'l1'"):
        k_distance(points, 1, "l1")
    with pytest.raises(ValueError, match="sample must be at least 1"):
        suggest_eps(points, 4, sample=0)
    with pytest.raises(ValueError, match="min_samples must be at least 1"):
        suggest_eps(points, 0)
    with pytest.raises(ValueError, match="eps must be finite and above 0"):
        epsilon_degree(points, 0.0)
    points[3, 1] = np.nan
    with pytest.raises(ValueError, match="row 3"):
        k_distance(points, 1)
    assert verify(np.zeros((2, 1)), [0, 0], 1.0, 1)
