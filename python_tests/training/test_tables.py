"""The tables of a run: complete after a kill, cut back where a run goes on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from limits import largest_file

from tmor_fast.atomic import DiskFullError
from tmor_fast.training.tables import LossTable, write_metrics


def filled(path: Path, steps: int) -> LossTable:
    table = LossTable(path)
    table.start(0)
    for step in range(steps):
        table.append(step // 3, step, {"loss": 1 / (step + 3), "mm": 0.1})
    return table


def test_a_row_is_there_as_soon_as_it_is_written_with_all_digits(tmp_path: Path):
    path = tmp_path / "log" / "losses.csv"
    filled(path, 4)
    rows = list(csv.DictReader(path.open()))
    assert [(int(row["epoch"]), int(row["step"])) for row in rows] == [(0, 0), (0, 1), (0, 2), (1, 3)]
    assert [float(row["loss"]) for row in rows] == [1 / 3, 1 / 4, 1 / 5, 1 / 6]


@pytest.mark.parametrize("torn", ["", "1,5,0.125,0.", "garbage\n", "1,x,0.1,0.1\n"])
def test_a_resumed_table_is_that_of_an_unbroken_run(torn: str, tmp_path: Path):
    filled(tmp_path / "whole.csv", 7).close()
    broken = tmp_path / "broken.csv"
    filled(broken, 5).close()
    broken.write_text(broken.read_text() + torn)
    table = LossTable(broken)
    table.start(3)
    for step in range(3, 7):
        table.append(step // 3, step, {"mm": 0.1, "loss": 1 / (step + 3)})
    table.sync()
    assert broken.read_text() == (tmp_path / "whole.csv").read_text()


def test_starting_anew_empties_it(tmp_path: Path):
    path = tmp_path / "losses.csv"
    filled(path, 5).close()
    filled(path, 2).close()
    assert path.read_text().count("\n") == 3


def test_a_table_that_lost_rows_is_said_to(tmp_path: Path):
    path = tmp_path / "losses.csv"
    filled(path, 2).close()
    with pytest.warns(UserWarning, match=r"losses.csv: 2 of the 5 steps"):
        LossTable(path).start(5)
    path.unlink()
    with pytest.warns(UserWarning, match=r"losses.csv: 0 of the 5 steps"):
        LossTable(path).start(5)


def test_a_full_disk_names_the_table(tmp_path: Path):
    path = tmp_path / "losses.csv"
    table = filled(path, 2)
    size = path.stat().st_size
    with largest_file(size + 5), pytest.raises(DiskFullError, match=r"losses.csv: no space left"):
        table.append(1, 2, {"loss": 0.5, "mm": 0.1})
    # What was torn off is cut when the run goes on.
    table = LossTable(path)
    table.start(2)
    assert path.stat().st_size == size


def test_a_table_must_be_started(tmp_path: Path):
    with pytest.raises(RuntimeError, match="start"):
        LossTable(tmp_path / "losses.csv").append(0, 0, {"loss": 1.0})


def test_metrics_have_a_column_for_every_name(tmp_path: Path):
    write_metrics(tmp_path / "metrics.csv", [{"epoch": 0, "loss": 0.1}, {"epoch": 1, "loss": 0.2, "eps": 0.5}])
    assert (tmp_path / "metrics.csv").read_text() == "epoch,eps,loss\n0,,0.1\n1,0.5,0.2\n"
    write_metrics(tmp_path / "metrics.csv", [])
    assert list(csv.DictReader((tmp_path / "metrics.csv").open())) == []
