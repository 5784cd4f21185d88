"""Toyota Smarthome Untrimmed (TSU): mean average precision per frame.

Event-based mAP is PKU-MMD's (`tmor_fast.evaluation.pku_mmd`) with classes 0 to 50.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tmor_fast.evaluation.average_precision import DetectionReport, detection_report

NUM_CLASSES = 51


def frame_labels(
    actions: Iterable[tuple[int, float, float]], duration: float, num_frames: int, num_classes: int = NUM_CLASSES
) -> Tensor:
    """Labels at the resolution of the predictions.

    With `fps = num_frames / duration`, frame f is positive for an action if `start < f / fps < end`, both strict.

    Args:
        actions: (class, start, end) in the unit of `duration`.
        duration: length of the video; TSU's annotation file counts it in frames.
        num_frames: T, number of predictions for the video, at any resolution.
        num_classes: K.

    Returns:
        (T, K) bool.

    Raises:
        ValueError: a duration that is not positive, no frame or a class out of range.
    """
    if not duration > 0 or num_frames < 1:
        raise ValueError(f"frame_labels: duration and num_frames must be positive, got {duration} and {num_frames}")
    position = torch.arange(num_frames, dtype=torch.float64) / (num_frames / duration)
    labels = torch.zeros(num_frames, num_classes, dtype=torch.bool)
    for action, start, end in actions:
        if not 0 <= action < num_classes:
            raise ValueError(f"frame_labels: class {action} is not in 0 to {num_classes - 1}")
        labels[:, action] |= (position > start) & (position < end)
    return labels


class FrameMAP:
    """Mean average precision over all frames of all videos, one video at a time.

    AP of a class is non-interpolated over the frames of all videos together. The mean is over the classes that occur:
    the official script divides by the number of classes with AP != 0, which is the same. Ties: see
    `tmor_fast.evaluation.average_precision`.

    Args:
        label_names: names of the K classes, or K.
    """

    def __init__(self, label_names: Sequence[str] | int = NUM_CLASSES) -> None:
        names = map(str, range(label_names)) if isinstance(label_names, int) else label_names
        self.label_names = tuple(names)
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add frames: scores (T, K) floating point, labels (T, K) bool. Padding frames must be cut off before.

        Raises:
            ValueError: wrong shapes or a NaN score; the frames are then not added.
        """
        wanted = (len(scores), len(self.label_names))
        if scores.shape != wanted or labels.shape != wanted or labels.dtype != torch.bool:
            raise ValueError(
                f"FrameMAP: scores and labels must both be (T, {len(self.label_names)}), labels bool; "
                f"got {tuple(scores.shape)} and {tuple(labels.shape)}, {labels.dtype}"
            )
        if bool(torch.isnan(scores).any()):
            raise ValueError(f"FrameMAP: video {len(self._scores)} has NaN scores; look for a diverged model")
        self._scores.append(scores.detach().float().cpu())
        self._labels.append(labels.cpu())

    def compute(self) -> DetectionReport:
        """The report over all frames added so far.

        Raises:
            ValueError: no frame was added, or none is positive.
        """
        if not self._scores:
            raise ValueError("FrameMAP: no frame was added, so there is nothing to report")
        return detection_report(torch.cat(self._scores), torch.cat(self._labels), self.label_names, protocol="tsu")

    def reset(self) -> None:
        """Forget all frames."""
        self._scores.clear()
        self._labels.clear()
