"""Batch norm with shortcut and ReLU: the reference against torch's own modules, the kernel against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tmor_fast.build import build_config, compiled
from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops import batch_norm_relu, dependency_attention, dependency_attention_statistics

OP = torch.ops.tmor_fast.batch_norm_relu.default
BACKWARD = torch.ops.tmor_fast.batch_norm_relu_backward.default
NAMES = ("x", "weight", "bias", "shortcut")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
needs_kernel = pytest.mark.skipif(compiled("batch_norm_relu", "cpu") is not None, reason="no compiled module")
BACKENDS = ("reference", pytest.param("cpu", marks=needs_kernel))


class Problem:
    """Arguments, and a gradient of the result that is 0 where a ReLU might be undecided."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        *,
        relu: bool = True,
        shortcut: bool = True,
        mean: float = 0.0,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*sizes: int, at: float = 0.0) -> Tensor:
            return at + torch.randn(sizes, generator=generator, dtype=torch.float64)

        channels = shape[-1]
        self.x, self.shortcut = draw(*shape, at=mean).to(dtype), draw(*shape).to(dtype) if shortcut else None
        self.weight, self.bias = draw(channels, at=1).float(), draw(channels).float()
        self.relu, self.dtype = relu, dtype
        z, _ = plain(self.x.double(), self.weight, self.bias, self.shortcut, relu=False)
        undecided = z.abs() < (0.1 if dtype != torch.float32 else 1e-3 * (1 + abs(mean)))
        self.upstream = draw(*shape).to(dtype).masked_fill(undecided, 0) if relu else draw(*shape).to(dtype)

    def arguments(self, dtype: torch.dtype) -> list[Tensor]:
        wide = torch.promote_types(dtype, torch.float32)
        tensors = [self.x.to(dtype), self.weight.to(wide), self.bias.to(wide)]
        if self.shortcut is not None:
            tensors.append(self.shortcut.to(dtype))
        return [tensor.detach().clone().requires_grad_() for tensor in tensors]

    def results(self, dtype: torch.dtype, run: Any) -> dict[str, Tensor]:
        leaves = self.arguments(dtype)
        x, weight, bias, *rest = leaves
        out, statistics = run(x, weight, bias, rest[0] if rest else None, relu=self.relu)
        gradients = torch.autograd.grad(out, leaves, self.upstream.to(dtype))
        mean, variance = statistics
        found = {"out": out.detach(), "mean": mean, "variance": variance}
        return {**found, **dict(zip(NAMES, gradients, strict=False))}


def plain(
    x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None = None, *, relu: bool = True
) -> tuple[Tensor, Tensor]:
    """What torch's own functions make of it."""
    wide = torch.promote_types(x.dtype, torch.float32)
    y = F.batch_norm(x.movedim(-1, 1), None, None, weight.to(wide), bias.to(wide), training=True).movedim(1, -1)
    y = y if shortcut is None else y + shortcut.to(y.dtype)
    rows = x.detach().flatten(0, -2).to(wide)
    return F.relu(y) if relu else y, torch.stack([rows.mean(0), rows.var(0, correction=0)])


def ours(backend: str) -> Any:
    def run(x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None = None, **options: Any) -> Any:
        return batch_norm_relu(x, weight, bias, shortcut=shortcut, backend=backend, **options)

    return run


