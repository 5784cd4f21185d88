"""PKU-MMD: segments from frame scores, and average precision of segments.

The definition is that of the data set's evaluation script. It differs from the usual interpolated AP in one place:
precision is looked at only right after a matched proposal was removed, so a run of false positives between two hits
also lowers the precision credited to the better hit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IOU_THRESHOLDS = (0.1, 0.3, 0.5)


@dataclass(frozen=True)
class Segment:
    """One action in one video, from `start` to `end` (frames or seconds, end > start).

    Raises:
        ValueError: end is not after start, or a number is not finite.
    """

    video: str
    label: int
    start: float
    end: float
    confidence: float = 1.0

    def __post_init__(self) -> None:
        # The comparison is written so that NaN fails it.
        if not -float("inf") < self.start < self.end < float("inf") or not abs(self.confidence) < float("inf"):
            raise ValueError(f"segment must have finite start < end and a finite confidence, got {self}")


def segment_iou(a: Segment, b: Segment) -> float:
    """(min end - max start) / (max end - min start): negative where the segments are apart."""
    return (min(a.end, b.end) - max(a.start, b.start)) / (max(a.end, b.end) - min(a.start, b.start))


def segment_average_precision(proposals: Iterable[Segment], truths: Iterable[Segment], iou: float) -> float:
    """AP of proposals against the ground truth, labels and videos taken into account.

    Every proposal is matched to the ground truth of its class and video that it overlaps most (the later one of equal
    overlaps) if the overlap is at least `iou`. Several may match one ground truth, which counts once. Proposals are
    then removed in ascending confidence (equals in the order given); whenever a matched one goes, precision and recall
    are computed anew, and the drop in recall is weighted with the highest precision so far.

    Args:
        proposals: with confidences.
        truths: ground truth; confidences do not matter.
        iou: threshold in (0, 1].

    Returns:
        AP in [0, 1]; 0 where there are no proposals.

    Raises:
        ValueError: there is no ground truth, or iou is outside (0, 1].
    """
    if not 0.0 < iou <= 1.0:
        raise ValueError(f"segment_average_precision: iou must be in (0, 1], got {iou}")
    ordered = sorted(proposals, key=lambda segment: segment.confidence)
    truth = list(truths)
    if not truth:
        raise ValueError("segment_average_precision: there is no ground truth")
    match = _match(ordered, truth, iou)
    matched = [0] * len(truth)
    for target in match:
        if target is not None:
            matched[target] += 1
    found, left = sum(count > 0 for count in matched), len(ordered)
    best, recall = (found / left if left else 0.0), found / len(truth)
    area = 0.0
    for target in match:
        left -= 1
        if target is None:
            continue
        matched[target] -= 1
        found -= matched[target] == 0
        best = max(best, found / left if left else 0.0)
        area += best * (recall - found / len(truth))
        recall = found / len(truth)
    return area


def _match(proposals: Sequence[Segment], truth: Sequence[Segment], iou: float) -> list[int | None]:
    """Index of the ground truth that each proposal stands for, or None."""
    candidates: dict[tuple[str, int], list[int]] = {}
    for index, segment in enumerate(truth):
        candidates.setdefault((segment.video, segment.label), []).append(index)
    match: list[int | None] = []
    for proposal in proposals:
        best, target = iou, None
        for index in candidates.get((proposal.video, proposal.label), ()):
            overlap = segment_iou(proposal, truth[index])
            if overlap >= best:
                best, target = overlap, index
        match.append(target)
    return match


@dataclass(frozen=True)
class SegmentReport:
    """mAP over classes at several IoU thresholds.

    Attributes:
        mean_ap: threshold -> mean over the classes that occur in the ground truth (all 51 in the official splits).
        per_class: threshold -> class -> AP.
    """

    mean_ap: dict[float, float]
    per_class: dict[float, dict[int, float]]

    def summary(self) -> str:
        """One line with the main numbers in percent."""
        return ", ".join(f"mAP@{threshold:g} {100 * value:.2f} %" for threshold, value in self.mean_ap.items())


def segment_map(
    proposals: Iterable[Segment], truths: Iterable[Segment], iou_thresholds: Sequence[float] = IOU_THRESHOLDS
) -> SegmentReport:
    """mAP_action: AP of each class over all videos, then the mean over the classes of the ground truth.

    Proposals of a class that never occurs have no effect on the mean, as in the official script with its 51 classes.

    Raises:
        ValueError: there is no ground truth, or a threshold is outside (0, 1].
    """
    truth_of: dict[int, list[Segment]] = {}
    for segment in truths:
        truth_of.setdefault(segment.label, []).append(segment)
    if not truth_of:
        raise ValueError("segment_map: there is no ground truth")
    proposals_of: dict[int, list[Segment]] = {}
    for segment in proposals:
        proposals_of.setdefault(segment.label, []).append(segment)
    per_class = {
        threshold: {
            label: segment_average_precision(proposals_of.get(label, ()), truth_of[label], threshold)
            for label in sorted(truth_of)
        }
        for threshold in iou_thresholds
    }
    mean_ap = {threshold: sum(ap.values()) / len(ap) for threshold, ap in per_class.items()}
    return SegmentReport(mean_ap, per_class)


def frames_to_segments(
    probabilities: Tensor, video: str, *, threshold: float = 0.4, frames_per_step: float = 1.0
) -> list[Segment]:
    """Segments from class probabilities over time (the post-processing that the thesis cites).

    A step is active where 1 - p(background) exceeds `threshold`. Each maximal run of active steps is a segment; its
    class is the non-background class with the highest mean probability in the run (the smaller index of equals), which
    is also its confidence.

    Args:
        probabilities: (T, K + 1) with background in column 0.
        video: name for the segments.
        threshold: in [0, 1).
        frames_per_step: frames that a step stands for; step s covers [s, s + 1) * frames_per_step.

    Returns:
        Segments in order of time, labels 1 to K.

    Raises:
        ValueError: wrong shape, values outside [0, 1], or bad parameters.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise ValueError(f"frames_to_segments: expected (T, K + 1) with K >= 1, got {tuple(probabilities.shape)}")
    if not 0.0 <= threshold < 1.0 or not frames_per_step > 0:
        raise ValueError(
            f"frames_to_segments: threshold must be in [0, 1) and frames_per_step positive, "
            f"got {threshold} and {frames_per_step}"
        )
    values = probabilities.detach().to("cpu", torch.float64)
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError("frames_to_segments: probabilities must be in [0, 1]; apply softmax to logits first")
    active = (1.0 - values[:, 0] > threshold).to(torch.int8)
    edges = torch.nn.functional.pad(active, (1, 1)).diff()
    starts, ends = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    segments = []
    for start, end in zip(starts, ends, strict=True):
        mean = values[start:end, 1:].mean(dim=0)
        label = int(mean.argmax())
        segments.append(Segment(video, label + 1, start * frames_per_step, end * frames_per_step, float(mean[label])))
    return segments
