"""A few clips of a large store, read shard by shard and prepared like the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tmor_fast.data.ragged import ClipBatch, concatenate_batches
from tmor_fast.data.store import ClipStore


class SampledStore(ClipStore):
    """A clip store of which only some clips are seen by `batches` and `tmor_fast.data.prepare`.

    Args:
        path: the store.
        rows: ascending places of the clips to keep.
    """

    def __init__(self, path: str | Path, rows: Sequence[int]) -> None:
        super().__init__(path)
        self._rows = np.asarray(rows, dtype=np.int64)
        self._frames = int(np.asarray(self.column("num_frames"))[self._rows].sum())

    @property
    def num_frames(self) -> int:
        """Frames of the kept clips together."""
        return self._frames

    def batches(self) -> Iterator[ClipBatch]:
        """The kept clips shard by shard; shards without any are read for their checks alone."""
        first = 0
        for batch in super().batches():
            inside = self._rows[(self._rows >= first) & (self._rows < first + len(batch))] - first
            first += len(batch)
            if len(inside):
                yield concatenate_batches([batch.slice(row, row + 1) for row in inside.tolist()])


def draw_rows(counts: Sequence[int], limit: int, seed: int = 0) -> list[list[int]]:
    """Places of at most `limit` clips, each store's share in proportion to its size, without replacement.

    Args:
        counts: clips of each store.
        limit: clips altogether; a store is never left without any.
        seed: of the draw.

    Returns:
        Ascending places by store; all of them where they fit.
    """
    if sum(counts) <= limit:
        return [list(range(count)) for count in counts]
    generator = np.random.default_rng(seed)
    drawn = []
    for count in counts:
        share = min(count, max(1, limit * count // sum(counts)))
        drawn.append(np.sort(generator.choice(count, share, replace=False)).tolist())
    return drawn
