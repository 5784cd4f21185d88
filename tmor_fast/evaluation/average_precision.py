"""Non-interpolated average precision with a tie rule that does not depend on the order of the samples.

Samples with equal scores form one threshold: all of them count as found at once, so each positive among them gets the
precision after the last of them. Without ties this is the mean, over positives, of the precision at their rank, which
is what the scripts of TSU and Charades compute; with ties those scripts depend on how a sort happens to order equals.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tmor_fast.evaluation.saving import save_json


def average_precision(scores: Tensor, positive: Tensor) -> float | None:
    """Average precision of one class.

    Args:
        scores: (n,), higher is better, no NaN; -inf ranks last.
        positive: (n,) bool.

    Returns:
        AP in (0, 1], or None if nothing is positive.
    """
    total = int(positive.sum())
    if not total:
        return None
    ordered, order = torch.sort(scores, descending=True)
    found = positive[order].to(torch.float64).cumsum(0)
    last_of_ties = torch.ones_like(positive)
    last_of_ties[:-1] = ordered[:-1] != ordered[1:]
    ends = last_of_ties.nonzero().flatten()
    found = found[ends]
    gained = found.diff(prepend=found.new_zeros(1))
    return float((gained * found / (ends + 1)).sum() / total)


@dataclass(frozen=True)
class DetectionReport:
    """Average precision of every class.

    Attributes:
        label_names: names of the K classes.
        per_class: AP of each class; None where nothing is positive.
        support: positives of each class.
        mean_ap: the mean as the protocol defines it.
        weighted_ap: mean weighted by `support`.
        protocol: which definition, e.g. "tsu".
    """

    label_names: tuple[str, ...]
    per_class: tuple[float | None, ...]
    support: tuple[int, ...]
    mean_ap: float
    weighted_ap: float
    protocol: str

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of classes without positives."""
        return tuple(name for name, ap in zip(self.label_names, self.per_class, strict=True) if ap is None)

    def summary(self) -> str:
        """One line with the main numbers in percent."""
        line = f"{self.protocol}: mAP {100 * self.mean_ap:.2f} %, weighted {100 * self.weighted_ap:.2f} %"
        return line + (f", {len(self.absent)} classes without positives" if self.absent else "")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python values, ready for JSON."""
        return {
            "protocol": self.protocol,
            "mean_ap": self.mean_ap,
            "weighted_ap": self.weighted_ap,
            "label_names": list(self.label_names),
            "per_class": list(self.per_class),
            "support": list(self.support),
            "absent": list(self.absent),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict()` as JSON; the file appears only when it is complete."""
        return save_json(path, self.to_dict())


def detection_report(
    scores: Tensor,
    positive: Tensor,
    label_names: Sequence[str] | None = None,
    *,
    protocol: str,
    absent_as_zero: bool = False,
) -> DetectionReport:
    """AP of every column.

    Args:
        scores: (n, K), higher is better; -inf allowed, NaN not.
        positive: (n, K) bool; several classes may hold at once.
        label_names: K names; "0", "1", ... if None.
        protocol: name for the report.
        absent_as_zero: let a class without positives count as 0 in the mean; else the mean leaves it out.

    Raises:
        ValueError: wrong shapes, NaN, or nothing positive at all.
    """
    if scores.ndim != 2 or positive.shape != scores.shape or positive.dtype != torch.bool:
        raise ValueError(
            f"scores and labels must both be (n, K), labels bool; got {tuple(scores.shape)} and "
            f"{tuple(positive.shape)}, {positive.dtype}"
        )
    if bool(torch.isnan(scores).any()):
        row = int(torch.isnan(scores).any(dim=1).nonzero()[0])
        raise ValueError(f"the scores of row {row} contain NaN; look for a diverged model")
    names = tuple(map(str, range(scores.shape[1]))) if label_names is None else tuple(label_names)
    if len(names) != scores.shape[1]:
        raise ValueError(f"label_names has {len(names)} names for {scores.shape[1]} classes")
    per_class = tuple(average_precision(scores[:, k].contiguous(), positive[:, k]) for k in range(len(names)))
    support = tuple(positive.sum(dim=0).tolist())
    present = [ap for ap in per_class if ap is not None]
    if not present:
        raise ValueError(f"{protocol}: no class has a positive, so there is no average precision")
    weighted = sum((ap or 0.0) * count for ap, count in zip(per_class, support, strict=True)) / sum(support)
    mean = sum(present) / (len(names) if absent_as_zero else len(present))
    return DetectionReport(names, per_class, support, mean, weighted, protocol)
