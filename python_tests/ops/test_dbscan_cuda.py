"""The CUDA backends of dbscan: their wiring on any machine; labels, streams and graphs where there is a GPU.

Needs torch and pytest alone, as a bare GPU machine has them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from tmor_fast.build import compiled, extension
from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops import dbscan, dbscan_cuda, registry
from tmor_fast.ops.dbscan import _candidates, _cuda, row_lengths, squared_threshold

# compute-sanitizer makes everything a hundred times slower.
SMALL = bool(os.environ.get("TMOR_TEST_SMALL"))
SIZES = (1, 65, 129, 257) if SMALL else (1, 2, 63, 64, 65, 127, 128, 129, 499, 1999)
DIMENSIONS = (3, 65) if SMALL else (1, 3, 17, 128, 257)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
needs_build = pytest.mark.skipif(compiled("dbscan", "cuda") is not None, reason="this build has no CUDA")
not_small = pytest.mark.skipif(SMALL, reason="too long under compute-sanitizer")


def blobs(n: int, d: int, seed: int = 0, clusters: int = 5) -> torch.Tensor:
    """(n, d) float32: points of squared distance about 0.18 within a cluster, an eighth of them noise."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(clusters, d, generator=generator)
    which = torch.randint(clusters, (n,), generator=generator)
    points = centres[which] + 0.3 / d**0.5 * torch.randn(n, d, generator=generator)
    points[: n // 8] = 2 * torch.randn(n // 8, d, generator=generator)
    return points


# ---- On any machine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", dbscan_cuda.BACKENDS)
def test_cpu_tensors_are_refused_with_the_reason(backend: str) -> None:
    with pytest.raises(
        BackendUnavailableError, match=f"'{backend}' cannot run: it takes CUDA tensors, points are on cpu"
    ):
        dbscan(blobs(9, 2), 1.0, 2, backend=backend)


def fake_build(monkeypatch: pytest.MonkeyPatch, cuda: str | None) -> None:
    backends = ("cpu", *dbscan_cuda.BACKENDS) if cuda else ("cpu",)
    info = {"backends": {"dbscan": backends}, "cuda": cuda, "cuda_reason": "no nvcc found"}
    monkeypatch.setattr("tmor_fast.build._load", lambda: (SimpleNamespace(build_info=lambda: info), ""))


@pytest.mark.parametrize("backend", dbscan_cuda.BACKENDS)
def test_a_build_without_cuda_says_why_and_auto_takes_the_reference(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_build(monkeypatch, cuda=None)
    candidates = _candidates(torch.device("cuda", 0))
    with pytest.raises(BackendUnavailableError, match="this build has no CUDA: no nvcc found"):
        registry.choose("dbscan", backend, candidates)
    assert registry.choose("dbscan", "auto", candidates) == "reference"


def test_what_auto_takes_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_build(monkeypatch, cuda="13.0")
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert registry.choose("dbscan", "auto", _candidates(device)) == "cuda"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert registry.choose("dbscan", "auto", _candidates(device)) == "reference"
    with pytest.raises(BackendUnavailableError, match=r"needs compute capability 8\.0, cuda:0 has 7\.5"):
        registry.choose("dbscan", "cuda", _candidates(device))


def test_more_than_the_kernel_can_index() -> None:
    with pytest.raises(ValueError, match=r"up to 2147483647 points of 16777216 dimensions, got shape \(1, 16777217\)"):
        dbscan_cuda.run(torch.empty(1, 2**24 + 1, device="meta"), 1.0, 4, None, None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_lengths_scale_to_one(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    points = (blobs(50, 6).double() * torch.logspace(-2, 2, 50, dtype=torch.float64)[:, None]).to(dtype)
    points[::9] = 0.0
    whole = row_lengths(points)
    monkeypatch.setattr(import_module("tmor_fast.ops.dbscan"), "_ROWS_ELEMENTS", 7 * 6)  # seven rows at a time
    for got, want in zip(row_lengths(points), whole, strict=True):
        assert torch.equal(got, want)
    largest, length, zero = whole
    assert zero.nonzero().flatten().tolist() == list(range(0, 50, 9))
    norms = (points.double() / largest[:, None] / length[:, None]).norm(dim=1)
    torch.testing.assert_close(norms, (~zero).double(), rtol=1e-15, atol=0.0)
    assert (largest[zero] == 1.0).all()
    assert (length[zero] == 1.0).all()


@pytest.mark.parametrize(
    ("min_samples", "weighted", "sweeps"), [(64, False, 1), (65, False, 3), (5, True, 4), (65, True, 4)]
)
def test_stats_are_shares_of_the_pairs_that_sweeps_look_at(
    min_samples: int, weighted: bool, sweeps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 1000
    weight = torch.ones(n, dtype=torch.float64) if weighted else None
    monkeypatch.setattr(dbscan_cuda, "readable", lambda: True)

    def stats_of(tiles: int) -> dict[str, int]:
        result = dbscan_cuda.CudaResult(torch.zeros(n), torch.ones(n), torch.tensor([n, tiles, 7, 8]))
        monkeypatch.setattr(dbscan_cuda, "run", lambda *_, **__: result)
        stats: dict[str, int] = {}
        _cuda(blobs(n, 3), 1.0, min_samples, "euclidean", weight, "cuda", stats)
        return stats

    pairs = sweeps * n * (n - 1) // 2
    assert stats_of(10) == {"pairs": pairs, "compared": 163840, "tiles": 10, "rechecked": 7}
    # All tiles: those of the diagonal and of the last panel hold fewer pairs.
    assert stats_of(sweeps * 36)["compared"] == pairs


@needs_build
def test_workspace_stays_linear() -> None:
    workspace = extension().dbscan_cuda_workspace
    million = workspace(1_000_000, 256, 5, False)
    assert 512e6 < million < 700e6  # a bfloat16 copy, at most an eighth of it holes, and a few words a point
    assert workspace(1_000_000, 256, 64, False) < 950e6
    # Neither many samples nor weights take lists.
    assert workspace(1_000_000, 256, 65, False) < million
    assert workspace(1_000_000, 256, 10**9, True) < million
    # Ten million points and more: nothing wraps.
    assert 9.9 < workspace(10_000_000, 256, 5, False) / million < 10.1
    assert workspace(2**31 - 1, 1024, 64, False) > 2**31 * (2 * 1024 + 4 * 63)


@needs_build
@pytest.mark.parametrize("naive", [False, True])
def test_the_module_checks_what_it_is_given(naive: bool) -> None:
    """Nothing of this reaches a device, so the pointers may be 0."""
    pointers = dict.fromkeys(
        ("points", "weight", "largest", "length", "orthogonal", "labels", "core", "status", "workspace", "stream"), 0
    )
    sizes = {"n": 10, "dimensions": 3, "threshold": 1.0, "min_samples": 4, "device": 0, "reorder": -1}
    needed = extension().dbscan_cuda_workspace(10, 3, 4, False)
    good = {"naive": naive, "dtype": 0, "workspace_bytes": needed, **pointers, **sizes}
    for name, value, error, message in [
        ("dtype", 4, TypeError, "float32, float64, float16 or bfloat16"),
        ("n", 0, ValueError, "sizes out of range"),
        ("n", 2**31, ValueError, "sizes out of range"),
        ("dimensions", 2**24 + 1, ValueError, "sizes out of range"),
        ("workspace_bytes", needed - 1, ValueError, "workspace is too small"),
    ]:
        with pytest.raises(error, match=message):
            extension().dbscan_cuda(**{**good, name: value})
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="cuda"):
            extension().dbscan_cuda(**good)


# ---- On a GPU --------------------------------------------------------------------------------------------------------


@contextmanager
def poisoned() -> Iterator[None]:
    """Fresh memory is full of ones and NaN, so that a kernel which leaves something unwritten is found out."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def scaling_of(points: torch.Tensor, metric: str) -> dbscan_cuda.Scaling | None:
    return dbscan_cuda.Scaling(*row_lengths(points)) if metric == "cosine" else None


def check(
    points: torch.Tensor,
    eps: float,
    min_samples: int,
    metric: str = "euclidean",
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Every CUDA backend, sorted by place and not, against the reference on the same device; the labels."""
    points = points.cuda()
    weight = None if weight is None else weight.double().cuda()
    want = dbscan(points, eps, min_samples, metric=metric, sample_weight=weight, backend="reference")
    slow = points.shape[0] * points.numel() > 1 << 26  # the naive kernels take a thread a point
    for backend in ("cuda",) if slow else ("auto", *dbscan_cuda.BACKENDS):
        with poisoned():
            got = dbscan(points, eps, min_samples, metric=metric, sample_weight=weight, backend=backend)
        assert torch.equal(got[1], want[1]), f"core, {backend}"
        assert torch.equal(got[0], want[0]), f"labels, {backend}"
    for reorder in (False, True):
        threshold = squared_threshold(eps, metric)
        with poisoned():
            result = dbscan_cuda.run(
                points, threshold, min_samples, weight, scaling_of(points, metric), reorder=reorder
            )
        assert torch.equal(result.core, want[1]), f"core, reorder={reorder}"
        assert torch.equal(result.labels, want[0]), f"labels, reorder={reorder}"
        assert int(result.status[0]) == len(points)
    return want[0]


@pytest.mark.gpu
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("d", DIMENSIONS)
def test_sizes(n: int, d: int) -> None:
    points = blobs(n, d, seed=n)
    for min_samples in (1, 5, 65) if SMALL else sorted({1, 2, 5, 65, n, n + 1}):
        labels = check(points, 0.5, min_samples)
        assert min_samples != 5 or n < 400 or d <= 3 or labels.max() >= 4  # in few dimensions clusters merge


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.1, 0.2, 0.3, 0.1 * math.sqrt(17)])
def test_lattice_of_exact_ties(dtype: torch.dtype, eps: float) -> None:
    generator = torch.Generator().manual_seed(3)
    steps = torch.randint(0, 3, (40, 17), generator=generator).repeat_interleave(10, dim=0)
    which = torch.randint(0, 17, (400,), generator=generator)
    steps[torch.arange(400), which] += torch.randint(-1, 2, (400,), generator=generator)
    for min_samples in (4, 65) if SMALL else (1, 4, 9, 65):
        check((steps * 0.1).to(dtype), eps, min_samples)


@pytest.mark.gpu
def test_chains_borders_duplicates() -> None:
    scattered = torch.arange(260.0).mul(101).remainder(260)
    chain = scattered + (scattered > 130)  # one gap
    assert check(chain[:, None], 1.0, 3).max() == 1
    sides = [[-1.0], [-1.5], [-2.0], [-1.8], [1.0], [1.5], [2.0], [1.8]]
    for points in ([[0.0], *sides], [*sides, [0.0]], [*sides[::-1], [0.0]]):
        assert check(torch.tensor(points), 1.0, 4)[points.index([0.0])] == 0  # borders take the smallest
    # Point 0 is a border point of the cluster whose first core point, 9, comes after those of the other.
    line = torch.tensor([[10.0], [0.0], [0.1], [0.2], [0.3], [9.0], [8.9], [8.8]])
    assert check(line, 1.0, 4).tolist() == [1, 0, 0, 0, 0, 1, 1, 1]
    copies = blobs(600, 6)
    copies[1::3] = copies[::3]
    check(copies, 0.5, 4)
    assert (check(torch.full((300, 7), 0.1), 1e-9, 4) == 0).all()
    assert (check(torch.arange(300.0)[:, None] * 10, 1.0, 2) == -1).all()
    assert check(torch.arange(150.0)[:, None] * 10, 1.0, 1).tolist() == list(range(150))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: torch.dtype) -> None:
    assert check(blobs(300, 9).to(dtype), 0.6, 4).max() >= 4


@pytest.mark.gpu
def test_any_scale_and_offset() -> None:
    points = blobs(300, 5).double()
    for scale in (1e-160, 1e-30, 1e30, 1e150):
        check(points * scale, 0.5 * scale, 4)
    for eps in (1e-300, 1e300):
        check(points, eps, 4)
    assert check(points + 1e7, 0.5, 4).max() >= 4
    assert check((points + 1e4).float(), 0.5, 4).max() >= 4


@pytest.mark.gpu
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_weights(metric: str) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randint(-4, 12, (300,), generator=generator) / 4.0  # sums of quarters are exact in any order
    for min_samples in (1, 4, 70):
        check(blobs(300, 12), 0.5 if metric == "euclidean" else 0.05, min_samples, metric, weight)


@pytest.mark.gpu
@pytest.mark.parametrize("eps", [0.02, 0.999, 1.0, 1.3, 2.0])
def test_cosine(eps: float) -> None:
    points = blobs(400, 6) * torch.logspace(-15, 15, 400)[:, None]
    points[::7] = 0.0
    for min_samples in (1, 3, 65):
        check(points, eps, min_samples, "cosine")
    check(points.double() * 1e-280, eps, 3, "cosine")


@pytest.mark.gpu
def test_strides_do_not_matter() -> None:
    points = blobs(150, 12)
    want = check(points, 0.5, 4)
    wide = torch.zeros(150, 24, device="cuda")
    wide[:, ::2] = points.cuda()
    for view in (points.cuda().t().contiguous().t(), wide[:, ::2]):
        assert torch.equal(dbscan(view, 0.5, 4, backend="cuda")[0], want)


@pytest.mark.gpu
@not_small
def test_same_labels_every_time() -> None:
    points = blobs(20_000, 24, clusters=12)
    first = check(points, 0.45, 6)
    assert first.max() >= 11
    for _ in range(5):
        assert torch.equal(dbscan(points.cuda(), 0.45, 6, backend="cuda")[0], first)


@pytest.mark.gpu
@not_small
@pytest.mark.parametrize("weighted", [False, True])
def test_panels_with_holes_without_lists(weighted: bool) -> None:
    """Cells of a cluster each end in holes, which counting, weighing, connecting and borders then meet."""
    points = blobs(20_000, 24, clusters=12)
    generator = torch.Generator().manual_seed(7)
    weight = torch.randint(-1, 8, (20_000,), generator=generator) / 4.0 if weighted else None
    assert check(points, 0.45, 65, weight=weight).max() >= 11


@pytest.mark.gpu
@not_small
def test_finished_clusters_and_distant_panels_are_skipped() -> None:
    n = 20_000
    panels = (n + 127) // 128
    giant = 0.2 * blobs(n, 16, clusters=1) / blobs(n, 16, clusters=1).norm(dim=1, keepdim=True)
    result = dbscan_cuda.run(giant.cuda(), 1.0, 5, None, None, reorder=False)
    assert (result.labels == 0).all()
    assert result.status[3] == panels
    assert result.status[1] < panels * (panels + 1) // 4
    # Ten clusters far apart: tiles between them are never computed once they are sorted by place.
    generator = torch.Generator().manual_seed(1)
    which = torch.randint(10, (n,), generator=generator)
    apart = 100.0 * which[:, None] + torch.rand(n, 3, generator=generator)
    result = dbscan_cuda.run(apart.cuda(), 4.0, 5, None, None, reorder=True)
    first = torch.stack([(which == k).nonzero()[0, 0] for k in range(10)])
    assert torch.equal(result.labels.cpu(), first.argsort().argsort()[which])
    assert result.status[1] <= 2 * (result.status[3] + 10) ** 2 // 10


@pytest.mark.gpu
@not_small
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_million_points_in_less_than_a_gigabyte(metric: str) -> None:
    n, d = 1_000_000, 256
    if torch.cuda.get_device_properties(0).total_memory < 8 << 30:
        pytest.skip("needs 8 GB of GPU memory")
    generator = torch.Generator("cuda").manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(500, d, generator=generator, device="cuda"))
    which = torch.randint(500, (n,), generator=generator, device="cuda")
    points = torch.randn(n, d, generator=generator, device="cuda").mul_(0.1 / d**0.5).add_(centres[which])
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    labels, core = dbscan(points, 0.3 if metric == "euclidean" else 0.045, 5, metric=metric, backend="cuda")
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 1e9
    first = torch.full((500,), n, device="cuda").scatter_reduce(0, which, torch.arange(n, device="cuda"), "amin")
    assert torch.equal(labels, first.argsort().argsort()[which])
    assert core.all()


