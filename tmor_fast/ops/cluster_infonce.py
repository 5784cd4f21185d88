"""Cluster-guided InfoNCE of T-MOR over a bank of keys, without a logits matrix.

For query i with row id id_i, cluster c_i (-1: noise) and own positive p, bank rows j with an optional log weight w_j,
and s_ij = <q_i, k_j> / temperature + w_j:

    A_i = {j : c_j = c_i != -1, id_j != id_i}
    N_i = {j : id_j != id_i, not (c_j = c_i != -1), not (caption_j = caption_i != -1)}
    P_i = {p} and A_i, or {p} and at most `max_positives` drawn rows of A_i (the others then count nowhere)

| `positives`  | loss of query i                                                                                    |
|--------------|----------------------------------------------------------------------------------------------------|
| `"sum"`      | -log( sum_P e^s / (sum_P e^s + sum_N e^s) )                                                        |
| `"mean"`     | the same with sum_P e^s divided by the size of P in both places                                    |
| `"supcon"`   | mean over P of log( sum_P e^s + sum_N e^s ) - s                                                    |
| `"instance"` | P = {p}; A_i is neither positive nor negative                                                      |

`denominator="negatives"` leaves sum_N e^s alone under the fraction (thesis 6.3).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from tmor_fast.ops import cluster_infonce_cuda, registry
from tmor_fast.ops.cluster_infonce_cpu import cpu_forward, cpu_key_gradient, unavailable
from tmor_fast.ops.cluster_infonce_reference import Rows, accumulate_dtype, draw_positives, reference_loss
from tmor_fast.ops.cluster_infonce_tiled import tiled_forward, tiled_key_gradient

NAME = "cluster_infonce"
POSITIVES = ("sum", "mean", "supcon", "instance")
DENOMINATORS = ("all", "negatives")

_ROWS = (
    "Tensor query_id, Tensor key_id, Tensor query_cluster, Tensor key_cluster, "
    "Tensor? query_caption, Tensor? key_caption, Tensor? key_log_weight, Tensor? chosen"
)
registry.define(
    f"{NAME}(Tensor query, Tensor keys, Tensor? positive, Tensor temperature, {_ROWS}, "
    "str positives, str denominator, bool save_gradient, str backend) -> (Tensor, Tensor, Tensor, Tensor)"
)
registry.define(
    f"{NAME}_backward(Tensor grad, Tensor query, Tensor keys, Tensor? positive, Tensor temperature, {_ROWS}, "
    "Tensor query_gradient, Tensor own_gradient, Tensor statistics, bool[] needed, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
registry.define(
    f"{NAME}_draw(Tensor query_id, Tensor key_id, Tensor query_cluster, Tensor key_cluster, int count, SymInt seed)"
    " -> Tensor"
)

BACKENDS = ("cuda", "cpu", "tiled", "reference", "cuda_naive")


def _candidates(query: Tensor, keys: Tensor, positive: Tensor | None) -> dict[str, registry.Check]:
    return {
        "cuda": lambda: cluster_infonce_cuda.unavailable("cuda", query, keys, positive),
        "cpu": lambda: unavailable(query, keys, positive),
        "tiled": lambda: None,
        "reference": lambda: None,
        "cuda_naive": lambda: cluster_infonce_cuda.unavailable("cuda_naive", query, keys, positive),
    }


def cluster_infonce(
    query: Tensor,
    keys: Tensor,
    positive: Tensor | None = None,
    *,
    query_id: Tensor,
    key_id: Tensor,
    query_cluster: Tensor,
    key_cluster: Tensor,
    temperature: float | Tensor = 0.1,
    positives: str = "sum",
    denominator: str = "all",
    max_positives: int | None = None,
    query_caption: Tensor | None = None,
    key_caption: Tensor | None = None,
    key_log_weight: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Cluster-guided InfoNCE loss of every query against a bank of keys; the module's text has the definitions.

    Vectors are taken as they are: normalise them first for cosine similarity. Half-precision inputs are computed and
    summed in float32, under autocast too. Gradients reach `query`, `keys`, `positive` and a tensor `temperature`, each
    computed only if asked for; second derivatives are refused (backend "reference" has them).

    A query whose P is empty (no own positive and no other row in its cluster), and with `denominator="negatives"` one
    without negatives, has loss 0 and no gradient; `pair_counts` tells which. With `denominator="all"` a query without
    negatives needs no exception: its loss is finite (0 for "sum").

    Args:
        query: (B, d) floating point.
        keys: (N, d), the bank, of any floating dtype.
        positive: (B, d), every query's own positive; None only where A_i supplies positives (not for "instance").
        query_id, key_id: (B,), (N,) int64 row ids; equal ids are never compared.
        query_cluster, key_cluster: (B,), (N,) int64; negative is noise, a cluster of its own.
        temperature: a number above 0, or a tensor of one element, which may be learned.
        positives, denominator: see the module's text.
        max_positives: most rows of A_i that are positives, drawn uniformly without replacement; None: all.
        query_caption, key_caption: (B,), (N,) int64, both or neither; a row with the query's caption is no negative;
            negative is no caption.
        key_log_weight: (N,) finite, added to the logits of the bank, for example the log of a count; no gradient.
        generator, seed: of the draw, one of them with `max_positives`; the same rows are drawn on every device and by
            every backend. torch.compile takes `seed` only.
        backend: "cpu" (compiled, float32, float16 and bfloat16 on the CPU, the same bits for any number of threads),
            "cuda" (compiled, the same types on a GPU, up to 768 dimensions, the same bits in every call; a bank of 16
            bits is multiplied in its own type, to which the queries are rounded), "tiled" (plain torch, memory
            O(B (d + tile))), "reference" (O(B N)), "cuda_naive" (plain loops, for finding bugs in "cuda"), or "auto":
            the first of "cuda", "cpu", "tiled" that can take the tensors.

    Returns:
        (B,) loss, float32, or float64 if an input is.

    Raises:
        ValueError: arguments do not fit together, the temperature is not above 0, or, on the CPU in eager mode, an
            input is not finite or the logits overflow.
        TypeError: an argument has the wrong type.
        BackendUnavailableError: the backend cannot run.
    """
    rows = Rows(query_id, key_id, query_cluster, key_cluster, query_caption, key_caption, key_log_weight)
    _check_vectors(query, keys, positive)
    _check_rows(query, keys, rows)
    _check_choices(positive, positives, denominator, max_positives)
    temperature = _temperature(temperature, query, accumulate_dtype(query, keys, positive))
    backend = registry.choose(NAME, backend, _candidates(query, keys, positive))
    if backend != "reference":
        registry.refuse_forward_mode(NAME, query, keys, positive, temperature)

    chosen = None
    if positives == "instance" or (max_positives is not None and keys.shape[0] == 0):
        chosen = query_id.new_empty(query.shape[0], 0)
    elif max_positives is not None:
        seed = _seed(generator, seed)
        chosen = torch.ops.tmor_fast.cluster_infonce_draw(*rows[:4], max_positives, seed)
    form = "sum" if positives == "instance" else positives

    gradient = query
    if backend == "reference":
        with torch.autocast(query.device.type, enabled=False):
            loss = reference_loss(query, keys, positive, temperature, rows, chosen, form, denominator)
        gradient = keys
    else:
        save = torch.is_grad_enabled() and (query.requires_grad or temperature.requires_grad)
        loss, gradient, _, _ = torch.ops.tmor_fast.cluster_infonce(
            query, keys, positive, temperature, *rows, chosen, form, denominator, save, backend
        )
    if query.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_finite(loss, gradient, query, keys, positive, key_log_weight)
    return loss


