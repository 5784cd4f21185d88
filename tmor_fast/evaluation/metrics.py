"""Metrics of single-label classification: top-1, top-5, mean per-class accuracy and the confusion matrix.

Tie rule, everywhere in this file: of classes with equal scores the one with the smaller index ranks first. A model
that gives every class the same score therefore predicts class 0.

Accuracies are fractions in [0, 1]; only the printed table shows percent. A class without samples has no accuracy:
it is None (JSON null), is listed in `absent`, and never turns a mean into NaN.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from tmor_fast.errors import missing
from tmor_fast.evaluation.saving import save_json

if TYPE_CHECKING:
    from rich.table import Table

ClassAverage = Literal["present", "all"]


@dataclass(frozen=True, eq=False)
class ClassificationReport:
    """What `classification_report` found.

    Attributes:
        label_names: names of the K classes.
        confusion: (K, K) int64 counts; row = true class, column = predicted class.
        top1: share of samples whose class ranks first.
        top5: share of samples whose class is among the first `top_k`.
        top_k: min(5, K), the k of `top5`.
        mean_per_class: unweighted mean of `per_class`, as `class_average` says.
        class_average: "present" or "all", see `classification_report`.
    """

    label_names: tuple[str, ...]
    confusion: Tensor
    top1: float
    top5: float
    top_k: int
    mean_per_class: float
    class_average: ClassAverage

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return int(self.confusion.sum())

    @property
    def support(self) -> tuple[int, ...]:
        """Number of samples of every class."""
        return tuple(self.confusion.sum(dim=1).tolist())

    @property
    def per_class(self) -> tuple[float | None, ...]:
        """Recall of every class; None for a class without samples."""
        hits = self.confusion.diagonal().tolist()
        return tuple(hit / count if count else None for hit, count in zip(hits, self.support, strict=True))

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes without samples."""
        return tuple(name for name, count in zip(self.label_names, self.support, strict=True) if not count)

    def summary(self) -> str:
        """One line with the main numbers in percent."""
        line = (
            f"top-1 {100 * self.top1:.2f} %, top-{self.top_k} {100 * self.top5:.2f} %, "
            f"mean per class {100 * self.mean_per_class:.2f} %, {self.num_samples} clips"
        )
        return line + (f", {len(self.absent)} classes without clips" if self.absent else "")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python values, ready for JSON."""
        return {
            "num_samples": self.num_samples,
            "top1": self.top1,
            "top5": self.top5,
            "top_k": self.top_k,
            "mean_per_class": self.mean_per_class,
            "class_average": self.class_average,
            "label_names": list(self.label_names),
            "support": list(self.support),
            "per_class": list(self.per_class),
            "absent": list(self.absent),
            "confusion": self.confusion.tolist(),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict()` as JSON; the file appears only when it is complete."""
        return save_json(path, self.to_dict())

    def to_table(self, title: str = "") -> Table:
        """A rich table, one row a class: clips, accuracy, the class it is most often taken for.

        Raises:
            MissingDependencyError: rich is not installed.
        """
        try:
            from rich.table import Table
        except ImportError as error:
            raise missing("rich", "train", "printing a table of results") from error
        table = Table(title=title or None, caption=self.summary())
        table.add_column("class")
        table.add_column("clips", justify="right")
        table.add_column("accuracy %", justify="right")
        table.add_column("most often taken for")
        errors = self.confusion.clone()
        errors.fill_diagonal_(0)
        for index, (name, count, recall) in enumerate(zip(self.label_names, self.support, self.per_class, strict=True)):
            worst = int(errors[index].argmax())
            taken_for = f"{self.label_names[worst]} ({int(errors[index, worst])})" if errors[index].any() else ""
            table.add_row(name, str(count), "no clips" if recall is None else f"{100 * recall:.1f}", taken_for)
        return table


