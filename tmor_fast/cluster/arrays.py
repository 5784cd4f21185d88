"""NumPy arrays and torch tensors in, the same kind out."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tmor_fast.ops.dbscan import first_non_finite

ArrayLike: TypeAlias = "np.ndarray | Tensor | list[Any]"

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def to_tensor(values: ArrayLike, name: str) -> Tensor:
    """`values` as a tensor that shares memory where it can; integers and bools become float64."""
    if isinstance(values, Tensor):
        tensor = values.detach()
    else:
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold numbers, got an array of {array.dtype}")
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        # torch takes neither foreign byte order nor negative strides, and warns about read-only memory.
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        tensor = torch.from_numpy(array)
    return tensor if tensor.dtype in _FLOATS else tensor.to(torch.float64)


def to_points(values: ArrayLike) -> Tensor:
    """`values` as a tensor (n, d), n and d at least 1, finite."""
    points = to_tensor(values, "points")
    if points.dim() != 2 or 0 in points.shape:
        raise ValueError(
            f"points must have shape (n, d) with n, d >= 1, got {tuple(points.shape)}; "
            "reshape with .reshape(-1, 1) if the data has one feature"
        )
    found = first_non_finite(points)
    if found is not None:
        raise ValueError(
            f"points must be finite, but row {found[0]} holds {found[1]}; remove such rows or fill their gaps first"
        )
    return points


def like(tensor: Tensor, original: ArrayLike) -> Any:
    """`tensor` as the kind of `original`: a tensor for a tensor, else a NumPy array."""
    return tensor if isinstance(original, Tensor) else tensor.cpu().numpy()
