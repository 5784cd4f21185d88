"""Exact neighbours in blocks, from matrix products: independent of the DBSCAN kernels, so it can check them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tmor_fast.ops.dbscan import METRICS, squared_threshold, unit_rows

_UNIT = 2.0**-53
# Elements of a block of the distance matrix: 32 MB in float64.
_BLOCK_ELEMENTS = 1 << 22


def check_metric(metric: str) -> None:
    """ValueError unless `metric` is one that the dbscan op knows."""
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; accepted: {', '.join(map(repr, METRICS))}")


class Distances:
    """Squared distances of `points` in float64, block by block.

    Memory: O(n * d) for float64 copies of the points, and beyond them O(n) or 32 MB, whichever is more, for a block.

    Args:
        points: (n, d) finite floats.
        metric: "euclidean" or "cosine". For cosine the squared distances are those of rows scaled to length 1, twice
            1 - cos; a zero vector is at 2 from every other point.
    """

    def __init__(self, points: Tensor, metric: str) -> None:
        check_metric(metric)
        self.metric = metric
        self.zero: Tensor | None = None
        if metric == "cosine":
            self.exact, self.zero = unit_rows(points)
            centred = self.exact
        else:
            self.exact = points.to(torch.float64)
            centred = self.exact - self.exact.mean(dim=0)
        self.centred = centred
        self.squares = centred.square().sum(dim=1)
        self.step = max(1, _BLOCK_ELEMENTS // points.shape[0])

    def approximate(self, rows: Tensor) -> Tensor:
        """(len(rows), n) squared distances of the points `rows`, off by at most `bound(rows)`."""
        total = torch.addmm(self.squares, self.centred[rows], self.centred.t(), alpha=-2.0)
        total += self.squares[rows, None]
        if self.zero is not None:
            total[self.zero[rows, None] | self.zero] = 2.0
        total[torch.arange(len(rows), device=total.device), rows] = 0.0
        return total

    def bound(self, rows: Tensor) -> Tensor:
        """(len(rows), 1): products, sums and the centring together round by less than (2 d + 16) u (|x| + |y|)^2."""
        reach = (self.squares[rows].sqrt() + self.squares.max().sqrt()).square()
        return ((2 * self.exact.shape[1] + 16) * _UNIT * reach)[:, None]

    def of_pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """(e,) the squared distances that decide: of points `a[e]` and `b[e]`, summed in the order of coordinates."""
        total = torch.zeros(len(a), dtype=torch.float64, device=a.device)
        for column in self.exact.t():
            difference = column[a] - column[b]
            total += difference.mul_(difference)
        if self.zero is not None:
            total[(self.zero[a] | self.zero[b]) & (a != b)] = 2.0
        return total

    def neighbours(self, rows: Tensor, eps: float) -> Tensor:
        """(len(rows), n) bool: which points are neighbours of the points `rows`, exactly as the dbscan op decides."""
        threshold = squared_threshold(eps, self.metric)
        squared = self.approximate(rows)
        bound = self.bound(rows)
        result = squared <= threshold - bound
        # Written so that an overflow (NaN) is decided anew too.
        row, column = ((~(squared > threshold + bound)) & ~result).nonzero(as_tuple=True)
        result[row, column] = self.of_pairs(rows[row], column) <= threshold
        return result

    def blocks(self) -> Iterator[Tensor]:
        """The indices of all points, a block at a time."""
        return iter(torch.arange(len(self.exact), device=self.exact.device).split(self.step))
