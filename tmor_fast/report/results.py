"""Classification reports and predictions inside result files, checked before anything is drawn from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Keys that only group what is below them.
GROUPS = ("reports", "predictions")


@dataclass(frozen=True, eq=False)
class Result:
    """One classification report.

    Args:
        name: e.g. "probe · T-MOR".
        label_names: K classes.
        confusion: (K, K) int64, rows true, columns predicted.
        top1, top5, mean_per_class: fractions.
        top_k: the k of `top5`.
        chance: accuracy of guessing, None where it was not noted.
    """

    name: str
    label_names: list[str]
    confusion: np.ndarray
    top1: float
    top5: float
    mean_per_class: float
    top_k: int
    chance: float | None = None

    @property
    def support(self) -> np.ndarray:
        """Clips of every class: (K,)."""
        return self.confusion.sum(axis=1)

    @property
    def above_chance(self) -> float:
        """How far top-1 is above guessing: what makes results with few and with many classes comparable."""
        return self.top1 - (1 / len(self.label_names) if self.chance is None else self.chance)

    @property
    def clips(self) -> int:
        """Clips tested."""
        return int(self.confusion.sum())


@dataclass(frozen=True)
class Prediction:
    """The best classes of one clip.

    Args:
        source: what predicted, e.g. "probe · T-MOR".
        clip_id: name of the clip.
        label: its true class.
        top: (class, score), best first.
        unit: "probability" or "cosine similarity".
    """

    source: str
    clip_id: str
    label: str
    top: tuple[tuple[str, float], ...]
    unit: str

    @property
    def right(self) -> bool:
        """Whether the first class is the true one."""
        return self.top[0][0] == self.label


def find_results(content: Any, prefix: Sequence[str]) -> tuple[list[Result], list[Prediction], list[str]]:
    """Reports and predictions anywhere in a JSON value.

    Args:
        content: what a file held.
        prefix: first parts of the names.

    Returns:
        Reports, predictions, and what was wrong with those that are left out.
    """
    results: list[Result] = []
    predictions: list[Prediction] = []
    problems: list[str] = []

    def walk(value: Any, path: tuple[str, ...], chance: float | None) -> None:
        if not isinstance(value, dict) or len(path) > 8:
            return
        name = " · ".join(part.replace("_", " ") for part in path) or "results"
        try:
            if "confusion" in value and "label_names" in value:
                results.append(_result(name, value, chance))
            elif "clips" in value and "top" in value:
                predictions.extend(_predictions(name, value))
            else:
                known = value.get("chance")
                inside = float(known) if isinstance(known, (int, float)) else chance
                for key, item in value.items():
                    walk(item, path if key in GROUPS else (*path, str(key)), inside)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            problems.append(f"{name} is malformed ({error})")

    walk(content, tuple(prefix), None)
    return results, predictions, problems


def _result(name: str, value: dict[str, Any], chance: float | None) -> Result:
    names = [str(label) for label in value["label_names"]]
    confusion = np.asarray(value["confusion"], dtype=np.int64)
    if confusion.shape != (len(names), len(names)) or (confusion < 0).any() or not len(names):
        raise ValueError(f"confusion {confusion.shape} for {len(names)} classes")
    return Result(
        name=name,
        label_names=names,
        confusion=confusion,
        top1=_finite(value["top1"]),
        top5=_finite(value["top5"]),
        mean_per_class=_finite(value["mean_per_class"]),
        top_k=int(value.get("top_k", 5)),
        chance=chance,
    )


def _predictions(name: str, value: dict[str, Any]) -> list[Prediction]:
    names = [str(label) for label in value["label_names"]]
    found = []
    rows = zip(value["clips"], value["label"], value["top"], value["score"], strict=True)
    for clip, label, top, scores in rows:
        if not top or min(label, *top) < 0:
            raise ValueError(f"clip {clip!r} has class numbers that are none")
        best = tuple((names[place], _finite(score)) for place, score in zip(top, scores, strict=True))
        found.append(Prediction(name, str(clip), names[label], best, str(value.get("unit", "score"))))
    return found


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no result")
    return number


def biggest_confusions(result: Result, count: int = 10) -> list[tuple[str, str, int, int]]:
    """(true class, predicted class, how many, clips of the true class) of the largest off-diagonal cells.

    Ordered by count, then by the share of the true class.
    """
    errors = result.confusion.copy()
    np.fill_diagonal(errors, 0)
    rows, columns = np.nonzero(errors)
    support = result.support
    share = errors[rows, columns] / support[rows]
    order = np.lexsort((columns, rows, -share, -errors[rows, columns]))[:count]
    names = result.label_names
    return [
        (names[row], names[column], int(errors[row, column]), int(support[row]))
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True)
    ]
