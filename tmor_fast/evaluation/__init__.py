"""Metrics and protocols; what a data set defines is in the file named after it.

`ClassificationMetrics` needs torchmetrics and is loaded when it is first used; everything else needs torch alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tmor_fast.evaluation.average_precision import DetectionReport, average_precision, detection_report
from tmor_fast.evaluation.few_shot import FewShotSelection, select_few_shot
from tmor_fast.evaluation.fusion import fuse_scores
from tmor_fast.evaluation.metrics import ClassificationReport, classification_report
from tmor_fast.evaluation.protocols import Protocol, get_protocol, hold_out, protocol_names
from tmor_fast.evaluation.zero_shot import (
    class_embeddings,
    draw_unseen_classes,
    restrict_classes,
    split_by_class,
    zero_shot_scores,
)

if TYPE_CHECKING:
    from tmor_fast.evaluation.streaming import ClassificationMetrics

__all__ = [
    "ClassificationMetrics",
    "ClassificationReport",
    "DetectionReport",
    "FewShotSelection",
    "Protocol",
    "average_precision",
    "class_embeddings",
    "classification_report",
    "detection_report",
    "draw_unseen_classes",
    "fuse_scores",
    "get_protocol",
    "hold_out",
    "protocol_names",
    "restrict_classes",
    "select_few_shot",
    "split_by_class",
    "zero_shot_scores",
]


def __getattr__(name: str) -> Any:
    if name == "ClassificationMetrics":
        from tmor_fast.evaluation.streaming import ClassificationMetrics

        return ClassificationMetrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
