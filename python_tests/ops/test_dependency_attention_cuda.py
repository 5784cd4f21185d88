"""The CUDA backends of dependency_attention: their wiring on any machine; values and gradients where there is a GPU.

Needs torch and pytest alone, as a bare GPU machine has them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_cases import DTYPES, FEW, SHAPES, SMALL, Sizes, arguments, literal, poisoned
from torch import Tensor

from tmor_fast.build import compiled, extension
from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops import dependency_attention, dependency_attention_cuda, registry
from tmor_fast.ops.dependency_attention import _candidates

# Before CUDA starts: cuBLAS is then deterministic on every stream.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

NAMES = ("x", "query_key_weight", "query_key_bias", "dependency", "value_weight", "value_bias")
needs_build = pytest.mark.skipif(compiled("dependency_attention", "cuda") is not None, reason="this build has no CUDA")
not_small = pytest.mark.skipif(SMALL, reason="too long under compute-sanitizer")


def on_gpu(dtype: torch.dtype = torch.float32) -> Any:
    """Stands for a tensor on a GPU where there is none."""
    return SimpleNamespace(device=torch.device("cuda", 0), dtype=dtype, shape=(2, 3, 17, 64))


@pytest.fixture(autouse=True)
def no_answers_of_another_test() -> Iterator[None]:
    yield
    dependency_attention_cuda._find_refusal.cache_clear()


def answers_are(
    answer: str, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (8, 0)
) -> list[dict[str, Any]]:
    """A build with CUDA whose device refuses with `answer`; what it was asked."""
    asked: list[dict[str, Any]] = []

    def refusal(given: dict[str, Any]) -> str:
        asked.append(given)
        return answer

    module = SimpleNamespace(dependency_attention_cuda_refusal=refusal)
    monkeypatch.setattr(dependency_attention_cuda, "_MISSING", dict.fromkeys(dependency_attention_cuda.BACKENDS))
    monkeypatch.setattr(dependency_attention_cuda, "extension", lambda: module)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    dependency_attention_cuda._find_refusal.cache_clear()
    return asked


@pytest.mark.parametrize("backend", dependency_attention_cuda.BACKENDS)
def test_cpu_tensors_are_refused_with_the_reason(backend: str) -> None:
    tensors = arguments(FEW[0], torch.float32, device="cpu")
    with pytest.raises(BackendUnavailableError, match=f"'{backend}' cannot run: it takes CUDA tensors, x is on cpu"):
        dependency_attention(*tensors, num_heads=3, backend=backend)


@pytest.mark.parametrize("backend", dependency_attention_cuda.BACKENDS)
def test_without_cuda_auto_takes_the_reference(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = dict.fromkeys(dependency_attention_cuda.BACKENDS, "this build has no CUDA: no nvcc found")
    monkeypatch.setattr(dependency_attention_cuda, "_MISSING", missing)
    candidates = _candidates(on_gpu(), (64, 3, 16))
    with pytest.raises(BackendUnavailableError, match="this build has no CUDA: no nvcc found"):
        registry.choose("dependency_attention", backend, candidates)
    assert registry.choose("dependency_attention", "auto", candidates) == "reference"


def test_what_auto_takes_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (64, 3, 16)
    answers_are("", monkeypatch)
    for dtype in DTYPES:
        assert registry.choose("dependency_attention", "auto", _candidates(on_gpu(dtype), sizes)) == "cuda"
    double = _candidates(on_gpu(torch.float64), sizes)
    assert registry.choose("dependency_attention", "auto", double) == "reference"
    with pytest.raises(BackendUnavailableError, match=r"bfloat16, x is torch\.float64"):
        registry.choose("dependency_attention", "cuda", double)
    answers_are("too little shared memory", monkeypatch)
    assert registry.choose("dependency_attention", "auto", _candidates(on_gpu(), sizes)) == "reference"
    with pytest.raises(BackendUnavailableError, match="too little shared memory"):
        registry.choose("dependency_attention", "cuda", _candidates(on_gpu(), sizes))
    assert registry.choose("dependency_attention", "cuda_naive", _candidates(on_gpu(), sizes)) == "cuda_naive"
    answers_are("", monkeypatch, capability=(7, 5))
    with pytest.raises(BackendUnavailableError, match=r"needs compute capability 8\.0, cuda:0 has 7\.5"):
        registry.choose("dependency_attention", "cuda_naive", _candidates(on_gpu(), sizes))


def test_the_device_is_asked_once_for_the_same_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers_are("", monkeypatch)
    for _ in range(3):
        for sizes in ((64, 3, 16), (64, 3, 17)):
            assert dependency_attention_cuda.unavailable("cuda", on_gpu(), sizes) is None
    assert [given["embedding"] for given in asked] == [16, 17]


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiled_code_may_see_several_sizes(dynamic: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's answer depends on sizes that torch.compile would rather keep open."""
    asked = answers_are("this device refuses", monkeypatch)
    monkeypatch.setattr(dependency_attention_cuda, "not_taken", lambda x, device: None)  # CPU tensors come this far
    torch.compiler.reset()
    whole = torch.compile(
        lambda *t: dependency_attention(*t, num_heads=3), fullgraph=True, backend="eager", dynamic=dynamic
    )
    cases = [((2, 4, joints, inputs), outputs, 3, 4) for joints, inputs, outputs in ((5, 8, 6), (7, 8, 6), (7, 9, 10))]
    for sizes in (*cases, ((3, 6, 5, 8), 6, 3, 4)):
        tensors = arguments(sizes, torch.float32, device="cpu")
        torch.testing.assert_close(whole(*tensors), dependency_attention(*tensors, num_heads=3, backend="reference"))
    found = {(given["joints"], given["channels_in"], given["channels_out"]) for given in asked}
    assert found == {(5, 8, 6), (7, 8, 6), (7, 9, 10)}
    assert all(type(value) is int for given in asked for value in given.values())


