"""`tmor data`: the verbs on small inputs."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tmor_fast.cli.data import app
from tmor_fast.data import ClipStore, get_layout
from tmor_fast.errors import DataError

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
    shown = RUN.invoke(app, ["info", str(out)])
    assert shown.exit_code == 0, shown.output
    for text in ("unik17: 17 joints, 3D, metres", "[run]", "test 2, train 1", "CC0"):
        assert text in shown.output, text
    checked = RUN.invoke(app, ["check", str(out)])
    assert checked.exit_code == 0, checked.output
    assert "every clip is sound; 100.0 %" in checked.output


def test_import_pyskl_and_unik(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(1, 6, 25, 3)).astype(np.float32)
    annotations = [
        {"frame_dir": name, "label": label, "total_frames": 6, "keypoint": points}
        for label, name in enumerate(("a", "b"))
    ]
    annotations.append({**annotations[0], "frame_dir": "bad [x]", "keypoint": points * np.nan})
    (tmp_path / "n.pkl").write_bytes(
        pickle.dumps({"split": {"xsub_train": ["a"], "xsub_val": ["b"]}, "annotations": annotations})
    )
    (tmp_path / "names.txt").write_text("drink water\nsit down\n")
    arguments = ["import", "pyskl", str(tmp_path / "n.pkl"), str(tmp_path / "s"), "--split", "xsub", "--label-names"]
    refused = RUN.invoke(app, [*arguments, str(tmp_path / "names.txt")])
    assert isinstance(refused.exception, DataError)
    assert "clip 'bad [x]', frame 0 to 5" in str(refused.exception)
    made = RUN.invoke(app, [*arguments, str(tmp_path / "names.txt"), "--skip-bad"])
    assert made.exit_code == 0, made.output
    for text in ("ntu25: 25 joints, 3D, metres", "drink water", "1 clips of the source were bad", "bad [x]"):
        assert text in made.output, text

    data = np.random.default_rng(0).normal(size=(2, 3, 6, 25, 1)).astype(np.float32)
    np.save(tmp_path / "val_data.npy", data)
    (tmp_path / "val_label.pkl").write_bytes(pickle.dumps((["a", "b"], [0, 1]), 2))
    made = RUN.invoke(
        app, ["import", "unik", str(tmp_path / "val_data.npy"), str(tmp_path / "val_label.pkl"), str(tmp_path / "t")]
    )
    assert made.exit_code == 0, made.output
    assert "test 2" in made.output


def test_import_cmu_and_bandai(tmp_path: Path) -> None:
    for name, layout, own in (
        ("cmu", "cmu31", {"frame_label": np.zeros(6, int), "subject": np.array([13, 14])}),
        ("bandai", "bandai21", {"label": np.array([0, 0]), "style": np.array(["old", "elderly"])}),
    ):
        names = np.array(get_layout(layout).joint_names)
        joints = np.random.default_rng(0).normal(size=(6, len(names), 3)).astype(np.float32)
        common = {
            "joints": joints,
            "offsets": np.array([0, 3, 6]),
            "joint_names": names,
            "label_names": np.array(["x"]),
        }
        np.savez(tmp_path / f"{name}.npz", **common, **own)
        option = ["--test-styles", "old, elderly"] if name == "bandai" else []
        made = RUN.invoke(app, ["import", name, str(tmp_path / f"{name}.npz"), str(tmp_path / name), *option])
        assert made.exit_code == 0, made.output
        split = ClipStore(tmp_path / name).column("split")
        assert split == (["test", "test"] if name == "bandai" else ["train", "test"])


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
