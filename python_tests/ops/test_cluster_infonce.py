"""cluster_infonce against its definitions, query by query in Python loops and float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tmor_fast.ops.cluster_infonce_tiled as tiled_module
from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops.cluster_infonce import cluster_infonce, pair_counts

MODES = [(p, d) for p in ("sum", "mean", "supcon", "instance") for d in ("all", "negatives")]
BACKENDS = ("tiled", "reference")


def brute_force(
    case: dict[str, Any], positives: str, denominator: str, chosen: list[list[int]] | None = None
) -> Tensor:
    """The loss from its definition; `chosen[i]` are the rows drawn from A_i (None: all of A_i)."""
    q, k, p, tau = case["query"], case["keys"], case["positive"], case["temperature"]
    qi, ki = case["query_id"].tolist(), case["key_id"].tolist()
    qc, kc = case["query_cluster"].tolist(), case["key_cluster"].tolist()
    captions, weight = case.get("query_caption"), case.get("key_log_weight")
    losses = []
    for i in range(q.shape[0]):
        aligned, negative = [], []
        for j in range(k.shape[0]):
            s = (q[i] * k[j]).sum() / tau + (0 if weight is None else weight[j])
            if ki[j] == qi[i]:
                continue
            if kc[j] == qc[i] != -1:
                if positives != "instance" and (chosen is None or j in chosen[i]):
                    aligned.append(s)
            elif captions is None or captions[i] == -1 or captions[i] != case["key_caption"][j]:
                negative.append(s)
        if p is not None:
            aligned.append((q[i] * p[i]).sum() / tau)
        if not aligned or (denominator == "negatives" and not negative):
            losses.append(0 * q[i].sum())
            continue
        # The largest logit is taken out of every exponential, so that float64 suffices at any temperature.
        top = max(float(s.detach()) for s in aligned + negative)
        sum_p = sum(torch.exp(s - top) for s in aligned)
        sum_n = sum((torch.exp(s - top) for s in negative), torch.zeros((), dtype=q.dtype))
        if positives == "mean":
            sum_p = sum_p / len(aligned)
        below = sum_n if denominator == "negatives" else sum_p + sum_n
        if positives == "supcon":
            losses.append(sum(torch.log(below) + top - s for s in aligned) / len(aligned))
        else:
            losses.append(-torch.log(sum_p / below))
    return torch.stack(losses)


def make_case(
    queries: int = 4,
    keys: int = 11,
    width: int = 3,
    clusters: int = 3,
    temperature: float = 0.5,
    own: bool = True,
    captions: bool = False,
    weights: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def integers(size: int, low: int, high: int) -> Tensor:
        return torch.randint(low, high, (size,), generator=generator)

    def vectors(rows: int) -> Tensor:
        x = torch.nn.functional.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)
        return x.to(dtype).requires_grad_()

    scale = torch.float64 if dtype == torch.float64 else torch.float32
    case: dict[str, Any] = {
        "query": vectors(queries),
        "keys": vectors(keys),
        "positive": vectors(queries) if own else None,
        "query_id": integers(queries, 0, keys),
        "key_id": integers(keys, 0, keys),
        "query_cluster": integers(queries, -1, clusters),
        "key_cluster": integers(keys, -1, clusters),
        "temperature": torch.tensor(temperature, dtype=scale, requires_grad=True),
    }
    if captions:
        case["query_caption"], case["key_caption"] = integers(queries, -1, 3), integers(keys, -1, 3)
    if weights:
        case["key_log_weight"] = torch.randn(keys, generator=generator, dtype=torch.float64).to(scale)
    return case


def leaves(case: dict[str, Any]) -> list[Tensor]:
    return [case[name] for name in ("query", "keys", "positive", "temperature") if case[name] is not None]


def gradients(loss: Tensor, case: dict[str, Any]) -> list[Tensor]:
    upstream = torch.linspace(0.5, 1.5, loss.shape[0], dtype=loss.dtype)
    result = torch.autograd.grad(loss, leaves(case), upstream, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(result, leaves(case), strict=True)]


def drawn_rows(case: dict[str, Any], count: int, seed: int) -> Tensor:
    rows = [case[name] for name in ("query_id", "key_id", "query_cluster", "key_cluster")]
    return torch.ops.tmor_fast.cluster_infonce_draw(*rows, count, seed)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_module, "MIN_TILE", 1)
    monkeypatch.setattr(tiled_module, "MAX_TILE", 4)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    queries=st.integers(1, 4),
    keys=st.integers(0, 13),
    width=st.integers(1, 3),
    clusters=st.integers(0, 4),
    temperature=st.sampled_from([0.01, 0.1, 1.0]),
    own=st.booleans(),
    captions=st.booleans(),
    weights=st.booleans(),
    max_positives=st.sampled_from([None, 1, 2, 5]),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradients_are_those_of_the_definition(
    backend: str,
    mode: tuple[str, str],
    queries: int,
    keys: int,
    width: int,
    clusters: int,
    temperature: float,
    own: bool,
    captions: bool,
    weights: bool,
    max_positives: int | None,
    seed: int,
) -> None:
    instance = mode[0] == "instance"
    # randint needs an id to draw even for an empty bank.
    case = make_case(queries, max(keys, 1), width, clusters, temperature, own or instance, captions, weights, seed)
    for name in ("keys", "key_id", "key_cluster", "key_caption", "key_log_weight"):
        if name in case:
            case[name] = case[name].detach()[:keys].requires_grad_(name == "keys")
    limit = None if instance else max_positives
    chosen = None if limit is None or keys == 0 else drawn_rows(case, limit, seed).tolist()
    expected = brute_force(case, *mode, chosen)
    loss = cluster_infonce(
        **case,
        positives=mode[0],
        denominator=mode[1],
        max_positives=limit,
        seed=seed if limit else None,
        backend=backend,
    )
    assert loss.shape == (queries,)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    for ours, exact in zip(gradients(loss, case), gradients(expected, case), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-8)


def test_hand_worked_case() -> None:
    # Logits: own positive 1, same cluster 2, negatives 0 and 3; the row with the query's own id does not count.
    one = torch.ones(1, 1, dtype=torch.float64)
    values = {
        "keys": torch.tensor([[2.0], [0.0], [3.0], [9.0]], dtype=torch.float64),
        "query_id": torch.tensor([7]),
        "key_id": torch.tensor([1, 2, 3, 7]),
        "query_cluster": torch.tensor([5]),
        "key_cluster": torch.tensor([5, 4, -1, 5]),
        "temperature": 1.0,
    }
    e = math.exp
    p, n = e(1) + e(2), e(0) + e(3)
    expected = {
        ("sum", "all"): -math.log(p / (p + n)),
        ("sum", "negatives"): -math.log(p / n),
        ("mean", "all"): -math.log((p / 2) / (p / 2 + n)),
        ("supcon", "all"): math.log(p + n) - 1.5,
        ("instance", "all"): -math.log(e(1) / (e(1) + n)),
    }
    for (positives, denominator), value in expected.items():
        for backend in BACKENDS:
            loss = cluster_infonce(
                one, positive=one, positives=positives, denominator=denominator, backend=backend, **values
            )
            assert loss.item() == pytest.approx(value, rel=1e-12)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("mode", "drawn"), [(m, drawn) for m in MODES for drawn in {False, m[0] != "instance"}])
def test_gradcheck(mode: tuple[str, str], drawn: bool) -> None:
    case = make_case(3, 6, 2, 2, captions=True, weights=True)
    rest = {k: v for k, v in case.items() if k not in ("query", "keys", "positive", "temperature")}
    rest |= {"max_positives": 1, "seed": 3} if drawn else {}

    def function(q: Tensor, k: Tensor, p: Tensor, t: Tensor) -> Tensor:
        return cluster_infonce(q, k, p, temperature=t, positives=mode[0], denominator=mode[1], backend="tiled", **rest)

    assert torch.autograd.gradcheck(function, leaves(case))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("denominator", ["all", "negatives"])
@pytest.mark.parametrize("positives", ["sum", "mean", "supcon"])
def test_queries_with_nothing_to_compare_have_no_loss_and_no_gradient(
    backend: str, denominator: str, positives: str
) -> None:
    # Query 0 is noise without own positive: P is empty. Query 1 shares its cluster with every other row: N is empty.
    case = make_case(2, 5, own=False)
    case |= {"query_cluster": torch.tensor([-1, 0]), "key_cluster": torch.zeros(5, dtype=torch.int64)}
    case |= {"query_id": torch.tensor([90, 91])}
    loss = cluster_infonce(**case, positives=positives, denominator=denominator, backend=backend)
    expected = brute_force(case, positives, denominator)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert loss[0] == 0
    if denominator == "negatives" or positives == "sum":
        assert loss[1] == 0
    for ours, exact in zip(gradients(loss, case), gradients(expected, case), strict=True):
        assert torch.isfinite(ours).all()
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    rows = {k: v for k, v in case.items() if k.startswith(("query_", "key_"))}
    aligned, negative = pair_counts(**rows)
    assert aligned.tolist() == [0, 5]
    assert negative.tolist() == [5, 0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", MODES)
def test_large_logits_stay_exact(backend: str, mode: tuple[str, str]) -> None:
    # At temperature 1e-4 logits reach 10,000: any exponential without its maximum taken out overflows or vanishes.
    case = make_case(4, 20, 4, temperature=1e-4)
    loss = cluster_infonce(**case, positives=mode[0], denominator=mode[1], backend=backend)
    single = {k: v.detach().float() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in case.items()}
    rough = cluster_infonce(**single, positives=mode[0], denominator=mode[1], backend=backend)
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(g).all() for g in gradients(loss, case))
    torch.testing.assert_close(rough.double(), loss.detach(), rtol=1e-3, atol=1e-2)
    # The brute force's p / n underflows here, so the expected value is written with log-sum-exps.
    q, k, p, tau = leaves(case)
    i = int((case["query_cluster"] >= 0).nonzero()[0])
    s = (q[i] @ k.T / tau).detach()
    same = (case["key_cluster"] == case["query_cluster"][i]) & (case["query_cluster"][i] != -1)
    other = case["key_id"] != case["query_id"][i]
    own = (q[i] @ p[i] / tau).detach()[None]
    positive = own if mode[0] == "instance" else torch.cat((own, s[same & other]))
    negative = s[~same & other]
    numerator = positive.logsumexp(0) - (math.log(len(positive)) if mode[0] == "mean" else 0)
    whole = torch.logaddexp(numerator, negative.logsumexp(0)) if mode[1] == "all" else negative.logsumexp(0)
    expected = whole - (positive.mean() if mode[0] == "supcon" else numerator)
    torch.testing.assert_close(loss[i].detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", [("sum", "all"), ("supcon", "all"), ("instance", "negatives")])
def test_error_is_at_most_twice_that_of_plain_torch(dtype: torch.dtype, mode: tuple[str, str]) -> None:
    case = make_case(16, 700, 32, 20, temperature=0.1, dtype=dtype)
    exact = {
        k: v.detach().double().requires_grad_() if torch.is_tensor(v) and v.is_floating_point() else v
        for k, v in case.items()
    }

    def plain(c: dict[str, Any]) -> Tensor:
        tau = c["temperature"].to(c["query"].dtype)
        s = torch.cat(((c["query"] * c["positive"]).sum(1, keepdim=True), c["query"] @ c["keys"].T), 1) / tau
        same_id = c["query_id"][:, None] == c["key_id"]
        same = (c["query_cluster"][:, None] == c["key_cluster"]) & (c["query_cluster"][:, None] != -1)
        own = torch.ones(len(s), 1, dtype=torch.bool)
        p = torch.cat((own, same & ~same_id & (mode[0] != "instance")), 1)
        n = torch.cat((~own, ~same & ~same_id), 1)
        lp, ln = s.masked_fill(~p, -torch.inf).logsumexp(1), s.masked_fill(~n, -torch.inf).logsumexp(1)
        whole = torch.logaddexp(lp, ln) if mode[1] == "all" else ln
        return whole - ((s * p).sum(1) / p.sum(1) if mode[0] == "supcon" else lp)

    def results(loss: Tensor, c: dict[str, Any]) -> list[Tensor]:
        return [loss, *gradients(loss, c)]

    truth, rough = results(plain(exact), exact), results(plain(case), case)
    ours = results(cluster_infonce(**case, positives=mode[0], denominator=mode[1], backend="tiled"), case)
    assert ours[0].dtype == torch.float32
    for a, b, c, leaf in zip(ours, rough, truth, [ours[0], *leaves(case)], strict=True):
        assert a.dtype == leaf.dtype
        error, allowed = (a.double() - c).norm() / c.norm(), (b.double() - c).norm() / c.norm()
        # One rounding of the result is granted where plain torch happens to hit it exactly.
        assert error <= 2 * allowed + torch.finfo(leaf.dtype).eps, f"{error:.2e}, plain torch {allowed:.2e}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_bank_of_another_precision_and_autocast(backend: str) -> None:
    case = make_case(4, 30, 8, dtype=torch.float32)
    case["keys"] = case["keys"].detach().half()
    expected = cluster_infonce(**(case | {"keys": case["keys"].float()}), backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        loss = cluster_infonce(**case, backend=backend)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wanted", ["query", "keys", "positive", "temperature"])
def test_only_wanted_gradients_are_computed(wanted: str) -> None:
    case = make_case()
    full = dict(
        zip(("query", "keys", "positive", "temperature"), gradients(brute_force(case, "sum", "all"), case), strict=True)
    )
    for name in full:
        case[name].requires_grad_(name == wanted)
    loss = cluster_infonce(**case, backend="tiled")
    loss.backward(torch.linspace(0.5, 1.5, 4, dtype=torch.float64))
    for name, exact in full.items():
        if name == wanted:
            torch.testing.assert_close(case[name].grad, exact, rtol=1e-10, atol=1e-10)
        else:
            assert case[name].grad is None


def test_generator_draws_reproducibly_and_moves_on() -> None:
    case = make_case(8, 60, clusters=1)

    def losses(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [cluster_infonce(**case, max_positives=1, generator=generator).detach() for _ in range(2)]

    first, second = losses(4), losses(4)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])


def op_arguments(case: dict[str, Any], chosen: Tensor | None, positives: str) -> tuple[Any, ...]:
    rows = [case.get(name) for name in ("query_id", "key_id", "query_cluster", "key_cluster")]
    extra = [case.get(name) for name in ("query_caption", "key_caption", "key_log_weight")]
    return (case["query"], case["keys"], case["positive"], case["temperature"], *rows, *extra, chosen, positives)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opcheck() -> None:
    ops = torch.ops.tmor_fast
    case = make_case(captions=True, weights=True)
    forward = (*op_arguments(case, None, "supcon"), "all", True, "tiled")
    torch.library.opcheck(ops.cluster_infonce.default, forward)
    plain = make_case(own=False, dtype=torch.float32)
    for tensor in leaves(plain):
        tensor.requires_grad_(False)
    quick = ("test_schema", "test_faketensor")
    drawn = drawn_rows(plain, 2, 1)
    forward = (*op_arguments(plain, drawn, "sum"), "negatives", True, "tiled")
    torch.library.opcheck(ops.cluster_infonce.default, forward, test_utils=quick)
    saved = ops.cluster_infonce(*forward)
    for needed in ([True, True, False, True], [False] * 4):
        arguments = (torch.ones(4), *op_arguments(plain, drawn, "sum")[:-1], *saved[1:], needed, "tiled")
        torch.library.opcheck(ops.cluster_infonce_backward.default, arguments, test_utils=quick)
    rows = op_arguments(plain, None, "sum")[4:8]
    torch.library.opcheck(ops.cluster_infonce_draw.default, (*rows, 2, 1), test_utils=quick)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_without_a_graph_break(backend: str) -> None:
    case = make_case()

    def step(seed: int, **c: Any) -> Tensor:
        return cluster_infonce(**c, max_positives=1, seed=seed, backend=backend) * 2

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for seed in (1, 2, 3):
        eager, traced = step(seed, **case), compiled(seed, **case)
        torch.testing.assert_close(traced, eager)
        for a, b in zip(gradients(traced, case), gradients(eager, case), strict=True):
            torch.testing.assert_close(a, b)


def test_second_derivative_is_refused_unless_by_the_reference() -> None:
    case = make_case()
    for backend in BACKENDS:
        loss = cluster_infonce(**case, backend=backend).sum()
        (first,) = torch.autograd.grad(loss, case["query"], create_graph=True)
        if backend == "tiled":
            with pytest.raises(NotImplementedError, match="second derivatives"):
                first.sum().backward()
        else:
            first.sum().backward()


def test_forward_op_refuses_a_gradient_it_did_not_save() -> None:
    case = make_case()
    loss, *_ = torch.ops.tmor_fast.cluster_infonce(*op_arguments(case, None, "sum"), "all", False, "tiled")
    with pytest.raises(RuntimeError, match="save_gradient"):
        loss.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"query": torch.zeros(4)}, ValueError, r"query must be \(rows, d\)"),
        ({"keys": torch.zeros(11, 2)}, ValueError, "keys must have query's width"),
        ({"keys": torch.zeros(11, 3, dtype=torch.int64)}, TypeError, "keys must be floating point"),
        ({"keys": [1.0]}, TypeError, "keys must be a torch.Tensor, got list"),
        ({"positive": torch.zeros(3, 3)}, ValueError, r"positive must have query's shape \(4, 3\)"),
        ({"query_id": torch.zeros(3, dtype=torch.int64)}, ValueError, r"query_id must be \(4,\)"),
        ({"key_cluster": torch.zeros(11)}, TypeError, "key_cluster must be int64"),
        ({"key_id": None}, TypeError, "key_id must be a torch.Tensor, got NoneType"),
        ({"key_caption": torch.zeros(11, dtype=torch.int64)}, ValueError, "both query_caption and key_caption"),
        ({"key_log_weight": torch.zeros(11, requires_grad=True)}, TypeError, "no gradient"),
        ({"key_log_weight": torch.full((11,), -torch.inf)}, ValueError, "key_log_weight is not finite in row 0"),
        ({"temperature": 0.0}, ValueError, "temperature must be above 0"),
        ({"temperature": torch.tensor(-1.0)}, ValueError, "temperature must be above 0"),
        ({"temperature": float("nan")}, ValueError, "temperature must be above 0"),
        ({"temperature": torch.ones(2)}, ValueError, "one floating-point number"),
        ({"positives": "max"}, ValueError, "unknown positives 'max'; accepted: 'sum', 'mean'"),
        ({"denominator": "none"}, ValueError, "unknown denominator 'none'"),
        ({"positives": "instance", "positive": None}, ValueError, "needs every query's own positive"),
        ({"positives": "instance", "max_positives": 2, "seed": 0}, ValueError, "no meaning"),
        ({"max_positives": -1, "seed": 0}, ValueError, "at least 0"),
        ({"max_positives": 0, "seed": 0, "positive": None}, ValueError, "1 without positive"),
        ({"max_positives": 1.5, "seed": 0}, TypeError, "max_positives must be an integer"),
        ({"max_positives": 2}, ValueError, "exactly one of seed and generator"),
        ({"max_positives": 2, "seed": 0, "generator": torch.Generator()}, ValueError, "exactly one of seed"),
        ({"backend": "fast"}, ValueError, "unknown backend 'fast'"),
        (
            {"backend": "cpu", "keys": torch.zeros(11, 3, dtype=torch.float64)},
            BackendUnavailableError,
            "keys is torch.float64 .*'tiled'",
        ),
        ({"backend": "cuda"}, BackendUnavailableError, "it takes CUDA tensors, query is on cpu"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        cluster_infonce(**(make_case(dtype=torch.float32) | change))


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_that_are_not_finite_are_found(backend: str) -> None:
    for name, row in (("query", 2), ("keys", 10), ("positive", 1)):
        case = make_case()
        case[name] = case[name].detach().clone()
        case[name][row, 1] = float("nan")
        with pytest.raises(ValueError, match=f"{name} is not finite in row {row}"):
            cluster_infonce(**case, backend=backend)
    case = make_case(dtype=torch.float32)
    with pytest.raises(ValueError, match="logits overflow"):
        cluster_infonce(**(case | {"query": case["query"] * 1e30, "temperature": 1e-12}), backend=backend)
