"""What the claims of InfoNCE share: queries, bank and clusters; the equation; what fits, and what of ours runs here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tmor_fast.benchmark import Settings
from tmor_fast.benchmark.machine import available_memory

QUERIES, WIDTH, CLUSTERS, NOISE, TEMPERATURE = 256, 128, 800, 0.2, 0.1
BANKS = (65_536, 1_048_576)
# Matrices of the logits' size that the reference holds at once, measured with autograd; decides what is tried at all.
EAGER_MATRICES = 9
WRONG = 1e-3  # relative error that no float32 form may reach
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


def query_loss(given: dict[str, Any], positives: str) -> Callable[[Any], Any]:
    """The equation with all logits in memory, of the query alone."""
    import torch

    from tmor_fast.ops.cluster_infonce_reference import Rows, reference_loss

    bank, own = given["keys"], given["positive"]
    rows = Rows(*(given[name] for name in ("query_id", "key_id", "query_cluster", "key_cluster")))
    chosen = rows.query_id.new_empty(len(rows.query_id), 0) if positives == "instance" else None
    form = "sum" if positives == "instance" else positives
    temperature = torch.full((), TEMPERATURE, dtype=own.dtype, device=bank.device)
    return lambda query: reference_loss(query, bank, own, temperature, rows, chosen, form, "all")


def too_large(keys: int, settings: Settings) -> str | None:
    """Why logits in memory cannot be tried."""
    if settings.device != "cpu":
        return None
    needed, free = EAGER_MATRICES * 4.0 * QUERIES * keys, available_memory()
    if free is not None and needed > 0.7 * free:
        return f"needs about {needed / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are available"
    return None


def backends(settings: Settings) -> list[str]:
    """Ours that can run here, the one that "auto" takes first."""
    from tmor_fast.build import build_config

    built = [name for name in build_config()["backends"]["cluster_infonce"] if name == settings.device]
    return [*built, "tiled"]
