"""Embedding banks: where the keys of a contrastive loss wait between steps.

`SampleBank` keeps one row a sample, so that a row's cluster is known; `FIFOQueue` is MoCo's queue; `FeatureBank` holds
frozen teacher features and projects them when asked, so its projections are never stale. T-MOR's choice of bank is in
`tmor options`, row 7.

All are modules whose storage lives in buffers: they move with `.to(device)`, are saved by `state_dict` and load with
`weights_only=True`. `.half()`, `.float()` and `.to(dtype)` of a model leave their storage dtype alone. Under
DistributedDataParallel pass `broadcast_buffers=False` and update with rows gathered from all ranks (`gather_rows`).
`ShardedBank` divides a sample bank among the ranks instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from tmor_fast.errors import DataError

STORAGE_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class _Bank(nn.Module):
    """Checks and behaviour that the banks share; `_storage` names the buffer with the rows."""

    _storage = "rows"

    @property
    def dim(self) -> int:
        """Dimension of a row."""
        return int(getattr(self, self._storage).shape[1])

    def __len__(self) -> int:
        """Number of rows, filled or not."""
        return int(getattr(self, self._storage).shape[0])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before: Tensor = getattr(self, self._storage)
        super()._apply(fn, recurse)
        after: Tensor = getattr(self, self._storage)
        if after.dtype != before.dtype:
            # A cast of the model moves the bank but must not change what it stores.
            setattr(self, self._storage, before.to(after.device))
        return self

    def _check_integers(self, index: Tensor, name: str) -> None:
        if index.ndim != 1 or index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise ValueError(
                f"{type(self).__name__}: {name} must be a vector of integers, "
                f"got shape {tuple(index.shape)}, {index.dtype}"
            )

    def _check_batch(self, index: Tensor, name: str, rows: Tensor) -> None:
        self._check_integers(index, name)
        if rows.ndim != 2 or rows.shape != (len(index), self.dim):
            raise ValueError(
                f"{type(self).__name__}: expected rows of shape ({len(index)}, {self.dim}) for {len(index)} {name}, "
                f"got {tuple(rows.shape)}"
            )
        if not rows.is_floating_point():
            raise TypeError(f"{type(self).__name__}: expected floating-point rows, got {rows.dtype}")

    def _check_range(self, index: Tensor) -> None:
        if index.numel() and bool(((index < 0) | (index >= len(self))).any()):
            low, high = int(index.min()), int(index.max())
            raise ValueError(
                f"{type(self).__name__}: index out of range: got values from {low} to {high}, "
                f"accepted are 0 to {len(self) - 1}"
            )

    def _check_finite(self, stored: Tensor, index: Tensor) -> None:
        finite = torch.isfinite(stored).all(dim=1)
        if not bool(finite.all()):
            sample = int(index[int((~finite).nonzero()[0])])
            raise ValueError(
                f"{type(self).__name__}: the row of sample {sample} is not finite in {stored.dtype}; "
                "look for a diverged loss, or store rows that are not normalised as float32"
            )

    def extra_repr(self) -> str:
        storage: Tensor = getattr(self, self._storage)
        return f"{storage.shape[0]}, dim={storage.shape[1]}, dtype={storage.dtype}"


def _check_size(owner: str, name: str, length: int, dim: int, dtype: torch.dtype) -> None:
    if length < 1 or dim < 1:
        raise ValueError(f"{owner}: {name} and dim must be at least 1, got {length} and {dim}")
    if dtype not in STORAGE_DTYPES:
        raise ValueError(f"{owner}: dtype must be one of {', '.join(map(str, STORAGE_DTYPES))}, got {dtype}")


def _draw(population: int, count: int, generator: torch.Generator) -> Tensor:
    """min(count, population) different numbers below `population`: uniform, in random order."""
    device = generator.device
    if 4 * count >= population:
        return torch.randperm(population, generator=generator, device=device)[:count]
    # Draws with replacement whose repeats are dropped are draws without, cheaper than permuting a large bank.
    drawn = torch.empty(0, dtype=torch.int64, device=device)
    while len(drawn) < count:
        more = torch.randint(population, (count + count // 4 + 16,), generator=generator, device=device)
        drawn = torch.cat((drawn, more))
        ordered, order = torch.sort(drawn, stable=True)
        is_first = torch.ones_like(ordered, dtype=torch.bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        drawn = drawn[order[is_first].sort().values]
    return drawn[:count]


class SampleBank(_Bank):
    """One row a sample of the data set, written at every step for the samples of the batch.

    Args:
        num_samples: n, number of samples in the data set.
        dim: d, dimension of a row.
        dtype: how rows are stored: float16 (enough for unit rows), bfloat16 or float32.

    Attributes:
        rows: (n, d) buffer.
        filled: (n,) bool buffer, True where a row was written.
    """

    rows: Tensor
    filled: Tensor

    def __init__(self, num_samples: int, dim: int, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        _check_size("SampleBank", "num_samples", num_samples, dim, dtype)
        self.register_buffer("rows", torch.zeros(num_samples, dim, dtype=dtype))
        self.register_buffer("filled", torch.zeros(num_samples, dtype=torch.bool))

    @torch.no_grad()
    def update(self, index: Tensor, rows: Tensor, *, check: bool = True) -> None:
        """Write rows of samples. Where a sample occurs more than once in a batch, its last row is kept.

        Args:
            index: (B,) integers, sample of each row.
            rows: (B, d), floating point, cast to the storage dtype; no gradient is kept.
            check: look for indices out of range and rows that are not finite (waits for the device).

        Raises:
            ValueError: wrong shapes, an index out of range or a row that is not finite; the bank is then unchanged.
            TypeError: the rows are not floating point.
        """
        self._check_batch(index, "indices", rows)
        if check:
            self._check_range(index)
        index = index.to(self.rows.device, torch.int64)
        stored = rows.to(self.rows.device, self.rows.dtype)
        if check:
            self._check_finite(stored, index)
        # Equal indices all get the row that comes last, so the order in which a device writes does not matter.
        ordered, order = torch.sort(index, stable=True)
        last = order[torch.searchsorted(ordered, index, right=True) - 1]
        self.rows.index_copy_(0, index, stored.index_select(0, last))
        self.filled.index_fill_(0, index, True)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw filled rows uniformly without replacement, in random order.

        Args:
            count: number of rows wanted.
            generator: source of randomness, on any device.

        Returns:
            (min(count, filled rows),) int64 indices on the bank's device.

        Raises:
            ValueError: count is negative.
            TypeError: no generator is given (the global one is never used).
        """
        if count < 0:
            raise ValueError(f"SampleBank: count must not be negative, got {count}")
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"SampleBank: generator must be a torch.Generator, got {type(generator).__name__}")
        if bool(self.filled.all()):
            return _draw(len(self), count, generator).to(self.filled.device)
        candidates = self.filled.nonzero().squeeze(1)
        return candidates[_draw(len(candidates), count, generator).to(candidates.device)]

    def gather(self, index: Tensor, *, dtype: torch.dtype | None = None, check: bool = True) -> Tensor:
        """Rows of the samples `index`.

        Args:
            index: (N,) integers.
            dtype: dtype of the result; the storage dtype if None.
            check: look for indices out of range and rows never written (waits for the device).

        Returns:
            (N, d), a copy.

        Raises:
            ValueError: an index out of range, or a row that was never written.
        """
        self._check_integers(index, "index")
        if check:
            self._check_range(index)
        index = index.to(self.rows.device, torch.int64)
        if check and not bool(self.filled[index].all()):
            sample = int(index[~self.filled[index]][0])
            raise ValueError(f"SampleBank: sample {sample} was never written; gather what `sample` returns")
        rows = self.rows.index_select(0, index)
        return rows if dtype is None else rows.to(dtype)

    def num_filled(self) -> int:
        """Number of samples with a row."""
        return int(self.filled.sum())

    def reset(self) -> None:
        """Forget all rows."""
        self.rows.zero_()
        self.filled.zero_()


