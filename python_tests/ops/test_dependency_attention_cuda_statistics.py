"""The statistics that the CUDA backends of dependency_attention find of their result, where there is a GPU.

Needs torch and pytest alone, as a bare GPU machine has them.
"""

from __future__ import annotations

import math

import pytest
import torch
from attention_cases import DTYPES, FEW, SHAPES, Sizes, arguments, literal, poisoned
from torch import Tensor

from tmor_fast.ops import dependency_attention, dependency_attention_cuda, dependency_attention_statistics


def with_statistics(tensors: list[Tensor], heads: int, backend: str) -> tuple[Tensor, Tensor]:
    """z, and the mean and variance that its kernel has gathered."""
    weights = dependency_attention_cuda.Weights(*tensors[1:])
    with poisoned():
        statistics = tensors[0].new_empty((2, tensors[4].shape[0]), dtype=torch.float32)
        z = dependency_attention_cuda.forward(tensors[0], weights, heads, backend=backend, statistics=statistics)
    return z, statistics


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(z.double(), (0, 1, 2), correction=0)
    return mean, variance


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics(sizes: Sizes, dtype: torch.dtype) -> None:
    tensors = arguments(sizes, dtype)
    small = tensors[0].numel() * sizes[1] * sizes[2] < 1 << 22
    truth = literal(*[t.double() for t in tensors], sizes[2])
    for backend in dependency_attention_cuda.BACKENDS if small else ("cuda",):
        z, statistics = with_statistics(tensors, sizes[2], backend)
        weights = dependency_attention_cuda.Weights(*tensors[1:])
        assert torch.equal(z, dependency_attention_cuda.forward(tensors[0], weights, sizes[2], backend=backend))
        # Of z itself, but for its rounding; of the naive kernels' z before that, which float64 makes.
        mean, variance = moments(truth if backend == "cuda_naive" else z)
        rounding = torch.finfo(dtype).eps if backend == "cuda" and dtype != torch.float32 else 0.0
        scale = (mean.square() + variance).sqrt()
        assert ((statistics[0] - mean).abs() <= (1e-6 + rounding) * scale).all()
        assert ((statistics[1] - variance).abs() <= (2e-5 + rounding) * variance + (1e-6 + rounding) * scale**2).all()
        assert torch.equal(with_statistics(tensors, sizes[2], backend)[1], statistics)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", dependency_attention_cuda.BACKENDS)
@pytest.mark.parametrize("shape", [(2, 37, 17, 8), (5, 301, 25, 8), (300, 9, 17, 8), (1, 1651, 5, 8)])
def test_statistics_far_from_zero(backend: str, shape: tuple[int, int, int, int]) -> None:
    """The mean is a thousand standard deviations, from x or from the bias."""
    x, query_key, bias, dependency, value, value_bias = arguments((shape, 33, 1, 2), torch.float32)
    query_key[:, 0], dependency[:], value_bias[:] = 0, 0, 0  # the first channel reaches z as it is
    x[..., 0] = 0
    deviation = moments(literal(*[t.double() for t in (x, query_key, bias, dependency, value, value_bias)], 1))[
        1
    ].sqrt()
    x[..., 0] = 1000
    for weight, offset in ((deviation, 0 * deviation), (0 * deviation, 1000 * deviation)):
        value[:, 0] = weight
        z, statistics = with_statistics([x, query_key, bias, dependency, value, offset.float()], 1, backend)
        mean, variance = moments(z)
        assert (mean > 900 * variance.sqrt()).all()
        assert ((statistics[0] - mean).abs() <= 1e-6 * mean).all()
        assert ((statistics[1] - variance).abs() <= 1e-3 * variance).all()


@pytest.mark.gpu
def test_statistics_are_of_z_before_rounding() -> None:
    """bfloat16 keeps 8 bits: of 300 and a standard deviation of about 1 it makes steps of 2."""
    tensors = arguments(((4, 60, 17, 16), 24, 3, 8), torch.bfloat16)
    tensors[5][:] = 300
    mean, variance = moments(literal(*[t.double() for t in tensors], 3))
    for backend in dependency_attention_cuda.BACKENDS:
        _, statistics = with_statistics(tensors, 3, backend)
        assert ((statistics[0] - mean).abs() <= 1e-2 * variance.sqrt()).all()
        assert ((statistics[1] - variance).abs() <= 2e-2 * variance).all()


@pytest.mark.gpu
def test_statistics_of_nan_are_nan() -> None:
    tensors = arguments(FEW[1], torch.bfloat16)
    tensors[0][1, 3, 5, 7] = math.nan
    assert with_statistics(tensors, 3, "cuda")[1].isnan().all()


@pytest.mark.gpu
def test_statistics_must_fit() -> None:
    x, *parameters = arguments(FEW[0], torch.bfloat16)
    weights = dependency_attention_cuda.Weights(*parameters)
    run = dependency_attention_cuda.forward
    with pytest.raises(ValueError, match=r"statistics has shape \(2, 63\); expected \(2, 64\)"):
        run(x, weights, 3, statistics=torch.empty(2, 63, device="cuda"))
    with pytest.raises(TypeError, match=r"statistics has dtype torch\.bfloat16; accepted: torch\.float32"):
        run(x, weights, 3, statistics=torch.empty(2, 64, device="cuda", dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="statistics"):
        run(x, weights, 3, statistics=torch.empty(64, 2, device="cuda").T)
    for changes in ({"relu": True}, {"shortcut": torch.zeros(2, 9, 17, 64, device="cuda", dtype=torch.bfloat16)}):
        with pytest.raises(ValueError, match="without shortcut and relu"):
            run(x, weights, 3, statistics=torch.empty(2, 64, device="cuda"), **changes)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", dependency_attention_cuda.BACKENDS)
def test_the_op_hands_them_out_and_has_gradients(backend: str) -> None:
    leaves = [t.requires_grad_() for t in arguments(FEW[1], torch.float32)]
    expected = torch.autograd.grad(dependency_attention(*leaves, num_heads=3, backend=backend).square().sum(), leaves)
    z, statistics = dependency_attention_statistics(*leaves, num_heads=3, backend=backend)
    assert torch.equal(statistics, with_statistics([t.detach() for t in leaves], 3, backend)[1])
    for value, wanted in zip(torch.autograd.grad(z.square().sum(), leaves), expected, strict=True):
        assert torch.equal(value, wanted)
