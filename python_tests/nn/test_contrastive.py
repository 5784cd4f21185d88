"""The drop-in losses against their formulas in float64, and at the edges: one row, one label, no negatives."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tmor_fast.nn import ClipLoss, FIFOQueue, InfoNCELoss, NTXentLoss, SupConLoss

BACKENDS = ("tiled", "reference")
SIZES = st.integers(1, 9)
WIDTHS = st.sampled_from([1, 2, 7, 64])
TEMPERATURES = st.sampled_from([0.01, 0.07, 0.5, 1.0, 10.0])


def rows(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def moco(query: Tensor, positive: Tensor, queue: Tensor, temperature: float | Tensor) -> Tensor:
    """Cross entropy over the own key and the queue, as MoCo's text has it."""
    query, positive = F.normalize(query, dim=1), F.normalize(positive, dim=1)
    logits = torch.cat(((query * positive).sum(1, keepdim=True), query @ queue.T), dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64))


def in_batch(query: Tensor, positive: Tensor, temperature: float) -> Tensor:
    logits = F.normalize(query, dim=1) @ F.normalize(positive, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(query)))


def simclr(out0: Tensor, out1: Tensor, temperature: float) -> Tensor:
    """Eq. 1 of SimCLR, summed over both orders of each pair."""
    every = F.normalize(torch.cat((out0, out1)), dim=1)
    logits = (every @ every.T / temperature).masked_fill(torch.eye(len(every), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(every)).roll(len(out0)))


def supcon(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Eq. 2 of supervised contrastive learning, anchor by anchor; the mean is over anchors with a loss above 0."""
    unit, losses = F.normalize(embeddings, dim=1), []
    if len(set(labels.tolist())) < 2:
        return embeddings.sum() * 0
    for i in range(len(unit)):
        others = [j for j in range(len(unit)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            whole = torch.stack([unit[i] @ unit[j] / temperature for j in others]).logsumexp(0)
            losses.append(torch.stack([whole - unit[i] @ unit[p] / temperature for p in positives]).mean())
    above = [loss for loss in losses if loss > 0]
    return torch.stack(above).mean() if above else embeddings.sum() * 0


def clip(image: Tensor, text: Tensor, scale: float | Tensor) -> Tensor:
    logits, own = scale * image @ text.T, torch.arange(len(image))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def assert_same(ours: Callable[..., Tensor], formula: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Equal value and equal gradients of all inputs."""
    inputs = tuple(value.detach().requires_grad_() for value in inputs)
    got, expected = ours(*inputs), formula(*inputs)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    gradients = torch.autograd.grad(got, inputs)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(size=SIZES, keys=st.integers(0, 12), width=WIDTHS, temperature=TEMPERATURES, backend=st.sampled_from(BACKENDS))
def test_infonce_is_mocos(size: int, keys: int, width: int, temperature: float, backend: str) -> None:
    queue = F.normalize(rows(keys, width, seed=2), dim=1)
    loss = InfoNCELoss(temperature, backend=backend)
    assert_same(
        lambda q, p: loss(q, p, queue),
        lambda q, p: moco(q, p, queue, temperature),
        rows(size, width),
        rows(size, width, seed=1),
    )


@settings(deadline=None, max_examples=30)
@given(size=SIZES, width=WIDTHS, temperature=TEMPERATURES, backend=st.sampled_from(BACKENDS))
def test_infonce_without_a_queue_takes_the_batch(size: int, width: int, temperature: float, backend: str) -> None:
    loss = InfoNCELoss(temperature, backend=backend)
    assert_same(loss, lambda q, p: in_batch(q, p, temperature), rows(size, width), rows(size, width, seed=1))


def test_infonce_gradient_of_negatives_and_rows_as_they_are() -> None:
    loss = InfoNCELoss(0.3, normalize=False)

    def formula(q: Tensor, p: Tensor, n: Tensor) -> Tensor:
        logits = torch.cat(((q * p).sum(1, keepdim=True), q @ n.T), dim=1) / 0.3
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64))

    assert_same(loss, formula, rows(3, 5), rows(3, 5, seed=1), rows(6, 5, seed=2))


