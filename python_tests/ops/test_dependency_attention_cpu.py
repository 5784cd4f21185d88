"""The compiled CPU kernels of dependency_attention against the reference equations in float64."""

from __future__ import annotations

import _thread
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tmor_fast.ops.dependency_attention_cpu as kernels
from tmor_fast.benchmark.memory import ResidentPeak
from tmor_fast.build import build_config, compiled
from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops.dependency_attention import dependency_attention

pytestmark = pytest.mark.skipif(
    compiled("dependency_attention", "cpu") is not None, reason="the compiled module is not there"
)

OP = torch.ops.tmor_fast.dependency_attention.default
BACKWARD = torch.ops.tmor_fast.dependency_attention_backward.default
ISAS = build_config()["isa_supported"]
NAMES = ("x", "query_key_weight", "query_key_bias", "dependency", "value_weight", "value_bias")
SINGLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16
EPSILON = torch.finfo(SINGLE).eps


@contextmanager
def instruction_set(isa: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMOR_ISA", isa)
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Problem:
    """Arguments of the op, a shortcut, and a gradient of the result that is 0 where a ReLU might be undecided."""

    def __init__(
        self,
        shape: tuple[int, int, int, int] = (3, 7, 17, 16),
        outputs: int = 16,
        heads: int = 3,
        size: int = 4,
        dtype: torch.dtype = SINGLE,
        *,
        epilogue: bool = False,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        channels = shape[3]

        def draw(*sizes: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(sizes, generator=generator, dtype=torch.float64)).to(dtype)

        rows = 2 * heads * size
        self.tensors = [draw(*shape), draw(rows, channels, scale=channels**-0.5), draw(rows)]
        self.tensors += [draw(heads, shape[2], shape[2], scale=0.3)]
        self.tensors += [draw(outputs, heads * channels, scale=(heads * channels) ** -0.5), draw(outputs)]
        self.shortcut = draw(*shape[:3], outputs) if epilogue else None
        self.heads, self.relu = heads, epilogue
        self.upstream = draw(*shape[:3], outputs)
        if epilogue:
            with torch.no_grad():
                z = self.value(torch.float64, "reference", relu=False)
            self.upstream[z.abs() < (1e-3 if dtype == SINGLE else 0.1)] = 0

    def value(self, dtype: torch.dtype, backend: str, **options: Any) -> Tensor:
        shortcut = None if self.shortcut is None else self.shortcut.to(dtype)
        options = {"relu": self.relu} | options
        tensors = [t.to(dtype) for t in self.tensors]
        return dependency_attention(*tensors, num_heads=self.heads, shortcut=shortcut, backend=backend, **options)

    def results(self, dtype: torch.dtype, backend: str) -> dict[str, Tensor]:
        """Value and all gradients, computed in `dtype` by `backend`."""
        leaves = [t.detach().to(dtype) for t in self.tensors]
        # A view keeps its strides as a leaf.
        leaves = [leaf.requires_grad_() for leaf in leaves]
        names = NAMES
        shortcut = None
        if self.shortcut is not None:
            shortcut = self.shortcut.detach().to(dtype).requires_grad_()
            names = (*names, "shortcut")
        z = dependency_attention(
            *leaves, num_heads=self.heads, shortcut=shortcut, relu=self.relu, backend=backend
        )  # fmt: skip
        wanted = leaves if shortcut is None else [*leaves, shortcut]
        gradients = torch.autograd.grad(z, wanted, self.upstream.to(dtype))
        return {"z": z.detach(), **dict(zip(names, gradients, strict=True))}


def relayed(x: Tensor, layout: str) -> Tensor:
    """The same numbers, lying otherwise in memory."""
    if layout == "channels first":
        return x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    if layout == "every other frame":
        return torch.stack([x, x], dim=2).flatten(1, 2)[:, ::2]
    if layout == "some channels":
        return torch.nn.functional.pad(x, (1, 2))[..., 1:-2]
    return x


def check(problem: Problem, isa: str, count: int = 1) -> None:
    """Value and gradients of the kernel are those of float64, but for rounding."""
    dtype = problem.tensors[0].dtype
    exact = problem.results(torch.float64, "reference")
    plain = problem.results(dtype, "reference")
    with instruction_set(isa), threads(count):
        ours = problem.results(dtype, "cpu")
    for name, value in ours.items():
        assert value.dtype == dtype
        assert value.shape == exact[name].shape
        norm = float(exact[name].norm())
        error, allowed = (float((v.double() - exact[name]).norm()) for v in (value, plain[name]))
        # What passes through the softmax is a small difference of large sums.
        terms = 30 if name in ("query_key_weight", "query_key_bias") else 6
        limit = 2 * allowed + torch.finfo(dtype).eps * norm + terms * EPSILON * norm
        if not norm:
            limit = 1e-5
        assert error <= limit, f"{name}: {error / norm:.2e}, plain torch {allowed / norm:.2e}"


@settings(max_examples=40, deadline=None)
@given(
    isa=st.sampled_from(ISAS),
    clips=st.sampled_from([0, 1, 1, 2, 5]),
    frames=st.sampled_from([1, 2, 37, 150, 301]),
    joints=st.sampled_from([5, 13, 17, 20, 25, 31, 51, 153]),
    channels=st.sampled_from([2, 3, 64, 129]),
    outputs=st.sampled_from([1, 7, 64, 129]),
    heads=st.sampled_from([1, 2, 3]),
    size=st.sampled_from([1, 5, 16]),
    dtype=st.sampled_from([SINGLE, SINGLE, HALF, BRAIN]),
    epilogue=st.booleans(),
    layout=st.sampled_from(["as is", "channels first", "every other frame", "some channels"]),
    count=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 1000),
)
def test_value_and_gradients_are_those_of_the_reference_in_float64(
    isa: str, clips: int, frames: int, joints: int, channels: int, outputs: int, heads: int, size: int,
    dtype: torch.dtype, epilogue: bool, layout: str, count: int, seed: int,
) -> None:  # fmt: skip
    while clips * frames * joints * max(channels, outputs) * heads > 2**18 and clips * frames > 2:
        clips, frames = max(clips // 2, 1), max(frames // 2, 1)
    problem = Problem((clips, frames, joints, channels), outputs, heads, size, dtype, epilogue=epilogue, seed=seed)
    problem.tensors[0] = relayed(problem.tensors[0], layout)
    check(problem, isa, count)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("shape", "outputs", "size"),
    [((2, 301, 17, 2), 64, 16), ((1, 150, 25, 64), 64, 16), ((3, 75, 17, 129), 20, 5), ((1, 2, 153, 3), 7, 1)],
)
def test_long_clips_and_many_joints(shape: tuple[int, int, int, int], outputs: int, size: int, isa: str) -> None:
    check(Problem(shape, outputs, 3, size), isa, 2)
    check(Problem(shape, outputs, 3, size, epilogue=True), isa, 1)


@pytest.mark.parametrize("epilogue", [False, True])
@pytest.mark.parametrize("dtype", [SINGLE, HALF, BRAIN])
def test_error_is_at_most_twice_that_of_plain_torch(dtype: torch.dtype, epilogue: bool) -> None:
    # The root mean square over several draws, because one number may happen to be exact.
    squares: dict[tuple[str, str], float] = {}
    shapes = [(2, 16, 17, 8), (1, 33, 5, 64), (3, 20, 25, 16)]
    for shape, seed in itertools.product(shapes, range(3)):
        problem = Problem(shape, 16, 3, 4, dtype, epilogue=epilogue, seed=seed)
        exact = problem.results(torch.float64, "reference")
        found = {"plain": problem.results(dtype, "reference")}
        for isa in ISAS:
            with instruction_set(isa):
                found[isa] = problem.results(dtype, "cpu")
        for (who, values), name in itertools.product(found.items(), exact):
            error = float((values[name].double() - exact[name]).norm() / exact[name].norm())
            squares[who, name] = squares.get((who, name), 0.0) + error**2
    for isa, name in itertools.product(ISAS, exact):
        assert squares[isa, name] <= 4 * squares["plain", name], (isa, name, squares)


def test_long_aligned_clips_do_not_overflow_float16() -> None:
    # Every theta and phi is near 2, so each logit is near 4, but the sum of Ce * T = 19,200 products is 76,800; the
    # values themselves are far beyond what the products of float16 could hold.
    problem = Problem((1, 300, 5, 8), 4, 1, 64, HALF)
    problem.tensors[0] = 1 + 0.1 * problem.tensors[0]
    problem.tensors[1] = 0.25 + 0.01 * problem.tensors[1]
    problem.tensors[2] = 0.01 * problem.tensors[2]
    for isa in ISAS:
        check(problem, isa)
    problem.tensors[4] = torch.full_like(problem.tensors[4], 6e4)
    value = problem.value(HALF, "cpu")
    assert value.isinf().any(), "what does not fit is infinite, as in torch"
    assert not value.isnan().any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("clips", [1, 2, 9])
def test_any_number_of_threads_gives_the_same_value(isa: str, clips: int) -> None:
    problem = Problem((clips, 60, 17, 24), 32, 3, 8, epilogue=True)
    found = []
    for count in (1, 1, 2, 3, 7, 7):
        with instruction_set(isa), threads(count):
            found.append(problem.results(SINGLE, "cpu"))
    for other in found[1:]:
        assert torch.equal(other["z"], found[0]["z"])
        for name, value in found[0].items():
            assert float((other[name] - value).norm() / value.norm()) < 5e-6, name
    for a, b in (found[:2], found[4:]):
        assert all(torch.equal(a[name], b[name]) for name in a), "equal calls give equal bits"


def test_a_clip_is_the_same_alone_and_in_a_batch() -> None:
    problem = Problem((9, 20, 17, 16), 16)
    whole = problem.value(SINGLE, "cpu")
    problem.tensors[0] = problem.tensors[0][3:4]
    assert torch.equal(problem.value(SINGLE, "cpu"), whole[3:4])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [SINGLE, HALF])
