"""Convolution over time: the reference against loops over taps, the kernel's gradients against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tmor_fast.build import build_config, compiled
from tmor_fast.errors import BackendUnavailableError
from tmor_fast.nn.flops import flop_formulas
from tmor_fast.ops import temporal_convolution

OP = torch.ops.tmor_fast.temporal_convolution.default
BACKWARD = torch.ops.tmor_fast.temporal_convolution_backward.default
NAMES = ("x", "weight", "bias")
needs_kernel = pytest.mark.skipif(compiled("temporal_convolution", "cpu") is not None, reason="no compiled module")
BACKENDS = ("reference", pytest.param("cpu", marks=needs_kernel))


class Problem:
    """Arguments in float64 and a gradient of the result."""

    def __init__(
        self,
        clips: int = 2,
        frames: int = 11,
        joints: int = 3,
        channels: tuple[int, int] = (5, 7),
        *,
        kernel: int = 9,
        stride: int = 1,
        padding: int = 4,
        dilation: int = 1,
        bias: bool = True,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=generator, dtype=torch.float64)

        self.options = {"stride": stride, "padding": padding, "dilation": dilation}
        self.tensors = [draw(clips, frames, joints, channels[0]), draw(channels[1], channels[0], kernel)]
        if bias:
            self.tensors.append(draw(channels[1]))
        length = (frames + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        self.upstream = draw(clips, length, joints, channels[1])

    def leaves(self, dtype: torch.dtype) -> list[Tensor]:
        return [tensor.to(dtype).requires_grad_() for tensor in self.tensors]

    def results(self, dtype: torch.dtype, run: Any) -> dict[str, Tensor]:
        leaves = self.leaves(dtype)
        out = run(*leaves, **self.options)
        gradients = torch.autograd.grad(out, leaves, self.upstream.to(dtype))
        return {"out": out.detach(), **dict(zip(NAMES, gradients, strict=False))}


def by_taps(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int, padding: int, dilation: int
) -> Tensor:
    """The equation, frame by frame and tap by tap."""
    frames, kernel = x.shape[1], weight.shape[2]
    length = (frames + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    out = []
    for f in range(length):
        sources = [(k, f * stride + k * dilation - padding) for k in range(kernel)]
        taps = [x[:, source] @ weight[..., k].T for k, source in sources if 0 <= source < frames]
        out.append(sum(taps, torch.zeros(len(x), x.shape[2], len(weight), dtype=x.dtype)))
    y = torch.stack(out, 1)
    return y if bias is None else y + bias


def plain(x: Tensor, weight: Tensor, bias: Tensor | None = None, **options: int) -> Tensor:
    """torch's own convolution."""
    sizes = [(options[name], at) for name, at in (("stride", 1), ("padding", 0), ("dilation", 1))]
    return F.conv2d(x.movedim(-1, 1), weight.unsqueeze(-1), bias, *sizes).movedim(1, -1)


def ours(backend: str) -> Any:
    def run(*arguments: Tensor, **options: int) -> Tensor:
        return temporal_convolution(*arguments, backend=backend, **options)

    return run


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"stride": 2},
        {"stride": 3, "padding": 0},
        {"dilation": 2, "padding": 8},
        {"stride": 2, "dilation": 3, "padding": 12},
        {"kernel": 1, "padding": 0},
        {"kernel": 2, "padding": 5, "stride": 4},
        {"frames": 1},
        {"stride": 23, "padding": 20},
        {"padding": 30},
        {"frames": 3, "padding": 40, "stride": 5},
    ],
    ids=str,
)
def test_equations(backend: str, options: dict[str, Any]) -> None:
    problem = Problem(**options)
    dtype, tolerance = (torch.float64, 1e-12) if backend == "reference" else (torch.float32, 2e-6)
    exact, found = problem.results(torch.float64, by_taps), problem.results(dtype, ours(backend))
    assert list(found) == list(exact)
    for name, value in found.items():
        scale = float(exact[name].abs().max())
        torch.testing.assert_close(value.double(), exact[name], rtol=0, atol=tolerance * scale, msg=name)


def test_gradcheck() -> None:
    problem = Problem(clips=1, frames=4, joints=2, channels=(2, 3), kernel=3, padding=1, stride=2)
    assert torch.autograd.gradcheck(
        lambda *a: temporal_convolution(*a, **problem.options), problem.leaves(torch.float64)
    )


