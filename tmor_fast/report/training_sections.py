"""Sections about the training: losses, clusters and noise of every epoch, and the k-distance curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tmor_fast.report.charts import Line, Mark, line_chart
from tmor_fast.report.gather import Material
from tmor_fast.report.html import absent, text
from tmor_fast.report.run_files import TrainingLog

LOSSES = {"loss": "total", "mm": "motion to motion", "mv": "motion to video", "mt": "motion to text"}
# Runs shown in full; a folder of many would bury the rest of the page.
MOST_RUNS = 4
PRETRAIN = "`tmor pretrain STORE --out RUN` makes it."


def training_section(material: Material) -> str:
    """Loss curves of pre-training, loss and accuracy of fine-tuning."""
    run = material.run
    parts = []
    for group in run.stages[:MOST_RUNS]:
        lines = [_column(group, name, shown) for name, shown in LOSSES.items()]
        chart = line_chart(
            "Pre-training losses (mean of each epoch)", _present(lines), x="epoch", y="loss (nats)",
            marks=_boundaries(group), zero=True,
        )  # fmt: skip
        parts += [_heading(run.name_of(group[0].folder.parent), len(run.stages)), _grid([chart])]
    for group in run.streams[:MOST_RUNS]:
        charts = []
        for name, unit, factor in (
            ("loss", "cross entropy (nats)", 1.0),
            ("accuracy", "clips of the batches (%)", 100.0),
        ):
            lines = [_column([log], name, log.folder.name, factor) for log in group]
            title = "Training loss" if name == "loss" else "Accuracy on training clips"
            charts.append(line_chart(title, _present(lines), x="epoch", y=unit, zero=True))
        parts += [f"<h3>Fine-tuning: {text(run.name_of(group[0].folder.parent))}</h3>", _grid(charts)]
    hidden = max(0, len(run.stages) - MOST_RUNS) + max(0, len(run.streams) - MOST_RUNS)
    if hidden:
        parts.append(f'<p class="soft">{hidden} more runs in this folder are not drawn; make a report of each.</p>')
    return "".join(parts) or absent("loss curves", PRETRAIN)


def clusters_section(material: Material) -> str:
    """Clusters, noise and radius of every epoch, and the k-distance curve with the radius."""
    run = material.run
    parts = []
    for group in run.stages[:MOST_RUNS]:
        if not any("clusters" in row for log in group for row in log.rows):
            continue
        marks = _boundaries(group)
        found = line_chart(
            "Clusters found after each epoch", _present([_column(group, "clusters", "clusters")]), x="epoch",
            y="clusters", marks=marks, zero=True,
        )  # fmt: skip
        shares = [
            _column(group, "noise_share", "noise (in no cluster)", 100.0),
            _column(group, "largest_cluster_share", "in the largest cluster", 100.0),
        ]
        noise = line_chart(
            "Noise and largest cluster", _present(shares), x="epoch", y="clips (%)", marks=marks, zero=True
        )
        radius = line_chart(
            "Radius eps",
            _present([_column(group, "eps", "eps")]),
            x="epoch",
            y="cosine distance",
            marks=marks,
            zero=True,
        )
        parts += [_heading(run.name_of(group[0].folder.parent), len(run.stages)), _grid([found, noise, radius])]
    curves = _curves(material)
    if not parts:
        parts.append(absent("clusters of each epoch", PRETRAIN))
    if curves:
        parts.append(
            "<h3>How eps was chosen</h3><p>For every clip of a sample: the cosine distance to its k-th nearest other "
            "clip, in ascending order. A clip is the core of a cluster where its distance is at most eps. Unless the "
            "options set it, eps is the knee of the curve, and is lowered where one cluster would hold too much.</p>"
            + _grid(curves)
        )
    else:
        remedy = "Train again, or give the run's stores: `tmor report RUN --store STORE`."
        parts.append(absent("the k-distance curve", remedy, material.reasons.get("clusters") or "none was recorded"))
    return "".join(parts)


def _curves(material: Material) -> list[str]:
    charts = []
    recorded = [(log, log.clustering) for group in material.run.stages[:MOST_RUNS] for log in group if log.clustering]
    for log, kept in recorded:
        when = f"after epoch {kept.epoch + 1}" if kept.epoch >= 0 else "before the first epoch"
        title = f"k-distance curve: {material.run.name_of(log.folder)}, {when}"
        charts.append(_curve(title, kept.curve, kept.k, kept.eps))
    if not charts and material.clusters is not None:
        found = material.clusters
        charts.append(_curve("k-distance curve: the clips of the map", found.curve, found.k, found.eps))
    return [chart for chart in charts if chart]


def _curve(title: str, curve: np.ndarray, k: int, eps: float) -> str:
    shares = np.linspace(0.0, 100.0, len(curve)).tolist()
    line = Line(f"distance, k = {k}", list(zip(shares, curve.tolist(), strict=True)))
    return line_chart(
        title, [line], x="clips (%)", y="cosine distance", marks=[Mark(f"eps = {eps:.4g}", y=eps)], zero=True
    )


def epochs_of(group: Sequence[TrainingLog]) -> int:
    """Epochs of all stages together."""
    return sum(_length(log) for log in group)


def _length(log: TrainingLog) -> int:
    return 1 + int(max((row["epoch"] for row in log.rows), default=-1.0))


def _column(group: Sequence[TrainingLog], name: str, shown: str, factor: float = 1.0) -> Line:
    """One measurement over the epochs of all stages, counted through from 1; NaN where an epoch lacks it."""
    points, before = [], 0
    for log in group:
        points += [(before + row["epoch"] + 1, factor * row.get(name, math.nan)) for row in log.rows]
        before += _length(log)
    return Line(shown, points)


def _present(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if any(math.isfinite(value) for _, value in line.points)]


def _boundaries(group: Sequence[TrainingLog]) -> list[Mark]:
    return [Mark("stage 2 begins", x=_length(group[0]) + 0.5)] if len(group) > 1 else []


def _heading(name: str, runs: int) -> str:
    return f"<h3>Pre-training: {text(name)}</h3>" if runs > 1 else ""


def _grid(charts: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(charts)}</div>'
