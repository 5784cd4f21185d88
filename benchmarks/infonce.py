"""Cluster-guided InfoNCE, forward and backward, against logits in memory: time, memory, error against float64.

    python benchmarks/run.py infonce [--quick] [--set infonce.positives=supcon]

256 queries of width 128 against a bank of 65,536 keys (and of a million), 800 clusters, a fifth of the rows noise. Only
the queries need a gradient there. The peer is the reference equation of `tmor_fast.ops`, eager and
compiled; libraries that have a loss over a bank of keys run theirs, with their own definition. The last cases are the
loss of one T-MOR step: motion-motion over a bank, motion-video and motion-text over projected keys that need a gradient
too; once from ready embeddings, once as pre-training computes it, whose projections every form pays.
On a GPU, cases with a bfloat16 bank and 64 to 4096 queries too: forward pass and gradient of the queries in one call.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tmor_fast.benchmark import Call, Case, Claim, Contender, Settings
from tmor_fast.benchmark.machine import available_memory

QUERIES, WIDTH, CLUSTERS, NOISE, TEMPERATURE = 256, 128, 800, 0.2, 0.1
BANKS = (65_536, 1_048_576)
CAPTIONS, DRAWN = 60, 4
VIDEO, TEXT = 512, 384  # width of the teachers' embeddings: ViCLIP, a small sentence encoder
HALF_SIZES, CHECKED = ((64, 65_536), (1024, 65_536), (4096, 1_048_576)), 16  # queries and keys; queries checked
# Matrices of the logits' size that the reference holds at once, measured with autograd; decides what is tried at all.
EAGER_MATRICES = 9
WRONG = 1e-3  # relative error against float64 that no float32 form may reach
WRONG_HALF = 3e-2  # the same for a bank of 16 bits


def data(
    keys: int, device: str, dtype: Any = None, queries: int = QUERIES, bank_dtype: str = "float32"
) -> dict[str, Any]:
    """Query (B, d), bank (N, d), own positives (B, d), all of length 1; ids and clusters. The same on every device.

    The bank is rounded to `bank_dtype`, and then has `dtype` like the others, or `bank_dtype` if that is None.
    """
    import torch
    import torch.nn.functional as F

    random = torch.Generator().manual_seed(0)
    bank = F.normalize(torch.randn(keys, WIDTH, generator=random), dim=1)
    near = [F.normalize(bank[:queries] + 0.05 * torch.randn(queries, WIDTH, generator=random), dim=1) for _ in range(2)]
    cluster = torch.randint(CLUSTERS, (keys,), generator=random)
    cluster[torch.rand(keys, generator=random) < NOISE] = -1
    vectors = {"query": near[0], "keys": bank, "positive": near[1]}
    rows = {
        "query_id": torch.arange(queries), "key_id": torch.arange(keys),
        "query_cluster": cluster[:queries].clone(), "key_cluster": cluster,
    }  # fmt: skip
    vectors["keys"] = vectors["keys"].to(getattr(torch, bank_dtype))
    return {name: value.to(device, dtype) for name, value in vectors.items()} | {
        name: value.to(device) for name, value in rows.items()
    }


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


def _reference_loss(given: dict[str, Any], positives: str) -> Callable[[Any], Any]:
    """The equation with all logits in memory, of the query alone."""
    import torch

    from tmor_fast.ops.cluster_infonce_reference import Rows, reference_loss

    bank, own = given["keys"], given["positive"]
    rows = Rows(*(given[name] for name in ("query_id", "key_id", "query_cluster", "key_cluster")))
    chosen = rows.query_id.new_empty(len(rows.query_id), 0) if positives == "instance" else None
    form = "sum" if positives == "instance" else positives
    temperature = torch.full((), TEMPERATURE, dtype=own.dtype, device=bank.device)
    return lambda query: reference_loss(query, bank, own, temperature, rows, chosen, form, "all")


def _reference(keys: int, settings: Settings, compiled: bool) -> Call:
    import torch

    given = data(keys, settings.device, torch.float32, bank_dtype=settings.options["bank"])
    loss = _reference_loss(given, settings.options["positives"])
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


def _step(keys: int, settings: Settings, backend: str, compiled: bool = False) -> Call:
    """The three losses of one step of stage 2 with the method's defaults, forward and backward, from embeddings on."""
    import torch

    from tmor_fast.ops import cluster_infonce

    given, teacher = data(keys, settings.device), data(keys, settings.device)
    query, bank = given.pop("query").requires_grad_(), given.pop("keys")
    video = teacher["keys"].flip(1).contiguous().requires_grad_()
    text = teacher["keys"].roll(1, 1).contiguous().requires_grad_()
    caption = given["key_id"] % CAPTIONS
    captions = {"query_caption": caption[:QUERIES].clone(), "key_caption": caption}
    own = [video.detach()[:QUERIES].clone(), text.detach()[:QUERIES].clone()]
    common: dict[str, Any] = {"temperature": TEMPERATURE, "backend": backend}
    motion, rows = given.pop("positive"), given

    def total(query: Any, video: Any, text: Any) -> Any:
        mm = cluster_infonce(query, bank, motion, **rows, **common, max_positives=DRAWN, seed=1)
        mv = cluster_infonce(query, video, own[0], **rows, **common, positives="instance")
        mt = cluster_infonce(query, text, own[1], **rows, **captions, **common, positives="instance")
        return torch.stack([mm.mean(), mv.mean(), mt.mean()])

    run = torch.compile(total) if compiled else total

    def call() -> dict[str, Any]:
        query.grad = video.grad = text.grad = None
        losses = run(query, video, text)
        losses.sum().backward()
        return {"loss": losses.detach(), "gradient": query.grad, "video": video.grad, "text": text.grad}

    return call


