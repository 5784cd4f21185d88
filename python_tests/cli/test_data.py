"""`tmor data`: the verbs on small inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tmor_fast.cli.data import app
from tmor_fast.data import ClipStore, get_layout

RUN = CliRunner(env={"COLUMNS": "160"})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "motion.npz"
    np.savez(
        path,
        joints=rng.normal(size=(9, 17, 3)).astype(np.float32),
        offsets=np.array([0, 2, 5, 9]),
        joint_names=np.array(get_layout("unik17").joint_names),
        label=np.array([1, 0, 1]),
        label_names=np.array(["walk", "[run]"]),
        style=np.array(["old", "young", "old"]),
    )
    return path


def test_import_npz_then_info(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    made = RUN.invoke(app, ["import", "npz", str(source), str(out), "--hold-out", "style=old", "--licence", "CC0"])
    assert made.exit_code == 0, made.output
    assert ClipStore(out).column("split") == ["test", "train", "test"]
    shown = RUN.invoke(app, ["info", str(out), "--check"])
    assert shown.exit_code == 0, shown.output
    for text in ("unik17: 17 joints, 3D, metres", "[run]", "test 2, train 1", "CC0", "every clip is sound; 100.0 %"):
        assert text in shown.output, text


def test_info_counts_frame_labels(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "m.npz",
        joints=np.zeros((4, 17, 3), np.float32),
        offsets=np.array([0, 4]),
        joint_names=np.array(get_layout("unik17").joint_names),
        frame_label=np.array([1, 1, 0, 1]),
        label_names=np.array(["walk", "run"]),
    )
    shown = RUN.invoke(app, ["import", "npz", str(tmp_path / "m.npz"), str(tmp_path / "s")])
    assert "2 classes of frames" in shown.output
    assert "run" in shown.output


def test_synth_writes_a_store(tmp_path: Path) -> None:
    made = RUN.invoke(app, ["synth", str(tmp_path / "s"), "--clips", "6", "--seed", "3", "--dims", "2"])
    assert made.exit_code == 0, made.output
    store = ClipStore(tmp_path / "s")
    assert len(store) == 6
    assert store.channels == 2
    assert store.units == "pixels"


def test_errors_reach_the_caller(source: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "store")
    for arguments, message in (
        (["info", str(tmp_path / "nothing")], "no clip store"),
        (["import", "npz", str(tmp_path / "nothing.npz"), out], "does not exist"),
        (["import", "penn", str(tmp_path / "nothing.tar"), out], "does not exist"),
        (["import", "penn", str(tmp_path), out, "--sides", "odd"], "anatomical"),
        (["import", "npz", str(source), out, "--hold-out", "style"], "COLUMN=VALUE"),
    ):
        result = RUN.invoke(app, arguments)
        assert result.exit_code != 0, arguments
        assert message in str(result.exception), arguments
    assert not Path(out).exists()
    assert RUN.invoke(app, ["import", "npz", str(source), out]).exit_code == 0
    again = RUN.invoke(app, ["import", "npz", str(source), out])
    assert isinstance(again.exception, FileExistsError)
    assert RUN.invoke(app, ["import", "npz", str(source), out, "--overwrite"]).exit_code == 0
