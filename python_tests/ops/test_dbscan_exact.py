"""The CPU kernel against scikit-learn on precomputed float64 distances: data made to break it, in every instruction
set, arithmetic and order of points that runs here, however slow."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import cluster as peers

from tmor_fast.build import build_config, compiled
from tmor_fast.ops import dbscan
from tmor_fast.ops.dbscan import MAX_POINTS, _cpu, squared_threshold

pytestmark = pytest.mark.skipif(compiled("dbscan", "cpu") is not None, reason="the compiled module is not there")

# Instruction set, arithmetic, reorder, threads; "" and "auto" are what a caller gets.
Route = tuple[str, str, int, int]
ROUTES: list[Route] = [("", "auto", -1, 2)]
for isa in build_config()["isa_supported"]:
    ROUTES += [(isa, name, reorder, 1 + 2 * reorder) for name in ("float32", "bfloat16", "int8") for reorder in (0, 1)]

KINDS = ("lattice", "blobs", "duplicates", "chain", "borders", "far", "noise")
SIZES = (1, 2, 63, 64, 65, 127, 251)
DIMENSIONS = (1, 3, 17, 128, 257)


def data(kind: str, n: int, d: int, seed: int) -> np.ndarray:
    """(n, d) float64 points in a random order; eps 1 is a sensible one for chains and borders."""
    rng = np.random.default_rng(seed)
    if kind == "lattice":
        return 0.1 * rng.integers(-1, 2, size=(n, d))
    if kind == "noise":
        return rng.normal(size=(n, d))
    blobs = 2.0 * rng.normal(size=(1 + n // 25, d))[rng.integers(1 + n // 25, size=n)] + 0.2 * rng.normal(size=(n, d))
    if kind == "far":
        return 1e7 + 4.0 * blobs
    if kind == "duplicates":
        return blobs[rng.integers(1 + n // 4, size=n)]
    points = np.zeros((n, d))
    if kind == "chain":
        # Steps of exactly 1; every fifth link is a heap, so that some of the rest are border points, some bridges.
        points[:, 0] = np.where(rng.random(n) < 0.5, np.arange(n), np.arange(n) // 5 * 5)
    elif kind == "borders":
        # Two groups and a point between them at exactly 1 from both, again and again.
        group = np.resize([0.0, 1.0, 1.25, 1.5, 1.75, -1.0, -1.5, -1.25, -2.0], n)
        points[:, 0] = group + 64.0 * (np.arange(n) // 9)
    else:
        points = blobs
    return rng.permutation(points)


def distances(points: np.ndarray, metric: str) -> np.ndarray:
    x = points.astype(np.float64)
    zero = ~x.any(axis=1)
    if metric == "cosine":
        x = x / np.where(zero, 1.0, np.sqrt((x**2).sum(axis=1)))[:, None]
    squared = np.zeros((len(x), len(x)))
    for column in x.T:
        squared += (column[:, None] - column[None, :]) ** 2
    if metric == "euclidean":
        return np.sqrt(squared)
    squared[(zero[:, None] | zero) & ~np.eye(len(x), dtype=bool)] = 2.0
    return squared / 2.0


def run(
    points: torch.Tensor, eps: float, min_samples: int, metric: str, weight: np.ndarray | None, route: Route
) -> tuple[np.ndarray, np.ndarray]:
    isa, arithmetic, reorder, threads = route
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMOR_ISA", isa) if isa else patch.delenv("TMOR_ISA", raising=False)
        try:
            torch.set_num_threads(threads)
            threshold = squared_threshold(eps, metric)
            given_weight = None if weight is None else torch.from_numpy(weight)
            labels, core = _cpu(
                points, threshold, min_samples, metric, given_weight, arithmetic=arithmetic, reorder=reorder
            )
        finally:
            torch.set_num_threads(before)
    return labels.numpy(), core.numpy()


def check(
    points: torch.Tensor,
    matrix: np.ndarray,
    eps: float,
    min_samples: int,
    metric: str,
    routes: list[Route],
    weight: np.ndarray | None = None,
) -> np.ndarray:
    peer = peers.DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(matrix, sample_weight=weight)
    for route in routes:
        labels, core = run(points, eps, min_samples, metric, weight, route)
        np.testing.assert_array_equal(core.nonzero()[0], peer.core_sample_indices_, err_msg=str(route))
        np.testing.assert_array_equal(labels, peer.labels_, err_msg=str(route))
    labels_: np.ndarray = peer.labels_
    return labels_


def some_eps(draw: st.DataObject, matrix: np.ndarray, metric: str) -> float:
    """Tiny, huge, 1, or the distance of a pair of points, to the last bit, or the next number below it."""
    n = len(matrix)
    pair = float(matrix[draw.draw(st.integers(0, n - 1)), draw.draw(st.integers(0, n - 1))])
    if metric == "cosine":
        # How a length is rounded is not part of the definition, so no exact ties there.
        return draw.draw(st.sampled_from([max(pair, 1e-6), 1e-6, 0.3, 1.0, 2.0, 100.0])) * (1.0 + 1e-9)
    smaller = math.nextafter(pair, 0.0)
    return draw.draw(st.sampled_from([pair, smaller, 1.0, 1e-12, 1e30]).filter(lambda eps: eps > 0.0))


@settings(max_examples=100, deadline=None)
@given(draw=st.data())
def test_every_route_on_every_kind_of_data(draw: st.DataObject) -> None:
    n, d = draw.draw(st.sampled_from(SIZES)), draw.draw(st.sampled_from(DIMENSIONS))
    kind = draw.draw(st.sampled_from(KINDS))
    metric = draw.draw(st.sampled_from(["euclidean", "euclidean", "cosine"]))
    seed = draw.draw(st.integers(0, 10**6))
    halves = [] if kind == "far" else [torch.float16, torch.bfloat16]
    dtype = draw.draw(st.sampled_from([torch.float32, torch.float64, *halves]))
    array = data(kind, n, d, seed)
    if metric == "cosine":
        array[:: draw.draw(st.sampled_from([3, 50, n]))] = 0.0
    points = torch.from_numpy(array).to(dtype)
    matrix = distances(points.double().numpy(), metric)
    min_samples = draw.draw(st.sampled_from([1, 2, 4, 5, 64, 65, n, n + 1]))
    weight = None
    if draw.draw(st.sampled_from([False, False, True])):
        weight = np.random.default_rng(seed).integers(-4, 12, size=n) / 4.0  # sums of quarters are exact in any order
    routes = [ROUTES[0], draw.draw(st.sampled_from(ROUTES))]
    check(points, matrix, some_eps(draw, matrix, metric), min_samples, metric, routes, weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [(1999, 3), (997, 17), (331, 257)])
def test_primes(kind: str, n: int, d: int) -> None:
    points = torch.from_numpy(data(kind, n, d, 5)).float()
    matrix = distances(points.double().numpy(), "euclidean")
    near = float(np.sort(matrix[0])[min(n - 1, 12)]) or 1.0
    for eps, min_samples in itertools.product((1.0, near), (5, 65)):
        check(points, matrix, eps, min_samples, "euclidean", [ROUTES[0]])


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_every_route_finds_chains_borders_and_ties(route: Route) -> None:
    for kind, d, min_samples in (("chain", 3, 3), ("borders", 17, 4), ("lattice", 7, 4), ("blobs", 128, 5)):
        points = torch.from_numpy(data(kind, 499, d, 1)).float()
        matrix = distances(points.double().numpy(), "euclidean")
        eps = {"lattice": float(np.float32(0.1)), "blobs": 3.6}.get(kind, 1.0)
        labels = check(points, matrix, eps, min_samples, "euclidean", [route])
        assert labels.max() > 0, f"{kind}: the case is too easy"
        weight = np.resize([1.0, -0.5, 2.0], 499)
        check(points, matrix, eps, min_samples, "euclidean", [route], weight)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", ["blobs", "duplicates", "noise"])
def test_sorted_points(kind: str, metric: str) -> None:
    """Enough points for the kernel to sort them by itself, with the decisions of the float64 reference."""
    points = torch.from_numpy(data(kind, 9973, 17, 2)).float()
    points[::501] = 0.0
    eps = 1.1 if metric == "euclidean" else 0.05
    min_samples = 4 if metric == "euclidean" else 65
    want = dbscan(points, eps, min_samples, metric=metric, backend="reference")
    got = dbscan(points, eps, min_samples, metric=metric, backend="cpu")
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


def test_weights_cancel_exactly() -> None:
    """Sums in float64 would lose the small weight between the large ones."""
    points = torch.zeros(3, 2)
    for small, core in ((1.0, True), (0.5, False)):
        weight = torch.tensor([1e300, small, -1e300], dtype=torch.float64)
        assert dbscan(points, 1.0, 1, sample_weight=weight, backend="cpu")[1].tolist() == [core] * 3


def test_negative_weights_are_counted_to_the_end() -> None:
    """Enough weight comes early, and what comes late takes it away."""
    points = torch.zeros(500, 3)
    weight = torch.ones(500)
    weight[-1] = -495.5
    assert not dbscan(points, 1.0, 4, sample_weight=weight, backend="cpu")[1].any()
    weight[-1] = -495.0
    assert dbscan(points, 1.0, 4, sample_weight=weight, backend="cpu")[1].all()


def test_too_many_points() -> None:
    many = torch.zeros(1, 1).expand(MAX_POINTS + 1, 1)  # takes no memory
    with pytest.raises(ValueError, match=r"at most 2\^31 - 1 = 2,147,483,647 points, got 2,147,483,648"):
        dbscan(many, 1.0, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_points_are_not_copied(dtype: torch.dtype, metric: str) -> None:
    points = torch.from_numpy(data("blobs", 3000, 2100, 0)).to(dtype)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        dbscan(points, 0.5, 4, metric=metric, backend="cpu")
    allocated = [event.self_cpu_memory_usage for event in profile.events()]
    # Lengths are taken from blocks of rows, which the number of points does not change.
    assert max(allocated) < (0.7 if metric == "cosine" else 0.1) * points.numel() * 8


def work(points: torch.Tensor, eps: float, **options: Any) -> dict[str, Any]:
    stats: dict[str, Any] = {}
    dbscan(points, eps, 5, backend="cpu", stats=stats, **options)
    return stats


def test_stats_tell_what_was_done() -> None:
    n = 6007
    noise = torch.from_numpy(data("noise", n, 64, 0)).float()
    stats = work(noise, 3.0)
    assert stats["pairs"] == n * (n - 1) // 2
    assert stats["compared"] <= stats["pairs"]
    assert stats["arithmetic"] in ("float32", "bfloat16", "int8")
    assert stats["isa"] in build_config()["isa_supported"]
    # Exact ties can be decided in float64 alone; points far from eps never need it.
    lattice = torch.from_numpy(data("lattice", 300, 17, 0)).float()
    assert work(lattice, 0.2)["rechecked"] > 0
    assert work(noise, 1e-3)["rechecked"] == 0
    # Once all are core points of one cluster there is nothing left to look at.
    assert work(noise * 1e-3, 3.0)["compared"] < 0.1 * stats["pairs"]
    weighted = work(noise, 3.0, sample_weight=torch.ones(n))
    assert weighted["pairs"] == 3 * stats["pairs"]


def test_clusters_rule_out_most_of_the_matrix() -> None:
    stats = work(torch.from_numpy(data("blobs", 9000, 64, 0)).float(), 1.5)
    assert stats["reordered"]
    assert stats["compared"] < 0.2 * stats["pairs"]


def test_progress() -> None:
    points = torch.randn(30_000, 128, generator=torch.Generator().manual_seed(0))
    seen: list[float] = []
    labels, _ = dbscan(points, 3.0, 5, backend="cpu", progress=seen.append)
    assert seen == sorted(seen)
    assert 0.0 <= seen[0] < seen[-1] == 1.0
    assert len(seen) >= 2
    assert torch.equal(labels, dbscan(points, 3.0, 5, backend="cpu")[0])


def test_what_progress_raises_ends_the_call() -> None:
    points = torch.randn(100_000, 128, generator=torch.Generator().manual_seed(0))

    def refuse(done: float) -> None:
        raise RuntimeError(f"enough at {done >= 0.0}")

    start = time.perf_counter()
    with pytest.raises(RuntimeError, match="enough at True"):
        dbscan(points, 3.0, 5, backend="cpu", progress=refuse)
    assert time.perf_counter() - start < 3.0
