"""Operations and memory traffic of a call, counted operator by operator while it runs once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class ByteCounter(TorchDispatchMode):
    """Adds up what every operator reads and writes: its tensor arguments and results, views left out.

    An operator of this library counts as one: its inputs and outputs, not what its kernel keeps in the cache. A tensor
    that is expanded counts as what it holds in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not _is_view(func):
            self.bytes += sum(_size(leaf) for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
        return result


def _is_view(func: Any) -> bool:
    aliases = [returned.alias_info for returned in func._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def _size(tensor: Tensor) -> int:
    if tensor.is_sparse or tensor.is_mkldnn:
        return tensor.numel() * tensor.element_size()
    return int(min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()))


def _in_place(base: torch.Size, a: torch.Size, b: torch.Size, *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(a) * b[-1]


# torch's counter knows these products only out of place.
_IN_PLACE = dict.fromkeys((torch.ops.aten.addmm_, torch.ops.aten.baddbmm_), _in_place)


def count(call: Callable[[], Any]) -> tuple[int, int]:
    """Operations of all products and convolutions, and bytes moved, of one call."""
    from tmor_fast.nn.flops import flop_formulas

    flops, moved = FlopCounterMode(display=False, custom_mapping={**flop_formulas(), **_IN_PLACE}), ByteCounter()
    with torch.random.fork_rng(devices=[]), flops, moved:
        call()
    return int(flops.get_total_flops()), moved.bytes
