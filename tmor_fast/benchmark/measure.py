"""Timing one call: warm-up, repeats within a budget, median and spread; on a GPU device events and a cold L2 cache."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from tmor_fast.benchmark.case import Call


@dataclass(frozen=True)
class Statistics:
    """Of the seconds of `n` calls: the median, the quartiles (linear between neighbours) and the extremes."""

    n: int
    median: float
    p25: float
    p75: float
    minimum: float
    maximum: float

    def to_dict(self) -> dict[str, float]:
        """The fields by name."""
        return asdict(self)


def summarise(samples: Sequence[float]) -> Statistics:
    """Statistics of at least one sample; ValueError for none, or for one that is no time."""
    if not samples:
        raise ValueError("no sample to summarise")
    if any(not math.isfinite(sample) or sample < 0 for sample in samples):
        raise ValueError(f"samples must be finite and not negative, got {list(samples)}")
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [samples[0]] * 3
    return Statistics(len(samples), middle, low, high, min(samples), max(samples))


class Timer(Protocol):
    """Runs a call and says how long it took."""

    def time(self, call: Call) -> tuple[float, Any]:
        """Seconds, and what the call returned."""


class WallTimer:
    """The clock on the wall, for work that is done when the call returns."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock

    def time(self, call: Call) -> tuple[float, Any]:
        """Seconds, and what the call returned."""
        start = self.clock()
        result = call()
        return self.clock() - start, result


class CudaTimer:
    """Device events around a call, after a buffer larger than L2 was written, so that its input is not in the cache.

    Args:
        cuda: `torch.cuda`.
        flush: writes that buffer.
    """

    def __init__(self, cuda: Any, flush: Callable[[], Any]) -> None:
        self.cuda = cuda
        self.flush = flush

    def time(self, call: Call) -> tuple[float, Any]:
        """Seconds on the device, and what the call returned. The flush lies before the first event."""
        start, stop = self.cuda.Event(enable_timing=True), self.cuda.Event(enable_timing=True)
        self.flush()
        start.record()
        result = call()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3, result


def device_timer(device: str) -> Timer:
    """The timer for "cpu" or "cuda"."""
    if device == "cpu":
        return WallTimer()
    import torch

    # Not every torch tells the cache's size; 64 MB is the largest L2 up to now.
    size = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 64 << 20
    buffer = torch.empty(2 * size, dtype=torch.int8, device="cuda")
    return CudaTimer(torch.cuda, buffer.zero_)


def captured(call: Call) -> Call:
    """`call` as a CUDA graph: replayed, it returns the same tensors, written anew.

    Raises:
        RuntimeError: it cannot be captured (it waits for the device, or allocates in a way that graphs refuse).
    """
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


class Repeats:
    """The measurements of one contender: what its process does when its turn comes.

    Args:
        call: one measurement.
        timer: of the call.
        clock: of the budgets, which count everything that a turn does.
    """

    def __init__(self, call: Call, timer: Timer, clock: Callable[[], float] = time.perf_counter) -> None:
        self.call = call
        self.timer = timer
        self.clock = clock
        self.result: Any = None
        self.last = math.inf

    def _once(self) -> float:
        self.result = None  # two results at a time would count as peak memory
        self.last, self.result = self.timer.time(self.call)
        return self.last

    def warm(self, seconds: float) -> list[float]:
        """Call until `seconds` are over, at least once; the seconds of every call."""
        end, samples = self.clock() + seconds, [self._once()]
        while self.clock() + self.last < end:
            samples.append(self._once())
        return samples

    def run(self, seconds: float, most: int) -> list[float]:
        """One turn: at least one timed call, further ones while they fit into `seconds`, at most `most`.

        A call that is short against the turn is first made once without being counted: the process has waited, and its
        caches and threads are cold.
        """
        end = self.clock() + seconds
        if self.last < seconds / 5:
            self._once()
        samples = [self._once()]
        while len(samples) < most and self.clock() + self.last < end:
            samples.append(self._once())
        return samples
