"""`tmor data check`: tables, the file of findings, the exit status."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tmor_fast.cli.data import app
from tmor_fast.data import get_layout

RUN = CliRunner(env={"COLUMNS": "200"})


def save(path: Path, labels: list[int], **changes: object) -> Path:
    """Clips of five frames with the labels."""
    count = len(labels)
    body = np.random.default_rng(0).normal(size=(17, 3))
    fields: dict[str, object] = {
        "joints": body + 0.01 * np.arange(5 * count)[:, None, None],
        "offsets": np.arange(count + 1) * 5,
        "joint_names": np.array(get_layout("unik17").joint_names),
        "label": np.array(labels),
        "label_names": np.array(["walk", "run"]),
        **changes,
    }
    np.savez(path, **fields)  # type: ignore[arg-type]
    return path


def test_a_sound_source_ends_in_status_0(tmp_path: Path) -> None:
    shown = RUN.invoke(app, ["check", str(save(tmp_path / "m.npz", [0, 1]))])
    assert shown.exit_code == 0, shown.output
    assert "every clip is sound; 100.0 % of the joints were observed" in shown.output


def test_warnings_alone_end_in_status_0(tmp_path: Path) -> None:
    shown = RUN.invoke(app, ["check", str(save(tmp_path / "m.npz", [0, -1]))])
    assert shown.exit_code == 0, shown.output
    assert "caption" in shown.output
    assert "no errors" in shown.output


def test_errors_are_counted_listed_written_and_end_in_status_1(tmp_path: Path) -> None:
    path = save(tmp_path / "m.npz", [7] * 30 + [0], clip_id=np.array([f"[clip]{n:02d}" for n in range(31)]))
    written = tmp_path / "found.json"
    shown = RUN.invoke(app, ["check", str(path), "--json", str(written)])
    assert shown.exit_code == 1
    assert "the first 20 of" in shown.output
    assert "[clip]00" in shown.output
    assert "[clip]29" not in shown.output
    assert "label 7 is outside the list, -1 (none) to 1" in shown.output
    assert "30 errors" in shown.output
    whole = json.loads(written.read_text())
    assert sum(found["kind"] == "label" for found in whole["findings"]) == 30
    everything = RUN.invoke(app, ["check", str(path), "--all"])
    assert "[clip]29" in everything.output


def test_class_names_and_formats_can_be_given(tmp_path: Path) -> None:
    points = np.cumsum(np.random.default_rng(0).uniform(0, 1, (1, 6, 17, 2)), axis=1).astype(np.float32)
    entry = {"frame_dir": "a", "label": 3, "total_frames": 6, "keypoint": points}
    path = tmp_path / "annotations.bin"
    path.write_bytes(pickle.dumps({"split": {}, "annotations": [entry]}))
    names = tmp_path / "names.txt"
    names.write_text("walk\nrun\n")
    assert "neither a clip store" in str(RUN.invoke(app, ["check", str(path)]).exception)
    assert RUN.invoke(app, ["check", str(path), "--format", "pyskl"]).exit_code == 0
    shown = RUN.invoke(app, ["check", str(path), "--format", "pyskl", "--label-names", str(names)])
    assert shown.exit_code == 1
    assert "outside the list, 0 to 1" in shown.output


@pytest.mark.parametrize("arguments", [["none.npz"], ["none"]])
def test_what_is_not_there(tmp_path: Path, arguments: list[str]) -> None:
    shown = RUN.invoke(app, ["check", *(str(tmp_path / argument) for argument in arguments)])
    assert isinstance(shown.exception, FileNotFoundError)