def pair_counts(
    *,
    query_id: Tensor,
    key_id: Tensor,
    query_cluster: Tensor,
    key_cluster: Tensor,
    query_caption: Tensor | None = None,
    key_caption: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sizes (B,) int64 of A_i, the other rows of each query's cluster, and of N_i, its negatives.

    Arguments as in `cluster_infonce`; use it to report or leave out the queries that have nothing to learn from.
    """
    rows = Rows(query_id, key_id, query_cluster, key_cluster, query_caption, key_caption)
    _check_rows(query_id[:, None], key_id[:, None], rows)
    aligned, negative = torch.zeros_like(query_id), torch.zeros_like(query_id)
    for start in range(0, key_id.shape[0], 4096):
        same_cluster, is_negative = rows.pairs(slice(start, start + 4096))
        aligned += same_cluster.sum(1)
        negative += is_negative.sum(1)
    return aligned, negative


def _check_vectors(query: Tensor, keys: Tensor, positive: Tensor | None) -> None:
    for name, value in (("query", query), ("keys", keys), ("positive", positive)):
        if value is None and name == "positive":
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"{NAME}: {name} must be a torch.Tensor, got {type(value).__name__}")
        if not value.is_floating_point():
            raise TypeError(f"{NAME}: {name} must be floating point, got {value.dtype}")
        if value.dim() != 2 or value.shape[1] < 1:
            raise ValueError(f"{NAME}: {name} must be (rows, d) with d >= 1, got {tuple(value.shape)}")
        if value.shape[1] != query.shape[1] or value.device != query.device:
            raise ValueError(
                f"{NAME}: {name} must have query's width and device ({query.shape[1]}, {query.device}), "
                f"got {value.shape[1]}, {value.device}"
            )
    if positive is not None and positive.shape != query.shape:
        raise ValueError(f"{NAME}: positive must have query's shape {tuple(query.shape)}, got {tuple(positive.shape)}")


def _check_rows(query: Tensor, keys: Tensor, rows: Rows) -> None:
    if (rows.query_caption is None) != (rows.key_caption is None):
        raise ValueError(f"{NAME}: give both query_caption and key_caption, or neither")
    for name, value in rows._asdict().items():
        if value is None and name in ("query_caption", "key_caption", "key_log_weight"):
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"{NAME}: {name} must be a torch.Tensor, got {type(value).__name__}")
        size = (query if name.startswith("query") else keys).shape[0]
        if value.dim() != 1 or value.shape[0] != size or value.device != query.device:
            raise ValueError(
                f"{NAME}: {name} must be ({size},) on {query.device}, got {tuple(value.shape)} on {value.device}"
            )
        if name == "key_log_weight":
            if not value.is_floating_point() or value.requires_grad:
                raise TypeError(f"{NAME}: key_log_weight must be floating point and have no gradient; detach it")
        elif value.dtype != torch.int64:
            raise TypeError(f"{NAME}: {name} must be int64, got {value.dtype}")


def _check_choices(positive: Tensor | None, positives: str, denominator: str, max_positives: int | None) -> None:
    if positives not in POSITIVES:
        raise ValueError(f"{NAME}: unknown positives {positives!r}; accepted: {', '.join(map(repr, POSITIVES))}")
    if denominator not in DENOMINATORS:
        raise ValueError(f"{NAME}: unknown denominator {denominator!r}; accepted: {', '.join(map(repr, DENOMINATORS))}")
    if positive is None and positives == "instance":
        raise ValueError(f"{NAME}: positives='instance' needs every query's own positive; positive is None")
    if max_positives is None:
        return
    if positives == "instance":
        raise ValueError(f"{NAME}: max_positives has no meaning with positives='instance'; leave it None")
    if isinstance(max_positives, bool) or not isinstance(max_positives, int):
        raise TypeError(f"{NAME}: max_positives must be an integer or None, got {max_positives!r}")
    if max_positives < (0 if positive is not None else 1):
        raise ValueError(f"{NAME}: max_positives must be at least 0, and 1 without positive; got {max_positives}")


def _temperature(temperature: float | Tensor, query: Tensor, dtype: torch.dtype) -> Tensor:
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1 or not temperature.is_floating_point() or temperature.device != query.device:
            raise ValueError(
                f"{NAME}: a tensor temperature must be one floating-point number on {query.device}, "
                f"got {tuple(temperature.shape)} {temperature.dtype} on {temperature.device}"
            )
        # On a device the check would wait for it; while compiling, break the graph.
        if temperature.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_positive(float(temperature.detach()))
        return temperature.reshape(()).to(dtype)
    _check_positive(temperature)
    return torch.full((), temperature, dtype=dtype, device=query.device)


def _check_positive(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"{NAME}: temperature must be above 0 and finite, got {temperature}")


def _seed(generator: torch.Generator | None, seed: int | None) -> int:
    if (generator is None) == (seed is None):
        raise ValueError(f"{NAME}: max_positives draws at random; give exactly one of seed and generator")
    if generator is not None:
        return int(torch.randint(1 << 62, (), generator=generator, device=generator.device))
    assert seed is not None
    return seed


def _check_finite(
    loss: Tensor, gradient: Tensor, query: Tensor, keys: Tensor, positive: Tensor | None, weight: Tensor | None
) -> None:
    """Raise if anything was not finite, naming the first such row; the inputs are searched only then."""
    usable = bool(torch.isfinite(loss).all()) and bool(torch.isfinite(gradient).all())
    if usable and (weight is None or bool(torch.isfinite(weight).all())):
        return
    for name, value in (("query", query), ("keys", keys), ("positive", positive), ("key_log_weight", weight)):
        if value is not None and not torch.isfinite(value).all():
            bad = ~torch.isfinite(value.detach())
            row = int((bad.any(1) if bad.dim() == 2 else bad).nonzero()[0])
            raise ValueError(f"{NAME}: {name} is not finite in row {row} (and {int(bad.sum()) - 1} more numbers)")
    raise ValueError(f"{NAME}: the logits overflow {loss.dtype}; normalise the vectors or raise the temperature")


def _forward(
    query: Tensor, keys: Tensor, positive: Tensor | None, temperature: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *rows, chosen, positives, denominator, save_gradient, backend = rest
    arguments = (query, keys, positive, temperature, Rows(*rows), chosen, positives, denominator, save_gradient)
    with torch.autocast(query.device.type, enabled=False):
        # An empty batch or bank has no memory to point at.
        if query.shape[0] and keys.shape[0]:
            if backend == "cpu":
                return cpu_forward(*arguments)
            if backend in cluster_infonce_cuda.BACKENDS:
                return cluster_infonce_cuda.forward(*arguments, backend=backend)
        return tiled_forward(*arguments)


def _fake_forward(
    query: Tensor, keys: Tensor, positive: Tensor | None, temperature: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size, width = query.shape
    like = query.new_empty(size, dtype=accumulate_dtype(query, keys, positive))
    save_gradient = rest[-2]
    return (
        like,
        like.new_empty(size, width if save_gradient else 0),
        torch.empty_like(like),
        like.new_empty(4, size),
    )


def _backward_kernel(
    grad: Tensor, query: Tensor, keys: Tensor, positive: Tensor | None, temperature: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *rows, chosen, query_gradient, own_gradient, statistics, needed, backend = rest
    key_gradient: Any = tiled_key_gradient
    if query.shape[0] and keys.shape[0]:
        if backend == "cpu":
            key_gradient = cpu_key_gradient
        elif backend in cluster_infonce_cuda.BACKENDS:
            key_gradient = functools.partial(cluster_infonce_cuda.key_gradient, backend=backend)
    if (needed[0] or needed[3]) and not query_gradient.shape[1]:
        raise RuntimeError(f"{NAME}: the gradient of query or temperature needs save_gradient=True in the forward op")
    dquery, dkeys, dpositive, dtemperature = (query.new_empty(0) for _ in range(4))
    with torch.autocast(query.device.type, enabled=False):
        if needed[0]:
            dquery = (grad[:, None] * query_gradient).to(query.dtype)
        if needed[1]:
            dkeys = key_gradient(grad, query, keys, temperature, Rows(*rows), chosen, statistics).to(keys.dtype)
        if needed[2] and positive is not None:
            dpositive = ((grad * own_gradient / temperature)[:, None] * query).to(positive.dtype)
        if needed[3]:
            # The logits are <q, k> / temperature + w, so temperature dL/dtemperature = -<q, dL/dq>.
            dtemperature = -(grad * (query * query_gradient).sum(1)).sum() / temperature
    return dquery, dkeys, dpositive, dtemperature


def _fake_backward(
    grad: Tensor, query: Tensor, keys: Tensor, positive: Tensor | None, temperature: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    needed = rest[-2]
    inputs = (query, keys, positive, temperature)
    return tuple(
        value.new_empty(value.shape) if need and value is not None else query.new_empty(0)
        for value, need in zip(inputs, needed, strict=True)
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _, _, _, backend = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.backend = backend


def _backward(ctx: Any, grad: Tensor, *unused: Any) -> tuple[Any, ...]:
    needed = list(ctx.needs_input_grad[:4])
    grads = torch.ops.tmor_fast.cluster_infonce_backward(grad, *ctx.saved_tensors, needed, ctx.backend)
    return (*(g if need else None for g, need in zip(grads, needed, strict=True)), *[None] * 12)


def _draw(
    query_id: Tensor, key_id: Tensor, query_cluster: Tensor, key_cluster: Tensor, count: int, seed: int
) -> Tensor:
    return draw_positives(Rows(query_id, key_id, query_cluster, key_cluster), count, seed)


def _fake_draw(
    query_id: Tensor, key_id: Tensor, query_cluster: Tensor, key_cluster: Tensor, count: int, seed: int
) -> Tensor:
    return query_id.new_empty(query_id.shape[0], count)


registry.implement(NAME, _forward, _fake_forward, ("CPU", "CUDA"))
registry.implement(f"{NAME}_backward", _backward_kernel, _fake_backward, ("CPU", "CUDA"))
registry.implement(f"{NAME}_draw", _draw, _fake_draw, ("CPU", "CUDA"))
registry.differentiate(NAME, _setup, _backward)
registry.differentiate_once(f"{NAME}_backward")
