"""Charades: localisation mAP at 25 time points a video."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tmor_fast.errors import DataError
from tmor_fast.evaluation.average_precision import DetectionReport, detection_report

NUM_CLASSES = 157
NUM_POINTS = 25
FRAME_RATE = 24.0


@dataclass(frozen=True)
class Annotation:
    """One video: its length in seconds and its actions as (class, start, end) in seconds."""

    length: float
    actions: tuple[tuple[int, float, float], ...]


def time_points(length: float) -> Tensor:
    """The official time points in seconds: t_j = (j - 1) / 25 * length, j = 1 to 25; (25,) float64."""
    if not length > 0:
        raise ValueError(f"time_points: length must be positive, got {length}")
    return torch.arange(NUM_POINTS, dtype=torch.float64) / NUM_POINTS * length


def point_labels(annotation: Annotation, num_classes: int = NUM_CLASSES) -> Tensor:
    """Labels at the time points: a class is active if start <= t <= end, both inclusive; (25, K) bool.

    Raises:
        ValueError: a class out of range or a length that is not positive.
    """
    times = time_points(annotation.length)
    labels = torch.zeros(NUM_POINTS, num_classes, dtype=torch.bool)
    for action, start, end in annotation.actions:
        if not 0 <= action < num_classes:
            raise ValueError(f"point_labels: class {action} is not in 0 to {num_classes - 1}")
        labels[:, action] |= (start <= times) & (times <= end)
    return labels


def point_scores(scores: Tensor, length: float, rate: float = FRAME_RATE) -> Tensor:
    """Predictions at the time points: the nearest of a stream with `rate` predictions a second.

    Which prediction stands for a time point is not official; the nearest one (half up, at most the last) is this
    library's choice.

    Args:
        scores: (T, K); prediction i is at i / rate seconds.
        length: length of the video in seconds.
        rate: predictions a second.

    Returns:
        (25, K).
    """
    if scores.ndim != 2 or not len(scores) or not rate > 0:
        raise ValueError(f"point_scores: expected (T, K) with T >= 1 and rate > 0, got {tuple(scores.shape)}, {rate}")
    nearest = (time_points(length) * rate + 0.5).floor().long().clamp_max(len(scores) - 1)
    return scores[nearest.to(scores.device)]


def localisation_map(
    predictions: Mapping[str, Tensor], annotations: Mapping[str, Annotation], label_names: Sequence[str] | None = None
) -> DetectionReport:
    """Official mAP: non-interpolated AP of each class over the 25 points of all annotated videos, then the mean.

    A video without predictions scores -inf everywhere. The official mean is over all 157 classes, all of which occur
    in the test set; on other videos classes that do not occur are left out of the mean and listed as absent. Ties: see
    `tmor_fast.evaluation.average_precision`.

    Args:
        predictions: video -> (25, K) scores, e.g. from `point_scores`.
        annotations: video -> annotation, see `read_annotations`.
        label_names: K names.

    Raises:
        ValueError: wrong shapes, NaN scores, no annotation, or a prediction for a video that is not annotated.
    """
    num_classes = NUM_CLASSES if label_names is None else len(label_names)
    unknown = sorted(predictions.keys() - annotations.keys())
    if unknown or not annotations:
        raise ValueError(f"localisation_map: {len(annotations)} annotated videos; not among them: {unknown[:3]}")
    missing_scores = torch.full((NUM_POINTS, num_classes), -float("inf"))
    scores, labels = [], []
    for video, annotation in annotations.items():
        given = predictions.get(video, missing_scores)
        if given.shape != missing_scores.shape:
            raise ValueError(
                f"localisation_map: {video} needs scores {tuple(missing_scores.shape)}, got {tuple(given.shape)}"
            )
        if bool(torch.isnan(given).any()):
            raise ValueError(f"localisation_map: the scores of {video} contain NaN")
        scores.append(given.detach().float().cpu())
        labels.append(point_labels(annotation, num_classes))
    return detection_report(torch.cat(scores), torch.cat(labels), label_names, protocol="charades")


def unofficial_map(
    videos: Iterable[tuple[Tensor, Tensor]],
    label_names: Sequence[str] | None = None,
    *,
    rows: Literal["dense", "sampled25"] = "dense",
) -> DetectionReport:
    """The two variants that papers report beside the official metric; never compare them with `localisation_map`.

    The mean is over all classes; a class that never occurs counts as 0.

    Args:
        videos: (scores (T, K), labels (T, K) bool) of each video.
        label_names: K names.
        rows: "dense" takes all rows; "sampled25" takes rows 1, 1 + s, 1 + 2 s, ... with s = int(T / 25), at most 25 of
            them, and leaves out videos of 25 rows or fewer.

    Raises:
        ValueError: no video (of more than 25 rows), an unknown choice of rows or wrong shapes.
    """
    if rows not in ("dense", "sampled25"):
        raise ValueError(f"unofficial_map: rows must be 'dense' or 'sampled25', got {rows!r}")
    pairs = list(videos)
    if rows == "sampled25":
        pairs = [
            (scores[1 :: len(scores) // NUM_POINTS][:NUM_POINTS], labels[1 :: len(scores) // NUM_POINTS][:NUM_POINTS])
            for scores, labels in pairs
            if len(scores) > NUM_POINTS
        ]
    if not pairs:
        raise ValueError(f"unofficial_map: there is no video to evaluate with rows={rows!r}")
    scores = torch.cat([scores.detach().float().cpu() for scores, _ in pairs])
    labels = torch.cat([labels.cpu() for _, labels in pairs])
    return detection_report(scores, labels, label_names, protocol=f"charades {rows} (unofficial)", absent_as_zero=True)


def parse_actions(text: str) -> tuple[tuple[int, float, float], ...]:
    """Actions of one annotation field, `c092 11.90 21.20;c147 0.00 12.60`; empty means none.

    Raises:
        DataError: the text does not follow the pattern.
    """
    actions = []
    for part in filter(None, text.strip().split(";")):
        try:
            name, start, end = part.split()
            if name[0] != "c":
                raise ValueError("class")
            actions.append((int(name[1:]), float(start), float(end)))
        except ValueError as error:
            raise DataError(f"Charades action {part!r}: expected 'c<class> <start> <end>'") from error
    return tuple(actions)


def read_annotations(path: str | os.PathLike[str]) -> dict[str, Annotation]:
    """Annotations of Charades_v1_train.csv or Charades_v1_test.csv (columns id, actions, length), in file order.

    Raises:
        DataError: a column is missing or a row cannot be read; the message names file and line.
    """
    annotations: dict[str, Annotation] = {}
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        absent = {"id", "actions", "length"} - set(reader.fieldnames or ())
        if absent:
            raise DataError(f"{path}: no column {', '.join(sorted(absent))}; expected Charades' official CSV file")
        for row in reader:
            try:
                annotation = Annotation(float(row["length"]), parse_actions(row["actions"]))
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}, line {reader.line_num}, video {row['id']}: {error}") from error
            if not annotation.length > 0:
                raise DataError(f"{path}, line {reader.line_num}, video {row['id']}: length must be positive")
            annotations[row["id"]] = annotation
    return annotations
