"""Models given on the command line, and what their training says about them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmor_fast.errors import DataError

if TYPE_CHECKING:
    from tmor_fast.nn.tmor import TMOR

# What a verb must know to feed a model as it was trained.
NEEDED = (
    "layout", "normalisation", "frames", "sampling", "view_yaw_degrees", "stream", "stage", "text_teacher",
    "video_teacher", "held_out", "trained_on",
)  # fmt: skip


def open_model(path: Path) -> tuple[TMOR, dict[str, Any]]:
    """A model of `tmor pretrain` and its metadata, complete.

    Raises:
        DataError: not such a model, or its metadata lacks something (it was saved by hand or by an older version).
    """
    from tmor_fast.nn.checkpoint import load_model

    model, metadata = load_model(path)
    absent = [name for name in NEEDED if name not in metadata]
    if absent:
        raise DataError(
            f"{path}: its metadata lacks {', '.join(absent)}, so clips cannot be prepared as it was trained; "
            "pre-train again, or use the functions of tmor_fast.training and say these yourself"
        )
    return model, metadata


def augmentation_of(metadata: dict[str, Any]) -> dict[str, Any]:
    """The fields of `AugmentationConfig` that a model's clips must share with its training."""
    return {name: metadata[name] for name in ("frames", "sampling", "view_yaw_degrees")}
