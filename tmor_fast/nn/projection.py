"""Projection heads: the MLPs phi that bring motion, video and text embeddings into one space (T-MOR, Eq. 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Rows shorter than this have no direction worth keeping: dividing by them would only amplify rounding noise.
_SHORTEST = 1e-12


def l2_normalize(rows: Tensor) -> Tensor:
    """Rows scaled to unit length; a zero row stays zero and gets a finite gradient.

    `torch.nn.functional.normalize` divides by its eps there, which is 0 in float16 (NaN) and makes gradients of 1e12
    in float32.

    The result is kept for the backward pass, so it must not be changed in place; the second derivative is not
    implemented.

    Args:
        rows: (..., d), floating point. float16 and bfloat16 are computed in float32.

    Returns:
        (..., d), float32 or wider.
    """
    unit: Tensor = _Normalised.apply(rows.to(torch.promote_types(rows.dtype, torch.float32)))[0]
    return unit


class _Normalised(torch.autograd.Function):
    """Rows over their length, and 1 / length: over a bank of a whole data set each pass over memory counts."""

    @staticmethod
    def forward(rows: Tensor) -> tuple[Tensor, Tensor]:
        # Scaling by the largest entry first keeps squares in range; the direction does not depend on the scale.
        largest = torch.linalg.vector_norm(rows, torch.inf, dim=-1, keepdim=True)
        is_zero = largest < _SHORTEST
        largest = torch.where(is_zero, 1.0, largest)
        unit = rows / largest
        length = torch.where(is_zero, 1.0, torch.linalg.vector_norm(unit, dim=-1, keepdim=True))
        return unit.div_(length), 1 / length / largest

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        unit, inverse = ctx.saved_tensors
        along = (unit * grad).sum(-1, keepdim=True)
        return torch.addcmul(grad, unit, along, value=-1).mul_(inverse)


class ProjectionHead(nn.Module):
    """MLP with ReLU that projects embeddings and l2-normalises the result.

    `layers` counts linear layers: 2 is in_dim -> hidden_dim -> out_dim, 1 is a linear map, 0 the identity (out_dim is
    then in_dim). T-MOR's default is 256 -> 256 -> 128 for motion and D -> D -> 128 for a teacher of dimension D
    (see `tmor options`, row 9).

    Args:
        in_dim: dimension of the embeddings.
        hidden_dim: width of the hidden layers.
        out_dim: dimension of the projections.
        layers: number of linear layers, 0 or more.
        batch_norm: batch normalisation after every hidden linear layer.
        normalize: l2-normalise the output.

    Raises:
        ValueError: a dimension below 1 or a negative number of layers.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int = 256,
        out_dim: int = 128,
        layers: int = 2,
        batch_norm: bool = False,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("in_dim", in_dim), ("hidden_dim", hidden_dim), ("out_dim", out_dim)):
            if value < 1:
                raise ValueError(f"ProjectionHead: {name} must be at least 1, got {value}")
        if layers < 0:
            raise ValueError(f"ProjectionHead: layers must be 0 (identity) or more, got {layers}")
        self.in_dim = in_dim
        self.out_dim = out_dim if layers else in_dim
        self.normalize = normalize
        blocks: list[nn.Module] = []
        width = in_dim
        for _ in range(layers - 1):
            # The batch norm's shift makes a bias before it redundant.
            blocks.append(nn.Linear(width, hidden_dim, bias=not batch_norm))
            if batch_norm:
                blocks.append(nn.BatchNorm1d(hidden_dim))
            blocks.append(nn.ReLU(inplace=True))
            width = hidden_dim
        if layers:
            blocks.append(nn.Linear(width, out_dim))
        self.mlp = nn.Sequential(*blocks)

    def forward(self, rows: Tensor) -> Tensor:
        """Project embeddings.

        Args:
            rows: (..., in_dim), any floating-point dtype (cast to the weights' dtype).

        Returns:
            (..., out_dim); unit rows in float32 or wider if `normalize`, else what the last layer gives.

        Raises:
            ValueError: the last dimension is not in_dim.
            TypeError: the rows are not floating point.
        """
        if rows.ndim == 0 or rows.shape[-1] != self.in_dim:
            raise ValueError(f"ProjectionHead: expected (..., {self.in_dim}), got {tuple(rows.shape)}")
        if not rows.is_floating_point():
            raise TypeError(f"ProjectionHead: expected floating-point rows, got {rows.dtype}")
        if len(self.mlp):
            weight: Tensor = self.mlp[0].weight  # type: ignore[assignment]
            # Flat, since BatchNorm1d takes a third dimension for time.
            flat = self.mlp(rows.to(weight.dtype).reshape(-1, self.in_dim))
            rows = flat.reshape(*rows.shape[:-1], self.out_dim)
        return l2_normalize(rows) if self.normalize else rows

    def extra_repr(self) -> str:
        return f"in_dim={self.in_dim}, out_dim={self.out_dim}, normalize={self.normalize}"