def test_shortcut_and_relu_are_what_torch_adds(backend: str, dtype: torch.dtype) -> None:
    problem = Problem((2, 5, 17, 16), 16, dtype=dtype, epilogue=True)
    assert problem.shortcut is not None
    shortcut = problem.shortcut
    for with_shortcut, relu in itertools.product([False, True], [False, True]):
        problem.shortcut = None
        z = problem.value(dtype, backend, relu=False).float()
        problem.shortcut = shortcut if with_shortcut else None
        expected = z + shortcut.float() if with_shortcut else z
        expected = expected.relu() if relu else expected
        found = problem.value(dtype, backend, relu=relu)
        torch.testing.assert_close(found.float(), expected, rtol=torch.finfo(dtype).eps, atol=4e-3 if relu else 2e-3)
        assert not relu or (found >= 0).all()


@pytest.mark.parametrize("wanted", [(), *[(i,) for i in range(6)], (0, 3), (1, 4, 5), (2, 3)])
@pytest.mark.parametrize(("clips", "count"), [(5, 1), (1, 2)])
def test_only_wanted_gradients_are_computed(wanted: tuple[int, ...], clips: int, count: int) -> None:
    problem = Problem((clips, 9, 17, 6), 10)
    with threads(count):
        full = problem.results(SINGLE, "cpu")
        needed = [i in wanted for i in range(6)]
        found = BACKWARD(problem.upstream, *problem.tensors[:5], 3, needed, "cpu")
    assert [gradient.numel() > 0 for gradient in found] == needed
    for name, gradient in zip(NAMES, found, strict=True):
        if gradient.numel():
            assert torch.equal(gradient, full[name]), name


