"""Which pairs the cluster-guided InfoNCE loss compares, and its equation with all logits in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ALL = slice(None)


class Rows(NamedTuple):
    """What is known of every query (B,) and every key (N,) besides their vectors.

    Ids, clusters and captions are int64. Cluster -1 is noise, caption -1 is none; both captions are given or neither.
    """

    query_id: Tensor
    key_id: Tensor
    query_cluster: Tensor
    key_cluster: Tensor
    query_caption: Tensor | None = None
    key_caption: Tensor | None = None
    key_log_weight: Tensor | None = None

    def pairs(self, columns: slice = ALL) -> tuple[Tensor, Tensor]:
        """Masks (B, columns) of A, the other rows of the query's cluster, and of N, its negatives."""
        same_id = self.query_id[:, None] == self.key_id[columns]
        clustered = torch.where(self.query_cluster < 0, -1 - (1 << 62), self.query_cluster)
        same_cluster = clustered[:, None] == self.key_cluster[columns]
        dropped = same_id | same_cluster
        if self.query_caption is not None and self.key_caption is not None:
            described = torch.where(self.query_caption < 0, -1 - (1 << 62), self.query_caption)
            dropped |= described[:, None] == self.key_caption[columns]
        return same_cluster & ~same_id, ~dropped


def accumulate_dtype(*tensors: Tensor | None) -> torch.dtype:
    """Float64 if any of the tensors is, else float32."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def _signed(number: int) -> int:
    """The int64 with the same 64 bits."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _scatter_bits(number: Tensor) -> Tensor:
    """The finaliser of SplitMix64: int64 in, int64 that look random out. Products wrap, shifts are of 64 plain bits."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        number = (number ^ ((number >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return number ^ ((number >> 31) & ((1 << 33) - 1))


def _uniform(shape: tuple[int, int], seed: int, device: torch.device) -> Tensor:
    """Float64 numbers in [0, 1) that depend on the seed and their place alone, the same on every device.

    A counter that is hashed, not a generator: nothing crosses to the device, so a CUDA graph can hold it.
    """
    golden = 0x9E3779B97F4A7C15
    start = _scatter_bits(torch.full((), _signed(seed * golden), dtype=torch.int64, device=device))
    place = torch.arange(1, shape[0] * shape[1] + 1, device=device).view(shape)
    bits = _scatter_bits(start + place * _signed(golden))
    return ((bits >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53


def _ranks(numbers: Tensor) -> Tensor:
    """How many distinct numbers come before each of the sorted `numbers` (n,), n >= 1."""
    changes = numbers[1:] != numbers[:-1]
    return torch.cat((changes.new_zeros(1, dtype=torch.int64), changes.cumsum(0)))


def draw_positives(rows: Rows, count: int, seed: int) -> Tensor:
    """At most `count` rows of A for every query, uniformly and without replacement (Floyd's algorithm).

    Every device draws the same rows. Nothing waits for the device.

    Args:
        rows: ids and clusters of queries and keys.
        count: most rows drawn for a query; a smaller A is taken whole.
        seed: of the draw.

    Returns:
        (B, count) int64 positions of keys, -1 where there is none.
    """
    device, queries, bank = rows.query_id.device, rows.query_id.shape[0], rows.key_id.shape[0]
    if bank == 0:
        return torch.full((queries, count), -1, dtype=torch.int64, device=device)
    # Sorted by (cluster, id), A is the range [low, high) of the cluster without the range [first, last) of the id.
    ids, by_id = torch.sort(rows.key_id)
    clusters, by_cluster = torch.sort(rows.key_cluster[by_id], stable=True)
    order, id_rank, cluster_rank = by_id[by_cluster], _ranks(ids), _ranks(clusters)
    code = cluster_rank * bank + id_rank[by_cluster]
    cluster = torch.searchsorted(clusters, rows.query_cluster).clamp(max=bank - 1)
    known = (clusters[cluster] == rows.query_cluster) & (rows.query_cluster >= 0)
    identity = torch.searchsorted(ids, rows.query_id).clamp(max=bank - 1)
    base = cluster_rank[cluster] * bank
    own = base + id_rank[identity]
    low, high = torch.searchsorted(code, base), torch.searchsorted(code, base + bank)
    first = torch.searchsorted(code, own)
    same = ids[identity] == rows.query_id
    last = torch.where(same, torch.searchsorted(code, own, right=True), first)
    size = torch.where(known, (high - low) - (last - first), 0)

    uniform = _uniform((queries, count), seed, device)
    drawn = torch.arange(count, device=device).expand(queries, count).clone()
    for step in range(count):
        newest = size - count + step
        position = (uniform[:, step] * (newest + 1)).long()
        taken = (drawn[:, :step] == position[:, None]).any(1)
        drawn[:, step] = torch.where(size <= count, drawn[:, step], torch.where(taken, newest, position))
    exists = drawn < size[:, None]
    place = low[:, None] + drawn
    place = torch.where(place >= first[:, None], place + (last - first)[:, None], place)
    return torch.where(exists, order[torch.where(exists, place, 0)], -1)


def _masked_logsumexp(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-sum-exp over the masked columns, -inf and without gradient where there is none."""
    some = mask.any(1)
    filled = torch.where(some[:, None], logits.masked_fill(~mask, -torch.inf), 0)
    return torch.where(some, filled.logsumexp(1), -torch.inf)


def reference_loss(
    query: Tensor,
    keys: Tensor,
    positive: Tensor | None,
    temperature: Tensor,
    rows: Rows,
    chosen: Tensor | None,
    positives: str,
    denominator: str,
) -> Tensor:
    """The loss of `cluster_infonce` in plain torch ops, with autograd's own gradients; O(B * N) memory.

    `chosen` (B, k) lists the rows of A that are positives (-1: none); without it all of A is. "instance" is "sum" with
    an empty list.
    """
    dtype = accumulate_dtype(query, keys, positive)
    query, temperature = query.to(dtype), temperature.to(dtype)
    logits = query @ keys.to(dtype).T / temperature
    if rows.key_log_weight is not None:
        logits = logits + rows.key_log_weight.to(dtype)
    is_positive, is_negative = rows.pairs()
    if chosen is not None:
        # One column more takes the -1 of the list.
        listed = is_positive.new_zeros(logits.shape[0], logits.shape[1] + 1)
        is_positive = listed.scatter(1, torch.where(chosen < 0, logits.shape[1], chosen), True)[:, :-1]
    negative = _masked_logsumexp(logits, is_negative)
    if positive is not None:
        own = (query * positive.to(dtype)).sum(1, keepdim=True) / temperature
        logits = torch.cat((own, logits), dim=1)
        is_positive = torch.cat((torch.ones_like(own, dtype=torch.bool), is_positive), dim=1)

    number = is_positive.sum(1)
    defined = number > 0
    if denominator == "negatives":
        defined = defined & is_negative.any(1)
    total = torch.where(defined, _masked_logsumexp(logits, is_positive), 0)
    negative = torch.where(defined, negative, 0)
    # In the loss's dtype: the log of an integer tensor would be float32.
    number = number.clamp(min=1).to(dtype)
    if positives == "mean":
        total = total - number.log()
    if positives == "supcon":
        average = torch.where(is_positive, logits, 0).sum(1) / number
        whole = torch.logaddexp(total, negative) if denominator == "all" else negative
        loss = whole - average
    elif denominator == "all":
        # log(P + N) - log(P), without the cancellation.
        loss = torch.logaddexp(torch.zeros_like(total), negative - total)
    else:
        loss = negative - total
    return torch.where(defined, loss, 0)