def _objective(keys: int, settings: Settings, backend: str) -> Call:
    """One step of pre-training from the encoder's features on: banks, projections of the teachers, the three losses.

    `backend` "projections" stops after the projected teacher banks and their gradient, which every form pays.
    """
    import functools
    from unittest import mock

    import torch
    from torch import nn

    from tmor_fast import ops
    from tmor_fast.nn import TMOR, Objective, TeacherFeatures, TMOROptions, UNIKConfig
    from tmor_fast.nn.objective import PROJECTED_AT_ONCE

    class Ready(nn.Module):
        """An encoder whose features are its input."""

        def features(self, joints: Any) -> Any:
            return joints

    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    options = TMOROptions(momentum=0, bank_dtype="float32", num_negatives=None)
    model = TMOR(UNIKConfig.preset("unik-micro"), options, video_dim=VIDEO, text_dim=TEXT)
    features = torch.randn(QUERIES, model.backbone.feature_dim, generator=random).to(settings.device).requires_grad_()
    model.backbone = Ready()  # type: ignore[assignment]
    teachers = TeacherFeatures(
        torch.randn(keys, VIDEO, generator=random), torch.randn(CAPTIONS, TEXT, generator=random),
        torch.arange(keys) % CAPTIONS,
    )  # fmt: skip
    objective = Objective(model, keys, teachers).to(settings.device)
    given = data(keys, settings.device)
    objective.bank.update(given["key_id"], given["keys"])
    objective.set_clusters(given["key_cluster"])
    index, chosen = (
        torch.arange(QUERIES, device=settings.device),
        functools.partial(ops.cluster_infonce, backend=backend),
    )

    def projections() -> Any:
        rows = objective.video.project(
            given["key_id"], model.video_head, grad=True, check=False, block=PROJECTED_AT_ONCE
        )
        return {"loss": rows.sum()}

    def call() -> dict[str, Any]:
        objective.zero_grad()
        features.grad = None
        if backend == "projections":
            found = projections()
        else:
            objective.step.zero_()  # every call draws the same positives
            with mock.patch.object(ops, "cluster_infonce", chosen):
                found = objective(features, features, index, stage=2)
        found["loss"].backward()
        return {"loss": found["loss"].detach(), "gradient": features.grad}

    return call


