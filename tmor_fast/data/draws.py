"""Random numbers for batches: drawn from a generator on its own device, handed over on the data's.

A CPU generator thus gives the same augmentation on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _source(generator: torch.Generator | None, device: torch.device) -> torch.device:
    return device if generator is None else generator.device


def uniform(
    size: int | tuple[int, ...],
    low: float,
    high: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """float32 numbers spread evenly over [low, high)."""
    target = torch.device(device)
    shape = (size,) if isinstance(size, int) else size
    drawn = torch.rand(shape, generator=generator, device=_source(generator, target))
    return (drawn * (high - low) + low).to(target)


def normal(
    size: tuple[int, ...] | torch.Size,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """float32 numbers of the standard normal distribution."""
    target = torch.device(device)
    return torch.randn(size, generator=generator, device=_source(generator, target)).to(target)


def choose(
    size: tuple[int, ...],
    values: tuple[float, ...],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """float32 numbers picked evenly from `values`."""
    target = torch.device(device)
    picked = torch.randint(len(values), size, generator=generator, device=_source(generator, target))
    return torch.tensor(values, device=picked.device)[picked].to(target)
