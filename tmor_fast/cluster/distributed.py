"""One clustering by several processes: each looks at its share of the distance matrix, all get the whole answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from tmor_fast.cluster.arrays import to_points
from tmor_fast.cluster.assembly import assemble_labels
from tmor_fast.distributed import gather_rows, rank, world_size
from tmor_fast.ops.dbscan import MAX_LIST_SAMPLES, dbscan, dbscan_share, unite_edges


def distributed_dbscan(
    points: Tensor,
    eps: float,
    min_samples: int,
    *,
    metric: str = "euclidean",
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Cluster the rows of all ranks by density; labels as one process with all rows, in rank order, would give them.

    Every rank gathers all rows (n * d numbers), compares its share of the pairs, and passes on at most
    `min_samples - 1` neighbours and one parent a point: O(n * min_samples * ranks) words. It works on the CPU.

    Args:
        points: (n_r, d) this rank's rows, n_r may differ and may be 0 on some; d and dtype the same on all.
        eps: largest distance between neighbours.
        min_samples: neighbours, the point itself included, that make a core point; above 64 every rank does all work.
        metric: "euclidean" or "cosine".
        group: a process group, None for the default one.

    Returns:
        labels (n_r,) int64 and core (n_r,) bool of this rank's rows, on their device.

    Raises:
        ValueError: as `tmor_fast.ops.dbscan`, on every rank.
        RuntimeError: torch.distributed is not initialised.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("torch.distributed is not initialised; call torch.distributed.init_process_group first")
    ranks = world_size(group)
    every, own = gather_rows(points.detach().to("cpu"), group=group)
    everything = to_points(every)
    if min_samples > MAX_LIST_SAMPLES or ranks == 1:
        labels, core = dbscan(everything, eps, min_samples, metric=metric)
    else:
        # As many rows from every rank: those of all points.
        lists, parents = (
            gather_rows(each, group=group)[0] for each in _own_share(everything, eps, min_samples, metric, group)
        )
        labels, core = merge_shares(min_samples, lists.chunk(ranks), parents.chunk(ranks))
    return labels[own].to(points.device), core[own].to(points.device)


def _own_share(
    points: Tensor, eps: float, min_samples: int, metric: str, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """Lists and parents of this rank's share of the pairs, in one order of the points on all ranks."""
    mine, ranks = rank(group), world_size(group)
    lists, parents, order = dbscan_share(points, eps, min_samples, mine, ranks, metric=metric)
    # As two's complement: collectives know no unsigned 64 bits.
    orders, _ = gather_rows(torch.tensor([order - (1 << 63)]), group=group)
    if bool((orders != orders[0]).any()):
        lists, parents, _ = dbscan_share(points, eps, min_samples, mine, ranks, metric=metric, sort=False)
    return lists, parents


def merge_shares(min_samples: int, lists: Sequence[Tensor], parents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The labels and core points that `dbscan_share` of all shares give together.

    A pair of neighbours is seen by one share alone. There it is in the list of at least one end, or both lists were
    full, both ends core, and they were united. So lists that hold `min_samples - 1` neighbours together make a core
    point, all edges between core points are in lists or parents, and all of a border point's are in its lists.

    Args:
        min_samples: as given to `dbscan_share`.
        lists: (n, min_samples - 1) int32 of each share, -1 where a list ends.
        parents: (n,) int32 of each share.

    Returns:
        labels (n,) int64, core (n,) bool.
    """
    n = len(parents[0])
    count = torch.zeros(n, dtype=torch.int64)
    for part in lists:
        count += (part >= 0).sum(dim=1)
    core = count >= min_samples - 1
    root = places = torch.arange(n)
    borders, reached = [places[:0]], [places[:0]]
    for part, parent in zip(lists, parents, strict=True):
        root = unite_edges(root, places, parent.long())
        for column in part.long().unbind(1):
            known = column >= 0
            ends, others = places[known], column[known]
            ends, others = torch.cat((ends, others)), torch.cat((others, ends))
            keep = core[others]
            ends, others = ends[keep], others[keep]
            inner = core[ends]
            root = unite_edges(root, ends[inner], others[inner])
            borders.append(ends[~inner])
            reached.append(others[~inner])
    return assemble_labels(core, root, torch.cat(borders), torch.cat(reached)), core
