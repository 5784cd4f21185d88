"""Where a run took place: machine, versions, commit. Neither host names nor absolute paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

# Those that decide which kernels run.
_FLAGS = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8", "asimd", "sve", "bf16", "i8mm",
)  # fmt: skip
_LIBRARIES = (
    "torch", "numpy", "scipy", "scikit-learn", "faiss-cpu", "faiss-gpu-cu12", "cuml-cu12", "cuml-cu13",
    "pytorch-metric-learning", "lightly", "triton", "threadpoolctl",
)  # fmt: skip
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT",
                     "KMP_BLOCKTIME", "TMOR_ISA", "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES")  # fmt: skip
_DEVICE_QUERY = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
BUSY_SHARE = 0.25  # of the CPUs


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip() or None
    except OSError:
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_flags() -> list[str]:
    """The instruction sets of this CPU that matter for products, as Linux names them; empty elsewhere."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    have = set(found[1].split()) if found else set()
    return [flag for flag in _FLAGS if flag in have]


def available_memory() -> int | None:
    """Bytes that new work can use without swapping; None where the system does not tell."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float | None:
    """Runnable processes over the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def busy(load: float | None, processors: int) -> str | None:
    """A warning if other work was running, else None."""
    if load is None or load <= BUSY_SHARE * processors:
        return None
    return f"the machine was busy: load average {load:.2f} on {processors} CPUs; times are worse than they need be"


def _caches() -> dict[str, str]:
    """Size by level and type, e.g. {"L2 Unified": "1024K"}."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(str(folder / name)) for name in ("level", "type", "size"))
        if level and kind and size:
            found[f"L{level} {kind}"] = size
    return found


def machine(device: str) -> dict[str, Any]:
    """CPU, memory, what governs their speed, and the GPU if the run is on one."""
    info = _read("/proc/cpuinfo") or ""
    model = re.search(r"^model name\s*:\s*(.*)$", info, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo") or "", re.MULTILINE)
    pages = re.search(r"\[(\w+)\]", _read("/sys/kernel/mm/transparent_hugepage/enabled") or "")
    load, processors = load_average(), cpus()
    return {
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        "cpus": processors,
        "instruction_sets": cpu_flags(),
        "caches": _caches(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        "memory_available_bytes": available_memory(),
        "transparent_hugepages": pages[1] if pages else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average": load,
        "busy": busy(load, processors),
        "gpu": _gpu() if device == "cuda" else None,
    }


def _gpu() -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    queried = _output("nvidia-smi", f"--query-gpu={_DEVICE_QUERY}", "--format=csv,noheader", "--id=0")
    values = [value.strip() for value in queried.split(",")] if queried else []
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "state": dict(zip(_DEVICE_QUERY.split(","), values, strict=False)),
    }


def software() -> dict[str, Any]:
    """Versions of everything that takes part, and what this build of tmor_fast contains."""
    import torch

    from tmor_fast.build import build_config

    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    versions: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "c_library": " ".join(platform.libc_ver()) or None,
        "libraries": versions,
        "torch_cuda": torch.version.cuda,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch_blas": blas[1] if blas else None,
        "torch_threads": torch.get_num_threads(),
        "environment": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        "tmor_fast": build_config(),
    }


def commit(folder: Path) -> dict[str, Any]:
    """The commit of the repository around `folder`, and whether tracked files differ from it; None without git."""
    git = ("git", "--no-optional-locks", "-C", str(folder))
    head = _output(*git, "rev-parse", "HEAD")
    changes = _output(*git, "status", "--porcelain", "--untracked-files=no")
    return {"commit": head, "dirty": None if changes is None else bool(changes)}
