"""Real processes: how they end, and that what libraries print does not disturb the answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tmor_fast.benchmark.allocator import TUNED, allocators, preloadable
from tmor_fast.benchmark.process import Process, WorkerError

CONTENDERS = (
    'Case("c", {}, [Contender("good", "ours", working(), **ANY), Contender("dying", "peer", dying, **ANY), '
    'Contender("broken", "peer", broken, **ANY), Contender("hanging", "peer", hanging, **ANY), '
    'Contender("absent", "peer", working(), unavailable=lambda: "not here", **ANY)])'
)
FOUND = "import os; print(os.environ.get('TMOR_TEST_MARK'))"


@pytest.fixture
def begin(claim_folder: Callable[..., Path]) -> Iterator[Callable[[str], Process]]:
    path, started = claim_folder(CONTENDERS) / "sums.py", []

    def start(contender: str) -> Process:
        process = Process({"TMOR_TEST_MARK": "1"})
        started.append(process)
        process.send(
            {"op": "begin", "claim": str(path), "case": "c", "contender": contender,
             "settings": {"quick": True, "device": "cpu", "options": {}}}
        )  # fmt: skip
        return process

    yield start
    for process in started:
        process.stop()


def test_a_contender_is_set_up_and_measured(begin: Callable[[str], Process]) -> None:
    process = begin("good")
    assert process.answer(60)["setup_seconds"] >= 0  # although its setup prints
    assert len(process.ask({"op": "warm", "seconds": 0.01}, 60)["samples"]) >= 1
    samples = process.ask({"op": "run", "seconds": 0.02, "most": 5}, 60)["samples"]
    assert len(samples) == 5
    assert all(0 < sample < 1 for sample in samples)
    assert process.ask({"op": "finish"}, 60)["peak_bytes"] is not None


def failure(process: Process, request: dict[str, Any] | None = None, seconds: float = 60) -> WorkerError:
    if request is not None:
        process.answer(60)
        process.send(request)
    with pytest.raises(WorkerError) as caught:
        process.answer(seconds)
    return caught.value


def test_an_exception_is_told(begin: Callable[[str], Process]) -> None:
    error = failure(begin("broken"))
    assert error.status == "failed"
    assert "RuntimeError: no such" in str(error)


def test_a_death_is_told_with_its_last_words(begin: Callable[[str], Process]) -> None:
    error = failure(begin("dying"), {"op": "warm", "seconds": 0.0})
    assert error.status == "crashed"
    assert str(error).startswith("exit status 7")
    assert "noise on standard output" not in str(error)


def test_a_kill_is_named(begin: Callable[[str], Process]) -> None:
    process = begin("hanging")
    process.answer(60)
    process.send({"op": "warm", "seconds": 0.0})
    process._child.kill()
    error = failure(process)
    assert (error.status, "SIGKILL (out of memory?)" in str(error)) == ("crashed", True)


def test_a_time_limit_ends_the_process(begin: Callable[[str], Process]) -> None:
    process = begin("hanging")
    error = failure(process, {"op": "warm", "seconds": 0.0}, seconds=0.2)
    assert error.status == "timeout"
    assert process._child.poll() is not None


def test_what_cannot_run_here_is_no_failure(begin: Callable[[str], Process]) -> None:
    assert begin("absent").answer(60) == {"unavailable": "not here"}


FAULTS = """
import ctypes, resource
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
def work(times):
    for _ in range(times):
        block = libc.malloc(64 << 20)
        libc.memset(block, 1, 64 << 20)
        libc.free(block)
work(3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work(5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(environment: dict[str, str]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_the_tuned_allocator_keeps_large_blocks() -> None:
    pages = 5 * (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert faults({}) >= pages  # each block is mapped and cleared anew
    assert faults(dict(TUNED.environment)) < pages / 20


def test_which_allocators_are_measured() -> None:
    ours, peers = allocators("cpu", quick=False)
    assert [a.name for a in ours] == ["default", "tuned"]
    assert [a.name for a in peers] == ["default", "tuned", *[a.name for a in preloadable()]]
    assert [[a.name for a in some] for some in allocators("cpu", quick=True)] == [["default"], ["default", "tuned"]]
    assert [[a.name for a in some] for some in allocators("cuda", quick=False)] == [["default"], ["default"]]
    assert ours[0].environment == {}
