"""What this machine can do at most: a large matrix product in each precision, a large copy.

Products go through every route that torch offers, and the fastest counts: torch's own default is not always it.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tmor_fast.benchmark.measure import Timer, device_timer

# (m, k, n) of the products: one large square, and one with the depth of this library's own products.
CPU_SHAPES = ((2048, 2048, 2048), (1024, 128, 4096))
CUDA_SHAPES = ((8192, 8192, 8192),)
HOPELESS = 4.0  # a route this much slower than the best on a small product is not tried on a large one
COPY_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}
_DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Route = tuple[str, Callable[[], Any]]


def _float_routes(a: Tensor, b: Tensor) -> Iterator[Route]:
    """Products of a (m, k) and b (k, n)."""
    weight = b.t().contiguous()
    yield "torch.mm", lambda: torch.mm(a, b)
    yield "linear", lambda: F.linear(a, weight)
    if a.device.type == "cpu":
        image = a.reshape(1, a.shape[0], 1, a.shape[1]).permute(0, 3, 1, 2)  # channels last: no copy
        kernel = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
        yield "1x1 convolution", lambda: F.conv2d(image, kernel)
        if a.dtype != torch.float64:
            yield "oneDNN linear, packed", _packed_linear(a, weight)


def _packed_linear(a: Tensor, weight: Tensor) -> Callable[[], Any]:
    packed: list[Tensor] = []

    def run() -> Tensor:
        if not packed:
            packed.append(torch.ops.mkldnn._reorder_linear_weight(weight, a.shape[0]))
        return torch.ops.mkldnn._linear_pointwise(a, packed[0], None, "none", [], "")

    return run


def _integer_routes(a: Tensor, b: Tensor) -> Iterator[Route]:
    yield "torch._int_mm", lambda: torch._int_mm(a, b)
    if a.device.type != "cpu":
        return
    prepared: list[Any] = []

    def quantised() -> Tensor:
        if not prepared:
            weight = torch.quantize_per_tensor(b.t().float(), 1.0, 0, torch.qint8)
            prepared.append(torch.ops.quantized.linear_prepack(weight, None))
            prepared.append(torch.quantize_per_tensor(a.abs().float(), 1.0, 0, torch.quint8))
        return torch.ops.quantized.linear(prepared[1], prepared[0], 1.0, 0)

    yield "quantised linear", quantised


def _operands(shape: tuple[int, int, int], precision: str, device: str) -> tuple[Tensor, Tensor]:
    """Random numbers: zeros would draw less power and run at higher clocks than any real work."""
    m, k, n = shape
    generator = torch.Generator(device).manual_seed(0)
    if precision == "int8":
        a, b = (
            torch.randint(-127, 128, size, generator=generator, dtype=torch.int8, device=device)
            for size in ((m, k), (k, n))
        )
        return a, b
    dtype = _DTYPES.get(precision, torch.float32)
    a, b = (torch.randn(size, generator=generator, device=device).to(dtype) for size in ((m, k), (k, n)))
    return a, b


def best_time(call: Callable[[], Any], timer: Timer, seconds: float, clock: Callable[[], float]) -> float:
    """The shortest of as many calls as fit into `seconds`, two at least: a ceiling is what is possible."""
    end, best = clock() + seconds, math.inf
    timer.time(call)
    while True:
        best = min(best, timer.time(call)[0])
        if clock() + best >= end:
            return best


def _shape_within(shape: tuple[int, int, int], rate: float, seconds: float) -> tuple[int, int, int]:
    """`shape`, halved until one product is over soon, judged by the `rate` of a small one, which is rather slow."""
    m, k, n = shape
    while 2.0 * m * k * n > 4 * rate * seconds and m > 256:
        m, k, n = m // 2, max(k // 2, 128), n // 2
    return m, k, n


def _precision_ceiling(precision: str, device: str, timer: Timer, seconds: float) -> dict[str, Any]:
    shapes = CPU_SHAPES if device == "cpu" else CUDA_SHAPES
    routes: dict[str, float] = {}
    refused: dict[str, str] = {}
    for shape in shapes:
        small = _operands((256, 256, 256), precision, device)
        make = _integer_routes if precision == "int8" else _float_routes
        names = [name for name, _ in make(*small)]
        rates = {}
        for (name, call), product in zip(make(*small), names, strict=True):
            try:
                rates[name] = 2.0 * 256**3 / best_time(call, timer, 0.0, time.perf_counter)
            except (RuntimeError, TypeError, AttributeError) as error:
                refused[product] = str(error).splitlines()[0][:200]
        if not rates:
            break
        fitted = _shape_within(shape, max(rates.values()), seconds) if device == "cpu" else shape
        operands = _operands(fitted, precision, device)
        for name, call in make(*operands):
            if rates.get(name, 0.0) * HOPELESS < max(rates.values()):
                continue
            took = best_time(call, timer, seconds / len(rates), time.perf_counter)
            label = f"{name} {'x'.join(map(str, fitted))}"
            routes[label] = 2.0 * math.prod(fitted) / took
    best = max(routes, key=lambda name: routes[name]) if routes else None
    return {
        "flops_per_second": routes[best] if best else None,
        "route": best,
        "routes": {name: round(rate) for name, rate in routes.items()},
        "refused": refused,
    }


def measure_ceilings(device: str, seconds: float) -> dict[str, Any]:
    """Measure every ceiling of `device`.

    Args:
        device: "cpu" or "cuda". On CUDA "fp32" is without TF32 and "tf32" with it.
        seconds: for each precision and shape, about.

    Returns:
        precision -> `flops_per_second` (operations per second, None where the machine has no such product), `route`
        (the fastest one), `routes` (all), `refused` (why not); and "copy" -> `bytes_per_second`, read and written.
    """
    warnings.filterwarnings("ignore", message=".*quantized tensor creation.*")
    timer = device_timer(device)
    found: dict[str, Any] = {}
    with torch.inference_mode():
        for precision in ("fp64", "fp32", "tf32", "bf16", "fp16", "int8"):
            if precision == "tf32" and device == "cpu":
                continue
            if device == "cuda":
                torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            found[precision] = _precision_ceiling(precision, device, timer, seconds)
        found["copy"] = _copy_ceiling(device, timer, seconds)
    return found


def _copy_ceiling(device: str, timer: Timer, seconds: float) -> dict[str, Any]:
    source = torch.ones(COPY_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    took = best_time(lambda: target.copy_(source), timer, seconds, time.perf_counter)
    return {"bytes_per_second": 2.0 * COPY_BYTES[device] / took, "bytes": COPY_BYTES[device]}


def faster(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The higher of two measurements, ceiling by ceiling: a ceiling is what the machine has shown it can do."""
    merged = {}
    for name, value in first.items():
        rate = "bytes_per_second" if name == "copy" else "flops_per_second"
        other = second.get(name, value)
        merged[name] = other if (other[rate] or 0.0) > (value[rate] or 0.0) else value
    return merged