def _step_check(outputs: Mapping[str, Any], settings: Settings) -> dict[str, dict[str, Any]]:
    """Largest differences from the eager reference, relative to its largest value."""
    facts: dict[str, dict[str, Any]] = {}
    exact = outputs.get("logits, eager")
    for name, output in outputs.items() if exact is not None else ():
        apart = max(float((output[k] - v).abs().max() / v.abs().max()) for k, v in exact.items())
        facts[name] = {"from eager": f"{apart:.1e}"}
        if not apart <= WRONG:
            facts[name]["wrong"] = f"a difference of {apart:.1e} from the eager reference"
    return facts


def _step_case(keys: int, settings: Settings) -> Case:
    # Both products of mm, and three of mv and mt each, whose logits are computed again for the gradient of the keys.
    flops = 2.0 * QUERIES * keys * WIDTH * (2 + 4 + 4)
    contenders = [
        Contender(
            f"tmor_fast, {backend}", "ours", lambda backend=backend: _step(keys, settings, backend),  # type: ignore[misc]
            flops=flops, headline=place == 0,
        )
        for place, backend in enumerate(_backends(settings))
    ]  # fmt: skip
    for compiled in (False, True):
        contenders.append(
            Contender(
                "logits, compiled" if compiled else "logits, eager", "peer",
                lambda compiled=compiled: _step(keys, settings, "reference", compiled),  # type: ignore[misc]
                unavailable=lambda: _fits(3 * keys, settings), one_call_first=compiled,
                flops=flops, note="backend 'reference' of the same op",
            )
        )  # fmt: skip
    return Case(
        f"one T-MOR step, three banks of {keys:,}",
        {"kind": "mm + mv + mt", "bank": keys, "queries": QUERIES, "width": WIDTH},
        contenders,
        check=lambda outputs: _step_check(outputs, settings),
        seconds=_seconds(settings),
    )


def _objective_case(keys: int, settings: Settings) -> Case:
    """The same inside pre-training: with the banks' rows gathered and the teachers' features projected on the fly."""
    first = _backends(settings)[0]
    # Forward and both gradients of the two layers of the video head; then the losses, as above.
    projections = 3 * 2.0 * keys * VIDEO * (VIDEO + WIDTH)
    flops = projections + 2.0 * QUERIES * keys * WIDTH * (2 + 4 + 4)
    contenders = [
        Contender(f"tmor_fast, {first}", "ours", lambda: _objective(keys, settings, first), flops=flops, headline=True),
        Contender(
            "logits, eager", "peer", lambda: _objective(keys, settings, "reference"), flops=flops,
            unavailable=lambda: _fits(3 * keys, settings),
        ),
    ]  # fmt: skip
    contenders.append(
        Contender(
            "projections alone", "floor", lambda: _objective(keys, settings, "projections"), flops=projections,
            note=f"two layers, {VIDEO} to {WIDTH}, of every row of the video bank, forward and backward",
        )
    )  # fmt: skip
    return Case(
        f"one step of pre-training, {keys:,} samples",
        {"kind": "objective", "bank": keys, "queries": QUERIES, "video": VIDEO, "text": TEXT},
        contenders,
        check=lambda outputs: _step_check(
            {name: value for name, value in outputs.items() if name != "projections alone"}, settings
        ),
        seconds=_seconds(settings),
    )


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


def _half_reference(queries: int, keys: int, settings: Settings) -> Call:
    import torch

    given = data(keys, settings.device, queries=queries)
    given["keys"] = given["keys"].bfloat16()
    loss = _reference_loss(given, settings.options["positives"])
    query = given["query"].requires_grad_()

    def call() -> dict[str, Any]:
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


