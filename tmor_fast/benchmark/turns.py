"""One case: its contenders measured in turn, A B A B, so that whatever drifts, drifts for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tmor_fast.benchmark.measure import Statistics, summarise
from tmor_fast.benchmark.process import WorkerError


class Worker(Protocol):
    """What `process.Process` offers."""

    def send(self, request: Mapping[str, Any]) -> None:
        """Ask."""

    def answer(self, seconds: float) -> dict[str, Any]:
        """The answer; WorkerError if there is none."""

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Both."""

    def stop(self) -> None:
        """End it."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        seconds: of timed calls for each lane, over `rounds` turns.
        warm_seconds: of calls before, at least one.
        least: timed calls, unless one takes `slow_seconds` or more: then its first one counts, and one is enough.
        most: calls of one turn.
        setup_timeout, turn_timeout: after which a process is given up.
        together: set processes up at the same time.
    """

    seconds: float = 20.0
    rounds: int = 5
    warm_seconds: float = 2.0
    least: int = 3
    most: int = 1000
    slow_seconds: float = 30.0
    setup_timeout: float = 1800.0
    turn_timeout: float = 7200.0
    together: bool = False


FULL = Plan()
QUICK = Plan(
    seconds=1.0, rounds=3, warm_seconds=0.3, slow_seconds=2.0, setup_timeout=120.0, turn_timeout=120.0, together=True
)
# Device events are steady within a second; what takes minutes there is starting processes and compilers.
FULL_CUDA = Plan(
    seconds=2.0, rounds=4, warm_seconds=0.5, slow_seconds=5.0, setup_timeout=240.0, turn_timeout=300.0, together=True
)


def plan_for(device: str, quick: bool) -> Plan:
    """How much is measured on "cpu" or "cuda"."""
    if quick:
        return QUICK
    return FULL if device == "cpu" else FULL_CUDA


@dataclass
class Lane:
    """One contender under one allocator: its process, and what came out.

    `status` is "ok", "unavailable", "failed", "crashed" or "timeout"; `reason` says why, unless it is "ok".
    """

    contender: str
    allocator: str
    worker: Worker
    request: Mapping[str, Any]
    output: str | None = None
    count: bool = False
    status: str = "waiting"
    reason: str = ""
    samples: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def statistics(self) -> Statistics:
        """Of all timed calls."""
        return summarise(self.samples)

    def done(self, plan: Plan) -> bool:
        """Whether there is enough of this lane."""
        if self.status != "running":
            return True
        enough = 1 if self.samples and max(self.samples) >= plan.slow_seconds else plan.least
        return len(self.samples) >= enough and sum(self.samples) >= plan.seconds

    @contextlib.contextmanager
    def guarded(self) -> Any:
        """What goes wrong inside ends this lane, and no other."""
        try:
            yield
        except WorkerError as error:
            self.status, self.reason = error.status, str(error)
            self.worker.stop()


def take_turns(lanes: Sequence[Lane], plan: Plan, report: Callable[[str], None] = lambda message: None) -> None:
    """Measure all lanes; every one of them has its status afterwards, and no process is left.

    Args:
        lanes: in the order of their turns; every second round goes the other way.
        plan: how much.
        report: told what happens next.
    """
    try:
        _begin(lanes, plan, report)
        for lane in lanes:
            if lane.status == "running":
                report(f"{lane.contender} ({lane.allocator}): warm-up")
                with lane.guarded():
                    samples = lane.worker.ask({"op": "warm", "seconds": plan.warm_seconds}, plan.turn_timeout)[
                        "samples"
                    ]
                    if samples[0] >= plan.slow_seconds:
                        lane.samples += samples
                        lane.turns.append(summarise(samples).median)
        for number in range(max(plan.rounds, plan.least)):
            for lane in lanes if number % 2 == 0 else reversed(lanes):
                if not lane.done(plan):
                    report(f"{lane.contender} ({lane.allocator}): turn {number + 1}")
                    _turn(lane, plan)
        for lane in lanes:
            if lane.status == "running":
                with lane.guarded():
                    asked = {"op": "finish", "output": lane.output, "count": lane.count}
                    lane.facts |= lane.worker.ask(asked, plan.turn_timeout)
                    lane.status = "ok"
    finally:
        for lane in lanes:
            lane.worker.stop()


def _begin(lanes: Sequence[Lane], plan: Plan, report: Callable[[str], None]) -> None:
    if plan.together:
        for lane in lanes:
            lane.worker.send(lane.request)
    for lane in lanes:
        report(f"{lane.contender} ({lane.allocator}): setup")
        with lane.guarded():
            if not plan.together:
                lane.worker.send(lane.request)
            reply = lane.worker.answer(plan.setup_timeout)
            if "unavailable" in reply:
                lane.status, lane.reason = "unavailable", reply["unavailable"]
                lane.worker.stop()
            else:
                lane.status = "running"
                lane.facts |= reply


def _turn(lane: Lane, plan: Plan) -> None:
    with lane.guarded():
        request = {"op": "run", "seconds": plan.seconds / plan.rounds, "most": plan.most}
        samples = lane.worker.ask(request, plan.turn_timeout)["samples"]
        lane.samples += samples
        lane.turns.append(summarise(samples).median)
