"""Who is measured when, for how long, and what becomes of those who fail: on workers that take no real time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tmor_fast.benchmark.process import WorkerError
from tmor_fast.benchmark.turns import Lane, Plan, take_turns

PLAN = Plan(seconds=10.0, rounds=5, warm_seconds=1.0, least=3, slow_seconds=100.0)


class Worker:
    """Answers as `worker.Server` would if a call took `takes` seconds."""

    def __init__(self, name: str, log: list[str], takes: float = 0.5, fails: Mapping[str, Any] | None = None) -> None:
        self.name, self.log, self.takes, self.fails = name, log, takes, fails or {}
        self.asked: Mapping[str, Any] = {}
        self.stopped = False

    def send(self, request: Mapping[str, Any]) -> None:
        self.asked = request

    def answer(self, seconds: float) -> dict[str, Any]:
        assert not self.stopped
        operation = self.asked["op"]
        self.log.append(f"{self.name}:{operation}")
        if operation in self.fails:
            answer = self.fails[operation]
            if isinstance(answer, BaseException):
                raise answer
            return answer
        if operation == "begin":
            return {"setup_seconds": 0.1, "threads": 1, "notes": []}
        if operation == "finish":
            return {"peak_bytes": 1, "method": "VmHWM", "page_faults": 0}
        if operation == "warm":
            return {"samples": [self.takes]}
        return {"samples": [self.takes] * max(1, int(self.asked["seconds"] / self.takes))}

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        self.send(request)
        return self.answer(seconds)

    def stop(self) -> None:
        self.stopped = True


def lane(worker: Worker) -> Lane:
    return Lane(worker.name, "default", worker, {"op": "begin"})


def measure(*workers: Worker, plan: Plan = PLAN) -> list[Lane]:
    lanes = [lane(worker) for worker in workers]
    take_turns(lanes, plan)
    assert all(worker.stopped for worker in workers)
    return lanes


def test_contenders_alternate_and_every_second_round_goes_the_other_way() -> None:
    log: list[str] = []
    first, second = measure(Worker("a", log), Worker("b", log))
    assert [entry for entry in log if entry.endswith("run")] == ["a:run", "b:run", "b:run", "a:run"] * 2 + [
        "a:run", "b:run",
    ]  # fmt: skip
    assert log[:4] == ["a:begin", "b:begin", "a:warm", "b:warm"]
    assert (first.status, second.status) == ("ok", "ok")
    assert len(first.samples) == 20
    assert first.turns == [0.5] * 5


def test_a_slower_one_stops_earlier() -> None:
    log: list[str] = []
    fast, slow = measure(Worker("fast", log), Worker("slow", log, takes=6.0))
    assert len(slow.samples) == PLAN.least  # 12 s after two calls, but not yet three
    assert sum(fast.samples) == pytest.approx(PLAN.seconds)


def test_of_a_very_slow_one_the_first_call_counts() -> None:
    log: list[str] = []
    (found,) = measure(Worker("a", log, takes=200.0))
    assert found.samples == [200.0]
    assert found.turns == [200.0]
    assert "a:run" not in log


@pytest.mark.parametrize("operation", ["begin", "warm", "run", "finish"])
@pytest.mark.parametrize("status", ["failed", "crashed", "timeout"])
def test_one_that_fails_does_not_take_the_others_with_it(operation: str, status: str) -> None:
    log: list[str] = []
    error = WorkerError(status, "what happened")
    good, bad, other = measure(Worker("a", log), Worker("b", log, fails={operation: error}), Worker("c", log))
    assert (bad.status, bad.reason) == (status, "what happened")
    assert (good.status, other.status) == ("ok", "ok")
    assert len(good.samples) == len(other.samples) == 20


def test_one_that_cannot_run_here_says_why() -> None:
    log: list[str] = []
    absent, good = measure(Worker("a", log, fails={"begin": {"unavailable": "not installed"}}), Worker("b", log))
    assert (absent.status, absent.reason, absent.samples) == ("unavailable", "not installed", [])
    assert good.status == "ok"


def test_an_interrupt_leaves_no_process() -> None:
    log: list[str] = []
    workers = [Worker("a", log), Worker("b", log, fails={"run": KeyboardInterrupt()})]
    with pytest.raises(KeyboardInterrupt):
        take_turns([lane(worker) for worker in workers], PLAN)
    assert all(worker.stopped for worker in workers)


def test_together_all_are_asked_before_the_first_answers() -> None:
    log: list[str] = []

    class Watched(Worker):
        def send(self, request: Mapping[str, Any]) -> None:
            super().send(request)
            if request["op"] == "begin":
                self.log.append(f"{self.name}:asked")

    measure(Watched("a", log), Watched("b", log), plan=Plan(seconds=1.0, together=True))
    assert log[:4] == ["a:asked", "b:asked", "a:begin", "b:begin"]