def _half_check(outputs: Mapping[str, Any], queries: int, keys: int, settings: Settings) -> dict[str, dict[str, Any]]:
    """Largest errors of the first queries against float64, relative to the largest value."""
    import torch

    given = data(keys, "cpu", torch.float64, queries)
    given["keys"] = given["keys"].bfloat16().double()
    names = ("query", "query_id", "query_cluster", "positive")
    block = {name: value[:CHECKED] if name in names else value for name, value in given.items()}
    query = block["query"].requires_grad_()
    losses = _reference_loss(block, settings.options["positives"])(query)
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
        for place, backend in enumerate(_backends(settings))
    ]  # fmt: skip
    contenders.append(
        Contender(
            "logits, eager", "peer", lambda: _half_reference(queries, keys, settings), flops=flops, bytes=bank,
            unavailable=lambda: None if queries * keys <= 1 << 28 else "its logits do not fit",
            note="the reference equation of tmor_fast.ops, which widens the bank to float32",
        )
    )  # fmt: skip
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
        seconds=_seconds(settings),
    )


def _installed(library: str) -> str | None:
    return None if importlib.util.find_spec(library) else f"{library} is not installed"


def _fits(keys: int, settings: Settings) -> str | None:
    """Why logits in memory cannot be tried."""
    if settings.device != "cpu":
        return None
    needed, free = EAGER_MATRICES * 4.0 * QUERIES * keys, available_memory()
    if free is not None and needed > 0.7 * free:
        return f"needs about {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are available"
    return None


def _backends(settings: Settings) -> list[str]:
    """Ours that can run here, the one that "auto" takes first."""
    from tmor_fast.build import build_config

    built = [name for name in build_config()["backends"]["cluster_infonce"] if name == settings.device]
    return [*built, "tiled"]


def _contenders(keys: int, settings: Settings) -> list[Contender]:
    bytes_each = 4.0 if settings.options["bank"] == "float32" else 2.0
    products, bank = 4.0 * QUERIES * keys * WIDTH, bytes_each * keys * WIDTH + 16.0 * keys
    ours = [
        Contender(
            f"tmor_fast, {backend}", "ours", lambda backend=backend: _ours(keys, settings, backend),  # type: ignore[misc]
            flops=products, bytes=bank, headline=place == 0, note="bytes: the bank and its rows' ids read once",
        )
        for place, backend in enumerate(_backends(settings))
    ]  # fmt: skip
    eager = Contender(
        "logits, eager", "peer", lambda: _reference(keys, settings, False), unavailable=lambda: _fits(keys, settings),
        note="the reference equation of tmor_fast.ops",
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
            unavailable=lambda: _fits(keys, settings), one_call_first=True, note="torch.compile of the same",
        ),
        Contender(
            "pytorch-metric-learning", "peer", lambda: _metric_learning(keys, settings), flops=products,
            unavailable=lambda: _installed("pytorch_metric_learning") or _fits(keys, settings),
            note="its SupConLoss: the mean over positives, no own positive",
        ),
        Contender(
            "lightly", "peer", lambda: _lightly(keys, settings), flops=products,
            unavailable=lambda: _installed("lightly") or _fits(keys, settings),
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
        losses = _reference_loss(block, settings.options["positives"])(query[rows])
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


def _seconds(settings: Settings) -> float | None:
    return float(settings.options["seconds"]) if settings.options["seconds"] else None


def cases(settings: Settings) -> Sequence[Case]:
    """One case for each size of the bank, then the step of T-MOR, from ready embeddings and inside pre-training."""
    banks = [int(size) for size in settings.options["banks"].split(",") if size]
    if settings.options["bank"] not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"infonce.bank: {settings.options['bank']}; accepted: float32, float16, bfloat16")
    banks_asked = bool(banks)
    banks = banks or list(BANKS[:1] if settings.quick and settings.device == "cpu" else BANKS)
    step = settings.options["step"]
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
            seconds=_seconds(settings),
        )
        for keys in (banks if step != "only" else ())
    ]
    if step == "only" or (step != "0" and not settings.quick):
        found += [_step_case(BANKS[0], settings), _objective_case(BANKS[0], settings)]
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
        "step": ("1", "0: leave out the losses of a T-MOR step; only: nothing else"),
        "seconds": ("", "of timing for each contender, allocator for allocator; default: as the run has it"),
    },
    sweep="keys",
)