def test_infonce_leaves_out_negatives_of_the_same_sample() -> None:
    query, positive, queue = rows(3, 4), rows(3, 4, seed=1), F.normalize(rows(5, 4, seed=2), dim=1)
    ids = torch.tensor([7, 8, 9], dtype=torch.int32)
    got = InfoNCELoss(0.2)(query, positive, queue, ids, torch.tensor([1, 8, 8, 7, 2]))
    kept = ([0, 1, 2, 4], [0, 3, 4], [0, 1, 2, 3, 4])
    expected = [moco(query[i : i + 1], positive[i : i + 1], queue[keep], 0.2) for i, keep in enumerate(kept)]
    torch.testing.assert_close(got, torch.stack(expected).mean())


def test_infonce_with_a_half_precision_queue_that_wraps() -> None:
    queue, loss = FIFOQueue(5, 8, torch.float16), InfoNCELoss(0.07)
    seen: list[Tensor] = []
    for step, size in enumerate((3, 4, 7, 1)):
        keys = F.normalize(rows(size, 8, seed=step, dtype=torch.float32), dim=1)
        queue.update(torch.arange(size), keys)
        seen.extend(keys.half())
        query, positive = rows(2, 8, seed=50, dtype=torch.float32), rows(2, 8, seed=51, dtype=torch.float32)
        got = loss(query, positive, queue.entries()[1])
        torch.testing.assert_close(got, moco(query, positive, torch.stack(seen[-5:]).float(), 0.07))


@settings(deadline=None, max_examples=40)
@given(size=SIZES, width=WIDTHS, temperature=TEMPERATURES, backend=st.sampled_from(BACKENDS))
def test_ntxent_is_simclrs(size: int, width: int, temperature: float, backend: str) -> None:
    loss = NTXentLoss(temperature, backend=backend)
    assert_same(loss, lambda a, b: simclr(a, b, temperature), rows(size, width), rows(size, width, seed=1))


@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(-2, 2), min_size=1, max_size=12),
    width=st.sampled_from([2, 7, 64]),
    temperature=st.sampled_from([0.07, 0.5, 1.0, 10.0]),
    backend=st.sampled_from(BACKENDS),
)
def test_supcon_is_the_equation(labels: list[int], width: int, temperature: float, backend: str) -> None:
    loss, label = SupConLoss(temperature, backend=backend), torch.tensor(labels)
    assert_same(lambda e: loss(e, label), lambda e: supcon(e, label, temperature), rows(len(labels), width))


@pytest.mark.parametrize("labels", [[3], [0, 1, 2], [-1, -1, -1, -1], [5, 5]])
def test_supcon_without_anything_to_tell_apart_is_zero_with_zero_gradient(labels: list[int]) -> None:
    embeddings = rows(len(labels), 4).requires_grad_()
    loss = SupConLoss()(embeddings, torch.tensor(labels))
    loss.backward()
    assert loss == 0
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


def test_supcon_of_views_is_simclr_without_labels_and_the_flat_loss_with_them() -> None:
    views, labels = rows(4, 3, 5), torch.tensor([0, 1, 0, 2])
    pairs = rows(4, 2, 5)
    torch.testing.assert_close(SupConLoss(0.5)(pairs), simclr(pairs[:, 0], pairs[:, 1], 0.5))
    flat = supcon(views.flatten(0, 1), labels.repeat_interleave(3), 0.2)
    torch.testing.assert_close(SupConLoss(0.2)(views, labels), flat)


def test_supcon_against_other_rows_compares_with_all_of_them() -> None:
    anchors, others = rows(3, 4), rows(5, 4, seed=1)
    labels, other_labels = torch.tensor([0, 1, -3]), torch.tensor([1, 0, 0, 2, 1])

    def formula(a: Tensor, b: Tensor) -> Tensor:
        logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.4
        own = [logits[i].logsumexp(0) - logits[i, other_labels == labels[i]].mean() for i in (0, 1)]
        return torch.stack(own).mean()

    assert_same(lambda a, b: SupConLoss(0.4)(a, labels, b, other_labels), formula, anchors, others)
    assert SupConLoss()(anchors, labels, others[:0], other_labels[:0]) == 0


