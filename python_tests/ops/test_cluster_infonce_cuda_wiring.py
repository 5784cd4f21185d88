"""The CUDA backends of cluster_infonce on any machine: what they refuse, what is chosen, what the module checks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from infonce_cases import DTYPES, make_case

from tmor_fast.build import compiled, extension
from tmor_fast.errors import BackendUnavailableError
from tmor_fast.ops import cluster_infonce_cuda, registry
from tmor_fast.ops.cluster_infonce import _candidates, cluster_infonce

BACKENDS = cluster_infonce_cuda.BACKENDS
H100, A100, RTX4090 = (132, 232_448, 233_472), (108, 166_912, 167_936), (128, 101_376, 102_400)
needs_build = pytest.mark.skipif(compiled("cluster_infonce", "cuda") is not None, reason="this build has no CUDA")


@pytest.mark.parametrize("backend", BACKENDS)
def test_cpu_tensors_are_refused_with_the_reason(backend: str) -> None:
    with pytest.raises(
        BackendUnavailableError, match=f"'{backend}' cannot run: it takes CUDA tensors, query is on cpu"
    ):
        cluster_infonce(**make_case(), backend=backend)


def on_a_gpu(dtype: torch.dtype = torch.float32, width: int = 16) -> Any:
    """What the checks look at of a CUDA tensor."""
    return SimpleNamespace(device=torch.device("cuda", 0), dtype=dtype, shape=(9, width))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_build_without_cuda_says_why_and_auto_takes_tiled(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_infonce_cuda, "_MISSING", dict.fromkeys(BACKENDS, "this build has no CUDA: no nvcc"))
    candidates = _candidates(on_a_gpu(), on_a_gpu(), None)
    with pytest.raises(BackendUnavailableError, match="this build has no CUDA: no nvcc"):
        registry.choose("cluster_infonce", backend, candidates)
    assert registry.choose("cluster_infonce", "auto", candidates) == "tiled"


def test_what_auto_takes_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_infonce_cuda, "_MISSING", dict.fromkeys(BACKENDS))

    def capability(major: int, minor: int) -> None:
        properties = SimpleNamespace(major=major, minor=minor)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)

    def chosen(backend: str, *tensors: Any) -> str:
        return registry.choose("cluster_infonce", backend, _candidates(*tensors))

    capability(8, 0)
    for dtype in DTYPES:
        assert chosen("auto", on_a_gpu(), on_a_gpu(dtype), None) == "cuda"
    assert chosen("auto", on_a_gpu(torch.float64), on_a_gpu(), None) == "tiled"
    assert chosen("auto", on_a_gpu(width=768), on_a_gpu(width=768), None) == "cuda"
    assert chosen("auto", on_a_gpu(width=769), on_a_gpu(width=769), None) == "tiled"
    with pytest.raises(BackendUnavailableError, match=r"takes up to 768 dimensions, got 769 \(backend 'tiled'"):
        chosen("cuda", on_a_gpu(width=769), on_a_gpu(width=769), None)
    with pytest.raises(BackendUnavailableError, match=r"keys is torch\.float64"):
        chosen("cuda", on_a_gpu(), on_a_gpu(torch.float64), None)
    capability(7, 5)
    assert chosen("auto", on_a_gpu(), on_a_gpu(), None) == "tiled"
    with pytest.raises(BackendUnavailableError, match=r"needs compute capability 8\.0, cuda:0 has 7\.5"):
        chosen("cuda", on_a_gpu(), on_a_gpu(), None)


@needs_build
def test_workspace_is_a_few_times_the_queries() -> None:
    needed = cluster_infonce_cuda.workspace_bytes
    for limits in (H100, A100, RTX4090):
        for batch, bank in ((64, 65_536), (1024, 65_536), (4096, 1 << 20)):
            for dtype in DTYPES:
                whole = needed(dtype, batch, bank, 128, limits)
                one = 4 * batch * 128
                assert 2 * one <= whole <= 2 * 1.2 * 2 * limits[0] * 4 * 128 * 128 + 2 * 1.2 * 8 * one
                # What is not asked for takes no memory.
                assert needed(dtype, batch, bank, 128, limits, gradient=False) < whole / 8
                assert needed(dtype, batch, bank, 128, limits, wants_aligned=False) < 0.6 * whole
    # Nothing wraps, and a bank ten times as long does not need ten times as much.
    assert needed(torch.bfloat16, 4096, 1 << 30, 768, H100) < 1024 * 4096 * 768 * 9
    assert needed(torch.bfloat16, 4096, 10 << 20, 128, H100) < 11 * needed(torch.bfloat16, 4096, 1 << 20, 128, H100)
    listed = needed(torch.float32, 10, 100, 8, H100, chosen_count=1000)
    assert listed - needed(torch.float32, 10, 100, 8, H100) >= 8 * 10 * 1000 - 256
    with pytest.raises(RuntimeError, match="too little shared memory"):
        needed(torch.float32, 1, 1, 1, (1, 8192, 8192))
    for sizes in ((0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 769)):
        with pytest.raises(ValueError, match="sizes out of range"):
            needed(torch.float32, *sizes, H100)
    with pytest.raises(TypeError, match="float32, float16 or bfloat16 keys"):
        needed(torch.float64, 1, 1, 1, H100)


@needs_build
@pytest.mark.parametrize("naive", [False, True])
def test_the_module_checks_what_it_is_given(naive: bool) -> None:
    """Nothing of this reaches a device, so the pointers may be 0."""
    names = "query keys positive temperature query_id key_id query_cluster key_cluster query_caption key_caption"
    pointers = dict.fromkeys([*names.split(), "key_log_weight", "chosen", "workspace", "stream"], 0)
    sizes = {"batch": 10, "bank": 20, "dimensions": 3, "key_stride": 3, "chosen_count": 0, "device": 0}
    modes = {"key_dtype": 0, "has_chosen": False, "form": 0, "denominator": 0, "workspace_bytes": 1 << 40}
    good = {**pointers, **sizes, **modes}
    out = dict.fromkeys(("loss", "gradient", "own_gradient", "statistics"), 0)
    keys_out = dict.fromkeys(("upstream", "statistics", "key_gradient"), 0)
    for name, value, error, message in [
        ("key_dtype", 1, TypeError, "float32, float16 or bfloat16 keys"),
        ("batch", 0, ValueError, "sizes out of range"),
        ("bank", 0, ValueError, "sizes out of range"),
        ("dimensions", 0, ValueError, "sizes out of range"),
    ]:
        with pytest.raises(error, match=message):
            extension().cluster_infonce_cuda({**good, name: value}, naive, **out)
        with pytest.raises(error, match=message):
            extension().cluster_infonce_keys_cuda({**good, name: value}, naive, **keys_out)
    if naive:
        with pytest.raises(ValueError, match="workspace is too small"):
            extension().cluster_infonce_cuda({**good, "workspace_bytes": 10 * 3 * 8 - 1}, True, **out)
    else:
        with pytest.raises(ValueError, match="workspace is too small"):
            extension().cluster_infonce_keys_cuda({**good, "workspace_bytes": 10 * 5 * 4 - 1}, False, **keys_out)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match=r"cuda|CUDA"):
            extension().cluster_infonce_cuda(good, naive, **out)
        with pytest.raises(RuntimeError, match=r"cuda|CUDA"):
            extension().cluster_infonce_cuda_limits(0)
