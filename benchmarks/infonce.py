"""Cluster-guided InfoNCE, forward and backward, against logits in memory: time, memory, error against float64.

    python benchmarks/run.py infonce [--quick] [--set infonce.positives=supcon]

256 queries of width 128 against a bank of 65,536 keys (and of a million), 800 clusters, a fifth of the rows noise. Only
the queries need a gradient there. The peer is the reference equation of `tmor_fast.ops`, eager and
compiled; libraries that have a loss over a bank of keys run theirs, with their own definition. On a GPU, cases with a
bfloat16 bank and 64 to 4096 queries too: forward pass and gradient of the queries in one call. The losses of a T-MOR
step are a claim of their own, `infonce_step`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from infonce_data import (
    BANKS,
    CLUSTERS,
    EAGER_MATRICES,
    QUERIES,
    TEMPERATURE,
    WIDTH,
    WRONG,
    WRONG_HALF,
    backends,
    data,
    query_loss,
    too_large,
)

from tmor_fast.benchmark import SECONDS, Call, Case, Claim, Contender, Settings, asked_seconds

HALF_SIZES, CHECKED = ((64, 65_536), (1024, 65_536), (4096, 1_048_576)), 16  # queries and keys; queries checked


def _both_ways(loss: Callable[[Any], Any], query: Any) -> Call:
    """Forward and backward of the mean loss; the losses and the gradient of the query."""
    query.requires_grad_()

    def call() -> dict[str, Any]:
        query.grad = None
        losses = loss(query)
        losses.mean().backward()
        return {"loss": losses.detach(), "gradient": query.grad}

    return call


def _ours(keys: int, settings: Settings, backend: str) -> Call:
    from tmor_fast.ops import cluster_infonce

    given = data(keys, settings.device, bank_dtype=settings.options["bank"])
    query, positives = given.pop("query"), settings.options["positives"]
    return _both_ways(
        lambda q: cluster_infonce(q, **given, temperature=TEMPERATURE, positives=positives, backend=backend), query
    )


def _reference(keys: int, settings: Settings, compiled: bool) -> Call:
    import torch

    given = data(keys, settings.device, torch.float32, bank_dtype=settings.options["bank"])
    loss = query_loss(given, settings.options["positives"])
    return _both_ways(torch.compile(loss) if compiled else loss, given["query"])


def _metric_learning(keys: int, settings: Settings) -> Call:
    import torch
    from pytorch_metric_learning.losses import SupConLoss
    from pytorch_metric_learning.reducers import DoNothingReducer

    given = data(keys, settings.device)
    loss = SupConLoss(TEMPERATURE, reducer=DoNothingReducer())
    # A noise row is a cluster of its own.
    labels = torch.where(given["key_cluster"] < 0, CLUSTERS + given["key_id"], given["key_cluster"])

    def losses(query: Any) -> Any:
        found = loss(query, labels[:QUERIES], ref_emb=given["keys"], ref_labels=labels)
        return found["loss"]["losses"]

    return _both_ways(losses, given["query"])


def _lightly(keys: int, settings: Settings) -> Call:
    from lightly.loss import NTXentLoss

    given = data(keys, settings.device)
    loss = NTXentLoss(TEMPERATURE, memory_bank_size=(keys, WIDTH)).to(settings.device)
    return _both_ways(lambda query: loss(query, given["positive"]), given["query"])


def _products(keys: int, settings: Settings, tile: int) -> Call:
    """The two products that no form can do without: logits, and the gradient of the query."""
    import torch

    given = data(keys, settings.device)
    query, bank = given["query"], given["keys"]
    tile = tile or keys

    def call() -> dict[str, Any]:
        gradient = torch.zeros_like(query)
        for first in range(0, keys, tile):
            part = bank[first : first + tile]
            gradient.addmm_(query @ part.T, part)
        return {"gradient": gradient}

    return call


def _half_bank(queries: int, keys: int, settings: Settings, backend: str) -> Call:
    """Losses and their gradient by the queries, from one call of the op; a bfloat16 bank."""
    import torch

    given = data(keys, settings.device, queries=queries)
    temperature = torch.full((), TEMPERATURE, device=settings.device)
    vectors = (given["query"], given["keys"].bfloat16(), given["positive"], temperature)
    rows = [given[name] for name in ("query_id", "key_id", "query_cluster", "key_cluster")]

    def call() -> dict[str, Any]:
        loss, gradient, _, _ = torch.ops.tmor_fast.cluster_infonce(
            *vectors, *rows, None, None, None, None, settings.options["positives"], "all", True, backend
        )
        return {"loss": loss, "gradient": gradient}

    return call


def _half_reference(queries: int, keys: int, settings: Settings, half: bool = False, compiled: bool = False) -> Call:
    """The reference on the same bank, widened to float32, or with products and logits in bfloat16."""
    import torch

    given = data(keys, settings.device, queries=queries)
    given["keys"] = given["keys"].bfloat16()
    loss = query_loss(given, settings.options["positives"])
    loss = torch.compile(loss) if compiled else loss
    query = given["query"].requires_grad_()

    def call() -> dict[str, Any]:
        with torch.autocast(settings.device, torch.bfloat16, enabled=half):
            losses = loss(query)
        return {"loss": losses.detach(), "gradient": torch.autograd.grad(losses.sum(), query)[0]}

    return call


def _half_products(queries: int, keys: int, settings: Settings, tile: int) -> Call:
    import torch

    given = data(keys, settings.device, torch.bfloat16, queries)
    query, bank = given["query"], given["keys"]

    def call() -> dict[str, Any]:
        gradient = torch.zeros_like(query)
        for first in range(0, keys, tile):
            part = bank[first : first + tile]
            gradient.addmm_(query @ part.T, part)
        return {"gradient": gradient}

    return call


def half_eager_gib(queries: int, keys: int) -> float:
    """About what the reference takes in bfloat16, in GiB."""
    return EAGER_MATRICES * 2.0 * queries * keys / 2**30


def _half_check(outputs: Mapping[str, Any], queries: int, keys: int, settings: Settings) -> dict[str, dict[str, Any]]:
    """Largest errors of the first queries against float64, relative to the largest value."""
    import torch

    given = data(keys, "cpu", torch.float64, queries)
    given["keys"] = given["keys"].bfloat16().double()
    names = ("query", "query_id", "query_cluster", "positive")
    block = {name: value[:CHECKED] if name in names else value for name, value in given.items()}
    query = block["query"].requires_grad_()
    losses = query_loss(block, settings.options["positives"])(query)
    losses.sum().backward()
    truth = {"loss": losses.detach(), "gradient": query.grad}
    facts: dict[str, dict[str, Any]] = {}
    for contender, output in outputs.items():
        if not contender.startswith("tmor_fast"):
            continue
        errors = {
            name: float((output[name][:CHECKED].double() - value).abs().max() / value.abs().max())
            for name, value in truth.items()
        }
        facts[contender] = {f"{name} error": f"{error:.1e}" for name, error in errors.items()}
        if not max(errors.values()) <= WRONG_HALF:
            facts[contender]["wrong"] = f"an error of {max(errors.values()):.1e} against float64"
    return facts


def _half_case(queries: int, keys: int, settings: Settings) -> Case:
    flops, bank = 4.0 * queries * keys * WIDTH, 2.0 * keys * WIDTH + 16.0 * keys
    contenders = [
        Contender(
            f"tmor_fast, {backend}", "ours", lambda backend=backend: _half_bank(queries, keys, settings, backend),  # type: ignore[misc]
            flops=flops, bytes=bank, precision="bf16", headline=place == 0, cuda_graph=backend == "cuda",
            note="forward and gradient of the queries; bytes: the bank and its rows' ids read once",
        )
        for place, backend in enumerate(backends(settings))
    ]  # fmt: skip
    fits = None if queries * keys <= 1 << 28 else f"needs about {half_eager_gib(queries, keys):.0f} GiB"
    contenders += [
        Contender(
            "logits, eager, bf16", "peer", lambda: _half_reference(queries, keys, settings, True), flops=flops,
            bytes=bank, precision="bf16", unavailable=lambda: fits, note="the reference equation under autocast",
        ),
        Contender(
            "logits, compiled, bf16", "peer", lambda: _half_reference(queries, keys, settings, True, True), flops=flops,
            bytes=bank, precision="bf16", one_call_first=True, note="torch.compile of the same",
        ),
        Contender(
            "logits, eager", "peer", lambda: _half_reference(queries, keys, settings), flops=flops, bytes=bank,
            unavailable=lambda: fits,
            note="the reference equation of tmor_fast.ops, which widens the bank to float32",
        ),
    ]  # fmt: skip
    contenders.append(
        Contender(
            "two products, in tiles", "floor", lambda: _half_products(queries, keys, settings, 16_384), flops=flops,
            bytes=bank, precision="bf16", cuda_graph=True,
        )
    )  # fmt: skip
    return Case(
        f"bfloat16 bank of {keys:,}, {queries} queries",
        {"kind": "bfloat16", "bank": keys, "queries": queries, "width": WIDTH},
        contenders,
        check=lambda outputs: _half_check(outputs, queries, keys, settings),
        seconds=asked_seconds(settings),
    )


def _installed(library: str) -> str | None:
    return None if importlib.util.find_spec(library) else f"{library} is not installed"


def _contenders(keys: int, settings: Settings) -> list[Contender]:
    bytes_each = 4.0 if settings.options["bank"] == "float32" else 2.0
    products, bank = 4.0 * QUERIES * keys * WIDTH, bytes_each * keys * WIDTH + 16.0 * keys
    ours = [
        Contender(
            f"tmor_fast, {backend}", "ours", lambda backend=backend: _ours(keys, settings, backend),  # type: ignore[misc]
            flops=products, bytes=bank, headline=place == 0, note="bytes: the bank and its rows' ids read once",
        )
        for place, backend in enumerate(backends(settings))
    ]  # fmt: skip
    eager = Contender(
        "logits, eager", "peer", lambda: _reference(keys, settings, False),
        unavailable=lambda: too_large(keys, settings), note="the reference equation of tmor_fast.ops",
    )  # fmt: skip
    floors = [
        Contender(
            "two products, whole", "floor", lambda: _products(keys, settings, 0), flops=products, bytes=2 * bank,
            cuda_graph=True,
        ),
        Contender(
            "two products, in tiles", "floor", lambda: _products(keys, settings, 4096), flops=products, bytes=bank,
            cuda_graph=True,
        ),
    ]  # fmt: skip
    if settings.quick and settings.device == "cpu":
        return [*ours, eager, floors[1]]
    others = [
        Contender(
            "logits, compiled", "peer", lambda: _reference(keys, settings, True), flops=products,
            unavailable=lambda: too_large(keys, settings), one_call_first=True, note="torch.compile of the same",
        ),
        Contender(
            "pytorch-metric-learning", "peer", lambda: _metric_learning(keys, settings), flops=products,
            unavailable=lambda: _installed("pytorch_metric_learning") or too_large(keys, settings),
            note="its SupConLoss: the mean over positives, no own positive",
        ),
        Contender(
            "lightly", "peer", lambda: _lightly(keys, settings), flops=products,
            unavailable=lambda: _installed("lightly") or too_large(keys, settings),
            note="its NTXentLoss: the own positive alone, no clusters, no ids",
        ),
    ]  # fmt: skip
    return [*ours, eager, *(others[:1] if settings.quick else others), *floors]


def _check(outputs: Mapping[str, Any], keys: int, settings: Settings) -> dict[str, dict[str, Any]]:
    """Largest errors of losses and gradients against float64, relative to the largest value."""
    import torch

    given = data(keys, "cpu", torch.float64, bank_dtype=settings.options["bank"])
    query, parts = given["query"].requires_grad_(), []
    for first in range(0, QUERIES, 16):  # one block of queries at a time: 16 rows of logits in float64
        rows = slice(first, first + 16)
        names = ("query_id", "query_cluster", "positive")
        block = {name: value[rows] if name in names else value for name, value in given.items()}
        losses = query_loss(block, settings.options["positives"])(query[rows])
        (losses.sum() / QUERIES).backward()
        parts.append(losses.detach())
    truth = {"loss": torch.cat(parts), "gradient": query.grad}
    errors: dict[str, dict[str, float]] = {}
    for contender, output in outputs.items():
        if not contender.startswith(("tmor_fast", "logits")):
            continue  # others have another loss
        errors[contender] = {
            name: float((output[name].double() - value).abs().max() / value.abs().max())
            for name, value in truth.items()
        }
    facts: dict[str, dict[str, Any]] = {}
    for contender, found in errors.items():
        facts[contender] = {f"{name} error": f"{error:.1e}" for name, error in found.items()}
        if max(found.values()) > WRONG or any(error != error for error in found.values()):
            facts[contender]["wrong"] = f"an error of {max(found.values()):.1e} against float64"
    return facts


def cases(settings: Settings) -> Sequence[Case]:
    """One case for each size of the bank; on a GPU, those with a bank of 16 bits."""
    banks = [int(size) for size in settings.options["banks"].split(",") if size]
    if settings.options["bank"] not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"infonce.bank: {settings.options['bank']}; accepted: float32, float16, bfloat16")
    banks_asked = bool(banks)
    banks = banks or list(BANKS[:1] if settings.quick and settings.device == "cpu" else BANKS)
    found = [
        Case(
            f"bank of {keys:,}",
            {
                "keys": keys,
                "queries": QUERIES,
                "width": WIDTH,
                "positives": settings.options["positives"],
                "bank": settings.options["bank"],
            },
            _contenders(keys, settings),
            check=lambda outputs, keys=keys: _check(outputs, keys, settings),  # type: ignore[misc]
            seconds=asked_seconds(settings),
        )
        for keys in banks
    ]
    if settings.device == "cuda" and not banks_asked:
        found += [_half_case(*sizes, settings) for sizes in HALF_SIZES]
    return found


CLAIM = Claim(
    "Cluster-guided InfoNCE, forward and backward, without logits in memory",
    cases,
    options={
        "positives": ("sum", "form of the loss: sum, mean, supcon or instance"),
        "banks": ("", "sizes of the bank, comma-separated"),
        "bank": ("float32", "what ours reads the bank in: float32, float16 or bfloat16; peers get it in float32"),
        "seconds": SECONDS,
    },
    sweep="keys",
)