def test_gradient_of_the_shortcut_alone() -> None:
    problem = Problem((2, 3, 5, 4), 4, epilogue=True)
    assert problem.shortcut is not None
    shortcut = problem.shortcut.requires_grad_()
    out = dependency_attention(*problem.tensors, num_heads=3, shortcut=shortcut, relu=True, backend="cpu")
    out.backward(problem.upstream)
    assert torch.equal(shortcut.grad, torch.where(out > 0, problem.upstream, 0))


@pytest.mark.parametrize("isa", ISAS)
def test_numbers_that_are_not_finite_are_seen(isa: str) -> None:
    for value, epilogue in itertools.product((float("nan"), float("inf")), (False, True)):
        problem = Problem((2, 3, 5, 4), 4, epilogue=epilogue)
        problem.tensors[0][0, 1, 2, 3] = value
        with instruction_set(isa):
            out = problem.value(SINGLE, "cpu")
        assert not out[0].isfinite().all()
        assert out[1].isfinite().all()


def test_auto_takes_the_kernel_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend_of(problem: Problem, dtype: torch.dtype) -> str:
        auto = problem.value(dtype, "auto")
        names = [name for name in ("cpu", "reference") if torch.equal(auto, problem.value(dtype, name))]
        assert len(names) == 1, "the backends cannot be told apart"
        return names[0]

    problem = Problem((2, 30, 17, 16), 16)
    for native in (False, True):
        monkeypatch.setattr(kernels, "_NATIVE_BFLOAT16", native)
        assert backend_of(problem, SINGLE) == "cpu"
        assert backend_of(problem, HALF) == "cpu"
        assert backend_of(problem, BRAIN) == ("reference" if native else "cpu")
    assert torch.equal(problem.value(torch.float64, "auto"), problem.value(torch.float64, "reference"))