@settings(deadline=None, max_examples=40)
@given(size=SIZES, width=WIDTHS, scale=st.sampled_from([0.1, 1.0, 14.3, 100.0]), backend=st.sampled_from(BACKENDS))
def test_clip_is_the_symmetric_cross_entropy(size: int, width: int, scale: float, backend: str) -> None:
    loss = ClipLoss(backend=backend)
    image, text = F.normalize(rows(size, width), dim=1), F.normalize(rows(size, width, seed=1), dim=1)
    assert_same(loss, clip, image, text, torch.tensor(scale, dtype=torch.float64))
    torch.testing.assert_close(loss(image, text, scale), clip(image, text, scale))


def test_clip_takes_open_clips_arguments() -> None:
    image, text = F.normalize(rows(4, 6), dim=1), F.normalize(rows(4, 6, seed=1), dim=1)
    scale, bias = torch.tensor([10.0]), torch.tensor(-3.0, requires_grad=True)
    shown = ClipLoss(False, False, True, 0, 1)(image, text, scale, bias, output_dict=True)
    assert isinstance(shown, dict)
    torch.testing.assert_close(shown["contrastive_loss"], clip(image, text, 10.0))
    shown["contrastive_loss"].backward()
    assert bias.grad == 0


@pytest.mark.parametrize("kind", [InfoNCELoss, NTXentLoss, SupConLoss])
def test_a_learned_temperature_is_a_parameter_with_the_gradient_of_the_formula(kind: type[nn.Module]) -> None:
    first, second, labels = rows(4, 5), rows(4, 5, seed=1), torch.tensor([0, 1, 0, 1])
    loss = kind(0.2, learn_temperature=True).double()
    assert [name for name, _ in loss.named_parameters()] == ["log_temperature"]
    log_temperature = torch.tensor(math.log(0.2), dtype=torch.float64, requires_grad=True)
    # exp(log) in the formula too, from the float32 start of the parameter.
    with torch.no_grad():
        log_temperature.copy_(loss.log_temperature)
    if kind is SupConLoss:
        got, expected = loss(first, labels), supcon(first, labels, log_temperature.exp())
    else:
        formula = in_batch if kind is InfoNCELoss else simclr
        got, expected = loss(first, second), formula(first, second, log_temperature.exp())
    torch.testing.assert_close(got, expected)
    got.backward()
    expected.backward()
    torch.testing.assert_close(loss.log_temperature.grad, log_temperature.grad)
    fixed = kind(0.2)
    assert not fixed.state_dict()
    assert not list(fixed.parameters())


def calls(dtype: torch.dtype) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    labels = torch.tensor([0, 1, 0, 1, 2, 0])
    queue = F.normalize(rows(9, 16, seed=5), dim=1).to(dtype)
    return {
        "infonce": lambda a, b: InfoNCELoss()(a, b, queue),
        "batch": InfoNCELoss(),
        "ntxent": NTXentLoss(),
        "supcon": lambda a, b: SupConLoss()(a, labels) + SupConLoss()(b, labels),
        "clip": lambda a, b: ClipLoss()(a, b, 5.0),
    }


