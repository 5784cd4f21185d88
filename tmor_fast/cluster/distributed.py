"""One clustering by several processes: each looks at its share of the distance matrix, all get the whole answer."""

from __future__ import annotations

import torch
from torch import Tensor

from tmor_fast.cluster.arrays import to_points
from tmor_fast.cluster.assembly import Forest, assemble_labels
from tmor_fast.ops.dbscan import MAX_LIST_SAMPLES, dbscan, dbscan_share


def distributed_dbscan(
    points: Tensor,
    eps: float,
    min_samples: int,
    *,
    metric: str = "euclidean",
    group: object | None = None,
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
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("torch.distributed is not initialised; call torch.distributed.init_process_group first")
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)  # type: ignore[arg-type]
    rows = points.detach().to("cpu")
    parts = _gather_rows(rows, ranks, group)
    first = sum(len(part) for part in parts[:rank])
    everything = to_points(torch.cat(parts))
    if min_samples > MAX_LIST_SAMPLES or ranks == 1:
        labels, core = dbscan(everything, eps, min_samples, metric=metric)
    else:
        lists, parents = _own_share(everything, eps, min_samples, metric, rank, ranks, group)
        labels, core = merge_shares(min_samples, _gather(lists, ranks, group), _gather(parents, ranks, group))
    own = slice(first, first + len(rows))
    return labels[own].to(points.device), core[own].to(points.device)


def _own_share(
    points: Tensor, eps: float, min_samples: int, metric: str, rank: int, ranks: int, group: object | None
) -> tuple[Tensor, Tensor]:
    lists, parents, order = dbscan_share(points, eps, min_samples, rank, ranks, metric=metric)
    # As two's complement: all_gather knows no unsigned 64 bits.
    orders = _gather(torch.tensor([order - (1 << 63)]), ranks, group)
    if any(int(other) != int(orders[0]) for other in orders):
        lists, parents, _ = dbscan_share(points, eps, min_samples, rank, ranks, metric=metric, sort=False)
    return lists, parents


def merge_shares(min_samples: int, lists: list[Tensor], parents: list[Tensor]) -> tuple[Tensor, Tensor]:
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
    forest = Forest(n, torch.device("cpu"))
    places = torch.arange(n)
    borders, reached = [places[:0]], [places[:0]]
    for part, parent in zip(lists, parents, strict=True):
        forest.unite(places, parent.long())
        for column in part.long().unbind(1):
            known = column >= 0
            ends, others = places[known], column[known]
            ends, others = torch.cat((ends, others)), torch.cat((others, ends))
            keep = core[others]
            ends, others = ends[keep], others[keep]
            inner = core[ends]
            forest.unite(ends[inner], others[inner])
            borders.append(ends[~inner])
            reached.append(others[~inner])
    return assemble_labels(core, forest, torch.cat(borders), torch.cat(reached)), core


def _gather_rows(rows: Tensor, ranks: int, group: object | None) -> list[Tensor]:
    """All ranks' rows, which may be of different number."""
    lengths = _gather(torch.tensor([len(rows)]), ranks, group)
    longest = max(int(length) for length in lengths)
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    return [part[: int(length)] for part, length in zip(_gather(padded, ranks, group), lengths, strict=True)]


def _gather(words: Tensor, ranks: int, group: object | None) -> list[Tensor]:
    import torch.distributed as dist

    gathered = [torch.empty_like(words) for _ in range(ranks)]
    dist.all_gather(gathered, words.contiguous(), group=group)
    return gathered