@needs_kernel
@settings(max_examples=80, deadline=None)
@given(
    isa=st.sampled_from(build_config()["isa_supported"]),
    clips=st.sampled_from([1, 2, 3, 33]),
    frames=st.sampled_from([1, 2, 9, 37, 150, 301]),
    joints=st.sampled_from([1, 5, 17, 25, 51]),
    channels=st.sampled_from([(1, 1), (3, 2), (64, 64), (129, 31), (8, 25), (33, 12), (16, 66)]),
    taps=st.sampled_from([(1, 0, 1), (9, 4, 1), (9, 16, 4), (5, 0, 1), (2, 3, 2)]),
    stride=st.sampled_from([1, 2, 3]),
    threads=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 3),
)
def test_kernel_errs_no_more_than_torch(
    isa: str,
    clips: int,
    frames: int,
    joints: int,
    channels: tuple[int, int],
    taps: tuple[int, int, int],
    stride: int,
    threads: int,
    seed: int,
) -> None:
    kernel, padding, dilation = taps
    assume(frames + 2 * padding > dilation * (kernel - 1) and clips * frames * joints <= 20_000)
    # Of few numbers one draw says little: torch's error may be 0 by chance.
    draws = 16 if channels == (1, 1) else 1
    problems = [
        Problem(
            clips, frames, joints, channels, kernel=kernel, padding=padding, dilation=dilation, stride=stride,
            seed=draws * seed + draw,
        )
        for draw in range(draws)
    ]  # fmt: skip

    def together(dtype: torch.dtype, run: Any) -> dict[str, Tensor]:
        results = [problem.results(dtype, run) for problem in problems]
        return {name: torch.stack([result[name] for result in results]) for name in results[0]}

    exact = together(torch.float64, plain)
    upstream = torch.stack([problem.upstream for problem in problems])
    # oneDNN's weight gradient of strided convolutions writes out of bounds in some of these cases (torch 2.13).
    with torch.backends.mkldnn.flags(enabled=False):
        torchs = together(torch.float32, plain)
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMOR_ISA", isa)
        torch.set_num_threads(threads)
        try:
            found = together(torch.float32, ours("cpu"))
        finally:
            torch.set_num_threads(before)
    for name, value in found.items():
        norm = float(exact[name].norm())
        error, allowed = (float((v.double() - exact[name]).norm()) for v in (value, torchs[name]))
        # The terms of the bias may all but cancel.
        scale = max(norm, float(upstream.norm())) if name == "bias" else norm
        floor = 4 * torch.finfo(torch.float32).eps * scale
        assert error <= 2 * allowed + floor, f"{name}: {error:.2e} of {norm:.2e}, torch {allowed:.2e}"


@needs_kernel
@pytest.mark.parametrize("clips", [1, 5, 40])
def test_same_bits_for_any_number_of_threads(clips: int) -> None:
    problem, before = Problem(clips, 150, 17, (40, 30)), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            found.append(problem.results(torch.float32, ours("cpu")))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in ("weight", "bias"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("needed", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1)])
def test_gradients_one_by_one(backend: str, needed: tuple[int, ...]) -> None:
    problem = Problem()
    every = problem.results(torch.float32, ours(backend))
    leaves = [leaf.requires_grad_(bool(need)) for leaf, need in zip(problem.leaves(torch.float32), needed, strict=True)]
    temporal_convolution(*leaves, backend=backend, **problem.options).backward(problem.upstream.float())
    for name, leaf, need in zip(NAMES, leaves, needed, strict=True):
        assert (leaf.grad is not None) == bool(need)
        if need:
            torch.testing.assert_close(leaf.grad, every[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["channels first", "every other", "expanded"])
def test_strides(backend: str, layout: str) -> None:
    problem = Problem(clips=4, frames=6)

    def relayed(t: Tensor) -> Tensor:
        if layout == "channels first":
            return t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        return torch.stack([t, t], 2).flatten(1, 2)[:, ::2] if layout == "every other" else t[:1].expand_as(t)

    def run(x: Tensor, weight: Tensor, bias: Tensor, upstream: Tensor) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
        out = temporal_convolution(*leaves, backend=backend, **problem.options)
        assert out.is_contiguous()
        return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]

    x, weight, bias = (tensor.float() for tensor in problem.tensors)
    x, upstream = relayed(x), relayed(problem.upstream.float())
    found = run(x, weight.transpose(1, 2).contiguous().transpose(1, 2), bias, upstream)
    expected = run(x.contiguous(), weight, bias, upstream.contiguous())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity_are_not_hidden(backend: str) -> None:
    problem = Problem(frames=20, channels=(3, 4))
    problem.tensors[0][1, 10, 2, 1] = torch.nan
    problem.upstream[0, 9, 1, 2] = torch.inf
    found = problem.results(torch.float32, ours(backend))
    assert found["weight"][:, 1].isnan().all()
    assert found["weight"][[0, 1, 3]][:, [0, 2]].isfinite().all()
    assert not found["weight"][2].isfinite().any()
    assert found["bias"].isfinite().tolist() == [True, True, False, True]


