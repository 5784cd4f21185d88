"""A sample bank divided among the ranks of `torch.distributed`: the queries travel, the bank stays.

Every rank computes, with `tmor_fast.ops.cluster_infonce`, the loss l_s of all ranks' queries against its own shard s,
each with its own positive p. As e^{l_s} = 1 + sum over the shard e^{s_j - s_p}, the loss against all shards is exactly

    log( rho + sum_s (e^{l_s} - 1) ) - log(rho),   rho = sum over P of e^{s_j - s_p}, 1 if P is the own positive alone

so the ranks exchange queries, one number for each query and shard, and the few drawn positives.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tmor_fast.distributed import gather_rows, rank, world_size
from tmor_fast.errors import DataError
from tmor_fast.nn.banks import SampleBank
from tmor_fast.ops.cluster_infonce import cluster_infonce
from tmor_fast.ops.cluster_infonce_reference import Rows, draw_positives

MODES = ("instance", "sum", "mean", "supcon")


class _Queries(NamedTuple):
    """The queries of all ranks and what goes with them."""

    query: Tensor
    positive: Tensor
    sample: Tensor
    own: slice


class ShardedBank(nn.Module):
    """`SampleBank` of which rank r of W holds the samples r, r + W, r + 2 W, ...; without a process group, all of it.

    All methods but `num_filled` are collectives: every rank of the group calls them, in the same order.

    Args:
        num_samples: n, number of samples in the data set, at least one for each rank.
        dim: d, dimension of a row.
        dtype: how rows are stored: float16, bfloat16 or float32.
        group: the process group; None is all processes.

    Attributes:
        shard: `SampleBank` with the own rows.
        filled: (n,) bool buffer, True where a row was written, on any rank.

    Raises:
        ValueError: a size below 1, or fewer samples than ranks.
    """

    filled: Tensor

    def __init__(
        self,
        num_samples: int,
        dim: int,
        dtype: torch.dtype = torch.float16,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.num_samples, self.group = num_samples, group
        self.rank, self.world_size = rank(group), world_size(group)
        if num_samples < self.world_size:
            raise ValueError(f"ShardedBank: {num_samples} samples for {self.world_size} ranks; each needs one or more")
        self.shard = SampleBank(len(range(self.rank, num_samples, self.world_size)), dim, dtype)
        self.register_buffer("filled", torch.zeros(num_samples, dtype=torch.bool))

    def __len__(self) -> int:
        """Number of samples on all ranks together."""
        return self.num_samples

    def get_extra_state(self) -> dict[str, int]:
        return {"num_samples": self.num_samples, "rank": self.rank, "world_size": self.world_size}

    def set_extra_state(self, state: dict[str, int]) -> None:
        if state != self.get_extra_state():
            raise DataError(
                f"ShardedBank: the state is of rank {state['rank']} of {state['world_size']}, {state['num_samples']} "
                f"samples; this is rank {self.rank} of {self.world_size}, {self.num_samples} samples. Save one file a "
                "rank and go on with as many ranks, or fill the bank anew"
            )

    def _owned(self, index: Tensor) -> Tensor:
        return index % self.world_size == self.rank

    def _check(self, index: Tensor) -> Tensor:
        if index.ndim != 1 or index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise ValueError(
                f"ShardedBank: index must be a vector of integers, got {tuple(index.shape)}, {index.dtype}"
            )
        return index.to(self.filled.device, torch.int64)

    @torch.no_grad()
    def update(self, index: Tensor, rows: Tensor, *, check: bool = True) -> None:
        """Write the rows that all ranks bring. Of a sample that comes more than once, the last rank's last row is kept.

        Args:
            index: (B_r,) integers, sample of each row of this rank.
            rows: (B_r, d), floating point, cast to the storage dtype; no gradient is kept.
            check: look for indices out of range and rows that are not finite (waits for the device).

        Raises:
            ValueError: wrong shapes, an index out of range or a row that is not finite; the bank is then unchanged, on
                all ranks.
            TypeError: the rows are not floating point.
        """
        self.shard._check_batch(index, "indices", rows)
        index, _ = gather_rows(self._check(index), group=self.group)
        rows, _ = gather_rows(rows.to(self.filled.device), group=self.group)
        if check:
            if index.numel() and bool(((index < 0) | (index >= self.num_samples)).any()):
                raise ValueError(
                    f"ShardedBank: index out of range: got values from {int(index.min())} to {int(index.max())}, "
                    f"accepted are 0 to {self.num_samples - 1}"
                )
            self.shard._check_finite(rows.to(self.shard.rows.dtype), index)
        mine = self._owned(index)
        self.shard.update(index[mine] // self.world_size, rows[mine], check=False)
        self.filled.index_fill_(0, index, True)

    @torch.no_grad()
    def gather(self, index: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        """Rows of the samples `index` (N_r,), which may differ between ranks, from the shards that hold them.

        Costs the traffic of all ranks' rows together. A drawn part of the bank can so be compared with in any mode of
        `cluster_infonce`; to compare with all of it, `infonce` moves the queries instead.

        Args:
            index: (N_r,) integers.
            dtype: dtype of the result; the storage dtype if None.

        Returns:
            (N_r, d), a copy.

        Raises:
            ValueError: an index out of range or a row that was never written, asked for by any rank.
        """
        every, own = gather_rows(self._check(index), group=self.group)
        inside = (every >= 0) & (every < self.num_samples)
        if not bool(inside.all()) or not bool(self.filled[every].all()):
            bad = every[~inside] if not bool(inside.all()) else every[~self.filled[every]]
            raise ValueError(f"ShardedBank: sample {int(bad[0])} is out of range or was never written")
        # Zeros from all ranks but the owner: the sum is exact. float32, since not all collectives know half precision.
        found = torch.zeros(len(every), self.shard.dim, device=every.device)
        mine = self._owned(every)
        found[mine] = self.shard.gather(every[mine] // self.world_size, dtype=torch.float32, check=False)
        if self.world_size > 1:
            dist.all_reduce(found, group=self.group)
        return found[own].to(dtype or self.shard.rows.dtype)

    def num_filled(self) -> int:
        """Number of samples with a row, on all ranks together."""
        return int(self.filled.sum())

    def reset(self) -> None:
        """Forget all rows."""
        self.shard.reset()
        self.filled.zero_()

    def infonce(
        self,
        query: Tensor,
        positive: Tensor,
        index: Tensor,
        clusters: Tensor | None = None,
        *,
        temperature: float | Tensor = 0.1,
        positives: str = "instance",
        max_positives: int | None = None,
        seed: int | None = None,
        backend: str = "auto",
    ) -> Tensor:
        """`cluster_infonce` of the own queries against the filled rows of all ranks; no row of the bank is copied.

        Averaged over the queries and, by DistributedDataParallel, over ranks with equally many, the gradients are those
        of one process with all queries and the whole bank. Call `update` after backward, which still reads the rows.

        Args:
            query, positive: (B_r, d) floating point, as in `cluster_infonce`.
            index: (B_r,) integers, the sample of each query; rows of the same sample are not compared.
            clusters: (n,) int64 cluster of every sample, -1 for noise; None is all noise.
            temperature: a number above 0, or a tensor of one element, which may be learned.
            positives: "instance", "sum", "mean" or "supcon", with the positives in the denominator.
            max_positives: most same-cluster rows that are positives, drawn over the whole bank; needed by all modes but
                "instance". All of a cluster at once would need its rows on one rank: use `gather` for that.
            seed: of the draw, the same on all ranks; needed with `max_positives`.
            backend: of `cluster_infonce`.

        Returns:
            (B_r,) loss, float32, or float64 if an input is.

        Raises:
            ValueError: arguments do not fit together.
        """
        if positives not in MODES:
            raise ValueError(f"ShardedBank: unknown positives {positives!r}; accepted: {', '.join(map(repr, MODES))}")
        if (positives == "instance") != (max_positives is None) or (max_positives is None) != (seed is None):
            raise ValueError(
                f"ShardedBank: positives={positives!r} with max_positives={max_positives} and seed={seed}: "
                "give both numbers for 'sum', 'mean' and 'supcon', and none for 'instance'"
            )
        index = self._check(index)
        if clusters is None:
            clusters = torch.full((self.num_samples,), -1, dtype=torch.int64, device=self.filled.device)
        queries = _Queries(
            gather_rows(query, grad=True, group=self.group)[0],
            gather_rows(positive, grad=True, group=self.group)[0],
            *gather_rows(index, group=self.group),
        )
        each = self._shard_loss(queries, clusters, temperature, backend)
        if max_positives is None or seed is None:
            log_rho = torch.zeros_like(each[queries.own])
            return _merge(each, log_rho, queries.own, self.group)
        drawn = self._drawn(queries, clusters, max_positives, seed)
        # Only those that were drawn: any other sample, even the first, may have no row yet.
        known = drawn.flatten() >= 0
        found = self.gather(drawn.flatten()[known])
        keys = found.new_zeros((len(known), self.shard.dim))
        keys[known] = found
        relative = _relative_logits(query, positive, keys, drawn, temperature)
        log_rho = relative.logsumexp(1)
        number = (relative > -math.inf).sum(1).to(each.dtype)
        if positives == "supcon":
            plain = torch.where(relative > -math.inf, relative, 0).sum(1) / number
            return _merge(each, log_rho, queries.own, self.group) + log_rho - plain
        if positives == "mean":
            log_rho = log_rho - number.log()
        return _merge(each, log_rho, queries.own, self.group)

    def _shard_loss(self, queries: _Queries, clusters: Tensor, temperature: float | Tensor, backend: str) -> Tensor:
        """(sum of B_r,) loss of all ranks' queries against the own shard alone."""
        key_id = torch.arange(self.rank, self.num_samples, self.world_size, device=self.filled.device)
        keys = self.shard.rows
        if not bool(self.shard.filled.all()):
            keys, key_id = keys[self.shard.filled], key_id[self.shard.filled]
        return cluster_infonce(
            queries.query,
            keys,
            queries.positive,
            query_id=queries.sample,
            key_id=key_id,
            query_cluster=clusters[queries.sample],
            key_cluster=clusters[key_id],
            temperature=temperature,
            positives="instance",
            backend=backend,
        )

    def _drawn(self, queries: _Queries, clusters: Tensor, count: int, seed: int) -> Tensor:
        """(B_r, count) samples drawn from the clusters of the own queries, -1 for none."""
        candidates = self.filled.nonzero().squeeze(1)
        rows = Rows(queries.sample, candidates, clusters[queries.sample], clusters[candidates])
        # For all ranks' queries, so that they are the draws of one process.
        chosen = draw_positives(rows, count, seed)[queries.own]
        if len(candidates) == 0:
            return chosen
        return torch.where(chosen >= 0, candidates[chosen.clamp(min=0)], -1)


