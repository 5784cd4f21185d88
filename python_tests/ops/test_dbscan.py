from __future__ import annotations

import _thread
import math
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import cluster as peers

from tmor_fast.build import build_config, compiled
from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops import dbscan
from tmor_fast.ops.dbscan import squared_threshold

HAS_CPU = compiled("dbscan", "cpu") is None
ISAS = build_config()["isa_supported"]
needs_cpu = pytest.mark.skipif(not HAS_CPU, reason="the compiled module is not there")


def distances(points: np.ndarray, metric: str = "euclidean") -> np.ndarray:
    """(n, n) float64 distances, written out again from the definition."""
    x = points.astype(np.float64)
    zero = np.zeros(len(x), dtype=bool)
    if metric == "cosine":
        length = np.sqrt((x**2).sum(axis=1))
        zero = length == 0
        x = x / np.where(zero, 1.0, length)[:, None]
    squared = np.zeros((len(x), len(x)))
    for column in x.T:
        squared += (column[:, None] - column[None, :]) ** 2
    if metric == "euclidean":
        return np.sqrt(squared)
    result = squared / 2
    result[zero[:, None] | zero[None, :]] = 1.0
    np.fill_diagonal(result, 0.0)
    return result


def expected(
    matrix: np.ndarray, eps: float, min_samples: int, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    peer = peers.DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(matrix, sample_weight=weight)
    core = np.zeros(len(matrix), dtype=bool)
    core[peer.core_sample_indices_] = True
    return peer.labels_, core


def backends() -> Iterator[str]:
    yield "reference"
    if HAS_CPU:
        yield "cpu"


def check(
    points: torch.Tensor, eps: float, min_samples: int, metric: str = "euclidean", weight: np.ndarray | None = None
) -> np.ndarray:
    labels, core = expected(distances(points.double().numpy(), metric), eps, min_samples, weight)
    given_weight = None if weight is None else torch.from_numpy(weight)
    for backend in backends():
        got = dbscan(points, eps, min_samples, metric=metric, sample_weight=given_weight, backend=backend)
        np.testing.assert_array_equal(got[1].numpy(), core, err_msg=backend)
        np.testing.assert_array_equal(got[0].numpy(), labels, err_msg=backend)
        assert got[0].dtype == torch.int64
        assert got[1].dtype == torch.bool
    return labels


def blobs(n: int, d: int, seed: int = 0, clusters: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(clusters, d, generator=generator)
    which = torch.randint(clusters, (n,), generator=generator)
    points = centres[which] + 0.3 * torch.randn(n, d, generator=generator)
    points[: n // 8] = 2 * torch.randn(n // 8, d, generator=generator)
    return points


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_equals_scikit_learn_on_float64_distances(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 90))
    d = data.draw(st.sampled_from([1, 2, 3, 17, 33]))
    seed = data.draw(st.integers(0, 10**6))
    kind = data.draw(st.sampled_from(["lattice", "blobs", "line"]))
    metric = data.draw(st.sampled_from(["euclidean", "cosine"]))
    rng = np.random.default_rng(seed)
    if kind == "lattice":
        array = rng.integers(-1, 3, size=(n, d)) * 0.1
    elif kind == "blobs":
        array = blobs(n, d, seed).numpy()
    else:
        array = np.repeat(rng.integers(0, n, size=(n, 1)).astype(float), d, axis=1)
    points = torch.tensor(array, dtype=data.draw(st.sampled_from([torch.float32, torch.float64])))
    if metric == "cosine":
        eps = data.draw(st.sampled_from([0.01, 0.3, 1.0, 1.5, 2.0]))
        # Exact ties of directions depend on how a length is rounded, which is not part of the definition.
        eps *= 1 + 1e-9
    else:
        eps = data.draw(st.sampled_from([0.1, 0.2, 0.3, 0.1 * math.sqrt(d), 0.5 * math.sqrt(d), 1.0]))
    weight = None
    if data.draw(st.booleans()):
        weight = rng.integers(-4, 12, size=n) / 4.0  # sums of quarters are exact in any order
        weight[0] = 1.0
    check(points, eps, data.draw(st.integers(1, 7)), metric, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.1, 0.2, 0.3, 0.1 * math.sqrt(17)])
def test_lattice_of_exact_ties(dtype: torch.dtype, eps: float) -> None:
    rng = np.random.default_rng(3)
    base = rng.integers(0, 3, size=(40, 17))
    steps = np.repeat(base, 10, axis=0)
    steps[np.arange(400), rng.integers(0, 17, size=400)] += rng.integers(-1, 2, size=400)
    labels = check(torch.tensor(steps * 0.1, dtype=dtype), eps, 4)
    assert eps > 0.25 or labels.max() > 3


@pytest.mark.parametrize("n", [1, 11, 12, 13, 47, 48, 49, 97, 500])
@pytest.mark.parametrize("d", [1, 2, 31, 256])
def test_sizes_around_the_panels(n: int, d: int) -> None:
    points = blobs(n, d)
    check(points, 0.3 * math.sqrt(2 * d) * 1.05, 4)


def test_hand_worked() -> None:
    # 0 1 2 | 10 11 12 | 30: two clusters of three and noise; 1 and 11 alone have three neighbours.
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0], [30.0]])
    for backend in backends():
        labels, core = dbscan(points, 1.0, 3, backend=backend)
        assert labels.tolist() == [0, 0, 0, 1, 1, 1, -1]
        assert core.tolist() == [False, True, False, False, True, False, False]


