"""Rows of all ranks of `torch.distributed`, with or without gradient; without a process group, the own rows."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Number of ranks in the group (None: of all processes), 1 where `torch.distributed` is not in use."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank(group: dist.ProcessGroup | None = None) -> int:
    """Own place in the group (None: among all processes), 0 where `torch.distributed` is not in use."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


def gather_rows(
    rows: Tensor, *, grad: bool = False, even: bool = False, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, slice]:
    """Rows of all ranks, in the order of the ranks. A collective: every rank of the group calls it.

    Args:
        rows: (n_r, ...) of this rank r, of any dtype; only the first size may differ between ranks.
        grad: let gradients through; each rank's rows get the sum of the gradients that all ranks have for them. All
            ranks then run backward, and `rows` requires a gradient on all of them or on none.
        even: all ranks must bring equally many rows.
        group: the process group; None is all processes.

    Returns:
        (sum of n_r, ...) and the place of the own rows in it.

    Raises:
        ValueError: the numbers of rows differ and `even` is set; on every rank.
    """
    if world_size(group) == 1:
        return (rows if grad else rows.detach()), slice(0, len(rows))
    own = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(own) for _ in range(world_size(group))]
    dist.all_gather(counts, own, group=group)
    sizes = [int(count) for count in counts]
    if even and len(set(sizes)) > 1:
        raise ValueError(
            f"the ranks bring {sizes} rows, and a mean over ranks needs equally many on each; "
            "use a sampler with drop_last=True, or pad the last batch"
        )
    start = sum(sizes[: rank(group)])
    gathered: Tensor = _Gather.apply(rows if grad else rows.detach(), sizes, group)
    return gathered, slice(start, start + len(rows))


class _Gather(torch.autograd.Function):
    """All ranks' rows; backward sums the ranks' gradients and keeps those of the own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
        start = sum(sizes[: rank(group)])
        ctx.own, ctx.group = slice(start, start + len(rows)), group
        longest = max(sizes)
        padded = rows.detach().contiguous()
        if len(rows) < longest:
            # The collective wants one shape from all ranks.
            padded = torch.cat((padded, padded.new_zeros(longest - len(rows), *rows.shape[1:])))
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        # A sum and a slice instead of reduce_scatter, which gloo does not have and which wants equal sizes.
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.own], None, None
