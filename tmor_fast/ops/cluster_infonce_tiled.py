"""Cluster-guided InfoNCE in plain torch, one tile of keys at a time: O(B * (d + tile)) memory.

The gradient of the query is gathered in the forward pass. With P and N the positives and negatives of one query, LP and
LN their log-sum-exps and D the log of the denominator, the derivative by the logit s_j is

    exp(s_j - D)                    for a negative,
    a exp(s_j - LP) - u             for a positive, where
        a = -exp(LN - D), u = 0             "sum", "mean" with denominator "all"
        a = -1, u = 0                       "sum", "mean" with denominator "negatives"
        a = exp(LP - D), u = 1 / |P|        "supcon", "all"
        a = 0, u = 1 / |P|                  "supcon", "negatives"

so dL/dq = (exp(LN - D) n + a p - u sum_P k) / temperature, with n and p the keys averaged by softmax over N and over P:
two attentions whose values are the keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from tmor_fast.ops.cluster_infonce_reference import Rows, accumulate_dtype

# Logits of one tile, (B, tile); the working set of a tile is a few such matrices.
TILE_ELEMENTS = 1 << 20
MIN_TILE, MAX_TILE = 256, 8192


class _OnlineSoftmax:
    """Log-sum-exp of logits that arrive in parts, and the values averaged with their softmax.

    `weighted` is None where the average is not wanted. The maximum starts at the lowest finite number, so that rows
    without any logit never compute inf - inf.
    """

    def __init__(self, rows: int, width: int, like: Tensor) -> None:
        self.maximum = like.new_full((rows, 1), torch.finfo(like.dtype).min)
        self.total = like.new_zeros(rows, 1)
        self.weighted = like.new_zeros(rows, width) if width else None

    def add(self, logits: Tensor, values: Tensor) -> None:
        """Take in `logits` (B, t), overwritten (-inf: not there), of `values` (t, d) or (B, t, d)."""
        if logits.shape[1] == 0:
            return
        maximum = torch.maximum(self.maximum, logits.amax(1, keepdim=True))
        decay = torch.exp(self.maximum - maximum)
        weights = logits.sub_(maximum).exp_()
        self.maximum = maximum
        self.total.mul_(decay).add_(weights.sum(1, keepdim=True))
        if self.weighted is not None:
            self.weighted.mul_(decay)
            if values.dim() == 2:
                self.weighted.addmm_(weights, values)
            else:
                self.weighted.add_(torch.bmm(weights[:, None], values)[:, 0])

    def logsumexp(self) -> Tensor:
        """(B,), -inf for an empty row."""
        return (self.maximum + self.total.log())[:, 0]

    def mean(self) -> Tensor:
        """(B, d), 0 for an empty row."""
        assert self.weighted is not None
        return self.weighted / torch.where(self.total > 0, self.total, 1)


def _tile_starts(queries: int, keys: int) -> range:
    """First key of every tile."""
    return range(0, keys, min(max(TILE_ELEMENTS // max(queries, 1), MIN_TILE), MAX_TILE))


def _tiles(query: Tensor, keys: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    starts = _tile_starts(query.shape[0], keys.shape[0])
    for start in starts:
        columns = slice(start, min(start + starts.step, keys.shape[0]))
        yield columns, keys[columns].to(dtype)


def _logits(scaled: Tensor, tile: Tensor, rows: Rows, columns: slice) -> Tensor:
    """(B, tile) logits; `scaled` is the query divided by the temperature."""
    if rows.key_log_weight is None:
        return scaled @ tile.T
    return torch.addmm(rows.key_log_weight[columns].to(scaled.dtype), scaled, tile.T)


def _listed(scaled: Tensor, keys: Tensor, rows: Rows, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, k), -inf where the list has no row, and vectors (B, k, d) of the listed keys."""
    index = chosen.clamp(min=0)
    values = keys[index].to(scaled.dtype)
    logits = torch.bmm(values, scaled[:, :, None])[:, :, 0]
    if rows.key_log_weight is not None:
        logits = logits + rows.key_log_weight[index].to(scaled.dtype)
    return logits.masked_fill(chosen < 0, -torch.inf), values


