"""The tiled kernel's key gradient is the same in every run: nothing is added up in an order that the device picks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tmor_fast.ops.cluster_infonce_tiled as tiled_module
from tmor_fast.ops.cluster_infonce_reference import Rows, draw_positives, reference_loss

# What adds in an order of its own on CUDA, as PyTorch's notes on reproducibility list it.
UNORDERED = ("index_add", "scatter_add", "scatter_reduce", "index_reduce", "bincount", "put")


class Recorder(TorchDispatchMode):
    """Notes the name of every op that runs, and of index_put whether it accumulates."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        accumulates = "index_put" in name and (*args, False)[3]
        self.called.append(f"{name} accumulate" if accumulates else name)
        return func(*args, **(kwargs or {}))


def make_case(queries: int, keys: int, width: int, count: int | None, device: str = "cpu", **kind: Any) -> list[Any]:
    """Arguments of `tiled_forward` up to `chosen`; many queries draw from few clusters, so that they meet in keys."""
    generator = torch.Generator().manual_seed(0)
    query, bank, own = (
        torch.nn.functional.normalize(torch.randn(n, width, generator=generator, **kind)).to(device)
        for n in (queries, keys, queries)
    )
    integers = lambda n, high: torch.randint(-1, high, (n,), generator=generator).to(device)  # noqa: E731
    rows = Rows(integers(queries, keys), integers(keys, keys), integers(queries, 2), integers(keys, 2))
    chosen = None if count is None else draw_positives(rows, count, 1)
    return [query, bank, own, torch.tensor(0.5, device=device, **kind), rows, chosen]


def key_gradient(case: list[Any], positives: str, denominator: str) -> Tensor:
    query, keys, _, temperature, rows, chosen = case
    statistics = tiled_module.tiled_forward(*case, positives, denominator, True)[3]
    upstream = torch.linspace(0.5, 1.5, len(query), device=query.device, dtype=query.dtype)
    return tiled_module.tiled_key_gradient(upstream, query, keys, temperature, rows, chosen, statistics)


def expected_gradient(case: list[Any], positives: str, denominator: str) -> Tensor:
    query, keys, *rest = case
    keys = keys.clone().requires_grad_()
    loss = reference_loss(query, keys, *rest, positives, denominator)
    upstream = torch.linspace(0.5, 1.5, len(query), device=query.device, dtype=query.dtype)
    return torch.autograd.grad(loss, keys, upstream)[0]


MODES = [("sum", "all"), ("supcon", "all"), ("mean", "negatives"), ("supcon", "negatives")]


@pytest.mark.parametrize("count", [None, 1, 5, 40])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tile", [1, 4, 1000])
def test_key_gradient_sums_over_queries_without_unordered_additions(
    tile: int, mode: tuple[str, str], count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled_module, "MIN_TILE", tile)
    monkeypatch.setattr(tiled_module, "MAX_TILE", tile)
    case = make_case(12, 23, 3, count, dtype=torch.float64)
    if count == 5:
        drawn = case[-1][case[-1] >= 0]
        assert len(drawn) > 2 * len(drawn.unique()), "queries meet in keys"
    with Recorder() as recorder:
        ours = key_gradient(case, *mode)
    torch.testing.assert_close(ours, expected_gradient(case, *mode), rtol=1e-11, atol=1e-12)
    assert "mm" in recorder.called
    assert not [name for name in recorder.called if name.startswith(UNORDERED) or name.endswith("accumulate")]


@pytest.mark.gpu
@pytest.mark.parametrize("count", [None, 64])
def test_key_gradient_on_cuda_repeats_to_the_last_bit(count: int | None) -> None:
    case = make_case(512, 20_000, 64, count, "cuda")
    first = key_gradient(case, "sum", "all")
    for _ in range(5):
        assert torch.equal(key_gradient(case, "sum", "all"), first)
    torch.testing.assert_close(first, expected_gradient(case, "sum", "all"), rtol=1e-3, atol=1e-5)
