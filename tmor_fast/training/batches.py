"""The order of a training epoch: shuffled anew each time, and continued from its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Places(Dataset[int]):
    """Numbers of clips: what the loader shuffles. The clips themselves are gathered a batch at a time."""

    def __init__(self, places: Sequence[int] | Tensor) -> None:
        self.places = torch.as_tensor(places, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, item: int) -> int:
        return int(self.places[item])


class EpochShuffle(torch.utils.data.Sampler[int]):
    """A permutation that depends on the seed and the epoch alone, so a resumed run sees the same order.

    `skip` leaves out so many of its first numbers, once: those that a run had used when it was saved.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch, self.skip = length, seed, 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        skip, self.skip = self.skip, 0
        return iter(torch.randperm(self.length, generator=generator)[skip:].tolist())


class EpochLoader(DataLoader[Any]):
    """A data loader in this process (no workers that could die) that knows its place in the epoch.

    Lightning saves that place with every checkpoint and gives it back to a run that goes on.

    Args:
        dataset: what is loaded.
        batch_size: samples a step.
        seed: of the order.
        drop_last: leave out a last batch that is not full.
    """

    def __init__(self, dataset: Dataset[Any], batch_size: int, seed: int, *, drop_last: bool = False) -> None:
        # A generator of its own: the loader would draw from the global one at every epoch.
        own = torch.Generator().manual_seed(seed)
        self.order, self._given, self._resume_at = EpochShuffle(len(dataset), seed), 0, 0  # type: ignore[arg-type]
        super().__init__(
            dataset, batch_size=batch_size, sampler=self.order, drop_last=drop_last, num_workers=0, generator=own
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._given, self._resume_at = self._resume_at, 0
        self.order.skip = self._given * (self.batch_size or 1)
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch were given out; 0 at its end."""
        return {"batches": self._given % max(1, len(self))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind so many batches."""
        self._resume_at = int(state["batches"])


def shuffled_loader(places: Sequence[int] | Tensor, batch_size: int, seed: int) -> EpochLoader:
    """Batches of places, shuffled anew each epoch. A last batch of one clip is left out: it has no batch statistics."""
    dataset = Places(places)
    alone = len(dataset) > batch_size and len(dataset) % batch_size == 1
    return EpochLoader(dataset, min(batch_size, len(dataset)), seed, drop_last=alone)
