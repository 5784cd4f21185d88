"""T-MOR: learn human actions from skeletons.

Subpackages (imported on first use): `ops` (kernels), `nn` (UNIK, heads, losses), `cluster` (DBSCAN), `data` (clips),
`teachers` (frozen encoders), `training`, `evaluation`, `inference` (predictions),
`report` (one HTML file about a run), `cli`. `load` opens a trained model; `accelerate` runs a UNIK that somebody else
wrote on the fused op.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tmor_fast.build import build_config

if TYPE_CHECKING:
    from tmor_fast.inference.loading import load
    from tmor_fast.nn.accelerate import accelerate

__version__ = "0.1.0"

_SUBPACKAGES = (
    "benchmark", "cli", "cluster", "data", "evaluation",
    "inference", "nn", "ops", "report", "teachers", "training",
)  # fmt: skip

# Functions at the top: name -> the module that has it, imported on first use.
_FUNCTIONS = {"accelerate": "nn.accelerate", "load": "inference.loading"}

__all__ = ["__version__", "accelerate", "build_config", "load"]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[Any]:
    return sorted({*globals(), *_SUBPACKAGES, *_FUNCTIONS})
