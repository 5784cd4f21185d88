"""The compiled CPU kernel of cluster_infonce against the reference equation in float64."""

from __future__ import annotations

import _thread
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tmor_fast.benchmark.memory import ResidentPeak
from tmor_fast.build import build_config, compiled, extension
from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops.cluster_infonce import cluster_infonce

pytestmark = pytest.mark.skipif(
    compiled("cluster_infonce", "cpu") is not None, reason="the compiled module is not there"
)

MODES = [(p, d) for p in ("sum", "mean", "supcon", "instance") for d in ("all", "negatives")]
ISAS = build_config()["isa_supported"]
SIZES = (1, 7, 64, 128, 129, 256, 768)
LEAVES = ("query", "keys", "positive", "temperature")
EPSILON = torch.finfo(torch.float32).eps


@contextmanager
def instruction_set(isa: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMOR_ISA", isa)
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_case(
    queries: int = 9,
    keys: int = 300,
    width: int = 16,
    clusters: int = 5,
    temperature: float = 0.1,
    dtype: torch.dtype = torch.float32,
    *,
    own: bool = True,
    captions: bool = False,
    weights: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Arguments of the op: unit vectors, ids that repeat; `clusters` 0 is noise alone, 1 a cluster of nearly all."""
    generator = torch.Generator().manual_seed(seed)

    def integers(size: int, low: int, high: int) -> Tensor:
        return torch.randint(low, high, (size,), generator=generator)

    def vectors(rows: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=1).to(dtype)

    def cluster(rows: int) -> Tensor:
        return integers(rows, -1, clusters) if clusters != 1 else torch.zeros(rows, dtype=torch.int64)

    case: dict[str, Any] = {
        "query": vectors(queries),
        "keys": vectors(keys),
        "positive": vectors(queries) if own else None,
        "query_id": integers(queries, 0, keys + 1),
        "key_id": integers(keys, 0, keys + 1),
        "query_cluster": cluster(queries),
        "key_cluster": cluster(keys),
        "temperature": torch.tensor(temperature),
    }
    if captions:
        case |= {"query_caption": integers(queries, -1, 3), "key_caption": integers(keys, -1, 3)}
    if weights:
        case["key_log_weight"] = torch.randn(keys, generator=generator)
    return case


def asking(case: dict[str, Any], dtype: torch.dtype | None = None, wanted: tuple[str, ...] = LEAVES) -> dict[str, Any]:
    """A copy of `case`, in `dtype` if given, of which `wanted` require a gradient."""
    copy = {}
    for name, value in case.items():
        floating = isinstance(value, Tensor) and value.is_floating_point()
        copy[name] = value.detach().to(dtype or value.dtype) if floating else value
        if floating and name in wanted:
            copy[name] = copy[name].requires_grad_()
    return copy


def results(case: dict[str, Any], **options: Any) -> dict[str, Tensor]:
    """Loss and the gradients that `case` asks for, of the losses weighted unevenly."""
    loss = cluster_infonce(**case, **options)
    asked = [name for name in LEAVES if case[name] is not None and case[name].requires_grad]
    upstream = torch.linspace(0.5, 1.5, len(loss), dtype=loss.dtype)
    found = torch.autograd.grad(loss, [case[name] for name in asked], upstream, allow_unused=True) if asked else []
    gradients = [torch.zeros_like(case[name]) if g is None else g for name, g in zip(asked, found, strict=True)]
    return {"loss": loss.detach(), **dict(zip(asked, gradients, strict=True))}


def strided(value: Tensor, layout: str) -> Tensor:
    """The same numbers, lying otherwise in memory."""
    if layout == "transposed" and value.dim() == 2:
        return value.t().contiguous().t()
    if layout == "gaps":
        wide = value.new_zeros(*value.shape[:-1], 2 * value.shape[-1])
        wide[..., ::2] = value
        return wide[..., ::2]
    if layout == "columns" and value.dim() == 2:  # of a wider table, not starting on a vector's boundary
        return torch.nn.functional.pad(value, (1, 2))[:, 1:-2]
    return value


@settings(max_examples=120, deadline=None)
@given(
    isa=st.sampled_from(ISAS),
    mode=st.sampled_from(MODES),
    queries=st.sampled_from(SIZES),
    keys=st.sampled_from(SIZES),
    width=st.sampled_from(SIZES),
    clusters=st.sampled_from([0, 1, 5, 40]),
    temperature=st.sampled_from([0.01, 0.1, 1.0, 10.0]),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float16, torch.bfloat16]),
    own=st.booleans(),
    captions=st.booleans(),
    weights=st.booleans(),
    max_positives=st.sampled_from([None, None, 1, 5]),
    layout=st.sampled_from(["as is", "transposed", "gaps", "columns"]),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradients_are_those_of_the_reference_in_float64(
    isa: str, mode: tuple[str, str], queries: int, keys: int, width: int, clusters: int, temperature: float,
    dtype: torch.dtype, own: bool, captions: bool, weights: bool, max_positives: int | None, layout: str, seed: int,
) -> None:  # fmt: skip
    instance = mode[0] == "instance"
    queries, width = (min(queries, 129), min(width, 129)) if queries * keys * width > 2**21 else (queries, width)
    case = make_case(
        queries, keys, width, clusters, temperature, dtype, own=own or instance, captions=captions, weights=weights,
        seed=seed,
    )  # fmt: skip
    limit = None if instance else max_positives
    options = {"positives": mode[0], "denominator": mode[1], "max_positives": limit, "seed": seed if limit else None}
    exact = results(asking(case, torch.float64), **options, backend="reference")
    plain = results(asking(case), **options, backend="reference")
    moved = {name: strided(v, layout) if isinstance(v, Tensor) and v.dim() else v for name, v in case.items()}
    with instruction_set(isa):
        ours = results(asking(moved), **options, backend="cpu")
    # A rounded logit moves each term by this share of it; terms are at most 1 / temperature, and what cancels counts.
    logit = 1 / temperature + (float(case["key_log_weight"].abs().max()) if weights else 0)
    upstream = float(torch.linspace(0.5, 1.5, queries).norm())
    for name, value in ours.items():
        error, allowed = (float((r[name].double() - exact[name]).norm()) for r in ({name: value}, plain))
        terms = upstream * (logit if name == "temperature" else 1) / temperature
        if name == "loss":
            # A difference of logits, each rounded: plain torch may happen to subtract equal numbers.
            terms = queries**0.5
        rounding = torch.finfo(value.dtype).eps * float(exact[name].norm())
        limit_of_error = 2 * allowed + rounding + 4 * EPSILON * (1 + logit) * (terms + float(exact[name].norm()))
        assert error <= limit_of_error, f"{name}: {error:.2e}, plain torch {allowed:.2e}"
        assert value.dtype == (torch.float32 if name in ("loss", "temperature") else dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_error_is_at_most_twice_that_of_plain_torch(dtype: torch.dtype, mode: tuple[str, str]) -> None:
    # Plain torch in float32, whatever the dtype of the bank: the kernel, too, converts and adds up in float32. The
    # root mean square over several draws, because one number may happen to be exact.
    squares: dict[tuple[str, str], float] = {}
    options = {"positives": mode[0], "denominator": mode[1]}
    draws = [(seed, temperature) for seed in range(4) for temperature in (0.03, 0.1, 1.0)]
    for seed, temperature in draws:
        case = make_case(32, 1500, 64, 30, temperature, dtype, seed=seed)
        exact = results(asking(case, torch.float64), **options, backend="reference")
        found = {"plain": results(asking(case), **options, backend="reference")}
        for isa in ISAS:
            with instruction_set(isa):
                found[isa] = results(asking(case), **options, backend="cpu")
        for (who, values), name in itertools.product(found.items(), exact):
            error = (values[name].double() - exact[name]).norm() / exact[name].norm()
            squares[who, name] = squares.get((who, name), 0.0) + float(error) ** 2 / len(draws)
    for isa, name in itertools.product(ISAS, exact):
        # One rounding of the result is granted where plain torch happens to hit it exactly.
        allowed = 2 * squares["plain", name] ** 0.5 + torch.finfo(found[isa][name].dtype).eps
        assert squares[isa, name] ** 0.5 <= allowed, (isa, name, squares)


@pytest.mark.parametrize("isa", ISAS)
def test_exponential_is_within_its_bound(isa: str) -> None:
    # csrc/cluster_infonce/exp2.hpp states it; the error depends on the distance to the nearest integer alone.
    around = np.arange(-100, 121)[:, None] + np.linspace(-0.5, 0.5, 2001)
    fine = np.linspace(-0.5, 0.5, 1_000_001)
    x = np.concatenate([np.linspace(-100, 120, 1_000_001), around.ravel(), fine]).astype(np.float32)
    x = np.clip(x, -100, 120)
    y = np.empty_like(x)
    extension().cluster_infonce_exp2_cpu(x.ctypes.data, y.ctypes.data, x.size, isa)
    exact = np.exp2(x.astype(np.float64))
    error = np.abs(y - exact) / np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert error.max() <= (1.3 if isa == "portable" else 1.02)
    x = np.array([0.0, -0.0, -np.inf, -1e30, -100.01, np.nan, 1.0], dtype=np.float32)
    y = np.empty_like(x)
    extension().cluster_infonce_exp2_cpu(x.ctypes.data, y.ctypes.data, x.size, isa)
    np.testing.assert_array_equal(y, np.array([1, 1, 0, 0, 0, np.nan, 2], dtype=np.float32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", [("sum", "all"), ("supcon", "all"), ("mean", "negatives")])
@pytest.mark.parametrize("limit", [None, 3])
def test_any_number_of_threads_gives_the_same_bits(isa: str, mode: tuple[str, str], limit: int | None) -> None:
    case = asking(make_case(70, 7000, 24, 20, captions=True, weights=True))
    options = {"positives": mode[0], "denominator": mode[1], "max_positives": limit, "seed": 1 if limit else None}
    found = []
    for count in (1, 1, 2, 3, 7):
        with instruction_set(isa), threads(count):
            found.append(results(case, **options, backend="cpu"))
    for other, (name, value) in itertools.product(found[1:], found[0].items()):
        assert torch.equal(other[name], value), name


def test_a_query_is_the_same_in_any_order_of_the_batch() -> None:
    case = make_case(40, 2500, 20)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    turned = {k: v[order] if k.startswith("query") or k == "positive" else v for k, v in case.items()}
    for mode in MODES:
        options = {"positives": mode[0], "denominator": mode[1], "backend": "cpu"}
        whole, other = results(asking(case), **options), results(asking(turned), **options)
        assert torch.equal(whole["loss"][order], other["loss"])


@pytest.mark.parametrize("wanted", [(), *[(name,) for name in LEAVES], ("query", "temperature"), ("keys", "positive")])
def test_only_wanted_gradients_are_computed_and_they_do_not_change(wanted: tuple[str, ...]) -> None:
    case = make_case(weights=True)
    full = results(asking(case), backend="cpu")
    ours = results(asking(case, wanted=wanted), backend="cpu")
    assert set(ours) == {"loss", *wanted}
    for name, value in ours.items():
        torch.testing.assert_close(value, full[name], rtol=0, atol=0)


@pytest.mark.parametrize("isa", ISAS)
def test_queries_with_nothing_to_compare_have_no_loss_and_no_gradient(isa: str) -> None:
    # Query 0 is noise without own positive: P is empty. Query 1 shares its cluster with every other row: N is empty.
    case = make_case(2, 500, own=False)
    case |= {"query_cluster": torch.tensor([-1, 0]), "key_cluster": torch.zeros(500, dtype=torch.int64)}
    case |= {"query_id": torch.tensor([900, 901])}
    for positives, denominator in MODES[:6]:
        options = {"positives": positives, "denominator": denominator}
        with instruction_set(isa):
            ours = results(asking(case), **options, backend="cpu")
        exact = results(asking(case, torch.float64), **options, backend="reference")
        assert ours["loss"][0] == 0
        assert not ours["query"][0].any()
        if denominator == "negatives" or positives == "sum":
            assert ours["loss"][1] == 0
            assert not ours["query"][1].any()
        for name, value in ours.items():
            torch.testing.assert_close(value.double(), exact[name].double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", MODES)
def test_large_logits_do_not_overflow(isa: str, mode: tuple[str, str]) -> None:
    case = make_case(20, 4000, 8, temperature=1e-4)  # logits up to 10,000
    options = {"positives": mode[0], "denominator": mode[1]}
    exact = results(asking(case, torch.float64), **options, backend="reference")
    with instruction_set(isa):
        ours = results(asking(case), **options, backend="cpu")
    assert all(torch.isfinite(value).all() for value in ours.values())
    torch.testing.assert_close(ours["loss"].double(), exact["loss"], rtol=1e-3, atol=1e-2)


def test_numbers_that_are_not_finite_are_found() -> None:
    for name, row in (("query", 2), ("keys", 200), ("positive", 1)):
        for value, isa in itertools.product((float("nan"), float("inf")), ISAS):
            case = make_case()
            case[name][row, 1] = value
            with instruction_set(isa), pytest.raises(ValueError, match=f"{name} is not finite in row {row}"):
                cluster_infonce(**case, backend="cpu")
    case = make_case()
    with pytest.raises(ValueError, match="logits overflow"):
        cluster_infonce(**(case | {"query": case["query"] * 1e30, "temperature": 1e-12}), backend="cpu")


def test_auto_takes_the_kernel_where_it_can() -> None:
    case = make_case()
    options = {"positives": "mean", "denominator": "all"}
    auto, cpu = results(asking(case), **options), results(asking(case), **options, backend="cpu")
    tiled = results(asking(case), **options, backend="tiled")
    assert all(torch.equal(auto[name], cpu[name]) for name in cpu)
    assert not all(torch.equal(auto[name], tiled[name]) for name in tiled), "the backends cannot be told apart"
    double = results(asking(case, torch.float64), **options)
    assert double["loss"].dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"query": torch.zeros(9, 16, dtype=torch.float64)}, BackendUnavailableError, "query is torch.float64"),
        ({"keys": torch.zeros(300, 16, dtype=torch.float64)}, BackendUnavailableError, "keys is torch.float64"),
        ({"query": torch.zeros(9, 15)}, ValueError, "keys must have query's width and device"),
        ({"keys": torch.zeros(300, 16, device="meta")}, ValueError, "keys must have query's width and device .*meta"),
        ({"key_id": torch.zeros(300, dtype=torch.int64, device="meta")}, ValueError, "key_id must be .* on meta"),
        ({"key_id": torch.zeros(299, dtype=torch.int64)}, ValueError, r"key_id must be \(300,\)"),
        ({"temperature": 0.0}, ValueError, "temperature must be above 0"),
        ({"temperature": torch.tensor(-0.1)}, ValueError, "temperature must be above 0"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        cluster_infonce(**(make_case() | change), backend="cpu")


def test_other_devices_and_unknown_instruction_sets_are_refused() -> None:
    elsewhere = {k: v.to("meta") if isinstance(v, Tensor) and v.dim() else v for k, v in make_case().items()}
    with pytest.raises(BackendUnavailableError, match="it takes CPU tensors, query is on meta"):
        cluster_infonce(**(elsewhere | {"temperature": 0.1}), backend="cpu")
    with instruction_set("abacus"), pytest.raises(ValueError, match=r"'abacus'.*accepted: portable"):
        cluster_infonce(**make_case(), backend="cpu")


@pytest.mark.parametrize(("queries", "keys"), [(0, 5), (3, 0), (0, 0)])
def test_empty_batch_and_bank(queries: int, keys: int) -> None:
    case = make_case(queries, keys)
    exact = results(asking(case, torch.float64), backend="reference")
    for name, value in results(asking(case), backend="cpu").items():
        torch.testing.assert_close(value.double(), exact[name].double())


def test_rows_of_a_bank_may_share_memory_and_start_anywhere() -> None:
    case = make_case(weights=True)
    one = case["keys"][7:8].expand(300, 16)
    expected = results(asking(case | {"keys": one.clone()}, wanted=("query",)), backend="cpu")
    for name, value in results(asking(case | {"keys": one}, wanted=("query",)), backend="cpu").items():
        assert torch.equal(value, expected[name])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opcheck() -> None:
    ops, names = torch.ops.tmor_fast, ("query_id", "key_id", "query_cluster", "key_cluster")
    extra = ("query_caption", "key_caption", "key_log_weight")
    for own, positives, drawn in ((True, "supcon", False), (False, "sum", True)):
        case = asking(make_case(4, 200, 5, own=own, captions=True, weights=own))
        chosen = ops.cluster_infonce_draw(*(case[n] for n in names), 2, 1) if drawn else None
        tensors = [*(case[n] for n in LEAVES), *(case.get(n) for n in names + extra), chosen]
        forward = (*tensors, positives, "all", True, "cpu")
        quick = ("test_schema", "test_faketensor")
        torch.library.opcheck(ops.cluster_infonce.default, forward, **({"test_utils": quick} if drawn else {}))
        plain = [t.detach() if isinstance(t, Tensor) else t for t in tensors]
        saved = ops.cluster_infonce(*plain, positives, "all", True, "cpu")
        for needed in ([True] * 4, [False] * 4):
            backward = (torch.ones(4), *plain, *saved[1:], needed, "cpu")
            torch.library.opcheck(ops.cluster_infonce_backward.default, backward, test_utils=quick)


def test_compiles_without_a_graph_break() -> None:
    case = make_case()

    def step(seed: int, **c: Any) -> Tensor:
        return cluster_infonce(**c, max_positives=1, seed=seed, backend="cpu") * 2

    traced = torch.compile(step, fullgraph=True, backend="aot_eager")
    for seed in (1, 2):
        ours, eager = (f(seed, **asking(case)) for f in (traced, step))
        torch.testing.assert_close(ours, eager, rtol=0, atol=0)
    one, other = asking(case), asking(case)
    traced(1, **one).sum().backward()
    step(1, **other).sum().backward()
    for name in LEAVES:
        torch.testing.assert_close(one[name].grad, other[name].grad)


def test_autocast_leaves_the_kernel_in_float32() -> None:
    case = make_case()
    expected = cluster_infonce(**case, backend="cpu")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cluster_infonce(**case, backend="cpu"), expected)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc: resident memory cannot be watched")
def test_memory_does_not_grow_with_the_bank() -> None:
    above = []
    for keys in (8192, 131_072):
        case = asking(make_case(256, keys, 4, 50), wanted=("query",))
        results(case, backend="cpu")
        peak = ResidentPeak()
        peak.start()
        results(case, backend="cpu")
        above.append(peak.above() or 0)
    # The logits alone would be 128 MiB.
    assert above[1] < 8 * 2**20
    assert above[1] < above[0] + 4 * 2**20


def test_ctrl_c_ends_a_long_call() -> None:
    case = make_case(1024, 200_000, 64, 50)

    def keep_calling() -> None:
        while time.perf_counter() < start + 30:
            cluster_infonce(**case, backend="cpu")

    timer = threading.Timer(0.3, _thread.interrupt_main)
    with threads(1):
        timer.start()
        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            keep_calling()
        timer.join()
    assert time.perf_counter() - start < 10
