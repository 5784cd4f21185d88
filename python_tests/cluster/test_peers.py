"""Other libraries' searches behind the estimator: labels of the op where they are installed, a remedy where not."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmor_fast.cluster import DBSCAN
from tmor_fast.cluster.assembly import assemble_labels
from tmor_fast.cluster.peers import SEARCHES, range_search
from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops.dbscan import unite_edges


def clouds(seed: int, n: int, d: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(4, d, generator=draw)
    return centres[torch.randint(4, (n,), generator=draw)] + torch.randn(n, d, generator=draw)


@pytest.mark.parametrize("backend", ["faiss", "cuml"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_an_installed_library_finds_the_same_clusters(backend: str, metric: str) -> None:
    pytest.importorskip(backend)
    points = clouds(0, 700, 6)
    eps = 1.6 if metric == "euclidean" else 0.03
    ours, theirs = (DBSCAN(eps, 5, metric=metric, backend=name).fit(points) for name in ("auto", backend))
    assert ours.labels_.max() > 1
    assert (ours.labels_ < 0).any()
    assert torch.equal(ours.labels_, theirs.labels_)
    assert torch.equal(ours.core_sample_indices_, theirs.core_sample_indices_)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), n=st.integers(1, 120), d=st.sampled_from([1, 2, 3, 17]),
    min_samples=st.integers(1, 9), weighted=st.booleans(), lattice=st.booleans(),
    offset=st.sampled_from([0.0, 1e4]),
)  # fmt: skip
def test_faiss_is_exact(
    seed: int, n: int, d: int, min_samples: int, weighted: bool, lattice: bool, offset: float
) -> None:
    pytest.importorskip("faiss")
    points = clouds(seed, n, d).double() + offset
    if lattice:
        # Many pairs at a distance of exactly eps.
        points = points.round()
    weight = torch.from_numpy(np.random.default_rng(seed).integers(-1, 4, size=n) / 2.0) if weighted else None
    ours, theirs = (
        DBSCAN(1.0, min_samples, backend=name).fit(points, sample_weight=weight) for name in ("reference", "faiss")
    )
    assert torch.equal(ours.labels_, theirs.labels_)
    assert torch.equal(ours.core_sample_indices_, theirs.core_sample_indices_)


@pytest.mark.parametrize("eps", [0.2, 0.7, 1.0, 1.5])
def test_faiss_knows_zero_vectors(eps: float) -> None:
    pytest.importorskip("faiss")
    points = clouds(2, 60, 3)
    points[[1, 7, 30]] = 0
    ours, theirs = (DBSCAN(eps, 4, metric="cosine", backend=name).fit(points) for name in ("reference", "faiss"))
    assert torch.equal(ours.labels_, theirs.labels_)
    assert torch.equal(ours.core_sample_indices_, theirs.core_sample_indices_)


class NearestOnly:
    """An index as FAISS has it on GPUs: no range search, at most so many nearest points."""

    def __init__(self, points: np.ndarray, most: int) -> None:
        self.points, self.ntotal, self.most = points, len(points), most

    def search(self, queries: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        if wanted > self.most:
            raise RuntimeError("k too large")
        squared = ((queries[:, None] - self.points) ** 2).sum(axis=2)
        order = squared.argsort(axis=1)[:, :wanted]
        return np.take_along_axis(squared, order, axis=1), order


def test_range_search_from_nearest_points() -> None:
    points = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    lengths, near, found = range_search(NearestOnly(points, 300), points[:50], 0.5)
    squared = ((points[:50, None] - points) ** 2).sum(axis=2)
    assert lengths.max() > 64  # the first answer was too short for some
    np.testing.assert_array_equal(lengths, (squared < 0.5).sum(axis=1))
    rows = np.repeat(np.arange(50), lengths)
    np.testing.assert_array_equal(near, squared[rows, found])
    with pytest.raises(BackendUnavailableError, match="128 nearest"):
        range_search(NearestOnly(points, 100), points[:50], 0.5)


@pytest.mark.parametrize("backend", sorted(SEARCHES))
def test_a_library_that_is_absent_is_named(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sklearn.cluster", "faiss", "cuml", "cuml.cluster"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailableError, match=f"backend '{backend}' needs .*pip install"):
        DBSCAN(backend=backend).fit(torch.zeros(3, 2))


@pytest.mark.parametrize("pairs", [0, 5, 40, 400])
def test_batches_of_edges_join_what_is_connected(pairs: int) -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rng = np.random.default_rng(pairs)
    a, b = rng.integers(0, 100, size=(2, pairs))
    root = torch.arange(100)
    for part in np.array_split(np.arange(pairs), 3):
        root = unite_edges(root, torch.from_numpy(a[part]), torch.from_numpy(b[part]))
    _, expected = connected_components(coo_array((np.ones(pairs), (a, b)), shape=(100, 100)), directed=False)
    smallest = np.array([np.flatnonzero(expected == expected[i])[0] for i in range(100)])
    np.testing.assert_array_equal(root.numpy(), smallest)


def test_labels_by_hand() -> None:
    # 5 and 3 are one cluster, 1 the other; 0 reaches both and takes the first cluster, that of 1; 4 is alone.
    core = torch.tensor([False, True, False, True, False, True])
    root = unite_edges(torch.arange(6), torch.tensor([5]), torch.tensor([3]))
    pairs: tuple[Any, Any] = (torch.tensor([0, 0, 2]), torch.tensor([5, 1, 3]))
    assert assemble_labels(core, root, *pairs).tolist() == [0, 0, 1, 1, -1, 1]
