"""The tables of a run's log: `losses.csv`, a row a step, and `metrics.csv`, a row an epoch; both survive a kill."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tmor_fast.atomic import new_file, space_for


class LossTable:
    """`losses.csv`: epoch, step (from 0) and the losses of every step, written as they come.

    Numbers have all their digits, so equal tables mean equal losses. A resumed run cuts the table back to its
    checkpoint and goes on: no row is lost or doubled.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._columns: list[str] = []

    def start(self, step: int) -> None:
        """Open the table for the row of `step`; rows from there on, which a run that was killed wrote, go."""
        kept: list[str] = []
        if step and self.path.is_file():
            with self.path.open(newline="") as file:
                header = file.readline()
                kept = [header, *(line for line in file if line.endswith("\n") and _step(line) < step)]
        if len(kept) != (step + 1 if step else 0):
            warnings.warn(
                f"{self.path}: {max(0, len(kept) - 1)} of the {step} steps before the checkpoint are there, the table "
                "was changed; training does not need it and goes on",
                stacklevel=2,
            )
        with new_file(self.path) as temporary:
            temporary.write_text("".join(kept))
        self._columns = kept[0].strip().split(",") if kept else []
        self._file = self.path.open("a", buffering=1, newline="")

    def append(self, epoch: int, step: int, losses: Mapping[str, float]) -> None:
        """Write the row of a step.

        Raises:
            DiskFullError: there is no space for it.
        """
        if self._file is None:
            raise RuntimeError("LossTable: call start first")
        row = {"epoch": epoch, "step": step, **losses}
        with space_for(self.path):
            if not self._columns:
                self._columns = list(row)
                self._file.write(",".join(self._columns) + "\n")
            self._file.write(",".join(repr(row[name]) for name in self._columns) + "\n")

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        if self._file is not None:
            with space_for(self.path):
                self._file.flush()
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; nothing where it is not open."""
        file, self._file = self._file, None
        if file is not None:
            with space_for(self.path):
                file.close()


def _step(line: str) -> float:
    fields = line.split(",")
    return int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else float("inf")


def write_metrics(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write `metrics.csv`, one row an epoch, whole. A value that an epoch does not have is left empty."""
    columns = sorted({name for row in rows for name in row})
    with new_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
