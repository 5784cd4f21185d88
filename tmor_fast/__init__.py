"""T-MOR: learn human actions from skeletons.

Subpackages (imported on first use): `ops` (kernels), `nn` (UNIK, heads, losses), `cluster` (DBSCAN), `data` (clips),
`teachers` (frozen encoders), `training`, `evaluation`, `cli`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tmor_fast.build import build_config

if TYPE_CHECKING:
    from types import ModuleType

__version__ = "0.1.0"

_SUBPACKAGES = ("cli", "cluster", "data", "evaluation", "nn", "ops", "teachers", "training")

__all__ = ["__version__", "build_config"]


def __getattr__(name: str) -> ModuleType:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[Any]:
    return sorted({*globals(), *_SUBPACKAGES})