def test_border_point_takes_the_smallest_cluster() -> None:
    # The point at 0 is reached from both sides; whichever cluster holds the first core point wins.
    sides = [[-1.0], [-1.5], [-2.0], [-1.8], [1.0], [1.5], [2.0], [1.8]]
    for points in ([[0.0], *sides], [*sides, [0.0]], [*sides[::-1], [0.0]]):
        tensor = torch.tensor(points)
        labels = check(tensor, 1.0, 4)
        assert labels[points.index([0.0])] == 0
        assert labels.max() == 1


def test_border_point_at_exactly_eps_from_the_smaller_cluster() -> None:
    # Float64 alone sees that 0 is reached from -1; that 0.9 reaches it is plain.
    points = torch.tensor([-1.0, -1.5, -1.8, -2.0, 0.0, 0.9, 1.5, 1.7, 1.8])[:, None]
    assert check(points, 1.0, 4).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_a_border_point_bridges_nothing_and_a_core_point_does() -> None:
    left, right = [[-1.0], [-1.5], [-2.0], [-1.8]], [[1.0], [1.5], [2.0], [1.8]]
    assert check(torch.tensor([*left, [0.0], *right]), 1.0, 4).max() == 1
    assert check(torch.tensor([*left, [0.0], *right]), 1.0, 3).max() == 0


def test_numbering_follows_the_first_core_point_not_the_first_point() -> None:
    # Point 0 is a border point of the cluster whose first core point, 9, comes after those of the other.
    points = torch.tensor([[10.0], [0.0], [0.1], [0.2], [0.3], [9.0], [8.9], [8.8]])
    assert check(points, 1.0, 4).tolist() == [1, 0, 0, 0, 0, 1, 1, 1]


def test_all_noise_one_cluster_duplicates() -> None:
    assert (check(torch.arange(50.0)[:, None] * 10, 1.0, 2) == -1).all()
    assert (check(torch.arange(300.0)[:, None], 1.0, 2) == 0).all()
    assert (check(torch.full((200, 7), 0.1), 1e-9, 4) == 0).all()
    assert check(torch.arange(60.0)[:, None] * 10, 1.0, 1).tolist() == list(range(60))
    assert (check(torch.full((5, 2), 3.0), 1.0, 6) == -1).all()


def test_weights() -> None:
    points = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0]])
    weight = np.array([3.0, 1.0, 3.0, -1.0, 4.0])
    assert check(points, 0.5, 4, weight=weight).tolist() == [0, 0, -1, -1, 1]
    # A fraction below min_samples is below it.
    weight = np.array([2.0, 1.75, 2.0, 2.0, 0.5])
    assert check(points, 0.5, 4, weight=weight).tolist() == [-1, -1, 0, 0, -1]


@pytest.mark.parametrize("eps", [0.2, 0.999, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("min_samples", [1, 3, 40])
def test_cosine_zero_vectors(eps: float, min_samples: int) -> None:
    points = blobs(60, 6)
    points[::7] = 0.0
    check(points, eps, min_samples, "cosine")


def test_cosine_ignores_length() -> None:
    points = blobs(100, 5)
    scaled = points * torch.logspace(-20, 17, 100)[:, None]
    for backend in backends():
        want = dbscan(points, 0.05, 4, metric="cosine", backend=backend)[0]
        assert torch.equal(dbscan(scaled, 0.05, 4, metric="cosine", backend=backend)[0], want)
        assert want.max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    check(blobs(150, 9).to(dtype), 1.3, 4)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-30, 1e30, 1e150])
def test_any_scale(scale: float) -> None:
    points = blobs(120, 4).double()
    want = expected(distances(points.numpy()), 0.9, 4)[0]
    assert want.max() > 0
    for backend in backends():
        labels = dbscan(points * scale, 0.9 * scale, 4, backend=backend)[0].numpy()
        if scale > 1e-150:  # below, squares vanish in float64 and all points coincide
            np.testing.assert_array_equal(labels, want)


def test_offset_far_from_the_origin() -> None:
    check(blobs(200, 8).double() + 1e6, 1.2, 4)
    check(blobs(200, 8) + 1e4, 1.2, 4)


