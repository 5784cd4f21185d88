"""Statistics, warm-up and turns on an injected clock; the order of what a device timer does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmor_fast.benchmark.measure import CudaTimer, Repeats, WallTimer, summarise


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float) -> Callable[[], int]:
        """A call that takes the given times in turn, the last one for ever, and returns how often it ran."""
        times = itertools.chain(seconds, itertools.repeat(seconds[-1]))
        count = itertools.count(1)

        def call() -> int:
            self.now += next(times)
            return next(count)

        return call


def repeats(*seconds: float) -> Repeats:
    clock = Clock()
    return Repeats(clock.work(*seconds), WallTimer(clock), clock)


def test_statistics_by_hand() -> None:
    found = summarise([4.0, 1.0, 3.0, 2.0, 10.0])
    assert (found.n, found.median, found.p25, found.p75, found.minimum, found.maximum) == (5, 3.0, 2.0, 4.0, 1.0, 10.0)
    assert summarise([2.0]).to_dict() == {
        "n": 1, "median": 2.0, "p25": 2.0, "p75": 2.0, "minimum": 2.0, "maximum": 2.0,
    }  # fmt: skip


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_statistics_are_those_of_numpy(samples: list[float]) -> None:
    found = summarise(samples)
    expected = np.quantile(samples, [0.25, 0.5, 0.75])
    np.testing.assert_allclose([found.p25, found.median, found.p75], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("samples", [[], [math.nan], [1.0, -1.0], [math.inf]])
def test_what_is_no_time_is_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="sample"):
        summarise(samples)


def test_warm_up_calls_until_the_time_is_over_and_once_at_least() -> None:
    assert repeats(1.0).warm(3.5) == [1.0, 1.0, 1.0]
    assert repeats(9.0, 1.0).warm(0.5) == [9.0]


def test_a_turn_fills_its_time_after_one_uncounted_call() -> None:
    measured = repeats(1.0)
    measured.warm(1.0)
    assert measured.run(10.0, most=100) == [1.0] * 8  # one of the ten seconds for the first, none ends beyond
    assert measured.result == 10


def test_a_long_call_is_counted_at_once() -> None:
    measured = repeats(6.0)
    measured.warm(1.0)
    assert measured.run(10.0, most=100) == [6.0]
    assert measured.run(0.0, most=100) == [6.0]


def test_a_turn_has_a_most() -> None:
    measured = repeats(0.001)
    measured.warm(0.0)
    assert len(measured.run(100.0, most=7)) == 7


def test_no_two_results_at_a_time() -> None:
    alive: list[int] = []

    class Result:
        def __init__(self) -> None:
            alive.append(1)
            assert len(alive) == 1

        def __del__(self) -> None:
            alive.pop()

    clock = Clock()
    measured = Repeats(Result, WallTimer(clock), clock)
    measured.warm(0.0)
    measured.run(0.0, most=3)
    measured.run(0.0, most=3)
    assert isinstance(measured.result, Result)


class FakeCuda:
    """Records what happens in which order; its events are 250 ms apart."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def Event(self, enable_timing: bool) -> Any:  # noqa: N802 (torch's name)
        assert enable_timing
        cuda = self

        class Event:
            def record(self) -> None:
                cuda.log.append("event")

            def synchronize(self) -> None:
                cuda.log.append("wait")

            def elapsed_time(self, other: object) -> float:
                assert other is not self
                return 250.0

        return Event()


def test_device_events_leave_the_flush_out_and_wait_for_the_end() -> None:
    cuda = FakeCuda()
    timer = CudaTimer(cuda, lambda: cuda.log.append("flush"))
    seconds, result = timer.time(lambda: cuda.log.append("call") or "result")
    assert (seconds, result) == (0.25, "result")
    assert cuda.log == ["flush", "event", "call", "event", "wait"]


@pytest.mark.gpu
def test_device_time_and_graph_on_a_device() -> None:
    import torch

    from tmor_fast.benchmark.measure import captured, device_timer

    a = torch.randn(512, 512, device="cuda")
    replay = captured(lambda: a @ a)
    seconds, result = device_timer("cuda").time(replay)
    assert 0 < seconds < 1
    torch.testing.assert_close(result, a @ a)
