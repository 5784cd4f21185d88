"""Sizes and arguments of dependency_attention for the tests of its CUDA backends, and its equation word by word."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# compute-sanitizer makes everything a hundred times slower.
SMALL = bool(os.environ.get("TMOR_TEST_SMALL"))
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# (N, T, V, Cin), Cout, H, Ce
Sizes = tuple[tuple[int, int, int, int], int, int, int]
FEW: tuple[Sizes, ...] = (
    ((2, 9, 17, 2), 64, 3, 16),
    ((2, 16, 17, 64), 64, 3, 16),
    ((1, 5, 13, 129), 31, 2, 7),
)
MANY: tuple[Sizes, ...] = (
    *FEW,
    ((1, 1, 1, 1), 1, 1, 1),
    ((3, 37, 5, 3), 5, 2, 3),
    ((2, 150, 17, 128), 128, 3, 32),
    ((2, 75, 17, 256), 256, 3, 64),
    ((5, 301, 25, 64), 128, 3, 32),
    ((2, 20, 25, 64), 128, 12, 32),
    ((1, 4, 31, 40), 24, 16, 5),
    ((2, 7, 51, 64), 64, 3, 16),
    ((2, 7, 64, 64), 64, 3, 16),
    ((1, 3, 65, 16), 16, 3, 16),
    ((1, 2, 153, 64), 64, 3, 16),
    ((300, 2, 20, 8), 8, 4, 2),
)
SHAPES = FEW if SMALL else MANY


def literal(x: Tensor, qkw: Tensor, qkb: Tensor, dependency: Tensor, vw: Tensor, vb: Tensor, heads: int) -> Tensor:
    """The equation head by head, as the paper writes it; theta and phi divided first, so that float16 can hold it."""
    frames, channels = x.shape[1], x.shape[3]
    size = qkw.shape[0] // (2 * heads)
    z = vb
    for h in range(heads):
        rows, columns = slice(h * size, (h + 1) * size), slice((heads + h) * size, (heads + h + 1) * size)
        theta, phi = x @ qkw[rows].T + qkb[rows], x @ qkw[columns].T + qkb[columns]
        root = (size * frames) ** 0.5
        logits = torch.einsum("ntvc,ntwc->nvw", theta / root, phi / root)
        mixing = dependency[h] + torch.softmax(logits, dim=1)
        z = z + torch.einsum("ntvc,nvw->ntwc", x, mixing) @ vw[:, h * channels : (h + 1) * channels].T
    return z


def arguments(sizes: Sizes, dtype: torch.dtype, seed: int = 0, device: str = "cuda") -> list[Tensor]:
    """x and the parameters, logits and results of order 1."""
    shape, outputs, heads, size = sizes
    _, _, joints, channels = shape
    generator = torch.Generator().manual_seed(seed)
    shapes: list[tuple[int, ...]] = [shape, (2 * heads * size, channels), (2 * heads * size,)]
    shapes += [(heads, joints, joints), (outputs, heads * channels), (outputs,)]
    scales = (1.0, 1.5 / channels**0.5, 1.0, 0.3, 1 / channels**0.5, 1.0)
    return [
        (scale * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype).to(device)
        for s, scale in zip(shapes, scales, strict=True)
    ]


# ---- On any machine --------------------------------------------------------------------------------------------------


@contextmanager
def poisoned() -> Iterator[None]:
    """Fresh memory is NaN, so that a kernel which leaves something unwritten is found out."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before)
