"""The CUDA backends of cluster_infonce where there is a GPU: losses, gradients, streams, graphs.

Needs torch and pytest alone, as a bare GPU machine has them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from infonce_cases import DTYPES, LEAVES, MODES, asking, make_case, results
from torch import Tensor

from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops import cluster_infonce_cuda
from tmor_fast.ops.cluster_infonce import cluster_infonce

# compute-sanitizer makes everything a hundred times slower.
SMALL = bool(os.environ.get("TMOR_TEST_SMALL"))
BACKENDS = cluster_infonce_cuda.BACKENDS
not_small = pytest.mark.skipif(SMALL, reason="too long under compute-sanitizer")


@contextmanager
def poisoned() -> Iterator[None]:
    """Fresh memory is full of ones and NaN, so that a kernel which leaves something unwritten is found out."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.fixture(autouse=True)
def no_tf32() -> Iterator[None]:
    """Plain torch in float32 is what errors are compared with."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def rounding_of(dtype: torch.dtype) -> float:
    """Relative error of numbers that are rounded to `dtype`, 0 for float32."""
    return 0.0 if dtype == torch.float32 else float(torch.finfo(dtype).eps) / 2


def check(case: dict[str, Any], backend: str, **options: Any) -> None:
    """Loss and gradients of `backend` against the reference in float64 and in float32, both on the same device."""
    exact = results(asking(case, torch.float64), **options, backend="reference")
    plain = results(asking(case), **options, backend="reference")
    with poisoned():
        ours = results(asking(case), **options, backend=backend)
    dtype, temperature = case["keys"].dtype, float(case["temperature"])
    weight = case.get("key_log_weight")
    logit = 1 / temperature + (float(weight.abs().max()) if weight is not None else 0)
    size = len(ours["loss"])
    upstream = float(torch.linspace(0.5, 1.5, size).norm())
    # Terms are at most 1 / temperature, each moved by its logit's rounding; 16 bits round queries and weights too.
    epsilon = 4 * torch.finfo(torch.float32).eps * (1 + logit)
    if backend == "cuda":
        epsilon += rounding_of(dtype) * (1 + 1 / temperature / case["keys"].shape[1] ** 0.5)
    for name, value in ours.items():
        assert bool(torch.isfinite(value).all()), name
        error, allowed = (float((r.double() - exact[name].double()).norm()) for r in (value, plain[name]))
        length = float(exact[name].double().norm())
        terms = upstream * (logit if name == "temperature" else 1) / temperature
        if name == "loss":
            terms = size**0.5
        rounding = torch.finfo(value.dtype).eps * length
        limit = 2 * allowed + rounding + epsilon * (terms + length)
        assert error <= limit, f"{name}, {backend}: {error:.2e}, plain torch {allowed:.2e}, allowed {limit:.2e}"


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_modes(backend: str, dtype: torch.dtype, mode: tuple[str, str]) -> None:
    seed = int(torch.randint(1 << 30, ()))
    for temperature in (0.1,) if SMALL else (0.01, 0.1, 10.0):
        for clusters in (1, 40):
            case = make_case(
                70, 500, 48, clusters, temperature, dtype, captions=True, weights=True, seed=seed, device="cuda"
            )
            check(case, backend, positives=mode[0], denominator=mode[1])
            if mode[0] != "instance":
                check(case, backend, positives=mode[0], denominator=mode[1], max_positives=3, seed=seed)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries", [1, 65] if SMALL else [1, 7, 64, 65, 129, 257])
@pytest.mark.parametrize("keys", [1, 129] if SMALL else [1, 7, 64, 65, 1000, 70_000])
def test_sizes(queries: int, keys: int, dtype: torch.dtype) -> None:
    seed = int(torch.randint(1 << 30, ()))
    for width in (1, 33, 128) if SMALL else (1, 7, 33, 64, 128, 129, 256, 300, 768):
        if queries * keys * width > 2**27:
            continue
        check(make_case(queries, keys, width, 7, dtype=dtype, seed=seed, device="cuda"), "cuda", positives="sum")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("mode", MODES[:1] if SMALL else MODES)
def test_float32_queries_of_a_bank_of_16_bits(mode: tuple[str, str], dtype: torch.dtype) -> None:
    """What pre-training has: the kernel rounds the queries, in both passes alike."""
    seed = int(torch.randint(1 << 30, ()))
    for queries, width in ((70, 48), (300, 128)):
        for temperature in (0.07, 1.0):
            case = make_case(
                queries, 700, width, 30, temperature, dtype, seed=seed, device="cuda", query_dtype=torch.float32
            )
            check(case, "cuda", positives=mode[0], denominator=mode[1])


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_error_is_at_most_twice_that_of_plain_torch(mode: tuple[str, str]) -> None:
    """A float32 bank; the root mean square over several draws, because one number may happen to be exact."""
    squares: dict[tuple[str, str], float] = {}
    options = {"positives": mode[0], "denominator": mode[1]}
    draws = [(seed, temperature) for seed in range(4) for temperature in (0.03, 0.1, 1.0)]
    for seed, temperature in draws:
        case = make_case(32, 1500, 64, 30, temperature, seed=seed, device="cuda")
        exact = results(asking(case, torch.float64), **options, backend="reference")
        for backend in ("reference", "cuda"):
            found = results(asking(case), **options, backend=backend)
            for name, value in exact.items():
                error = float((found[name].double() - value).norm() / value.norm())
                squares[backend, name] = squares.get((backend, name), 0.0) + error**2 / len(draws)
    for name in exact:
        allowed = 2 * squares["reference", name] ** 0.5 + torch.finfo(torch.float32).eps
        assert squares["cuda", name] ** 0.5 <= allowed, (name, squares)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_with_nothing_to_compare_have_no_loss_and_no_gradient(backend: str) -> None:
    case = make_case(2, 500, own=False, device="cuda")
    case |= {"query_cluster": torch.tensor([-1, 0]).cuda(), "key_cluster": torch.zeros(500, dtype=torch.int64).cuda()}
    case |= {"query_id": torch.tensor([900, 901]).cuda()}
    for positives, denominator in MODES[:6]:
        ours = results(asking(case), positives=positives, denominator=denominator, backend=backend)
        assert ours["loss"][0] == 0
        assert not ours["query"][0].any()
        if denominator == "negatives" or positives == "sum":
            assert ours["loss"][1] == 0
            assert not ours["query"][1].any()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["transposed", "gaps", "columns", "one row"])
def test_strides_and_alignment_do_not_matter(layout: str, dtype: torch.dtype) -> None:
    case = make_case(width=24, dtype=dtype, device="cuda")
    keys = case["keys"]
    if layout == "transposed":
        moved = keys.t().contiguous().t()
    elif layout == "gaps":
        moved = keys.new_zeros(300, 48)[:, ::2].copy_(keys)
    elif layout == "columns":  # of a wider table, not starting at a multiple of 16 bytes
        moved = torch.nn.functional.pad(keys, (1, 2))[:, 1:-2]
    else:
        keys = keys[7:8].expand(300, 24)
        moved, keys = keys, keys.clone()
    same = results(asking(case | {"keys": keys}), backend="cuda")
    ours = results(asking(case | {"keys": moved}), backend="cuda")
    for name, value in same.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_calls_give_the_same_bits(dtype: torch.dtype) -> None:
    case = make_case(130, 3000 if SMALL else 70_000, 48, 20, dtype=dtype, weights=True, device="cuda")
    for mode in MODES[:1] if SMALL else MODES:
        first = results(asking(case), positives=mode[0], denominator=mode[1], backend="cuda")
        for _ in range(2 if SMALL else 5):
            with poisoned():
                again = results(asking(case), positives=mode[0], denominator=mode[1], backend="cuda")
            for name, value in first.items():
                assert torch.equal(again[name], value), name


@pytest.mark.gpu
@not_small
def test_large_logits_do_not_overflow_and_nan_is_seen() -> None:
    case = make_case(20, 4000, 8, temperature=1e-4, device="cuda")
    for positives, denominator in MODES:
        ours = results(asking(case), positives=positives, denominator=denominator, backend="cuda")
        assert all(torch.isfinite(value).all() for value in ours.values())
    made = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)  # the NaN that devices make
    for name in ("query", "keys", "positive"):
        for nan in (torch.tensor(math.nan), made):
            broken = make_case(device="cuda")
            broken[name][2, 1] = nan.cuda()
            assert cluster_infonce(**broken, backend="cuda").isnan().any()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_loss_that_is_nan_makes_gradients_that_are(dtype: torch.dtype) -> None:
    case = asking(make_case(dtype=dtype, device="cuda"))
    zero = torch.zeros((), device="cuda")
    (cluster_infonce(**case, backend="cuda").sum() * (zero / zero)).backward()
    assert all(bool(case[name].grad.isnan().any()) for name in LEAVES)


@pytest.mark.gpu
@not_small
def test_a_million_keys_need_little_memory() -> None:
    case = make_case(256, 4, 128, 50, dtype=torch.bfloat16, device="cuda")
    case["keys"] = torch.randn(1 << 20, 128, device="cuda", dtype=torch.bfloat16) / 128**0.5
    case["key_id"] = torch.arange(1 << 20, device="cuda")
    case["key_cluster"] = torch.randint(-1, 50, (1 << 20,), device="cuda")
    case["query"].requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cluster_infonce(**case, backend="cuda").sum().backward()
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 200e6


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_side_stream(backend: str) -> None:
    case = make_case(20, 900, 32, device="cuda")
    want = results(asking(case), backend="reference")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    source = case["keys"]
    with torch.cuda.stream(side):
        late = torch.full_like(source, math.nan)
        torch.cuda._sleep(20_000_000)
        late.copy_(source)  # what another stream would not see in time
        ours = results(asking(case | {"keys": late}), backend=backend)
    del late  # its memory must not be reused before the side stream is done with it
    torch.full_like(source, math.nan)
    side.synchronize()
    for name, value in want.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@not_small  # memcheck runs without the caching allocator, so nothing is recorded
@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_that_a_side_stream_reads_is_not_reused_too_early(backend: str) -> None:
    case = make_case(20, 900, 32, device="cuda")
    want = cluster_infonce(**case, backend=backend)  # loads the kernels
    side, source = torch.cuda.Stream(), case["keys"]
    late = torch.full_like(source, math.nan)  # of the default stream's memory
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        late.copy_(source)
        got = cluster_infonce(**case | {"keys": late}, backend=backend)
    where = late.data_ptr()
    del late
    assert where not in {other.data_ptr() for other in [torch.full_like(source, math.nan) for _ in range(64)]}
    side.synchronize()
    assert torch.equal(got, want)


@pytest.mark.gpu
@not_small  # memcheck runs without the caching allocator: every free then waits
@pytest.mark.parametrize("learned", [False, True])
def test_nothing_waits(learned: bool) -> None:
    case = make_case(64, 900, 32, device="cuda")
    results(asking(case))  # loads the kernels
    case |= {} if learned else {"temperature": 0.1}
    case["query"].requires_grad_()
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(1_000_000_000)
        cluster_infonce(**case, backend="cuda").sum().backward()
        done.record()
        assert not done.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_graph_capture(backend: str) -> None:
    case = make_case(40, 700, 32, device="cuda")
    ops, names = torch.ops.tmor_fast, ("query_id", "key_id", "query_cluster", "key_cluster")
    tensors = [*(case[n] for n in (*LEAVES, *names)), None, None, None, None]
    upstream = torch.ones(40, device="cuda")

    def both() -> tuple[Tensor, ...]:
        saved = ops.cluster_infonce(*tensors, "sum", "all", True, backend)
        needed = [True, True, True, True]
        return saved[0], *ops.cluster_infonce_backward(upstream, *tensors, *saved[1:], needed, backend)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        both()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    for seed in (1, 2):
        fresh = make_case(40, 700, 32, temperature=0.05 * seed, seed=seed, device="cuda")
        for name in (*LEAVES, *names):
            case[name].copy_(fresh[name])
        for value in captured:
            value.fill_(7)
        graph.replay()
        torch.cuda.synchronize()
        for ours, want in zip(captured, both(), strict=True):
            assert torch.equal(ours, want)
        exact = cluster_infonce(**fresh, backend="reference")
        torch.testing.assert_close(captured[0], exact, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_graph_capture_of_drawn_positives() -> None:
    case = make_case(40, 700, 32, device="cuda")

    def loss() -> Tensor:
        return cluster_infonce(**case, max_positives=3, seed=5, backend="cuda")

    want = loss()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        loss()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = loss()
    captured.fill_(7)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, want)


@pytest.mark.gpu
@not_small
@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_and_compile(backend: str) -> None:
    ops, names = torch.ops.tmor_fast, ("query_id", "key_id", "query_cluster", "key_cluster")
    case = make_case(8, 200, 16, device="cuda")
    tensors = [*(asking(case)[n] for n in LEAVES), *(case[n] for n in names), None, None, None, None]
    torch.library.opcheck(ops.cluster_infonce.default, (*tensors, "supcon", "all", True, backend))

    def step(**c: Any) -> Tensor:
        return cluster_infonce(**c, max_positives=2, seed=1, backend=backend) * 2

    one, other = asking(case), asking(case)
    traced = torch.compile(step, fullgraph=True, backend="aot_eager")
    ours, eager = traced(**one), step(**other)
    torch.testing.assert_close(ours, eager, rtol=0, atol=0)
    ours.sum().backward()
    eager.sum().backward()
    for name in LEAVES:
        torch.testing.assert_close(one[name].grad, other[name].grad)


@pytest.mark.gpu
def test_cuda_tensors_take_the_kernel() -> None:
    case = make_case(device="cuda")
    auto, ours, tiled = (results(asking(case), backend=backend) for backend in ("auto", "cuda", "tiled"))
    assert all(torch.equal(auto[name], ours[name]) for name in ours)
    assert not all(torch.equal(auto[name], tiled[name]) for name in tiled), "the backends cannot be told apart"
    with pytest.raises(BackendUnavailableError, match="CPU tensors"):
        cluster_infonce(**case, backend="cpu")
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(cluster_infonce(**case, backend="cuda"), ours["loss"])


@pytest.mark.gpu
def test_device_one_while_device_zero_is_current() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one device only")
    case = make_case(device="cuda:1")
    for backend in BACKENDS:
        ours = results(asking(case), backend=backend)
        assert torch.cuda.current_device() == 0
        want = results(asking(case), backend="reference")
        torch.testing.assert_close(ours["loss"], want["loss"], rtol=1e-4, atol=1e-5)
