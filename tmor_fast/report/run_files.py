"""What lies in a run folder: training logs, configurations, result files, models and clip stores.

Nothing here is required: a part that is absent is an empty list, a file that cannot be read is a line in `problems`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tmor_fast.errors import DataError
from tmor_fast.report.results import Prediction, Result, find_results
from tmor_fast.training.recording import RecordedClustering, read_clustering

# A run is at most this deep: RUN/run/stage1/log.
DEPTH = 3
LARGEST_JSON = 64_000_000
SKIPPED = ("clips", "embeddings", "checkpoints", "log")


@dataclass
class TrainingLog:
    """The log of one training: a stage of pre-training or a stream of fine-tuning.

    Args:
        folder: of the training, e.g. RUN/stage1.
        rows: what was measured each epoch, by name; "epoch" counts from 0.
        clustering: the last recorded clustering, None without one.
    """

    folder: Path
    rows: list[dict[str, float]]
    clustering: RecordedClustering | None = None

    @property
    def is_stage(self) -> bool:
        """Whether it is a stage of pre-training."""
        return self.folder.name in ("stage1", "stage2")


@dataclass
class RunFiles:
    """The contents of a run folder.

    Args:
        folder: the run.
        logs: trainings, in the order of their folders.
        configs: (path within the run, text) of every config.yaml.
        results: classification reports of the result files.
        predictions: recorded predictions of the result files.
        models: checkpoints, pre-trained models first.
        stores: clip stores: those in the folder, then those it was trained on.
        problems: files that could not be used, and why.
    """

    folder: Path
    logs: list[TrainingLog] = field(default_factory=list)
    configs: list[tuple[str, str]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    models: list[Path] = field(default_factory=list)
    stores: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def stages(self) -> list[list[TrainingLog]]:
        """Stages of pre-training, those of one run together."""
        return self._grouped(stages=True)

    @property
    def streams(self) -> list[list[TrainingLog]]:
        """Streams of fine-tuning, those of one run together."""
        return self._grouped(stages=False)

    def _grouped(self, stages: bool) -> list[list[TrainingLog]]:
        groups: dict[Path, list[TrainingLog]] = {}
        for log in self.logs:
            if log.is_stage == stages:
                groups.setdefault(log.folder.parent, []).append(log)
        return list(groups.values())

    def name_of(self, path: Path) -> str:
        """A path as it is shown: within the run folder."""
        shown = path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name
        return self.folder.name if shown == "." else shown


def read_run(folder: str | Path) -> RunFiles:
    """Everything in a run folder that a report can show; a result file alone counts as a folder that holds it.

    Args:
        folder: of `tmor pretrain`, `finetune` or `demo`, or any folder with result files of `probe` and `zeroshot`.

    Raises:
        FileNotFoundError: there is no such folder or file.
        DataError: nothing in it belongs to a run.
    """
    root = Path(folder).resolve()
    if root.is_file() and root.suffix == ".json":
        run = RunFiles(root.parent)
        _read_results(root, run)
    elif root.is_dir():
        run = RunFiles(root)
        for path in _folders(root, DEPTH):
            _read_folder(path, run)
    else:
        raise FileNotFoundError(
            f"no run at {folder}; `tmor pretrain`, `tmor finetune` and `tmor demo` make run folders"
        )
    # The stores that were trained on may lie in the folder too.
    run.stores = list(dict.fromkeys(store.resolve() for store in run.stores))
    run.models.sort(key=lambda path: (path.name != "model.pt", len(path.parts), path.as_posix()))
    if not (run.logs or run.results or run.models or run.predictions):
        reason = f" ({'; '.join(run.problems)})" if run.problems else ""
        raise DataError(
            f"{folder}: no logs, results or models of a run{reason}; give the --out folder of `tmor pretrain`, "
            "`tmor finetune` or `tmor demo`, or a folder with JSON files of `tmor probe` and `tmor zeroshot`"
        )
    return run


def _folders(root: Path, depth: int) -> Iterator[Path]:
    yield root
    if depth and not (root / "dataset.json").is_file():
        for child in sorted(root.iterdir()):
            if child.is_dir() and not child.name.startswith(".") and child.name not in SKIPPED:
                yield from _folders(child, depth - 1)


def _read_folder(folder: Path, run: RunFiles) -> None:
    if (folder / "dataset.json").is_file():
        run.stores.append(folder)
        return
    if (folder / "log").is_dir():
        _read_log(folder, run)
    if (folder / "config.yaml").is_file():
        text = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
        run.configs.append((run.name_of(folder / "config.yaml"), text))
    for path in sorted(folder.glob("*.pt")):
        # The stages' own models differ from model.pt in nothing a report shows.
        if path.name not in ("stage1.pt", "stage2.pt"):
            run.models.append(path)
    for path in sorted(folder.glob("*.json")):
        if path.name == "stores.json":
            _read_stores(path, run)
        elif path.name != "train_clips.json":
            _read_results(path, run)


def _read_log(folder: Path, run: RunFiles) -> None:
    merged: dict[float, dict[str, float]] = {}
    # Those of a resumed run are numbered; where they overlap, the later one is what the model learned from.
    for path in [*sorted((folder / "log").glob("metrics_*.csv"), key=_number), folder / "log" / "metrics.csv"]:
        if not path.is_file():
            continue
        try:
            for row in _read_metrics(path):
                merged.setdefault(row["epoch"], {}).update(row)
        except (OSError, ValueError, csv.Error) as error:
            run.problems.append(f"{run.name_of(path)}: {error}")
    clustering = None
    if (folder / "log" / "clusters.npz").is_file():
        try:
            clustering = read_clustering(folder / "log" / "clusters.npz")
        except DataError as error:
            run.problems.append(str(error))
    if merged or clustering:
        run.logs.append(TrainingLog(folder, [merged[epoch] for epoch in sorted(merged)], clustering))


def _number(path: Path) -> int:
    digits = path.stem.partition("_")[2]
    return int(digits) if digits.isdecimal() else 0


def _read_metrics(path: Path) -> Iterator[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            values = {name: float(text) for name, text in row.items() if isinstance(text, str) and name and text}
            if math.isfinite(values.get("epoch", math.nan)):
                yield values


def _read_json(path: Path, run: RunFiles) -> Any:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"larger than {LARGEST_JSON // 1_000_000} MB")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        run.problems.append(f"{run.name_of(path)}: {error}")
        return None


def _read_stores(path: Path, run: RunFiles) -> None:
    listed = _read_json(path, run)
    for entry in listed if isinstance(listed, list) else []:
        store = Path(str(entry))
        if (store / "dataset.json").is_file():
            run.stores.append(store)
        else:
            run.problems.append(f"the store {store.name!r} that the run was trained on has moved; give --store")


def _read_results(path: Path, run: RunFiles) -> None:
    content = _read_json(path, run)
    prefix = [part for part in Path(run.name_of(path)).with_suffix("").parts if part != "results"]
    if path.name == "predictions.json":
        prefix = prefix[:-1]
    results, predictions, problems = find_results(content, prefix)
    run.results += results
    run.predictions += predictions
    run.problems += [f"{run.name_of(path)}: {problem}" for problem in problems]
