"""dependency_attention against the paper's equation, head by head, in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops.dependency_attention import dependency_attention

OP = torch.ops.tmor_fast.dependency_attention.default
BACKWARD = torch.ops.tmor_fast.dependency_attention_backward.default
NAMES = ("x", "query_key_weight", "query_key_bias", "dependency", "value_weight", "value_bias")


def literal(
    x: Tensor,
    qkw: Tensor,
    qkb: Tensor,
    dependency: Tensor,
    vw: Tensor,
    vb: Tensor,
    heads: int,
    divide_first: bool = False,
) -> Tensor:
    """sum_h E_h x(D_h + A_h), one head after another, as the paper writes it."""
    frames, channels = x.shape[1], x.shape[3]
    size = qkw.shape[0] // (2 * heads)
    z = vb
    for h in range(heads):
        rows, columns = slice(h * size, (h + 1) * size), slice((heads + h) * size, (heads + h + 1) * size)
        theta, phi = x @ qkw[rows].T + qkb[rows], x @ qkw[columns].T + qkb[columns]
        if divide_first:
            theta, phi = theta / (size * frames) ** 0.5, phi / (size * frames) ** 0.5
        logits = torch.einsum("ntvc,ntwc->nvw", theta, phi)
        attention = torch.softmax(logits if divide_first else logits / (size * frames), dim=1)
        mixed = torch.einsum("ntvc,nvw->ntwc", x, dependency[h] + attention)
        z = z + mixed @ vw[:, h * channels : (h + 1) * channels].T
    return z


def arguments(
    shape: tuple[int, int, int, int],
    outputs: int,
    heads: int,
    size: int,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    _, _, joints, channels = shape
    shapes: list[tuple[int, ...]] = [shape, (2 * heads * size, channels), (2 * heads * size,)]
    shapes += [(heads, joints, joints), (outputs, heads * channels), (outputs,)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def gradients(function: Callable[..., Tensor], tensors: list[Tensor], upstream: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(*tensors), tensors, upstream.to(tensors[0].dtype))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 7]), st.sampled_from([1, 3, 17]), st.integers(1, 5)),
    outputs=st.integers(1, 7),
    heads=st.integers(1, 4),
    size=st.integers(1, 3),
    layout=st.sampled_from(["contiguous", "channels_first", "sliced"]),
    seed=st.integers(0, 1000),
)
def test_value_and_gradients_are_those_of_the_equation(
    shape: tuple[int, int, int, int], outputs: int, heads: int, size: int, layout: str, seed: int
) -> None:
    tensors = arguments(shape, outputs, heads, size, seed=seed)
    x = tensors[0].detach()
    if layout == "channels_first":
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    elif layout == "sliced":
        x = torch.cat([x, x], dim=1)[:, : shape[1]]
    tensors[0] = x.requires_grad_()
    upstream = torch.randn(*shape[:3], outputs, dtype=torch.float64)
    out = dependency_attention(*tensors, num_heads=heads)
    assert out.is_contiguous()
    torch.testing.assert_close(out, literal(*tensors, heads), rtol=1e-12, atol=1e-12)
    ours = gradients(lambda *t: dependency_attention(*t, num_heads=heads), tensors, upstream)
    theirs = gradients(lambda *t: literal(*t, heads), tensors, upstream)
    for name, a, b in zip(NAMES, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


def test_groups_of_clips_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    # The function of the same name hides the module from attribute access.
    module = sys.modules["tmor_fast.ops.dependency_attention"]
    tensors = arguments((5, 3, 4, 2), 3, 2, 1)
    upstream = torch.randn(5, 3, 4, 3, dtype=torch.float64)
    whole = gradients(lambda *t: dependency_attention(*t, num_heads=2), tensors, upstream)
    monkeypatch.setattr(module, "GROUP_ELEMENTS", 2 * 3 * 4 * 2 * 2)
    out = dependency_attention(*tensors, num_heads=2)
    torch.testing.assert_close(out, literal(*tensors, 2), rtol=1e-12, atol=1e-12)
    for a, b in zip(gradients(lambda *t: dependency_attention(*t, num_heads=2), tensors, upstream), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_hand_worked_case() -> None:
    # One channel, one frame, joints (1, 3), theta = x and phi = 0: every column of A is uniform and gives the mean.
    x = torch.tensor([1.0, 3.0], dtype=torch.float64).view(1, 1, 2, 1)
    dependency = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    weight = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    out = dependency_attention(x, weight, zero, dependency, 10 * one, one[0], num_heads=1)
    # joint 0 receives only the mean 2; joint 1 receives the mean 2 and joint 0's value 1.
    assert out.flatten().tolist() == pytest.approx([10 * 2 + 1, 10 * (2 + 1) + 1])


def test_empty_batch() -> None:
    tensors = arguments((0, 2, 3, 4), 5, 2, 1)
    out = dependency_attention(*tensors, num_heads=2)
    assert out.shape == (0, 2, 3, 5)
    out.sum().backward()
    assert all(t.grad is not None and t.grad.abs().sum() == 0 for t in tensors)


def test_gradcheck() -> None:
    tensors = arguments((2, 2, 3, 2), 3, 2, 2)
    assert torch.autograd.gradcheck(lambda *t: dependency_attention(*t, num_heads=2), tensors)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (4,), (5,), (0, 3), (1, 4, 5)])
def test_only_wanted_gradients_are_computed(wanted: tuple[int, ...]) -> None:
    tensors = arguments((3, 2, 4, 2), 3, 2, 1)
    upstream = torch.randn(3, 2, 4, 3, dtype=torch.float64)
    full = gradients(lambda *t: literal(*t, 2), tensors, upstream)
    for i, tensor in enumerate(tensors):
        tensor.requires_grad_(i in wanted)
    dependency_attention(*tensors, num_heads=2).backward(upstream)
    for i, tensor in enumerate(tensors):
        assert (tensor.grad is not None) == (i in wanted)
        if tensor.grad is not None:
            torch.testing.assert_close(tensor.grad, full[i], rtol=1e-12, atol=1e-12)
    needed = [i in wanted for i in range(6)]
    sizes = [g.numel() for g in BACKWARD(upstream, *[t.detach() for t in tensors[:5]], 2, needed, "reference")]
    assert [size > 0 for size in sizes] == needed


def errors_of(
    tensors: list[Tensor], upstream: Tensor, heads: int, plain: Callable[..., Tensor] | None = None
) -> dict[str, tuple[float, float]]:
    """Relative errors of value and gradients against float64: ours and those of plain torch (default: `literal`)."""

    def results(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
        return [function(*inputs), *gradients(function, inputs, upstream)]

    exact = [t.detach().double().requires_grad_() for t in tensors]
    truth = results(lambda *t: literal(*t, heads), exact)
    rough = results(plain or (lambda *t: literal(*t, heads)), tensors)
    ours = results(lambda *t: dependency_attention(*t, num_heads=heads), tensors)
    errors = {}
    for name, a, b, c in zip(("out", *NAMES), ours, rough, truth, strict=True):
        assert a.dtype == tensors[0].dtype
        error, allowed = (a.double() - c).norm() / c.norm(), (b.double() - c).norm() / c.norm()
        errors[name] = error.item(), allowed.item()
    return errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 16, 17, 8), (3, 33, 5, 16)])
def test_error_is_at_most_twice_that_of_plain_torch(dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    tensors = arguments(shape, 16, 3, 4, dtype)
    upstream = torch.randn(*shape[:3], 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name, (error, allowed) in errors_of(tensors, upstream.to(dtype), 3).items():
        assert error <= 2 * allowed, f"{name}: {error:.2e}, plain torch {allowed:.2e}"


def test_long_aligned_clips_do_not_overflow_float16() -> None:
    # Every theta and phi is near 2, so each logit is near 4, but the sum of Ce * T = 19,200 products is 76,800.
    tensors = arguments((1, 300, 5, 8), 4, 1, 64)
    with torch.no_grad():
        tensors[0].copy_(1 + 0.1 * tensors[0])
        tensors[1].copy_(0.25 + 0.01 * tensors[1])
        tensors[2].mul_(0.01)
    half = [t.detach().half().requires_grad_() for t in tensors]
    assert not torch.isfinite(literal(*half, 1)).all(), "plain torch overflows"
    upstream = torch.randn(1, 300, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).half()
    # Plain torch with theta and phi divided by the root of Ce * T first is what the error is measured by.
    errors = errors_of(half, upstream, 1, plain=lambda *t: literal(*t, 1, divide_first=True))
    for name, (error, allowed) in errors.items():
        assert error <= 2 * allowed, f"{name}: {error:.2e}, plain torch {allowed:.2e}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_error_of_long_clips_is_at_most_twice_that_of_plain_torch(dtype: torch.dtype) -> None:
    tensors = arguments((2, 300, 5, 8), 4, 2, 64, dtype)
    upstream = torch.randn(2, 300, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    errors = errors_of(tensors, upstream, 2)
    for name, (error, allowed) in errors.items():
        assert error <= 2 * allowed, f"{name}: {error:.2e}, plain torch {allowed:.2e}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opcheck() -> None:
    tensors = arguments((2, 3, 4, 2), 3, 2, 1)
    torch.library.opcheck(OP, (*tensors, None, 2, False, "reference"))
    torch.library.opcheck(OP, (*tensors, torch.ones(2, 3, 4, 3, dtype=torch.float64), 2, True, "reference"))
    plain = [t.detach() for t in tensors[:5]]
    upstream = torch.randn(2, 3, 4, 3, dtype=torch.float64)
    for needed in ([True] * 6, [False] * 6, [False, True, False, True, False, True]):
        torch.library.opcheck(
            BACKWARD,
            (upstream, *plain, 2, needed, "reference"),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_compiles_without_a_graph_break() -> None:
    tensors = arguments((2, 3, 4, 2), 3, 2, 1)
    upstream = torch.randn(2, 3, 4, 3, dtype=torch.float64)

    def block(*t: Tensor) -> Tensor:
        return torch.relu(dependency_attention(*t, num_heads=2) * 2)

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), block(*tensors))
    for a, b in zip(gradients(compiled, tensors, upstream), gradients(block, tensors, upstream), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_casts_inputs_and_returns_gradients_in_their_dtypes(compiled: bool) -> None:
    tensors = arguments((2, 3, 4, 2), 3, 2, 1, torch.float32)

    def function(*t: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return dependency_attention(*t, num_heads=2)

    if compiled:
        function = torch.compile(function, fullgraph=True, backend="aot_eager")
    out = function(*tensors)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in tensors)
    torch.testing.assert_close(out.float(), literal(*tensors, 2), rtol=0.05, atol=0.1)


def test_meta_tensors_give_shapes() -> None:
    tensors = [t.detach().to("meta").requires_grad_() for t in arguments((2, 3, 4, 2), 5, 2, 1, torch.float32)]
    out = dependency_attention(*tensors, num_heads=2)
    assert (out.shape, out.device.type, out.dtype) == ((2, 3, 4, 5), "meta", torch.float32)
    out.sum().backward()
    assert all(t.grad is not None and t.grad.shape == t.shape for t in tensors)


def test_double_precision_is_kept_under_autocast() -> None:
    tensors = arguments((1, 2, 3, 2), 3, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        out = dependency_attention(*tensors, num_heads=1)
    assert out.dtype == torch.float64


def test_second_derivative_is_refused() -> None:
    tensors = arguments((1, 2, 3, 2), 3, 1, 1)
    out = dependency_attention(*tensors, num_heads=1)
    (first,) = torch.autograd.grad(out.sum(), tensors[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        first.sum().backward()


def test_bad_arguments_are_named() -> None:
    tensors = arguments((2, 3, 4, 2), 3, 2, 1)

    def call(index: int | None = None, value: object = None, heads: object = 2, backend: str = "auto") -> None:
        changed: list = [t.detach() for t in tensors]
        if index is not None:
            changed[index] = value
        dependency_attention(*changed, num_heads=heads, backend=backend)

    zeros = lambda *s: torch.zeros(*s, dtype=torch.float64)  # noqa: E731
    for index, value, text in [
        (0, zeros(3, 4, 2), r"x must be \(N, T, V, Cin\)"),
        (0, zeros(2, 0, 4, 2), "T, V, Cin >= 1"),
        (1, zeros(3, 2), r"query_key_weight must be \(2 \* num_heads \* Ce"),
        (1, zeros(4, 3), "query_key_weight must have shape"),
        (2, zeros(5), "query_key_bias must have shape"),
        (3, zeros(2, 4, 3), "dependency must have shape"),
        (4, zeros(3, 2), "value_weight must have shape"),
        (5, zeros(4), "value_bias must have shape"),
        (5, torch.zeros(3), "value_bias must have x's dtype"),
    ]:
        with pytest.raises(ValueError, match=text):
            call(index, value)
    with pytest.raises(TypeError, match="dependency must be floating point"):
        call(3, torch.zeros(2, 4, 4, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"x must be a torch.Tensor, got list"):
        call(0, [1.0])
    for heads in (0, 1.5, True):
        with pytest.raises(ValueError, match="num_heads"):
            call(heads=heads)
    with pytest.raises(ValueError, match="unknown backend 'fast'"):
        call(backend="fast")
    for backend, text in (("cpu", "x is torch.float64"), ("cuda", "it takes CUDA tensors")):
        with pytest.raises(BackendUnavailableError, match=text):
            call(backend=backend)