def test_no_clips() -> None:
    x, weight = torch.randn(0, 5, 3, 4, requires_grad=True), torch.randn(6, 4, 3, requires_grad=True)
    out = temporal_convolution(x, weight, padding=1)
    assert tuple(out.shape) == (0, 5, 3, 6)
    out.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@needs_kernel
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_default_dtype_does_not_matter(default: torch.dtype) -> None:
    """Lightning's true half precision sets it around every step."""
    problem = Problem()
    expected = problem.results(torch.float32, ours("cpu"))
    torch.set_default_dtype(default)
    try:
        found = problem.results(torch.float32, ours("cpu"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_autocast_is_that_of_a_convolution() -> None:
    problem = Problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = problem.results(torch.float32, ours("auto")), problem.results(torch.float32, plain)
        assert problem.results(torch.float64, ours("auto"))["out"].dtype == torch.float64
    for name, value in found.items():
        assert value.dtype == expected[name].dtype
        torch.testing.assert_close(value, expected[name], rtol=0.02, atol=0.02 * float(expected[name].abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_result_may_be_changed_in_place(backend: str) -> None:
    problem = Problem()
    x, weight, bias = problem.leaves(torch.float32)
    temporal_convolution(x, weight, bias, backend=backend, **problem.options).relu_().sum().backward()
    found, x.grad = x.grad, None
    temporal_convolution(x, weight, bias, backend=backend, **problem.options).relu().sum().backward()
    assert found is not None
    assert torch.equal(found, x.grad)  # type: ignore[arg-type]


def test_bad_arguments() -> None:
    x, weight, bias = torch.randn(2, 9, 3, 4), torch.randn(5, 4, 3), torch.randn(5)
    with pytest.raises(TypeError, match="must be floating point"):
        temporal_convolution(torch.ones(2, 9, 3, 4, dtype=torch.int64), weight)
    with pytest.raises(TypeError, match=r"weight must be a torch\.Tensor, got float"):
        temporal_convolution(x, 1.0)  # type: ignore[arg-type]
    for wrong in (weight[..., :0], weight[:0], weight[:, :3], weight[0], weight[..., None]):
        with pytest.raises(ValueError, match=r"weight \(Cout, Cin, K\), none of the sizes"):
            temporal_convolution(x, wrong)
    for wrong in (x[0], x[:, :0], x[:, :, :0], x[..., :0]):
        with pytest.raises(ValueError, match=r"x must be \(B, T, V, Cin\)"):
            temporal_convolution(wrong, weight)
    with pytest.raises(ValueError, match=r"bias must be \(5,\) or None, got \(4,\)"):
        temporal_convolution(x, weight, bias[:4])
    with pytest.raises(ValueError, match=r"weight must be torch\.float32 on cpu"):
        temporal_convolution(x, weight.double())
    with pytest.raises(ValueError, match=r"bias must be torch\.float32 on cpu"):
        temporal_convolution(x, weight, bias.half())
    for name, value in (("stride", 0), ("padding", -1), ("dilation", 0), ("stride", True), ("stride", 1.0)):
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least"):
            temporal_convolution(x, weight, **{name: value})
    with pytest.raises(ValueError, match="3 taps with dilation 5 span more than the 9 frames of x with padding 0"):
        temporal_convolution(x, weight, dilation=5)
    with pytest.raises(ValueError, match="unknown backend 'fast'"):
        temporal_convolution(x, weight, backend="fast")
    with pytest.raises(BackendUnavailableError, match="float64"):
        temporal_convolution(x.double(), weight.double(), backend="cpu")


def test_second_derivatives_are_refused() -> None:
    x, weight = torch.randn(2, 9, 3, 4, requires_grad=True), torch.randn(5, 4, 3)
    (grad,) = torch.autograd.grad(temporal_convolution(x, weight).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(grad.sum(), x)


@needs_kernel
def test_a_gradient_of_another_shape_is_refused() -> None:
    """The kernel would read beyond it, or write beyond that of the weight."""
    with pytest.raises(ValueError, match="grad_weight has shape"):
        BACKWARD(
            torch.randn(2, 9, 3, 5), torch.randn(2, 9, 3, 6), torch.randn(5, 4, 3), 1, 1, 1, [False, True, True], "cpu"
        )
    with pytest.raises(ValueError, match="grad has shape"):
        BACKWARD(
            torch.randn(2, 8, 3, 5), torch.randn(2, 9, 3, 4), torch.randn(5, 4, 3), 1, 1, 1, [False, True, True], "cpu"
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend: str) -> None:
    for options in ({}, {"stride": 2, "bias": False}):
        problem = Problem(**options)
        leaves = [*problem.leaves(torch.float32), None][:3]
        sizes = [problem.options[name] for name in ("stride", "padding", "dilation")]
        torch.library.opcheck(OP, (*leaves, *sizes, backend))
        x, weight = (tensor.float() for tensor in problem.tensors[:2])
        for needed in ([True] * 3, [False, True, False]):
            torch.library.opcheck(BACKWARD, (problem.upstream.float(), x, weight, *sizes, needed, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_operations_are_counted_as_those_of_a_convolution(backend: str) -> None:
    problem = Problem(stride=2)
    counts = []
    for run in (plain, ours(backend)):
        counter = FlopCounterMode(display=False, custom_mapping=flop_formulas())
        with counter:
            problem.results(torch.float32, run)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.slow
def test_compiles_in_one_graph() -> None:
    problem = Problem(stride=2)
    run = ours("auto")
    expected = problem.results(torch.float32, run)
    found = problem.results(torch.float32, torch.compile(run, fullgraph=True))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5, msg=name)