def _relative_logits(
    query: Tensor, positive: Tensor, rows: Tensor, drawn: Tensor, temperature: float | Tensor
) -> Tensor:
    """(B, 1 + k) logits of P less that of the own positive, so 0 first; -inf where nothing was drawn."""
    wide = torch.promote_types(torch.promote_types(query.dtype, positive.dtype), torch.float32)
    query, vectors = query.to(wide), rows.to(wide).reshape(*drawn.shape, query.shape[1])
    with torch.autocast(query.device.type, enabled=False):
        others = torch.einsum("bd,bkd->bk", query, vectors) - (query * positive.to(wide)).sum(1, keepdim=True)
    others = (others / temperature).masked_fill(drawn < 0, -math.inf)
    return torch.cat((torch.zeros_like(query[:, :1]), others), dim=1)


def _merge(each: Tensor, log_rho: Tensor, own: slice, group: dist.ProcessGroup | None) -> Tensor:
    merged: Tensor = _Merge.apply(each, log_rho, own, group)
    return merged


class _Merge(torch.autograd.Function):
    """The loss of the own queries from the losses of all queries on every shard; the module's text has the formula."""

    @staticmethod
    def forward(ctx: Any, each: Tensor, log_rho: Tensor, own: slice, group: dist.ProcessGroup | None) -> Tensor:
        parts = [each]
        if world_size(group) > 1:
            parts = [torch.empty_like(each) for _ in range(world_size(group))]
            dist.all_gather(parts, each.contiguous(), group=group)
        shards = torch.stack(parts)
        # log(e^l - 1) without cancellation or overflow.
        negative = (shards + torch.log(-torch.expm1(-shards))).logsumexp(0)
        all_log_rho, _ = gather_rows(log_rho, group=group)
        loss = torch.logaddexp(torch.zeros_like(negative), negative - all_log_rho)
        ctx.save_for_backward(torch.exp(each - loss - all_log_rho), torch.expm1(-loss)[own])
        ctx.group = group
        return loss[own].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_each, by_log_rho = ctx.saved_tensors
        # The own shard moves the losses of all ranks' queries, whose gradients their ranks know.
        every, _ = gather_rows(grads[0].contiguous(), group=ctx.group)
        return every * by_each, grads[0] * by_log_rho, None, None
