from __future__ import annotations

import gc
import os
import re
import weakref
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tmor_fast.build import extension
from tmor_fast.ops.launch import DTYPE_CODES, Launch, current_stream, dtype_code

FLOAT = (torch.float32,)
HEADER = Path(__file__).resolve().parents[2] / "csrc" / "common" / "dtype.hpp"


def address(tensor: object, **options: object) -> int:
    options.setdefault("dtypes", FLOAT)
    with Launch("op", "cpu") as launch:
        return launch.pointer("x", tensor, **options)  # type: ignore[arg-type]


def test_pointer_is_the_address_of_the_first_element() -> None:
    x = torch.arange(12.0)
    assert address(x) == x.data_ptr()
    assert address(x[4:]) == x.data_ptr() + 16
    assert address(None) == 0


def test_cpu_stream_is_zero() -> None:
    assert current_stream(torch.device("cpu")) == 0
    with Launch("op", "cpu") as launch:
        assert launch.stream == 0
        assert launch.device == torch.device("cpu")


def test_dtype_codes_are_those_of_the_header() -> None:
    if not HEADER.is_file():
        pytest.skip("csrc is not beside the tests")
    pairs = re.findall(r"(\w+) = (\d+)", HEADER.read_text())
    names = {str(dtype).removeprefix("torch.").replace("bool", "boolean"): code for dtype, code in DTYPE_CODES.items()}
    assert {name: int(code) for name, code in pairs} == names
    assert dtype_code(torch.float64) == names["float64"]
    with pytest.raises(TypeError, match="complex64"):
        dtype_code(torch.complex64)


@pytest.mark.parametrize(
    ("tensor", "options", "error", "message"),
    [
        (torch.zeros(3, dtype=torch.float64), {}, TypeError, r"op: x has dtype torch.float64; accepted: torch.float32"),
        (torch.zeros(4, 6)[:, ::2], {}, ValueError, r"contiguous, got strides \(6, 2\)"),
        (torch.zeros(4, 6).t(), {}, ValueError, "contiguous"),
        (torch.zeros(1, 3).expand(4, 3), {}, ValueError, "contiguous"),
        (torch.zeros(0, 3), {}, ValueError, r"empty, shape \(0, 3\)"),
        (torch.zeros(2, 3), {"shape": (2, 4)}, ValueError, r"shape \(2, 3\); expected \(2, 4\)"),
        (torch.zeros(2, 3), {"shape": (None, 3, 1)}, ValueError, r"expected \(any, 3, 1\)"),
        (torch.zeros(64)[1:], {"alignment": 64}, ValueError, "multiple of 64 bytes"),
        (torch.zeros(3).to_sparse(), {}, ValueError, "dense"),
        ([1.0], {}, TypeError, "must be a torch.Tensor, got list"),
        (torch.zeros(3, device="meta"), {}, RuntimeError, "fake or meta"),
        (torch.zeros(3, requires_grad=True), {}, RuntimeError, r"requires a gradient.*detach"),
        (
            torch.ones(3, dtype=torch.complex64).conj().imag,
            {"contiguous": False},
            ValueError,
            "neg",
        ),
    ],
)
def test_refused(tensor: object, options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        address(tensor, **options)


def test_accepted_though_unusual() -> None:
    assert address(torch.zeros(2, 3), shape=(None, 3))
    assert address(torch.zeros(4, 6).t(), contiguous=False)
    assert address(torch.zeros(1, 5, 1).transpose(0, 2))  # contiguous whatever its strides say
    with torch.no_grad():
        assert address(torch.zeros(3, requires_grad=True))


def test_fake_tensor_is_refused() -> None:
    with FakeTensorMode():
        fake = torch.zeros(3)
    with pytest.raises(RuntimeError, match="fake"):
        address(fake)


def test_functorch_is_refused() -> None:
    def call(x: torch.Tensor) -> torch.Tensor:
        address(x)
        return x

    with pytest.raises(RuntimeError, match=r"torch\.func"):
        torch.func.vmap(call)(torch.zeros(2, 3))


def test_devices() -> None:
    with pytest.raises(ValueError, match="not supported"):
        Launch("op", "meta")
    with Launch("op", "cpu") as launch:
        launch.device = torch.device("cuda", 0)
        with pytest.raises(ValueError, match="x is on cpu, the other arguments are on cuda:0"):
            launch.pointer("x", torch.zeros(3), dtypes=FLOAT)


def test_tensors_live_as_long_as_the_call() -> None:
    x = torch.zeros(3)
    alive = weakref.ref(x)
    with Launch("op", "cpu") as launch:
        launch.pointer("x", x, dtypes=FLOAT)
        del x
        gc.collect()
        assert alive() is not None
    gc.collect()
    assert alive() is None
    with pytest.raises(RuntimeError, match="outside"):
        launch.pointer("x", torch.zeros(3), dtypes=FLOAT)


# ---- on a GPU --------------------------------------------------------------------------------------------------------


def probe(values: torch.Tensor) -> None:
    if not hasattr(extension(), "cuda_probe"):
        pytest.skip("this build has no CUDA")
    with Launch("probe", values.device) as launch:
        pointer = launch.pointer("values", values, dtypes=(torch.int32,))
        extension().cuda_probe(launch.device.index, launch.stream, pointer, values.numel())


def pattern(n: int) -> torch.Tensor:
    return (7 * torch.arange(n, dtype=torch.int64) + 1).bitwise_and(0x7FFFFFFF).to(torch.int32)


@pytest.mark.gpu
@pytest.mark.parametrize("n", [1, 255, 257, 1_000_003])
def test_probe_writes_its_pattern(n: int) -> None:
    values = torch.zeros(n, dtype=torch.int32, device="cuda")
    probe(values)
    assert torch.equal(values.cpu(), pattern(n))


# memcheck runs without the caching allocator, so nothing is recorded.
@pytest.mark.gpu
@pytest.mark.skipif("PYTORCH_NO_CUDA_MEMORY_CACHING" in os.environ, reason="needs the caching allocator")
def test_side_stream() -> None:
    n = 1 << 22
    values = torch.zeros(n, dtype=torch.int32, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        assert current_stream(values.device) == side.cuda_stream
        torch.cuda._sleep(20_000_000)
        probe(values)
        copy = values.clone()
    # Memory given back now must not be reused before the side stream is done with it.
    where = values.data_ptr()
    del values
    assert torch.zeros(n, dtype=torch.int32, device="cuda").data_ptr() != where
    side.synchronize()
    assert torch.equal(copy.cpu(), pattern(n))


@pytest.mark.gpu
def test_graph_capture() -> None:
    values = torch.zeros(1000, dtype=torch.int32, device="cuda")
    probe(values)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        probe(values)
    values.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(values.cpu(), pattern(1000))


@pytest.mark.gpu
def test_device_one_while_device_zero_is_current() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one device only")
    values = torch.zeros(1000, dtype=torch.int32, device="cuda:1")
    probe(values)
    assert torch.cuda.current_device() == 0
    assert torch.equal(values.cpu(), pattern(1000))
    with Launch("op", "cuda:0") as launch, pytest.raises(ValueError, match="cuda:1"):
        launch.pointer("x", values, dtypes=(torch.int32,))