class FIFOQueue(_Bank):
    """First in, first out: the newest rows replace the oldest (MoCo's queue, of any length and for any batch size).

    Args:
        length: number of rows kept.
        dim: d, dimension of a row.
        dtype: how rows are stored: float16, bfloat16 or float32.

    Attributes:
        rows: (length, d) buffer in storage order.
        ids: (length,) int64 buffer, the sample of each row, -1 where empty.
        cursor: int64 buffer, the place of the next row.
    """

    rows: Tensor
    ids: Tensor
    cursor: Tensor

    def __init__(self, length: int, dim: int, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        _check_size("FIFOQueue", "length", length, dim, dtype)
        self.register_buffer("rows", torch.zeros(length, dim, dtype=dtype))
        self.register_buffer("ids", torch.full((length,), -1, dtype=torch.int64))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, ids: Tensor, rows: Tensor, *, check: bool = True) -> None:
        """Append rows; of a batch longer than the queue the last `length` rows stay.

        Args:
            ids: (B,) integers >= 0, the sample of each row.
            rows: (B, d), floating point, cast to the storage dtype; no gradient is kept.
            check: look for negative ids and rows that are not finite (waits for the device).

        Raises:
            ValueError: wrong shapes, a negative id or a row that is not finite; the queue is then unchanged.
            TypeError: the rows are not floating point.
        """
        self._check_batch(ids, "ids", rows)
        ids = ids.to(self.rows.device, torch.int64)
        stored = rows.to(self.rows.device, self.rows.dtype)
        if check:
            if bool((ids < 0).any()):
                raise ValueError(f"FIFOQueue: ids must not be negative (-1 marks an empty place), got {int(ids.min())}")
            self._check_finite(stored, ids)
        skipped = max(0, len(ids) - len(self))
        place = torch.arange(skipped, len(ids), device=ids.device).add_(self.cursor).remainder_(len(self))
        self.rows.index_copy_(0, place, stored[skipped:])
        self.ids.index_copy_(0, place, ids[skipped:])
        self.cursor.add_(len(ids)).remainder_(len(self))

    def entries(self) -> tuple[Tensor, Tensor]:
        """Filled places, oldest first: ids (n,) int64 and rows (n, d) in the storage dtype (copies)."""
        order = torch.arange(len(self), device=self.ids.device).add_(self.cursor).remainder_(len(self))
        order = order[self.ids[order] >= 0]
        return self.ids[order], self.rows[order]

    def num_filled(self) -> int:
        """Number of filled places."""
        return int((self.ids >= 0).sum())

    def reset(self) -> None:
        """Forget all rows."""
        self.rows.zero_()
        self.ids.fill_(-1)
        self.cursor.zero_()


