"""Classification metrics over batches and processes, as a torchmetrics metric (for Lightning loops)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tmor_fast.errors import missing
from tmor_fast.evaluation.metrics import (
    ClassAverage,
    ClassificationReport,
    count_predictions,
    report_from_counts,
)

try:
    from torchmetrics import Metric
except ImportError as error:
    raise missing("torchmetrics", "train", "tmor_fast.evaluation.ClassificationMetrics") from error


class ClassificationMetrics(Metric):
    """`classification_report` for batches: update with each, then `compute()` or `report()`.

    torchmetrics sums the counts over the processes of a distributed run; rules and definitions are those of
    `tmor_fast.evaluation.metrics`.

    Args:
        label_names: names of the K classes, or K.
        class_average: "present" or "all", see `classification_report`.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    confusion: Tensor
    top5_hits: Tensor

    def __init__(self, label_names: Sequence[str] | int, class_average: ClassAverage = "present") -> None:
        super().__init__()
        names = map(str, range(label_names)) if isinstance(label_names, int) else label_names
        self.label_names = tuple(names)
        self.class_average = class_average
        size = len(self.label_names)
        if not size:
            raise ValueError("ClassificationMetrics: give at least one class")
        self.add_state("confusion", torch.zeros(size, size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("top5_hits", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add a batch: scores (n, K) floating point, labels (n,) integers."""
        if scores.ndim != 2 or scores.shape[1] != len(self.label_names):
            raise ValueError(f"scores must be (n, {len(self.label_names)}), got {tuple(scores.shape)}")
        confusion, hits = count_predictions(scores.detach(), labels)
        self.confusion += confusion.to(self.confusion.device)
        self.top5_hits += hits.to(self.top5_hits.device)

    def compute(self) -> dict[str, Tensor]:
        """`top1`, `top5` and `mean_per_class` as float32 scalars, ready for a logger."""
        report = self._report()
        values = {"top1": report.top1, "top5": report.top5, "mean_per_class": report.mean_per_class}
        return {name: torch.tensor(value, device=self.confusion.device) for name, value in values.items()}

    def report(self) -> ClassificationReport:
        """The full report of all batches of all processes since the last reset."""
        # compute() syncs by itself; here the state is synced for as long as it is read.
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            return self._report()

    def _report(self) -> ClassificationReport:
        return report_from_counts(self.confusion, self.top5_hits, self.label_names, class_average=self.class_average)