def test_last_products_of_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch makes of the gradient of theta and phi, for clips in groups; of theta's bias it is 0 by nature."""
    sizes: Sizes = ((5, 4, 7, 6), 8, 2, 3)
    tensors = [t.requires_grad_() for t in arguments(sizes, torch.float64, device="cpu")]
    z = literal(*tensors, 2)
    of_bias = torch.autograd.grad(z, tensors[2], torch.randn_like(z))[0]
    assert of_bias[:6].norm() < 1e-12 * of_bias[6:].norm()

    x, weight = tensors[0].detach(), tensors[1].detach()
    pull = torch.randn(5, 4, 7, 12, dtype=torch.float64)
    call = SimpleNamespace(x=x, given={}, add=lambda grad_embedding: call.given.update(buffer=grad_embedding))

    def run(which: str) -> None:
        part = pull[call.given["first_clip"] : call.given["last_clip"]]
        call.given["buffer"][: len(part)] = part

    call.run = run
    monkeypatch.setattr(dependency_attention_cuda, "EMBEDDING_BYTES", 2 * 4 * 7 * 12 * 8)
    dx, dweight, dbias = torch.ones_like(x), torch.empty_like(weight), torch.empty(12, dtype=torch.float64)
    dependency_attention_cuda._through_embedding(call, weight, dx, dweight, dbias)  # type: ignore[arg-type]
    torch.testing.assert_close(dx, 1 + pull @ weight)
    torch.testing.assert_close(dweight, torch.einsum("ntvj,ntvc->jc", pull, x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dbias[6:], pull.sum((0, 1, 2))[6:], rtol=1e-5, atol=1e-5)
    assert not dbias[:6].any()


def given(**changes: Any) -> dict[str, Any]:
    sizes = {"clips": 64, "frames": 150, "joints": 17, "channels_in": 64, "channels_out": 64, "heads": 3}
    return {"dtype": 3, "embedding": 16, "scale": 2.0**-6, "workspace": 256, "workspace_bytes": 0, **sizes, **changes}


@needs_build
def test_workspace_holds_no_mixed_values() -> None:
    workspace = extension().dependency_attention_cuda_workspace
    for channels in (64, 128, 256):
        sizes = given(workspace=0, channels_in=channels, channels_out=channels, embedding=channels // 4)
        x_bytes = 64 * 150 * 17 * channels * 2
        assert workspace(sizes, False, False) < 4e6 + 8 * channels**2 < x_bytes / 3
        assert workspace(sizes, False, True) < min(x_bytes, 3e7)
        longer = {**sizes, "frames": 15000}
        assert workspace(longer, False, True) < 1.5 * workspace(sizes, False, True)
    # What is indexed in 64 bits: 10 TB of x.
    assert 0 < workspace(given(workspace=0, clips=4_000_000, frames=1200), False, True) < 2e11
    assert workspace(given(workspace=0, clips=0), False, True) > 0
    naive = given(workspace=0)
    assert workspace(naive, True, True) > workspace(naive, True, False)
    # Moments of every channel for each warp of at most 264 blocks, whatever the number of frames.
    wanted = given(workspace=0, statistics=256)
    extra = workspace(wanted, False, False) - workspace(given(workspace=0), False, False)
    assert 64 * 8 * 64 * 8 <= extra <= 264 * 8 * 64 * 8 + 256
    assert workspace(wanted, False, True) == workspace(given(workspace=0), False, True)


@needs_build
@pytest.mark.parametrize("naive", [False, True])
def test_the_module_checks_what_it_is_given(naive: bool) -> None:
    """Nothing of this reaches a device, so pointers need not be any."""
    for changes, error, message in [
        ({"dtype": 1}, TypeError, "float32, float16 or bfloat16"),
        ({"frames": 0}, ValueError, "a size is below 1"),
        ({"embedding": -1}, ValueError, "a size is below 1"),
        ({"clips": -1}, ValueError, "too many clips or frames"),
        ({"joints": 1 << 16}, ValueError, "joints"),
        ({"channels_in": (1 << 20) + 1}, ValueError, "channels"),
        ({"workspace": 0}, ValueError, "needs a workspace"),
        ({}, ValueError, "workspace is too small"),
    ]:
        for which in ("forward", "backward"):
            with pytest.raises(error, match=message):
                extension().dependency_attention_cuda(given(**changes), naive, which)
    for changes, message in [
        ({"relu": 1}, "without shortcut and relu"),
        ({"shortcut": 256}, "without shortcut and relu"),
        ({"clips": 0}, "no statistics of no clips"),
        ({}, "workspace is too small"),
    ]:
        with pytest.raises(ValueError, match=message):
            extension().dependency_attention_cuda(given(statistics=256, **changes), naive, "forward")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="cuda"):
            extension().dependency_attention_cuda_refusal(given())
        with pytest.raises(RuntimeError, match="cuda"):
            extension().dependency_attention_cuda(given(workspace_bytes=1 << 40), naive, "forward")


# ---- On a GPU --------------------------------------------------------------------------------------------------------


def results(function: Any, tensors: list[Tensor], upstream: Tensor, heads: int, **kwargs: Any) -> list[Tensor]:
    """Value and six gradients."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    out = function(*tensors, heads) if function is literal else function(*tensors, num_heads=heads, **kwargs)
    return [out.detach(), *torch.autograd.grad(out, tensors, upstream.to(out.dtype))]


def upstream_for(sizes: Sizes, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*sizes[0][:3], sizes[1], generator=generator, dtype=torch.float64).cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_error_is_at_most_twice_that_of_plain_torch(sizes: Sizes, dtype: torch.dtype) -> None:
    heads = sizes[2]
    tensors, upstream = arguments(sizes, dtype), upstream_for(sizes).to(dtype)
    truth = results(literal, [t.double() for t in tensors], upstream, heads)
    plain = results(literal, tensors, upstream, heads)
    small = tensors[0].numel() * sizes[1] * heads < 1 << 22  # the naive kernels take a thread a number
    # One rounding of the result itself is allowed where plain torch is exact by luck.
    rounding = torch.finfo(dtype).eps / 2
    for backend in ("auto", "cuda_naive") if small else ("auto",):
        with poisoned():
            ours = results(dependency_attention, tensors, upstream, heads, backend=backend)
        for name, a, b, c in zip(("z", *NAMES), ours, plain, truth, strict=True):
            assert a.dtype == dtype
            # Not divided by the size, which is 0 where a softmax over one joint has no gradient.
            error, allowed, size = (a.double() - c).norm(), (b.double() - c).norm(), c.norm()
            assert error <= 2 * allowed + rounding * size, (
                f"{backend}, {name} of norm {size:.2e}: {error:.2e}, plain torch {allowed:.2e}"
            )


@pytest.mark.gpu
@pytest.mark.parametrize("backend", dependency_attention_cuda.BACKENDS)
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (4,), (5,), (0, 3), (1, 4, 5)])
def test_only_wanted_gradients_are_computed(backend: str, wanted: tuple[int, ...]) -> None:
    sizes = FEW[0]
    tensors, upstream = arguments(sizes, torch.float32), upstream_for(sizes).float()
    truth = results(literal, [t.double() for t in tensors], upstream, 3)[1:]
    needed = [i in wanted for i in range(6)]
    with poisoned():
        got = torch.ops.tmor_fast.dependency_attention_backward(upstream, *tensors[:5], 3, needed, backend)
    for i, gradient in enumerate(got):
        assert (gradient.numel() > 0) == (i in wanted)
        if i in wanted:
            assert (gradient.double() - truth[i]).norm() < 1e-5 * truth[i].norm(), NAMES[i]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", dependency_attention_cuda.BACKENDS)
def test_epilogue_adds_the_shortcut_and_clips(dtype: torch.dtype, backend: str) -> None:
    for sizes in FEW:
        tensors = arguments(sizes, dtype)
        shortcut = upstream_for(sizes).to(dtype)
        weights = dependency_attention_cuda.Weights(*tensors[1:])
        want = torch.relu(literal(*[t.double() for t in tensors], sizes[2]) + shortcut.double())
        with poisoned():
            got = dependency_attention_cuda.forward(
                tensors[0], weights, sizes[2], backend=backend, shortcut=shortcut, relu=True
            )
        assert (got == 0).any()
        assert (got.double() - want).norm() < 8 * torch.finfo(dtype).eps * want.norm()
    with pytest.raises(ValueError, match="shortcut must be"):
        dependency_attention_cuda.forward(tensors[0], weights, sizes[2], shortcut=shortcut[:0])


@pytest.mark.gpu
def test_strides_and_offsets_do_not_matter() -> None:
    sizes = FEW[1]
    tensors, upstream = arguments(sizes, torch.bfloat16), upstream_for(sizes).bfloat16()
    want = results(dependency_attention, tensors, upstream, 3, backend="cuda")
    x = tensors[0]
    wide = torch.zeros(*x.shape[:3], 2 * x.shape[3], dtype=x.dtype, device="cuda")
    wide[..., ::2] = x
    shifted = torch.zeros(x.numel() + 1, dtype=x.dtype, device="cuda")[1:].view(x.shape).copy_(x)
    views = (x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), wide[..., ::2], shifted)
    for view in views:
        for a, b in zip(
            results(dependency_attention, [view, *tensors[1:]], upstream, 3, backend="cuda"), want, strict=True
        ):
            assert torch.equal(a, b)


@pytest.mark.gpu
@not_small
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_every_time(dtype: torch.dtype) -> None:
    sizes: Sizes = ((33, 150, 17, 64), 128, 3, 32)
    tensors, upstream = arguments(sizes, dtype), upstream_for(sizes).to(dtype)
    first = results(dependency_attention, tensors, upstream, 3, backend="cuda")
    for _ in range(5):
        for a, b in zip(results(dependency_attention, tensors, upstream, 3, backend="cuda"), first, strict=True):
            assert torch.equal(a, b)


@pytest.mark.gpu
def test_clips_in_groups_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: Sizes = ((5, 4, 17, 16), 16, 3, 4)
    tensors, upstream = arguments(sizes, torch.float32), upstream_for(sizes).float()
    want = results(dependency_attention, tensors, upstream, 3, backend="cuda")
    monkeypatch.setattr(dependency_attention_cuda, "EMBEDDING_BYTES", 2 * 4 * 17 * 24 * 4)
    for a, b in zip(results(dependency_attention, tensors, upstream, 3, backend="cuda"), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_empty_batch_and_long_aligned_clips() -> None:
    tensors = [t.requires_grad_() for t in arguments(((0, 2, 3, 4), 5, 2, 1), torch.bfloat16)]
    out = dependency_attention(*tensors, num_heads=2, backend="cuda")
    assert out.shape == (0, 2, 3, 5)
    out.sum().backward()
    assert all(t.grad is not None and t.grad.abs().sum() == 0 for t in tensors)
    # Every theta and phi is near 2, but the sum of Ce * T = 19,200 products overflows float16.
    x, weight, bias, *rest = arguments(((1, 300, 5, 8), 4, 1, 64), torch.float16)
    long = [1 + 0.1 * x, 0.25 + 0.01 * weight, 0.01 * bias, *rest]
    out = dependency_attention(*long, num_heads=1, backend="cuda")
    want = literal(*[t.double() for t in long], 1)
    assert (out.double() - want).norm() < 4e-3 * want.norm()


@pytest.mark.gpu
def test_non_finite_input_is_not_hidden() -> None:
    tensors = arguments(FEW[1], torch.bfloat16)
    tensors[0][1, 3, 5, 7] = math.nan
    out = dependency_attention(*tensors, num_heads=3, backend="cuda")
    assert out[0].isfinite().all()
    assert out[1].isnan().all()


@pytest.mark.gpu
@pytest.mark.parametrize("backend", dependency_attention_cuda.BACKENDS)
def test_side_stream(backend: str) -> None:
    sizes = FEW[0]
    tensors, upstream = arguments(sizes, torch.float32), upstream_for(sizes).float()
    want = results(dependency_attention, tensors, upstream, 3, backend=backend)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        late = torch.full_like(tensors[0], math.nan)
        torch.cuda._sleep(20_000_000)
        late.copy_(tensors[0])  # what another stream would not see in time
        got = results(dependency_attention, [late, *tensors[1:]], upstream, 3, backend=backend)
    del late  # its memory must not be reused before the side stream is done with it
    torch.full_like(tensors[0], math.nan)
    side.synchronize()
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
@not_small  # memcheck runs without the caching allocator, so nothing is recorded
@pytest.mark.parametrize("backend", dependency_attention_cuda.BACKENDS)
def test_memory_that_a_side_stream_reads_is_not_reused_too_early(backend: str) -> None:
    source, *weights = arguments(FEW[0], torch.float32)
    want = dependency_attention(source, *weights, num_heads=3, backend=backend)  # loads the kernels
    side = torch.cuda.Stream()
    late = torch.full_like(source, math.nan)  # of the default stream's memory
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        torch.cuda._sleep(100_000_000)
        late.copy_(source)
        got = dependency_attention(late, *weights, num_heads=3, backend=backend)
    where = late.data_ptr()
    del late
    assert where not in {other.data_ptr() for other in [torch.full_like(source, math.nan) for _ in range(64)]}
    side.synchronize()
    assert torch.equal(got, want)


@pytest.mark.gpu
@not_small  # memcheck runs without the caching allocator: every free then waits
def test_nothing_waits_before_the_result() -> None:
    sizes = FEW[1]
    tensors, upstream = arguments(sizes, torch.bfloat16), upstream_for(sizes).bfloat16()
    results(dependency_attention, tensors, upstream, 3, backend="cuda")  # loads the kernels
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(1_000_000_000)
        results(dependency_attention, tensors, upstream, 3, backend="cuda")
        done.record()
        assert not done.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


@pytest.mark.gpu
@pytest.mark.parametrize("backend", dependency_attention_cuda.BACKENDS)
def test_graph_capture(backend: str) -> None:
    sizes = FEW[0]
    tensors, upstream = arguments(sizes, torch.bfloat16), upstream_for(sizes).bfloat16()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results(dependency_attention, tensors, upstream, 3, backend=backend)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = results(dependency_attention, tensors, upstream, 3, backend=backend)
    for seed in (1, 2):
        for target, source in zip(tensors, arguments(sizes, torch.bfloat16, seed), strict=True):
            target.copy_(source)
        want = results(dependency_attention, tensors, upstream, 3, backend=backend)
        for tensor in got:
            tensor.fill_(7)
        graph.replay()
        torch.cuda.synchronize()
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b)


@pytest.mark.gpu
@not_small
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", dependency_attention_cuda.BACKENDS)
def test_opcheck_and_compile(backend: str) -> None:
    sizes = FEW[0]
    tensors, upstream = arguments(sizes, torch.float32), upstream_for(sizes).float()
    leaves = [t.detach().requires_grad_() for t in tensors]
    torch.library.opcheck(torch.ops.tmor_fast.dependency_attention.default, (*leaves, None, 3, False, backend))
    for needed in ([True] * 6, [False, True, False, True, False, True]):
        torch.library.opcheck(
            torch.ops.tmor_fast.dependency_attention_backward.default,
            (upstream, *tensors[:5], 3, needed, backend),
            test_utils=("test_schema", "test_faketensor"),
        )
    for chosen in (backend, "auto"):

        def block(*t: Tensor, chosen: str = chosen) -> Tensor:
            return torch.relu(dependency_attention(*t, num_heads=3, backend=chosen) * 2)

        whole = torch.compile(block, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(whole(*leaves), block(*leaves))
        for a, b in zip(
            torch.autograd.grad(whole(*leaves), leaves, upstream),
            torch.autograd.grad(block(*leaves), leaves, upstream),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


@pytest.mark.gpu
def test_autocast() -> None:
    leaves = [t.requires_grad_() for t in arguments(FEW[1], torch.float32)]
    with torch.autocast("cuda", torch.bfloat16):
        out = dependency_attention(*leaves, num_heads=3)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in leaves)
    want = literal(*[t.detach().double() for t in leaves], 3)
    assert (out.double() - want).norm() < 2e-2 * want.norm()


@pytest.mark.gpu
@not_small
def test_training_memory_stays_a_few_times_that_of_x() -> None:
    sizes: Sizes = ((64, 150, 17, 128), 128, 3, 32)
    tensors, upstream = arguments(sizes, torch.bfloat16), upstream_for(sizes).bfloat16()
    results(dependency_attention, tensors, upstream, 3, backend="cuda")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results(dependency_attention, tensors, upstream, 3, backend="cuda")
    torch.cuda.synchronize()
    x_bytes = tensors[0].numel() * 2
    # z, grad_x, the gradient of theta and phi (1.5 times x) and the workspace.
    assert torch.cuda.max_memory_allocated() - before < 4.5 * x_bytes
