"""Synthetic human motion: named actions by drawn people, in 3D or as a camera sees them, with captions.

For demonstrations, benchmarks and tests that need skeletons, labels, captions and held-out people without a download.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tmor_fast.data.synthetic.action import Action
from tmor_fast.data.synthetic.actions import ACTIONS, ZERO_SHOT_ACTIONS, action_names, get_actions
from tmor_fast.data.synthetic.generator import SyntheticBatch, generate

if TYPE_CHECKING:
    from tmor_fast.data.synthetic.writing import to_clip_batch, write_synthetic_store

__all__ = [
    "ACTIONS",
    "ZERO_SHOT_ACTIONS",
    "Action",
    "SyntheticBatch",
    "action_names",
    "generate",
    "get_actions",
    "to_clip_batch",
    "write_synthetic_store",
]


def __getattr__(name: str) -> Any:
    # The clip store is only needed for writing.
    if name in ("to_clip_batch", "write_synthetic_store"):
        from tmor_fast.data.synthetic import writing

        return getattr(writing, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