@pytest.mark.parametrize("name", ["infonce", "batch", "ntxent", "supcon", "clip"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precisions_are_summed_in_float32_and_gradients_come_back_in_the_inputs_dtype(
    name: str, dtype: torch.dtype
) -> None:
    first, second = (rows(6, 16, seed=s).to(dtype).requires_grad_() for s in (0, 1))
    got = calls(dtype)[name](first, second)
    exact = [value.detach().double().requires_grad_() for value in (first, second)]
    wide = calls(torch.float64)
    if name == "infonce":
        wide["infonce"] = lambda a, b: InfoNCELoss()(a, b, F.normalize(rows(9, 16, seed=5), dim=1).to(dtype).double())
    expected = wide[name](*exact)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=2e-5, atol=2e-5)
    got.backward()
    expected.backward()
    step = torch.finfo(dtype).eps
    for value, wanted in zip((first, second), exact, strict=True):
        assert value.grad is not None
        assert value.grad.dtype == dtype
        torch.testing.assert_close(value.grad.double(), wanted.grad, rtol=4 * step, atol=2e-5)


@pytest.mark.parametrize("name", ["infonce", "batch", "ntxent", "supcon", "clip"])
def test_rows_that_are_not_contiguous(name: str) -> None:
    wide, tall = rows(6, 32), rows(16, 6, seed=1)
    strided, transposed = wide[:, ::2], tall.T
    assert not strided.is_contiguous()
    assert not transposed.is_contiguous()
    call = calls(torch.float64)[name]
    torch.testing.assert_close(call(strided, transposed), call(strided.contiguous(), transposed.contiguous()))


@pytest.mark.parametrize("name", ["infonce", "batch", "ntxent", "clip"])
def test_one_row_and_extreme_rows_are_finite(name: str) -> None:
    one = calls(torch.float64)[name](rows(1, 16), rows(1, 16, seed=1))
    assert (one == 0) == (name != "infonce")
    if name != "clip":
        # Unit rows come from any scale, zero rows stay zero.
        first = torch.cat((rows(2, 16) * 1e150, torch.zeros(1, 16), rows(1, 16) * 1e-150)).requires_grad_()
        loss = calls(torch.float64)[name](first, rows(4, 16, seed=1))
        loss.backward()
        assert loss.isfinite()
        assert first.grad.isfinite().all()


@pytest.mark.parametrize("kind", [InfoNCELoss, NTXentLoss, SupConLoss])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_not_above_zero_is_refused(kind: type[nn.Module], temperature: float) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: temperature must be above 0"):
        kind(temperature)


BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: InfoNCELoss()(rows(2, 3), rows(3, 3)), ValueError, "query (2, 3), positive (3, 3)"),
    (lambda: InfoNCELoss()(rows(0, 3), rows(0, 3)), ValueError, "at least one row"),
    (lambda: InfoNCELoss()(rows(2, 3), rows(2, 3), rows(4, 5)), ValueError, "width"),
    (lambda: InfoNCELoss()(rows(2, 3), rows(2, 3), rows(4, 3), torch.arange(2)), ValueError, "together"),
    (
        lambda: InfoNCELoss()(rows(2, 3), rows(2, 3), rows(4, 3), torch.arange(2), torch.arange(3)),
        ValueError,
        "(4,)",
    ),
    (lambda: InfoNCELoss()(rows(2, 3), rows(2, 3), rows(4, 3), rows(2), torch.arange(4)), TypeError, "query_id"),
    (lambda: NTXentLoss()(torch.ones(2, 3, dtype=torch.int64), rows(2, 3)), TypeError, "floating-point"),
    (lambda: NTXentLoss()(torch.full((2, 3), math.nan), torch.ones(2, 3)), ValueError, "not finite"),
    (lambda: SupConLoss()(rows(4, 3)), ValueError, "need labels"),
    (lambda: SupConLoss()(rows(4, 3), torch.arange(3)), ValueError, "labels must be (4,)"),
    (lambda: SupConLoss()(rows(4, 3), rows(4)), TypeError, "tensor of integers"),
    (lambda: SupConLoss()(rows(4, 3), torch.arange(4), rows(2, 3)), ValueError, "ref_labels"),
    (lambda: SupConLoss()(rows(4, 2, 3), torch.arange(8)), ValueError, "(4,)"),
    (lambda: ClipLoss()(rows(4, 3), rows(4, 2), 1.0), ValueError, "shapes differ"),
    (lambda: ClipLoss()(rows(4, 3), rows(4, 3), 0.0), ValueError, "logit_scale must be above 0"),
    (lambda: ClipLoss()(rows(4, 3), rows(4, 3), torch.tensor(-1.0)), ValueError, "logit_scale must be above 0"),
    (lambda: ClipLoss()(rows(4, 3), rows(4, 3), torch.ones(2)), ValueError, "one floating-point number"),
    (lambda: ClipLoss(rank=2, world_size=2), ValueError, "rank 2 of 2"),
    (lambda: ClipLoss(world_size=2)(rows(4, 3), rows(4, 3), 1.0), ValueError, "init_process_group"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_what_does_not_fit_is_named(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.slow
def test_the_losses_compile_without_a_break() -> None:
    first, second = rows(4, 8, dtype=torch.float32), rows(4, 8, seed=1, dtype=torch.float32)
    for loss in (InfoNCELoss(learn_temperature=True), NTXentLoss()):
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(first, second), loss(first, second))
