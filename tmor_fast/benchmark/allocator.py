"""Memory allocators under which contenders are measured.

Large temporaries are what plain tensor code is made of. With glibc's defaults each of them is mapped and returned
anew, and the kernel clears its pages every time: the same code runs up to twofold slower than with an allocator that
keeps them. So peers are measured under a tuned one too, and the better time is quoted.
"""

from __future__ import annotations

import ctypes.util
from collections.abc import Mapping
from dataclasses import dataclass, field

# Above this, glibc maps each block by itself; free memory beyond TRIM goes back to the system. Both out of reach.
_GLIBC = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
# Keep free pages for good, and large blocks in the same arenas as small ones.
_JEMALLOC = {"MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0"}
_TCMALLOC = {"TCMALLOC_RELEASE_RATE": "0"}


@dataclass(frozen=True)
class Allocator:
    """One allocator: `environment` selects it when a process starts."""

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


DEFAULT = Allocator("default", {}, "as the system has it")
TUNED = Allocator("tuned", _GLIBC, "glibc with its mmap and trim thresholds raised: large blocks are kept")


def preloadable() -> list[Allocator]:
    """jemalloc and tcmalloc where they are installed."""
    found = []
    for name, libraries, extra in (
        ("jemalloc", ("jemalloc",), _JEMALLOC),
        ("tcmalloc", ("tcmalloc_minimal", "tcmalloc"), _TCMALLOC),
    ):
        sonames = filter(None, map(ctypes.util.find_library, libraries))
        for soname in sonames:
            found.append(Allocator(name, {"LD_PRELOAD": soname, **extra}, f"{soname}, told to keep free pages"))
            break
    return found


def allocators(device: str, quick: bool) -> tuple[list[Allocator], list[Allocator]]:
    """The allocators for what is ours, and for peers and floors; the first is the system's default.

    On a GPU the host's allocator decides nothing, so there is one. A quick run leaves out what takes a process each:
    ours under a tuned allocator, and the preloaded ones.
    """
    if device != "cpu":
        return [DEFAULT], [DEFAULT]
    if quick:
        return [DEFAULT], [DEFAULT, TUNED]
    return [DEFAULT, TUNED], [DEFAULT, TUNED, *preloadable()]