# On a CPU so much of the features goes through a head at once: activations that stay in the cache from one layer to the
# next, and that malloc takes from memory it has. Over 32 MB it would ask the system for it anew each time.
PIECE_BYTES = 8 << 20


class FeatureBank(_Bank):
    """Frozen teacher features, one row a sample, projected when they are needed.

    Args:
        features: (n, D), floating point, e.g. a teacher's embeddings of all clips; shared, not copied.
        persistent: save the features in `state_dict` (off: they can be read again from the clip store).
        check: look for values that are not finite (reads everything once).

    Attributes:
        features: (n, D) buffer in the dtype given.

    Raises:
        ValueError: not a matrix with at least one row and column.
        TypeError: not a floating-point tensor.
        DataError: a value is not finite; the message names the row.
    """

    _storage = "features"
    features: Tensor

    def __init__(self, features: Tensor, *, persistent: bool = False, check: bool = True) -> None:
        super().__init__()
        if not isinstance(features, Tensor) or not features.is_floating_point():
            given = features.dtype if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"FeatureBank: features must be a floating-point tensor, got {given}")
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"FeatureBank: features must be (samples, dimension), got {tuple(features.shape)}")
        if check:
            _check_features(features)
        self.register_buffer("features", features.detach(), persistent=persistent)

    def gather(self, index: Tensor, *, check: bool = True) -> Tensor:
        """Raw features of the samples `index` (N,): (N, D), a copy.

        Raises:
            ValueError: an index out of range (looked for if `check`).
        """
        self._check_integers(index, "index")
        if check:
            self._check_range(index)
        return self.features.index_select(0, index.to(self.features.device, torch.int64))

    def project(
        self, index: Tensor, head: nn.Module, *, grad: bool = True, check: bool = True, block: int | None = None
    ) -> Tensor:
        """Features of the samples `index` through `head`, as the head is now.

        Args:
            index: (N,) integers.
            head: module (N, D) -> (N, d), on any device; features are moved and cast to its first parameter.
            grad: keep the gradient with respect to the head (the features never get one).
            check: look for indices out of range (waits for the device).
            block: rows that go through the head at once; None is all. Memory beyond the result is then that of one
                block: with a gradient, a block is read and projected again in backward.

        Returns:
            (N, d) on the head's device.

        Raises:
            ValueError: an index out of range, or `block` with a head whose batch statistics need all rows at once.
        """
        self._check_integers(index, "index")
        if check:
            self._check_range(index)
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            if block is None or len(index) <= block:
                return self._project_rows(index, head)
            _check_block(block, head)
            if not torch.is_grad_enabled():
                return torch.cat([self._project_rows(part, head) for part in index.split(block)])
            parts = [
                torch.utils.checkpoint.checkpoint(self._project_rows, part, head, use_reentrant=False)
                for part in index.split(block)
            ]
            return torch.cat(parts)

    def _project_rows(self, index: Tensor, head: nn.Module) -> Tensor:
        rows = max(1, PIECE_BYTES // (self.features.shape[1] * self.features.element_size()))
        if self.features.device.type != "cpu" or len(index) <= rows or has_batch_statistics(head):
            return self._project_piece(index, head)
        return torch.cat([self._project_piece(piece, head) for piece in index.split(rows)])

    def _project_piece(self, index: Tensor, head: nn.Module) -> Tensor:
        rows = self.gather(index, check=False)
        parameter = next(head.parameters(), None)
        if parameter is not None:
            rows = rows.to(parameter.device, parameter.dtype, non_blocking=True)
        projected: Tensor = head(rows)
        return projected


def has_batch_statistics(module: nn.Module) -> bool:
    """Whether rows of a batch depend on each other: batch normalisation in train mode."""
    norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return any(m.training or m.running_mean is None for m in norms)


def _check_block(block: int, head: nn.Module) -> None:
    if block < 1:
        raise ValueError(f"FeatureBank: block must be at least 1, got {block}")
    if has_batch_statistics(head):
        raise ValueError(
            f"FeatureBank: batch statistics of blocks of {block} rows are not those of all rows; "
            "set block=None, or put the head's batch normalisation in eval mode"
        )


def _check_features(features: Tensor, chunk: int = 65_536) -> None:
    for start in range(0, len(features), chunk):
        finite = torch.isfinite(features[start : start + chunk]).all(dim=1)
        if not bool(finite.all()):
            row = start + int((~finite).nonzero()[0])
            raise DataError(f"FeatureBank: the features of sample {row} are not finite; encode that clip again")
