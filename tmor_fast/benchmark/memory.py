"""Peak memory of a call above what its setup had taken: resident memory of the process, or the device's allocator."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import threading
import time
from pathlib import Path
from typing import Any, Protocol

PROCESS = Path("/proc/self")
SAMPLE_SECONDS = 0.002
KEPT_ON_DEVICE = 1 << 30  # bytes of free device memory that a waiting process may keep


class Peak(Protocol):
    """Watches memory from `start` on."""

    method: str

    def start(self) -> None:
        """Take the present use as the baseline."""

    def above(self) -> int | None:
        """Bytes of the highest use since `start` above the baseline; None if it cannot be told."""


def resident(field: str, process: Path = PROCESS) -> int | None:
    """`VmRSS` (now) or `VmHWM` (the highest) of this process in bytes; None where the system does not tell."""
    try:
        status = (process / "status").read_text()
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def release() -> None:
    """Give back what is free: unreachable objects, and the allocator's free pages where it is glibc's."""
    gc.collect()
    # On another system the baseline is a little higher.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class ResidentPeak:
    """Resident memory: the kernel's own high-water mark, set back at `start`; where that is refused, sampled.

    Args:
        process: the process's folder under /proc.
    """

    def __init__(self, process: Path = PROCESS) -> None:
        self.process = process
        self.method = ""
        self._baseline: int | None = None
        self._sampler: _Sampler | None = None

    def start(self) -> None:
        """Take the present resident memory as the baseline."""
        release()
        self.stop()
        self._baseline = resident("VmRSS", self.process)
        try:
            (self.process / "clear_refs").write_text("5")
            self.method = "VmHWM"
        except OSError:
            self.method = "sampled" if self._baseline is not None else "unavailable"
        if self.method == "sampled":
            self._sampler = _Sampler(self.process)
            self._sampler.start()

    def above(self) -> int | None:
        """Bytes above the baseline, at least 0."""
        if self._baseline is None:
            return None
        high = self._sampler.highest() if self._sampler else resident("VmHWM", self.process)
        return None if high is None else max(0, high - self._baseline)

    def stop(self) -> None:
        """End the sampling, if there is one."""
        if self._sampler is not None:
            self._sampler.finish()
            self._sampler = None


class _Sampler(threading.Thread):
    def __init__(self, process: Path) -> None:
        super().__init__(daemon=True)
        self.process = process
        self._high = 0
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.is_set():
            self._high = max(self._high, resident("VmRSS", self.process) or 0)
            time.sleep(SAMPLE_SECONDS)

    def highest(self) -> int:
        return max(self._high, resident("VmRSS", self.process) or 0)

    def finish(self) -> None:
        self._done.set()
        self.join()


class DevicePeak:
    """Memory that torch's allocator has handed out on the current CUDA device.

    Args:
        cuda: `torch.cuda`.
    """

    method = "torch.cuda.max_memory_allocated"

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self._baseline = 0

    def start(self) -> None:
        """Take what is allocated now as the baseline."""
        gc.collect()
        self.cuda.synchronize()
        self.cuda.reset_peak_memory_stats()
        self._baseline = int(self.cuda.memory_allocated())

    def above(self) -> int | None:
        """Bytes above the baseline."""
        self.cuda.synchronize()
        return max(0, int(self.cuda.max_memory_allocated()) - self._baseline)


def release_device(cuda: Any) -> bool:
    """Give back what torch's allocator keeps on the device, if that is much: other contenders need the room.

    Args:
        cuda: `torch.cuda`.

    Returns:
        Whether it was, so that the next call has to ask for it again.
    """
    if cuda.memory_reserved() - cuda.memory_allocated() <= KEPT_ON_DEVICE:
        return False
    cuda.empty_cache()
    return True


def device_peak(device: str) -> Peak:
    """The meter for "cpu" or "cuda"."""
    if device == "cpu":
        return ResidentPeak()
    import torch

    return DevicePeak(torch.cuda)