@pytest.mark.parametrize("backend", ["reference"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shortcut", [False, True])
def test_equations(backend: str, relu: bool, shortcut: bool) -> None:
    problem = Problem((3, 4, 5, 6), relu=relu, shortcut=shortcut)
    exact, found = problem.results(torch.float64, plain), problem.results(torch.float64, ours(backend))
    assert list(found) == list(exact)
    for name, value in found.items():
        torch.testing.assert_close(value, exact[name], rtol=1e-11, atol=1e-11, msg=name)


def test_gradcheck() -> None:
    problem = Problem((2, 3, 2, 4), relu=True)
    assert torch.autograd.gradcheck(
        lambda *a: batch_norm_relu(a[0], a[1], a[2], shortcut=a[3])[0], problem.arguments(torch.float64)
    )


@needs_kernel
@settings(max_examples=60, deadline=None)
@given(
    isa=st.sampled_from(build_config()["isa_supported"]),
    rows=st.sampled_from([2, 3, 15, 16, 17, 63, 64, 65, 127, 1000, 20001]),
    channels=st.sampled_from([1, 2, 3, 15, 16, 17, 64, 129]),
    dtype=st.sampled_from(DTYPES),
    relu=st.booleans(),
    shortcut=st.booleans(),
    mean=st.sampled_from([0.0, 3.0, -100.0]),
    threads=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 3),
)
def test_kernel_errs_no_more_than_torch(
    isa: str,
    rows: int,
    channels: int,
    dtype: torch.dtype,
    relu: bool,
    shortcut: bool,
    mean: float,
    threads: int,
    seed: int,
) -> None:
    # Of few numbers one draw says little: torch's error may be 0 by chance.
    draws = 16 if channels <= 3 else 1
    problems = [
        Problem((rows, channels), dtype, relu=relu, shortcut=shortcut, mean=mean, seed=draws * seed + draw)
        for draw in range(draws)
    ]

    def together(dtype: torch.dtype, run: Any) -> dict[str, Tensor]:
        results = [problem.results(dtype, run) for problem in problems]
        return {name: torch.stack([result[name] for result in results]) for name in results[0]}

    exact, torchs = together(torch.float64, plain), together(dtype, plain)
    upstream = torch.stack([problem.upstream for problem in problems])
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMOR_ISA", isa)
        torch.set_num_threads(threads)
        try:
            found = together(dtype, ours("cpu"))
        finally:
            torch.set_num_threads(before)
    for name, value in found.items():
        norm = float(exact[name].norm())
        error, allowed = (float((v.double() - exact[name]).norm()) for v in (value, torchs[name]))
        # In float32 the result is rounded a few times, and what is subtracted from x is itself rounded.
        floor = 4 if name in ("mean", "variance") else 4 + abs(mean)
        floor *= torch.finfo(torch.float32).eps
        scale = max(norm, float(upstream.double().norm()) if name in NAMES else norm)
        assert error <= 2 * allowed + floor * scale, f"{name}: {error:.2e} of {norm:.2e}, torch {allowed:.2e}"


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    problem, before = Problem((3001, 20), dtype), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            found.append(problem.results(dtype, ours("cpu")))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


@needs_kernel
@pytest.mark.parametrize("ratio", [1e3, 1e4])
def test_variance_beside_a_large_mean(ratio: float) -> None:
    """Sums of squares would lose all of it."""
    random = torch.Generator().manual_seed(0)
    x = (ratio + torch.randn(5000, 3, generator=random, dtype=torch.float64)).float()
    _, statistics = batch_norm_relu(x, torch.ones(3), torch.zeros(3), backend="cpu")
    exact = x.double()
    torch.testing.assert_close(statistics[0].double(), exact.mean(0), rtol=1e-7, atol=0)
    torch.testing.assert_close(statistics[1].double(), exact.var(0, correction=0), rtol=1e-6, atol=0)


@needs_kernel
def test_rows_that_begin_alike() -> None:
    """The point from which deviations are taken is that of the first rows, here empty persons."""
    x = torch.cat([torch.zeros(40, 5), 50 + torch.randn(2000, 5, generator=torch.Generator().manual_seed(0))])
    _, statistics = batch_norm_relu(x, torch.ones(5), torch.zeros(5), backend="cpu")
    torch.testing.assert_close(statistics[1].double(), x.double().var(0, correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_known_statistics_are_taken(backend: str) -> None:
    problem = Problem((4, 3, 5, 6))
    x, weight, bias, shortcut = problem.arguments(torch.float32)
    out, statistics = batch_norm_relu(x, weight, bias, shortcut=shortcut, backend=backend)
    assert not statistics.requires_grad
    again, same = batch_norm_relu(x, weight, bias, shortcut=shortcut, statistics=statistics, backend=backend)
    assert torch.equal(again, out)
    assert torch.equal(same, statistics)
    shifted = torch.stack([statistics[0] + 1, statistics[1]])
    other, _ = batch_norm_relu(x, weight, bias, shortcut=shortcut, statistics=shifted, relu=False, backend=backend)
    plainly, _ = batch_norm_relu(x, weight, bias, shortcut=shortcut, relu=False, backend=backend)
    moved = plainly - weight * (statistics[1] + 1e-5).rsqrt()
    torch.testing.assert_close(other, moved, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("needed", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 0, 1), (0, 1, 1, 1)])
@pytest.mark.parametrize("relu", [False, True])
def test_gradients_one_by_one(backend: str, needed: tuple[int, ...], relu: bool) -> None:
    problem = Problem((7, 3, 6), relu=relu)
    every = problem.results(torch.float32, ours(backend))
    leaves = [
        leaf.requires_grad_(bool(need)) for leaf, need in zip(problem.arguments(torch.float32), needed, strict=True)
    ]
    out, _ = batch_norm_relu(*leaves[:3], shortcut=leaves[3], relu=relu, backend=backend)
    out.backward(problem.upstream)
    for name, leaf, need in zip(NAMES, leaves, needed, strict=True):
        assert (leaf.grad is not None) == bool(need)
        if need:
            torch.testing.assert_close(leaf.grad, every[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["channels first", "every other", "expanded"])
def test_strides(backend: str, layout: str) -> None:
    problem = Problem((4, 6, 5, 8))
    x, weight, bias, shortcut = (t.detach() for t in problem.arguments(torch.float32))
    relayed = {
        "channels first": lambda t: t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "every other": lambda t: torch.stack([t, t], 2).flatten(1, 2)[:, ::2],
        "expanded": lambda t: t,
    }[layout]
    if layout == "expanded":
        shortcut = shortcut[:, :1].expand(4, 6, 5, 8)
    expected, _ = batch_norm_relu(x, weight, bias, shortcut=shortcut.contiguous(), backend=backend)
    out, _ = batch_norm_relu(relayed(x), weight, bias, shortcut=relayed(shortcut), backend=backend)
    assert torch.equal(out, expected)
    assert out.is_contiguous()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("turn", [lambda t: t[0].movedim(0, -1), lambda t: t[0, 0].t()], ids=["channels", "transposed"])
def test_views_give_contiguous_results(backend: str, turn: Any) -> None:
    """Of one clip channels first, and of a matrix, `reshape` makes a view with strides."""
    x, upstream = (turn(torch.randn(1, 6, 4, 5, generator=torch.Generator().manual_seed(i))) for i in (0, 1))
    assert not x.is_contiguous()
    one, x = torch.ones(x.shape[-1]), x.requires_grad_()
    out, _ = batch_norm_relu(x, one, one, backend=backend)
    assert out.is_contiguous()
    plainly, _ = plain(x, one, one)
    torch.testing.assert_close(out, plainly, rtol=1e-5, atol=1e-5)
    (dx,) = torch.autograd.grad(out, x, upstream)
    torch.testing.assert_close(dx, torch.autograd.grad(plainly, x, upstream)[0], rtol=1e-4, atol=1e-5)
    needed = [True, True, True, False]
    _, statistics = batch_norm_relu(x.detach(), one, one, backend=backend)
    found = BACKWARD(upstream, x.detach(), one, out.detach(), statistics, 1e-5, needed, backend)
    assert found[0].is_contiguous()


@needs_kernel
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_default_dtype_does_not_matter(default: torch.dtype) -> None:
    """Lightning's true half precision sets it around every step."""
    problem = Problem((7, 6))
    expected = problem.results(torch.float32, ours("cpu"))
    torch.set_default_dtype(default)
    try:
        found = problem.results(torch.float32, ours("cpu"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity_are_not_hidden(backend: str) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    x[7, 1] = torch.nan
    out, _ = batch_norm_relu(x, torch.ones(3), torch.zeros(3), backend=backend)
    assert out[:, 1].isnan().all()
    assert out[:, [0, 2]].isfinite().all()


def test_bad_arguments() -> None:
    x, one = torch.randn(4, 3), torch.ones(3)
    with pytest.raises(TypeError, match="floating-point"):
        batch_norm_relu(torch.ones(4, 3, dtype=torch.int64), one, one)
    for shape in ((3,), (1, 3), (0, 3), (4, 0)):
        with pytest.raises(ValueError, match="at least two rows"):
            batch_norm_relu(torch.ones(shape), one, one)
    with pytest.raises(TypeError, match=r"weight must be a torch\.Tensor, got float"):
        batch_norm_relu(x, 1.0, one)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weight must be \(3,\), torch.float32"):
        batch_norm_relu(x, torch.ones(4), one)
    with pytest.raises(ValueError, match="bias must be"):
        batch_norm_relu(x, one, one.double())
    with pytest.raises(ValueError, match="shortcut must be"):
        batch_norm_relu(x, one, one, shortcut=torch.ones(3, 3))
    with pytest.raises(ValueError, match="statistics must be"):
        batch_norm_relu(x, one, one, statistics=torch.ones(3))
    with pytest.raises(ValueError, match="unknown backend 'fast'"):
        batch_norm_relu(x, one, one, backend="fast")
    with pytest.raises(BackendUnavailableError, match="float64"):
        batch_norm_relu(x.double(), one.double(), one.double(), backend="cpu")
    out, _ = batch_norm_relu(x.requires_grad_(), one, one)
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(grad.sum(), x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend: str) -> None:
    x, weight, bias, shortcut = Problem((2, 3, 4)).arguments(torch.float32)
    statistics = torch.stack([x.detach().mean((0, 1)), x.detach().var((0, 1), correction=0)])
    for given_shortcut, known, relu in ((shortcut, None, True), (None, statistics, False)):
        torch.library.opcheck(OP, (x, weight, bias, given_shortcut, known, 1e-5, relu, backend))
    out = x.detach().relu()
    for needed in ([True] * 4, [False, True, False, False]):
        torch.library.opcheck(BACKWARD, (out, x.detach(), weight.detach(), out, statistics, 1e-5, needed, backend))


@pytest.mark.slow
def test_compiles_in_one_graph() -> None:
    problem = Problem((4, 5, 6))
    run = ours("auto")
    expected = problem.results(torch.float32, run)
    found = problem.results(torch.float32, torch.compile(run, fullgraph=True))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)


class TestStatisticsOfAttention:
    """`dependency_attention_statistics`: the same result, and the moments of it."""

    @staticmethod
    def tensors(
        clips: int, frames: int, joints: int, channels: int, outputs: int, dtype: torch.dtype, at: float = 0.0
    ) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)

        def draw(*sizes: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(sizes, generator=generator, dtype=torch.float64)).to(dtype)

        rows = 2 * 3 * 4
        return [
            draw(clips, frames, joints, channels), draw(rows, channels, scale=channels**-0.5), draw(rows),
            draw(3, joints, joints, scale=0.3), draw(outputs, 3 * channels, scale=(3 * channels) ** -0.5),
            draw(outputs) + at,
        ]  # fmt: skip

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("sizes", [(1, 1, 2, 3, 1), (3, 37, 17, 16, 16), (2, 150, 25, 3, 65), (5, 40, 51, 20, 64)])
    def test_moments(self, backend: str, dtype: torch.dtype, sizes: tuple[int, int, int, int, int]) -> None:
        tensors = self.tensors(*sizes, dtype)
        z, statistics = dependency_attention_statistics(*tensors, num_heads=3, backend=backend)
        assert torch.equal(z, dependency_attention(*tensors, num_heads=3, backend=backend))
        assert statistics.dtype == torch.float32
        rows = z.double().flatten(0, 2)
        # The kernel adds up what it has before z is rounded to 16 bits.
        precision = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
        mean, variance = rows.mean(0), rows.var(0, correction=0)
        size = (mean.square() + variance).max()
        torch.testing.assert_close(statistics[0].double(), mean, rtol=precision, atol=precision * float(size.sqrt()))
        torch.testing.assert_close(statistics[1].double(), variance, rtol=precision, atol=precision * float(size))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_large_mean(self, backend: str) -> None:
        tensors = self.tensors(4, 50, 17, 8, 16, torch.float32, at=1000.0)
        z, statistics = dependency_attention_statistics(*tensors, num_heads=3, backend=backend)
        variance = z.double().flatten(0, 2).var(0, correction=0)
        torch.testing.assert_close(statistics[1].double(), variance, rtol=1e-5, atol=0)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_gradients_are_those_of_the_op(self, backend: str) -> None:
        leaves = [t.requires_grad_() for t in self.tensors(3, 9, 5, 8, 7, torch.float32)]
        expected = torch.autograd.grad(
            dependency_attention(*leaves, num_heads=3, backend=backend).square().sum(), leaves
        )
        z, statistics = dependency_attention_statistics(*leaves, num_heads=3, backend=backend)
        assert not statistics.requires_grad
        for value, wanted in zip(torch.autograd.grad(z.square().sum(), leaves), expected, strict=True):
            assert torch.equal(value, wanted)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_opcheck(self, backend: str) -> None:
        leaves = [t.requires_grad_() for t in self.tensors(2, 3, 5, 4, 6, torch.float32)]
        torch.library.opcheck(torch.ops.tmor_fast.dependency_attention_statistics.default, (*leaves, 3, backend))

    def test_no_clip(self) -> None:
        with pytest.raises(ValueError, match="at least one clip"):
            dependency_attention_statistics(*self.tensors(0, 3, 5, 4, 6, torch.float32), num_heads=3)