def _listed_pairs(chosen: Tensor, derivative: Tensor, starts: range) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For every tile, its listed pairs: query, key within the tile, and the derivative by their logit."""
    key, order = chosen.flatten().sort()
    query, derivative = order // chosen.shape[1], derivative.flatten()[order]
    # Entries of -1, no row, sort before the first tile.
    edges = torch.tensor([*starts, starts.stop], device=chosen.device)
    for start, pair in zip(starts, itertools.pairwise(torch.searchsorted(key, edges).tolist()), strict=True):
        pairs = slice(*pair)
        yield query[pairs], key[pairs] - start, derivative[pairs]


class _Positives:
    """Softmax over P, its size, and for "supcon" the plain sums of its logits and vectors."""

    def __init__(self, rows: int, width: int, like: Tensor, plain: bool) -> None:
        self.softmax = _OnlineSoftmax(rows, width, like)
        self.number = like.new_zeros(rows)
        self.plain = plain
        self.logit_sum = like.new_zeros(rows)
        self.vector_sum = like.new_zeros(rows, width)

    def add(self, logits: Tensor, mask: Tensor, values: Tensor) -> None:
        """Take in the masked `logits` (B, t) of `values` (t, d) or (B, t, d)."""
        self.number += mask.sum(1)
        if self.plain:
            self.logit_sum += torch.where(mask, logits, 0).sum(1)
            if self.vector_sum.shape[1]:
                member = mask.to(values.dtype)
                self.vector_sum += member @ values if values.dim() == 2 else torch.bmm(member[:, None], values)[:, 0]
        self.softmax.add(logits.masked_fill(~mask, -torch.inf), values)


def tiled_forward(
    query: Tensor,
    keys: Tensor,
    positive: Tensor | None,
    temperature: Tensor,
    rows: Rows,
    chosen: Tensor | None,
    positives: str,
    denominator: str,
    save_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and what its gradients need; arguments as in `reference_loss`.

    Returns:
        loss (B,); its gradient by the query, (B, d), or (B, 0) unless `save_gradient`; its derivative by the logit of
        the query's own positive, (B,); and D, LP, a, u of the module's text, (4, B), which drop undefined queries.
    """
    dtype = accumulate_dtype(query, keys, positive)
    query, temperature = query.to(dtype), temperature.to(dtype)
    scaled = query / temperature
    size, width = query.shape[0], query.shape[1] if save_gradient else 0
    negative = _OnlineSoftmax(size, width, query)
    aligned = _Positives(size, width, query, plain=positives == "supcon")
    for columns, tile in _tiles(query, keys, dtype):
        logits = _logits(scaled, tile, rows, columns)
        same_cluster, is_negative = rows.pairs(columns)
        if chosen is None and bool(same_cluster.any()):
            aligned.add(logits, same_cluster, tile)
        negative.add(logits.masked_fill_(~is_negative, -torch.inf), tile)
    if chosen is not None and chosen.shape[1]:
        logits, values = _listed(scaled, keys, rows, chosen)
        aligned.add(logits, chosen >= 0, values)
    own = query.new_zeros(size)
    if positive is not None:
        vector = positive.to(dtype)
        own = (scaled * vector).sum(1)
        aligned.add(own[:, None], torch.ones_like(own, dtype=torch.bool)[:, None], vector[:, None])

    loss, statistics = _loss(negative.logsumexp(), aligned, positives, denominator)
    denominator_log, positive_log, softmax_share, plain_share = statistics
    gradient = query.new_zeros(size, width)
    if save_gradient:
        gradient = torch.exp(negative.logsumexp() - denominator_log)[:, None] * negative.mean()
        gradient += softmax_share[:, None] * aligned.softmax.mean() - plain_share[:, None] * aligned.vector_sum
        gradient /= temperature
    own_gradient = softmax_share * torch.exp(own - positive_log) - plain_share
    return loss, gradient, own_gradient, statistics


def _loss(negative: Tensor, aligned: _Positives, positives: str, denominator: str) -> tuple[Tensor, Tensor]:
    """Loss (B,) and D, LP, a, u (4, B); D = LP = inf and a = u = 0 give undefined queries no gradient anywhere."""
    positive = aligned.softmax.logsumexp()
    number = aligned.number.clamp(min=1)
    defined = aligned.number > 0
    if denominator == "negatives":
        defined &= negative > -torch.inf
    total = positive - number.log() if positives == "mean" else positive
    whole = torch.logaddexp(total, negative) if denominator == "all" else negative
    plain = torch.zeros_like(positive)
    if positives == "supcon":
        loss = whole - aligned.logit_sum / number
        share = torch.exp(positive - whole) if denominator == "all" else torch.zeros_like(positive)
        plain = 1 / number
    elif denominator == "all":
        # log(P + N) - log(P), and P / (P + N) - 1, without the cancellation.
        loss = torch.logaddexp(torch.zeros_like(total), negative - total)
        share = -torch.exp(negative - whole)
    else:
        loss, share = negative - total, torch.full_like(total, -1)
    statistics = torch.stack(
        [
            torch.where(defined, whole, torch.inf),
            torch.where(defined, positive, torch.inf),
            torch.where(defined, share, 0),
            torch.where(defined, plain, 0),
        ]
    )
    return torch.where(defined, loss, 0), statistics


def tiled_key_gradient(
    grad: Tensor,
    query: Tensor,
    keys: Tensor,
    temperature: Tensor,
    rows: Rows,
    chosen: Tensor | None,
    statistics: Tensor,
) -> Tensor:
    """Gradient of the keys (N, d) in the accumulation dtype; a second pass over the tiles.

    All queries that drew a key meet in the matrix product of its tile, not in atomic additions, so the result is the
    same in every run, also on CUDA. A query lists a key at most once, as `draw_positives` draws them.
    """
    dtype = statistics.dtype
    temperature = temperature.to(dtype)
    scaled = query.to(dtype) / temperature
    upstream = grad.to(dtype)[:, None] * scaled
    denominator_log, positive_log, softmax_share, plain_share = statistics[:, :, None]
    result = torch.empty(keys.shape, dtype=dtype, device=keys.device)
    pairs: Iterator[tuple[Tensor, Tensor, Tensor]] | None = None
    if chosen is not None and chosen.shape[1]:
        logits, _ = _listed(scaled, keys, rows, chosen)
        by_logit = softmax_share * torch.exp(logits - positive_log) - plain_share
        pairs = _listed_pairs(chosen, by_logit, _tile_starts(query.shape[0], keys.shape[0]))
    for columns, tile in _tiles(query, keys, dtype):
        logits = _logits(scaled, tile, rows, columns)
        same_cluster, is_negative = rows.pairs(columns)
        derivative = torch.exp(logits.masked_fill(~is_negative, -torch.inf) - denominator_log)
        if chosen is None and bool(same_cluster.any()):
            aligned = softmax_share * torch.exp(logits.masked_fill_(~same_cluster, -torch.inf) - positive_log)
            derivative += torch.where(same_cluster, aligned - plain_share, 0)
        if pairs is not None:
            listed_query, listed_key, by_logit = next(pairs)
            derivative[listed_query, listed_key] = by_logit  # 0 so far: a row of the query's cluster is no negative
        torch.mm(derivative.T, upstream, out=result[columns])
    return result