def classification_report(
    scores: Tensor,
    labels: Tensor,
    label_names: Sequence[str] | None = None,
    *,
    class_average: ClassAverage = "present",
) -> ClassificationReport:
    """Top-1, top-5, mean per-class accuracy and confusion of single-label scores.

    Args:
        scores: (n, K), higher is better, any floating-point dtype; only their order matters. Infinities are allowed.
        labels: (n,) integers in [0, K).
        label_names: K names; "0", "1", ... if None.
        class_average: "present" averages the recall over the classes that occur in `labels`; "all" divides by K, as
            Toyota Smarthome's script does, a class without samples counting as 0.

    Returns:
        The report; counts are exact, ratios are computed in float64.

    Raises:
        ValueError: wrong shapes, no samples, a NaN score, a label outside [0, K) or a wrong number of names.
        TypeError: scores that are not floating point or labels that are not integers.
    """
    confusion, hits = count_predictions(scores, labels)
    return report_from_counts(confusion, hits, label_names, class_average=class_average)


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Rank of each sample's own class, 0 = first; ties go to the smaller class index.

    Args:
        scores: (n, K) without NaN.
        labels: (n,) int64 in [0, K).

    Returns:
        (n,) int64.
    """
    own = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1], device=scores.device)[None, :] < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(dim=1)


def count_predictions(scores: Tensor, labels: Tensor, *, top_k: int = 5) -> tuple[Tensor, Tensor]:
    """Counts that add up over batches: the confusion matrix (K, K) and the number of top-`top_k` hits, both int64.

    Raises:
        ValueError, TypeError: as `classification_report`, except that n may be 0.
    """
    labels = check_scores(scores, labels)
    num_classes = scores.shape[1]
    if not len(labels):
        empty = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=scores.device)
        return empty, empty.sum()
    # argmax returns the first of equal maxima, which is the tie rule.
    cell = labels * num_classes + scores.argmax(dim=1)
    confusion = torch.bincount(cell, minlength=num_classes**2).reshape(num_classes, num_classes)
    return confusion, (label_ranks(scores, labels) < top_k).sum()


def report_from_counts(
    confusion: Tensor,
    top5_hits: Tensor | int,
    label_names: Sequence[str] | None = None,
    *,
    class_average: ClassAverage = "present",
) -> ClassificationReport:
    """The report of counts that `count_predictions` returned, summed over batches.

    Raises:
        ValueError: no samples, a wrong number of names or an unknown average.
    """
    if class_average not in ("present", "all"):
        raise ValueError(f"class_average must be 'present' or 'all', got {class_average!r}")
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion must be (K, K), got {tuple(confusion.shape)}")
    confusion = confusion.detach().to("cpu", torch.int64)
    num_classes, total = len(confusion), int(confusion.sum())
    if total == 0:
        raise ValueError("classification_report: there are no samples, so there is nothing to report")
    names = tuple(map(str, range(num_classes))) if label_names is None else tuple(label_names)
    if len(names) != num_classes:
        raise ValueError(f"label_names has {len(names)} names for {num_classes} classes")
    support = confusion.sum(dim=1).double()
    hits = confusion.diagonal().double()
    recall = hits / support.clamp_min(1)
    classes = num_classes if class_average == "all" else int((support > 0).sum())
    return ClassificationReport(
        label_names=names,
        confusion=confusion,
        top1=float(hits.sum()) / total,
        top5=int(top5_hits) / total,
        top_k=min(5, num_classes),
        mean_per_class=float(recall.sum()) / classes,
        class_average=class_average,
    )


def check_scores(scores: Tensor, labels: Tensor) -> Tensor:
    """The labels as int64 on the scores' device, or an error that names the first bad sample."""
    if scores.ndim != 2 or scores.shape[1] < 1:
        raise ValueError(f"scores must be (n, K) with K at least 1, got {tuple(scores.shape)}")
    if labels.shape != (len(scores),):
        raise ValueError(f"labels must be ({len(scores)},) to match the scores, got {tuple(labels.shape)}")
    if not scores.is_floating_point():
        raise TypeError(f"scores must be floating point, got {scores.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    labels = labels.to(scores.device, torch.int64)
    outside = (labels < 0) | (labels >= scores.shape[1])
    if bool(outside.any()):
        sample = int(outside.nonzero()[0])
        raise ValueError(
            f"sample {sample} has label {int(labels[sample])}, accepted are 0 to {scores.shape[1] - 1}; "
            "leave unlabelled samples out"
        )
    broken = torch.isnan(scores).any(dim=1)
    if bool(broken.any()):
        raise ValueError(f"the scores of sample {int(broken.nonzero()[0])} contain NaN; look for a diverged model")
    return labels
