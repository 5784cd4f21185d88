from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn import cluster as peers
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tmor_fast.build import compiled
from tmor_fast.cluster import DBSCAN
from tmor_fast.cluster.arrays import to_points
from tmor_fast.errors import BackendUnavailableError


def blobs(dtype: type = np.float64) -> np.ndarray:
    rng = np.random.default_rng(0)
    points = 4 * rng.normal(size=(5, 3))[rng.integers(5, size=120)] + 0.3 * rng.normal(size=(120, 3))
    points[:10] = rng.uniform(-9, 9, size=(10, 3))
    return points.astype(dtype)


@pytest.mark.parametrize("backend", ["auto", "reference", "sklearn"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_attributes_equal_scikit_learn(backend: str, metric: str) -> None:
    points = blobs()
    eps = 0.6 if metric == "euclidean" else 0.02
    ours = DBSCAN(eps=eps, min_samples=5, metric=metric, backend=backend).fit(points)
    peer = peers.DBSCAN(eps=eps, min_samples=5, metric=metric).fit(points)
    assert peer.labels_.max() > 1
    for name in ("labels_", "core_sample_indices_", "components_"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(peer, name))
        assert getattr(ours, name).dtype == getattr(peer, name).dtype
    assert ours.n_features_in_ == peer.n_features_in_


def test_tensors_in_tensors_out() -> None:
    points = torch.from_numpy(blobs(np.float32))
    ours = DBSCAN(0.6, 5).fit(points)
    want = DBSCAN(0.6, 5).fit(points.numpy())
    for name in ("labels_", "core_sample_indices_", "components_"):
        assert isinstance(getattr(ours, name), torch.Tensor)
        assert isinstance(getattr(want, name), np.ndarray)
        np.testing.assert_array_equal(getattr(ours, name).numpy(), getattr(want, name))
    assert ours.components_.dtype == torch.float32


def test_sample_weight() -> None:
    points = blobs()
    weight = np.random.default_rng(1).integers(-2, 5, size=120) / 2
    for backend in ("auto", "sklearn"):
        ours = DBSCAN(0.6, 4, backend=backend).fit_predict(points, sample_weight=weight)
        peer = peers.DBSCAN(eps=0.6, min_samples=4).fit_predict(points, sample_weight=weight)
        np.testing.assert_array_equal(ours, peer)
        assert not np.array_equal(ours, DBSCAN(0.6, 4).fit_predict(points))


def test_any_kind_of_array() -> None:
    points = blobs()
    want = DBSCAN(0.6, 5).fit_predict(points)
    frozen = points.copy()
    frozen.flags.writeable = False
    for given in (points.tolist(), points[::-1][::-1], np.asfortranarray(points), points.astype(">f8"), frozen):
        np.testing.assert_array_equal(DBSCAN(0.6, 5).fit_predict(given), want)
    integers = np.array([[0], [1], [2], [30], [31], [32]])
    assert DBSCAN(1.0, 2).fit_predict(integers).tolist() == [0, 0, 0, 1, 1, 1]
    assert DBSCAN(1.0, 2).fit_predict(torch.from_numpy(integers)).tolist() == [0, 0, 0, 1, 1, 1]


def test_clone_params_and_repr() -> None:
    estimator = DBSCAN(eps=0.3, metric="cosine")
    copy = clone(estimator)
    assert copy is not estimator
    assert copy.get_params() == {"eps": 0.3, "min_samples": 4, "metric": "cosine", "backend": "auto"}
    assert copy.set_params(eps=0.4, min_samples=2) is copy
    assert (copy.eps, copy.min_samples) == (0.4, 2)
    with pytest.raises(ValueError, match=r"no parameter 'leaf_size'; it has: eps"):
        copy.set_params(leaf_size=3)
    assert repr(estimator) == "DBSCAN(eps=0.3, min_samples=4, metric='cosine', backend='auto')"


def test_pipeline() -> None:
    points = blobs()
    ours = make_pipeline(StandardScaler(), DBSCAN(eps=0.3, min_samples=5)).fit_predict(points)
    peer = make_pipeline(StandardScaler(), peers.DBSCAN(eps=0.3, min_samples=5)).fit_predict(points)
    np.testing.assert_array_equal(ours, peer)
    pipeline = make_pipeline(StandardScaler(), DBSCAN()).set_params(dbscan__eps=0.25)
    assert clone(pipeline).get_params()["dbscan__eps"] == 0.25


def test_errors() -> None:
    points = blobs()
    with pytest.raises(ValueError, match=r"unknown backend 'hdbscan'; accepted: 'auto', 'reference', 'cpu', 'sklearn'"):
        DBSCAN(backend="hdbscan").fit(points)
    with pytest.raises(ValueError, match="unknown metric 'l1'"):
        DBSCAN(metric="l1").fit(points)
    with pytest.raises(ValueError, match=r"reshape\(-1, 1\)"):
        DBSCAN().fit(points[:, 0])
    with pytest.raises(ValueError, match="shape"):
        DBSCAN().fit(points[:0])
    with pytest.raises(TypeError, match="numbers"):
        DBSCAN().fit(np.array([["a"]]))
    points[4, 1] = np.inf
    with pytest.raises(ValueError, match="row 4"):
        DBSCAN().fit(points)


def test_missing_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(BackendUnavailableError, match="pip install scikit-learn"):
        DBSCAN(backend="sklearn").fit(blobs())


def test_scikit_learn_is_not_imported() -> None:
    code = (
        "import sys, numpy as np; from tmor_fast.cluster import DBSCAN; DBSCAN().fit(np.eye(5)); "
        "sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_points_are_taken_as_they_are(dtype: torch.dtype) -> None:
    points = torch.from_numpy(blobs()).to(dtype)
    assert to_points(points).data_ptr() == points.data_ptr()
    assert to_points(points).dtype == dtype
    ours = DBSCAN(0.6, 5).fit(points)
    assert ours.components_.dtype == dtype
    assert torch.equal(ours.labels_, DBSCAN(0.6, 5).fit(points.double()).labels_)
    if dtype != torch.bfloat16:  # NumPy has no such type
        array = points.numpy()
        assert to_points(array).data_ptr() == array.ctypes.data
        np.testing.assert_array_equal(DBSCAN(0.6, 5).fit_predict(array), ours.labels_.numpy())


@pytest.mark.skipif(compiled("dbscan", "cpu") is not None, reason="the compiled module is not there")
def test_stats_and_progress() -> None:
    points = blobs()
    seen: list[float] = []
    ours = DBSCAN(0.6, 5).fit(points, progress=seen.append)
    assert seen[-1] == 1.0
    assert ours.stats_["pairs"] == 120 * 119 // 2
    assert 0 <= ours.stats_["rechecked"] <= ours.stats_["compared"] <= ours.stats_["pairs"]
    assert DBSCAN(0.6, 5, backend="reference").fit(points).stats_ == {}
    np.testing.assert_array_equal(DBSCAN(0.6, 5).fit_predict(points, progress=seen.append), ours.labels_)
    with pytest.raises(ZeroDivisionError):
        DBSCAN(0.6, 5).fit(points, progress=lambda done: 1 / 0)
