"""Peaks of known allocations, by the kernel's mark and by sampling."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tmor_fast.benchmark.memory import DevicePeak, ResidentPeak, resident

MB = 1_000_000
linux = pytest.mark.skipif(resident("VmHWM") is None, reason="no /proc here")


def allocate(size: int, seconds: float = 0.0) -> None:
    block = bytearray(size)
    block[::4096] = b"x" * len(range(0, size, 4096))  # zeroed pages are not resident until written
    time.sleep(seconds)


@linux
def test_a_known_allocation() -> None:
    peak = ResidentPeak()
    allocate(300 * MB)  # before: an earlier mark must not count
    peak.start()
    assert peak.above() < 20 * MB
    allocate(200 * MB)
    assert peak.method == "VmHWM"
    assert 190 * MB < peak.above() < 225 * MB
    allocate(50 * MB)
    assert 190 * MB < peak.above() < 225 * MB


@linux
def test_sampled_where_the_mark_cannot_be_set_back(tmp_path: Path) -> None:
    (tmp_path / "status").symlink_to("/proc/self/status")
    (tmp_path / "clear_refs").mkdir()  # writing to it fails, as it does without permission
    peak = ResidentPeak(tmp_path)
    peak.start()
    allocate(200 * MB, seconds=0.1)
    assert peak.method == "sampled"
    assert 190 * MB < peak.above() < 225 * MB
    peak.stop()


def test_unknown_where_the_system_does_not_tell(tmp_path: Path) -> None:
    peak = ResidentPeak(tmp_path / "nothing")
    peak.start()
    assert peak.method == "unavailable"
    assert peak.above() is None


def test_device_memory_above_its_baseline() -> None:
    class Cuda:
        allocated, highest = 100, 900

        def synchronize(self) -> None:
            pass

        def reset_peak_memory_stats(self) -> None:
            self.highest = self.allocated

        def memory_allocated(self) -> int:
            return self.allocated

        def max_memory_allocated(self) -> int:
            return self.highest

    cuda = Cuda()
    peak = DevicePeak(cuda)
    peak.start()
    assert peak.above() == 0
    cuda.highest = 350
    assert peak.above() == 250