def test_what_the_kernel_cannot_take_is_refused_with_the_reason() -> None:
    problem = Problem((2, 3, 5, 4), 4, epilogue=True)
    with pytest.raises(BackendUnavailableError, match=r"x is torch.float64 \(backend 'reference' takes it\)"):
        problem.value(torch.float64, "cpu")
    away = [t.to("meta") for t in problem.tensors]
    with pytest.raises(BackendUnavailableError, match="it takes CPU tensors, x is on meta"):
        dependency_attention(*away, num_heads=3, backend="cpu")
    with instruction_set("abacus"), pytest.raises(ValueError, match=r"'abacus'.*accepted: portable"):
        problem.value(SINGLE, "cpu")
    for shortcut in (torch.zeros(2, 3, 5, 5), torch.zeros(2, 3, 5, 4, dtype=HALF), torch.zeros(2, 3, 5, 4).to("meta")):
        with pytest.raises(ValueError, match=r"shortcut must be \(2, 3, 5, 4\), torch.float32 on cpu"):
            dependency_attention(*problem.tensors, num_heads=3, shortcut=shortcut)
    with pytest.raises(TypeError, match=r"shortcut must be a torch.Tensor or None, got list"):
        dependency_attention(*problem.tensors, num_heads=3, shortcut=[1.0])  # type: ignore[arg-type]


def test_empty_batch() -> None:
    problem = Problem((0, 2, 3, 4), 5, epilogue=True)
    found = problem.results(SINGLE, "cpu")
    assert found["z"].shape == (0, 2, 3, 5)
    assert all(not value.any() for value in found.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("epilogue", [False, True])
def test_opcheck(epilogue: bool) -> None:
    problem = Problem((2, 3, 4, 2), 3, 2, 1, epilogue=epilogue)
    leaves = [t.requires_grad_() for t in problem.tensors]
    torch.library.opcheck(OP, (*leaves, problem.shortcut, 2, epilogue, "cpu"))
    plain = [t.detach() for t in leaves[:5]]
    for needed in ([True] * 6, [False] * 6, [False, True, False, True, False, True]):
        quick = ("test_schema", "test_faketensor")
        torch.library.opcheck(BACKWARD, (problem.upstream, *plain, 2, needed, "cpu"), test_utils=quick)


@pytest.mark.parametrize("relu", [False, True])
def test_compiles_without_a_graph_break(relu: bool) -> None:
    problem = Problem((2, 3, 4, 2), 3, 2, 1, epilogue=True)
    leaves = [t.requires_grad_() for t in (*problem.tensors, problem.shortcut) if t is not None]

    def block(*t: Tensor) -> Tensor:
        return 2 * dependency_attention(*t[:6], num_heads=2, shortcut=t[6], relu=relu)

    compiled_block = torch.compile(block, fullgraph=True, backend="aot_eager")
    outputs = [function(*leaves) for function in (compiled_block, block)]
    assert torch.equal(*outputs)
    for ours, eager in zip(*(torch.autograd.grad(out, leaves, problem.upstream) for out in outputs), strict=True):
        assert torch.equal(ours, eager)


@pytest.mark.parametrize("native", [False, True])
def test_autocast_casts_everything_and_returns_gradients_in_their_dtypes(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_NATIVE_BFLOAT16", native)
    problem = Problem((2, 3, 17, 4), 4, epilogue=True)
    leaves = [t.requires_grad_() for t in (*problem.tensors, problem.shortcut) if t is not None]
    with torch.autocast("cpu", BRAIN):
        out = dependency_attention(*leaves[:6], num_heads=3, shortcut=leaves[6], relu=True)
    assert out.dtype == BRAIN
    out.backward(problem.upstream.to(BRAIN))
    assert all(t.grad is not None and t.grad.dtype == SINGLE for t in leaves)
    with torch.no_grad():
        expected = problem.value(SINGLE, "reference")
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.06)


def test_second_derivative_is_refused() -> None:
    problem = Problem((1, 2, 3, 2), 3, 1, 1)
    leaf = problem.tensors[0].requires_grad_()
    out = dependency_attention(*problem.tensors, num_heads=1, backend="cpu")
    (first,) = torch.autograd.grad(out.sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        first.sum().backward()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc: resident memory cannot be watched")
def test_memory_does_not_grow_with_the_clips() -> None:
    above = []
    for clips in (2, 40):
        problem = Problem((clips, 100, 17, 32), 32)
        problem.results(SINGLE, "cpu")
        peak = ResidentPeak()
        peak.start()
        found = problem.results(SINGLE, "cpu")
        # The value, its saved input's copies and gradients are the caller's.
        own = sum(value.numel() * value.element_size() for value in found.values()) + problem.upstream.numel() * 4
        above.append((peak.above() or 0) - own)
    # The mixed values of 40 clips alone would be 25 MiB.
    assert above[1] < above[0] + 8 * 2**20


def test_ctrl_c_ends_a_long_call() -> None:
    problem = Problem((160, 100, 17, 64), 64)

    def keep_calling() -> None:
        while time.perf_counter() < start + 30:
            problem.value(SINGLE, "cpu")

    timer = threading.Timer(0.3, _thread.interrupt_main)
    with threads(1):
        timer.start()
        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            keep_calling()
        timer.join()
    assert time.perf_counter() - start < 10
