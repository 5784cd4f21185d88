"""ProjectionHead: shapes, normalisation, awkward rows, dtypes, bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmor_fast.nn.projection import ProjectionHead, l2_normalize


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 7),
    dim=st.integers(1, 33),
    scale=st.sampled_from([1e-9, 1e-3, 1.0, 1e4, 1e18]),
    seed=st.integers(0, 99),
)
def test_normalize_matches_float64(rows: int, dim: int, scale: float, seed: int) -> None:
    x = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) * scale
    expected = x.double() / x.double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(l2_normalize(x).double(), expected, rtol=1e-6, atol=1e-6)


def test_normalize_gradient() -> None:
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(l2_normalize, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zero_row_stays_zero_with_finite_gradient(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    y = l2_normalize(x)
    y.sum().backward()
    assert y.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(y.float(), torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    assert x.grad is not None
    torch.testing.assert_close(x.grad.float()[0], torch.ones(2))
    assert torch.isfinite(x.grad).all()


def test_default_head_is_the_two_layer_mlp() -> None:
    head = ProjectionHead(10, hidden_dim=6, out_dim=4)
    x = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    first, last = head.mlp[0], head.mlp[2]
    hidden = (x.double() @ first.weight.double().T + first.bias.double()).clamp_min(0)
    expected = hidden @ last.weight.double().T + last.bias.double()
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(x).double(), expected, rtol=1e-5, atol=1e-6)
    raw = ProjectionHead(10, 6, 4, normalize=False)
    raw.load_state_dict(head.state_dict())
    assert not torch.allclose(raw(x).norm(dim=1), torch.ones(3))


@pytest.mark.parametrize(("layers", "linears"), [(1, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_layer_count(layers: int, linears: int, batch_norm: bool) -> None:
    head = ProjectionHead(5, 7, 3, layers=layers, batch_norm=batch_norm)
    assert sum(isinstance(m, torch.nn.Linear) for m in head.modules()) == linears
    assert sum(isinstance(m, torch.nn.BatchNorm1d) for m in head.modules()) == (linears - 1) * batch_norm
    y = head(torch.randn(2, 4, 5))
    assert y.shape == (2, 4, 3)
    torch.testing.assert_close(y.norm(dim=-1), torch.ones(2, 4))


def test_no_layer_is_the_identity() -> None:
    head = ProjectionHead(3, layers=0)
    assert head.out_dim == 3
    assert not list(head.parameters())
    torch.testing.assert_close(head(torch.tensor([[0.0, 3.0, 4.0]])), torch.tensor([[0.0, 0.6, 0.8]]))
    x = torch.tensor([[0.0, 3.0, 4.0]])
    assert torch.equal(ProjectionHead(3, layers=0, normalize=False)(x), x)


def test_half_features_and_autocast_give_unit_float32_rows() -> None:
    head = ProjectionHead(8, 8, 4)
    x = torch.randn(5, 8)
    assert head(x.half()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = head(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.norm(dim=1), torch.ones(5))


def test_compiles_without_graph_break() -> None:
    head = ProjectionHead(8, 8, 4)
    x = torch.randn(5, 8)
    torch.testing.assert_close(torch.compile(head, fullgraph=True, backend="aot_eager")(x), head(x))


@pytest.mark.parametrize("wrong", [{"in_dim": 0}, {"in_dim": 4, "hidden_dim": 0}, {"in_dim": 4, "layers": -1}])
def test_bad_sizes(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ProjectionHead(**wrong)


def test_bad_rows() -> None:
    head = ProjectionHead(4)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 4\), got \(2, 5\)"):
        head(torch.zeros(2, 5))
    with pytest.raises(TypeError, match="int64"):
        head(torch.zeros(2, 4, dtype=torch.int64))
