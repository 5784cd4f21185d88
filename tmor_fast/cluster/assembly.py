"""From components of core points and the borders they reach to labels."""

from __future__ import annotations

import torch
from torch import Tensor


def assemble_labels(core: Tensor, root: Tensor, border: Tensor, reached_from: Tensor) -> Tensor:
    """Labels as scikit-learn numbers them: clusters by their first core point, a border point takes the smallest.

    Args:
        core: (n,) bool.
        root: (n,) int64 the smallest member of each point's component, from `ops.dbscan.unite_edges` of all pairs of
            neighbouring core points and nothing else.
        border, reached_from: (m,) int64, every pair of a point that is not core and a core neighbour of it.

    Returns:
        (n,) int64, -1 for noise.
    """
    n = len(core)
    first = torch.where(core, root, n)
    # The root is the first core point, so clusters are numbered in the order of their roots.
    first.scatter_reduce_(0, border, root[reached_from], "amin")
    number = torch.full((n + 1,), -1, dtype=torch.int64, device=core.device)
    clusters = root[core].unique()
    number[clusters] = torch.arange(len(clusters), device=core.device)
    return number[first]
