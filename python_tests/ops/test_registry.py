from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from tmor_fast import ops
from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops import registry

CANDIDATES: dict[str, registry.Check] = {"fast": lambda: "no such chip", "slow": lambda: None, "other": lambda: None}


def test_auto_takes_the_first_that_can_run() -> None:
    assert registry.choose("op", "auto", CANDIDATES) == "slow"


def test_a_backend_by_name() -> None:
    assert registry.choose("op", "other", CANDIDATES) == "other"


def test_unavailable_says_why() -> None:
    with pytest.raises(BackendUnavailableError, match=r"op: backend 'fast' cannot run: no such chip"):
        registry.choose("op", "fast", CANDIDATES)


def test_unknown_lists_what_is_accepted() -> None:
    with pytest.raises(ValueError, match=r"unknown backend 'gpu'; accepted: 'auto', 'fast', 'slow', 'other'"):
        registry.choose("op", "gpu", CANDIDATES)


def test_auto_without_any() -> None:
    with pytest.raises(BackendUnavailableError, match="fast: no such chip"):
        registry.choose("op", "auto", {"fast": CANDIDATES["fast"]})


def test_not_compiled_is_a_reason() -> None:
    with pytest.raises(BackendUnavailableError, match="not compiled into this build"):
        registry.choose("op", "cuda", {"cuda": registry.not_compiled})


# ---- Forward-mode derivatives


def infonce(query: Tensor, **options: Any) -> Tensor:
    rows = {"query_id": torch.arange(3), "key_id": torch.arange(5)}
    rows |= {"query_cluster": torch.zeros(3, dtype=torch.int64), "key_cluster": torch.arange(5)}
    return ops.cluster_infonce(query, torch.eye(5, 4), torch.ones(3, 4), **rows, **options)


def attention(x: Tensor) -> Tensor:
    weights = torch.ones(4, 4), torch.ones(4), torch.zeros(1, 3, 3), torch.ones(2, 4), torch.ones(2)
    return ops.dependency_attention(x.view(1, 1, 3, 4), *weights, num_heads=1)


def attention_statistics(x: Tensor) -> Tensor:
    weights = torch.ones(4, 4), torch.ones(4), torch.zeros(1, 3, 3), torch.ones(2, 4), torch.ones(2)
    return ops.dependency_attention_statistics(x.view(1, 1, 3, 4), *weights, num_heads=1)[0]


def norm(x: Tensor) -> Tensor:
    return ops.batch_norm_relu(x, torch.ones(4), torch.zeros(4))[0]


def convolution(x: Tensor) -> Tensor:
    return ops.temporal_convolution(x.view(1, 3, 1, 4), torch.ones(2, 4, 3), padding=1)


OPS = [infonce, attention, attention_statistics, norm, convolution]


@pytest.mark.parametrize("op", OPS)
def test_forward_mode_is_refused_where_it_would_be_zero(op: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for transform in (lambda f: torch.func.jvp(f, (x,), (x,)), lambda f: torch.func.jacfwd(f)(x)):
        with pytest.raises(NotImplementedError, match=r"forward-mode derivatives .* use backward mode"):
            transform(op)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode derivatives"):
        op(forward_ad.make_dual(x, x))


@pytest.mark.parametrize("op", OPS)
def test_what_carries_no_tangent_passes_through_forward_mode(op: Callable[[Tensor], Tensor]) -> None:
    x, factor = torch.randn(3, 4), torch.tensor(2.0)
    value, tangent = torch.func.jvp(lambda factor: factor * op(x), (factor,), (torch.ones(()),))
    torch.testing.assert_close(value, 2 * op(x))
    torch.testing.assert_close(tangent, op(x))


def test_the_reference_of_infonce_has_forward_mode() -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, tangent = torch.func.jvp(lambda query: infonce(query, backend="reference"), (x,), (x,))
    step = 1e-6
    apart = infonce((1 + step) * x, backend="reference") - infonce((1 - step) * x, backend="reference")
    torch.testing.assert_close(tangent, apart / (2 * step), rtol=1e-5, atol=1e-6)
    assert bool(value.all())