def test_strides_do_not_matter() -> None:
    points = blobs(150, 12)
    want = dbscan(points, 1.4, 4)
    wide = torch.zeros(150, 24)
    wide[:, ::2] = points
    for view in (points.t().contiguous().t(), wide[:, ::2], points.flip(0).flip(0)):
        got = dbscan(view, 1.4, 4)
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])


@needs_cpu
@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_and_thread_count(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMOR_ISA", isa)
    points = blobs(700, 24, seed=4, clusters=12)
    weight = np.random.default_rng(0).normal(size=700)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            labels = check(points, 2.0, 4)
            weighted = dbscan(points, 2.0, 4, sample_weight=torch.from_numpy(weight), backend="cpu")[0]
            results.append((labels.tolist(), weighted.tolist()))
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1] == results[2]
    assert max(results[0][0]) >= 5


@needs_cpu
def test_unknown_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMOR_ISA", "abacus")
    with pytest.raises(ValueError, match=r"'abacus'.*accepted: portable"):
        dbscan(blobs(10, 2), 1.0, 2, backend="cpu")


@needs_cpu
def test_ctrl_c_ends_a_long_call() -> None:
    points = torch.randn(150_000, 64, generator=torch.Generator().manual_seed(0))
    timer = threading.Timer(0.5, _thread.interrupt_main)
    timer.start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        dbscan(points, 3.0, 4, backend="cpu")
    assert time.perf_counter() - start < 8.0


def raises(error: type[Exception], message: str, call: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        call()


def test_bad_input() -> None:
    good = blobs(20, 3)
    raises(TypeError, "must be a torch.Tensor, got ndarray", lambda: dbscan(good.numpy(), 1.0, 4))  # type: ignore[arg-type]
    raises(TypeError, "dtype torch.int64; accepted", lambda: dbscan(good.long(), 1.0, 4))
    raises(TypeError, "integer", lambda: dbscan(good, 1.0, 4.5))  # type: ignore[arg-type]
    raises(ValueError, r"shape \(n, d\).*got \(20,\)", lambda: dbscan(good[:, 0], 1.0, 4))
    raises(ValueError, r"got \(0, 3\)", lambda: dbscan(good[:0], 1.0, 4))
    raises(ValueError, r"got \(20, 0\)", lambda: dbscan(good[:, :0], 1.0, 4))
    for eps in (0.0, -1.0, math.nan, math.inf):
        raises(ValueError, "eps must be finite and above 0", lambda eps=eps: dbscan(good, eps, 4))  # type: ignore[misc]
    raises(ValueError, "min_samples must be at least 1", lambda: dbscan(good, 1.0, 0))
    raises(ValueError, "unknown metric 'l1'", lambda: dbscan(good, 1.0, 4, metric="l1"))
    raises(ValueError, "unknown backend 'gpu'", lambda: dbscan(good, 1.0, 4, backend="gpu"))
    raises(ValueError, r"sample_weight must have shape \(20,\)", lambda: dbscan(good, 1.0, 4, sample_weight=good))
    weight = torch.ones(20)
    weight[7] = math.nan
    raises(ValueError, "sample_weight must be finite, but row 7", lambda: dbscan(good, 1.0, 4, sample_weight=weight))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_row_is_named(value: float) -> None:
    points = blobs(20, 3)
    points[13, 2] = value
    points[17, 0] = value
    for backend in backends():
        raises(ValueError, rf"row 13 holds {value}", lambda backend=backend: dbscan(points, 1.0, 4, backend=backend))  # type: ignore[misc]


def test_missing_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tmor_fast.build._load", lambda: (None, "ImportError: no such file"))
    raises(BackendUnavailableError, "no such file", lambda: dbscan(blobs(9, 2), 1.0, 2, backend="cpu"))
    assert dbscan(blobs(9, 2), 1.0, 2)[0].shape == (9,)


@pytest.mark.parametrize("backend", list(backends()))
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_opcheck(backend: str, metric: str) -> None:
    for weight in (None, torch.rand(30)):
        torch.library.opcheck(torch.ops.tmor_fast.dbscan.default, (blobs(30, 4), 0.7, 3, metric, weight, backend))


def test_compiles_whole() -> None:
    def step(points: torch.Tensor) -> torch.Tensor:
        labels, core = dbscan(points * 2.0, 1.8, 4)
        return torch.where(core, labels, -2)

    points = blobs(100, 6)
    whole = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(whole(points), step(points))
    assert torch.equal(whole(points[:63]), step(points[:63]))


def test_gradient_inputs_are_fine() -> None:
    points = blobs(40, 3).requires_grad_()
    labels, _ = dbscan(points, 1.0, 3)
    assert not labels.requires_grad


@given(eps=st.floats(1e-140, 1e140))
def test_threshold_is_the_last_square_within_eps(eps: float) -> None:
    threshold = squared_threshold(eps, "euclidean")
    assert math.sqrt(threshold) <= eps < math.sqrt(math.nextafter(threshold, math.inf))
    assert squared_threshold(eps, "cosine") / 2 == eps
