"""Predictions in files: JSON for programs, CSV for tables."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tmor_fast.atomic import new_file
from tmor_fast.inference.predictions import Prediction

COLUMNS = ("clip_id", "start", "stop", "start_seconds", "stop_seconds", "rank", "name", "score")


def write_predictions(
    path: str | os.PathLike[str], predictions: Sequence[Prediction], about: Mapping[str, Any] | None = None
) -> Path:
    """Write predictions; the file appears when it is complete.

    JSON: what `about` says, then "clips": a list with clip_id, start and stop in frames and seconds, and
    "predictions", [{"name": .., "score": ..}, ...]. CSV: one row a name, with the columns `COLUMNS`; rank 1 is the most
    probable.

    Args:
        path: a .json or .csv file; its folder is created.
        predictions: in the order of the file.
        about: plain values for the JSON, e.g. {"model": model.describe()}.

    Returns:
        The path.

    Raises:
        ValueError: another ending.
        DiskFullError: there is no space for it.
    """
    target = Path(path)
    check_ending(target)
    with new_file(target) as temporary:
        if target.suffix.lower() == ".json":
            content = {**(about or {}), "clips": [prediction.to_dict() for prediction in predictions]}
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        else:
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(COLUMNS)
                for prediction in predictions:
                    writer.writerows(_rows(prediction))
    return target


def check_ending(path: Path) -> None:
    """Refuse a file name before the work is done rather than after it.

    Raises:
        ValueError: it ends neither in .json nor in .csv.
    """
    if path.suffix.lower() not in (".json", ".csv"):
        raise ValueError(f"{path}: predictions are written to a .json or a .csv file")


def _rows(prediction: Prediction) -> list[list[Any]]:
    place = [
        prediction.clip_id, prediction.start, prediction.stop,
        f"{prediction.start_seconds:.6f}", f"{prediction.stop_seconds:.6f}",
    ]  # fmt: skip
    pairs = zip(prediction.names, prediction.scores, strict=True)
    return [[*place, rank, name, f"{score:.8g}"] for rank, (name, score) in enumerate(pairs, 1)]
