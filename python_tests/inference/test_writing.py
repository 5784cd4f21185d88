"""Predictions as JSON and CSV: complete or absent, and read back as they were."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from tmor_fast.inference import Prediction, write_predictions, writing

FOUND = [
    Prediction("a, b", ("walk", 'say "hi"'), (0.75, 0.25), 0, 10, 25.0, torch.zeros(3)),
    Prediction("ü", ("walk",), (1 / 3,), 5, 9, 10.0, torch.zeros(3)),
]


def test_json(tmp_path: Path):
    path = write_predictions(tmp_path / "new" / "p.json", FOUND, {"model": {"frames": 8}})
    content = json.loads(path.read_text(encoding="utf-8"))
    assert list(content) == ["model", "clips"]
    assert content["clips"][0] == {
        "clip_id": "a, b", "start": 0, "stop": 10, "start_seconds": 0.0, "stop_seconds": 0.4,
        "predictions": [{"name": "walk", "score": 0.75}, {"name": 'say "hi"', "score": 0.25}],
    }  # fmt: skip
    assert content["clips"][1]["predictions"] == [{"name": "walk", "score": 1 / 3}]


def test_csv(tmp_path: Path):
    path = write_predictions(tmp_path / "p.CSV", FOUND)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["clip_id"] for row in rows] == ["a, b", "a, b", "ü"]
    assert [row["name"] for row in rows] == ["walk", 'say "hi"', "walk"]
    assert [row["rank"] for row in rows] == ["1", "2", "1"]
    assert float(rows[2]["score"]) == pytest.approx(1 / 3, abs=1e-8)
    assert (rows[2]["start"], float(rows[2]["start_seconds"]), float(rows[2]["stop_seconds"])) == ("5", 0.5, 0.9)


def test_other_endings_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\.json or a \.csv"):
        write_predictions(tmp_path / "p.txt", FOUND)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["p.json", "p.csv"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    path = write_predictions(tmp_path / name, FOUND[:1])
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("broken")

    monkeypatch.setattr(writing.json, "dumps", fail)
    monkeypatch.setattr(writing, "_rows", fail)
    with pytest.raises(OSError, match="broken"):
        write_predictions(path, FOUND)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_no_predictions(tmp_path: Path):
    assert json.loads(write_predictions(tmp_path / "p.json", []).read_text()) == {"clips": []}
    assert write_predictions(tmp_path / "p.csv", []).read_text().startswith("clip_id,start,stop")