@pytest.mark.gpu
@not_small  # memcheck runs without the caching allocator, so nothing is recorded
def test_side_stream() -> None:
    points = blobs(1000, 20)
    want = dbscan(points, 0.5, 4, backend="reference")
    side = torch.cuda.Stream()
    source = points.cuda()
    for backend in dbscan_cuda.BACKENDS:
        dbscan(source, 0.5, 4, backend=backend)  # loads the kernels
        late = torch.full_like(source, math.nan)  # of the default stream's memory
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(100_000_000)
            late.copy_(source)  # what another stream would not see in time
            result = dbscan_cuda.run(late, squared_threshold(0.5, "euclidean"), 4, None, None, backend=backend)
        # Memory given back now must not be reused before the side stream is done with it.
        where = late.data_ptr()
        del late
        assert where not in {other.data_ptr() for other in [torch.full_like(source, math.nan) for _ in range(64)]}
        side.synchronize()
        assert torch.equal(result.labels.cpu(), want[0])
        assert torch.equal(result.core.cpu(), want[1])


@pytest.mark.gpu
@not_small  # memcheck runs without the caching allocator: every free then waits
def test_nothing_waits_before_the_result() -> None:
    points = blobs(9000, 8).cuda()
    dbscan(points, 0.5, 4, backend="cuda", metric="cosine")  # loads the kernels
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(1_000_000_000)
        dbscan_cuda.run(points, 0.25, 4, None, scaling_of(points, "cosine"))
        done.record()
        assert not done.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("backend", "metric", "n"),
    [
        ("cuda", "euclidean", 700), ("cuda", "cosine", 700), ("cuda_naive", "euclidean", 700),
        ("cuda_naive", "cosine", 700), ("cuda", "euclidean", 9000),  # the last one is sorted by place
    ],
)  # fmt: skip
def test_graph_capture(backend: str, metric: str, n: int) -> None:
    eps = 0.5 if metric == "euclidean" else 0.05
    points = blobs(n, 10).cuda()
    dbscan(points, eps, 4, metric=metric, backend=backend)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        labels, core = dbscan(points, eps, 4, metric=metric, backend=backend)
    for seed in (1, 2):
        points.copy_(blobs(n, 10, seed=seed, clusters=3 + seed))
        want = dbscan(points, eps, 4, metric=metric, backend="reference")
        labels.fill_(7)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(labels, want[0])
        assert torch.equal(core, want[1])


