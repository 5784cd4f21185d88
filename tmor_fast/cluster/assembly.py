"""From pairs of neighbours to labels: components of core points, their numbers, and the borders they reach."""

from __future__ import annotations

import torch
from torch import Tensor


class Forest:
    """Disjoint sets of points 0 .. n-1 that grow by batches of pairs; the root of a set is its smallest member.

    Args:
        n: number of points.
        device: where the pairs will lie.
    """

    def __init__(self, n: int, device: torch.device) -> None:
        self.parent = torch.arange(n, device=device)

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Put a[i] and b[i] into one set for every i: (m,) int64 both."""
        while True:
            a, b = self.parent[a], self.parent[b]
            apart = a != b
            a, b = a[apart], b[apart]
            if not len(a):
                return
            # Every root that hangs itself below a smaller one is a root less, so this ends.
            self.parent.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
            self.settle()

    def settle(self) -> None:
        """Let every point know its root."""
        while not torch.equal(above := self.parent[self.parent], self.parent):
            self.parent = above


def assemble_labels(core: Tensor, forest: Forest, border: Tensor, reached_from: Tensor) -> Tensor:
    """Labels as scikit-learn numbers them: clusters by their first core point, a border point takes the smallest.

    Args:
        core: (n,) bool.
        forest: all pairs of neighbouring core points united, nothing else.
        border, reached_from: (m,) int64, every pair of a point that is not core and a core neighbour of it.

    Returns:
        (n,) int64, -1 for noise.
    """
    forest.settle()
    n = len(core)
    root = torch.full((n,), n, dtype=torch.int64, device=core.device)
    root[core] = forest.parent[core]
    # The root is the first core point, so clusters are numbered in the order of their roots.
    root.scatter_reduce_(0, border, forest.parent[reached_from], "amin")
    number = torch.full((n + 1,), -1, dtype=torch.int64, device=core.device)
    first = forest.parent[core].unique()
    number[first] = torch.arange(len(first), device=core.device)
    return number[root]