@pytest.mark.gpu
@pytest.mark.parametrize("backend", dbscan_cuda.BACKENDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_values_are_named(backend: str, value: float) -> None:
    points = blobs(200, 3).cuda()
    weight = torch.ones(200, device="cuda")
    weight[7] = value
    with pytest.raises(ValueError, match="sample_weight must be finite, but row 7"):
        dbscan(points, 1.0, 4, sample_weight=weight, backend=backend)
    points[13, 2] = value
    points[170, 0] = value
    for metric in ("euclidean", "cosine"):
        with pytest.raises(ValueError, match=f"points must be finite, but row 13 holds {value}"):
            dbscan(points, 1.0, 4, metric=metric, backend=backend)


@pytest.mark.gpu
def test_cuda_tensors_take_the_kernel_and_never_the_cpu() -> None:
    points = blobs(300, 12)
    want = dbscan(points, 0.5, 4, backend="reference")
    got = dbscan(points.cuda(), 0.5, 4)
    assert got[0].is_cuda
    assert torch.equal(got[0].cpu(), want[0])
    assert torch.equal(got[1].cpu(), want[1])
    with pytest.raises(BackendUnavailableError, match="CPU tensors"):
        dbscan(points.cuda(), 0.5, 4, backend="cpu")


@pytest.mark.gpu
@not_small
@pytest.mark.parametrize("backend", dbscan_cuda.BACKENDS)
def test_opcheck_and_compile(backend: str) -> None:
    points = blobs(60, 4).cuda()
    for metric, weight in (("euclidean", None), ("cosine", torch.rand(60, device="cuda"))):
        torch.library.opcheck(torch.ops.tmor_fast.dbscan.default, (points, 0.7, 3, metric, weight, backend))
    whole = torch.compile(lambda x: dbscan(x * 2.0, 1.0, 4, backend=backend), fullgraph=True, backend="aot_eager")
    assert torch.equal(whole(points)[0], dbscan(points * 2.0, 1.0, 4, backend="reference")[0])


@pytest.mark.gpu
def test_device_one_while_device_zero_is_current() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one device only")
    points = blobs(300, 12)
    for backend in dbscan_cuda.BACKENDS:
        labels = dbscan(points.to("cuda:1"), 0.5, 4, backend=backend)[0]
        assert torch.cuda.current_device() == 0
        assert torch.equal(labels.cpu(), dbscan(points, 0.5, 4, backend="reference")[0])
