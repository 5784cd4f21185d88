"""`tmor export` from a checkpoint to a file and a table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from tmor_fast.cli import app as command_line
from tmor_fast.nn import TMOR, UNIK, UNIKConfig, save_classifier, save_model

RUN = CliRunner(env={"COLUMNS": "200"})
METADATA = {"layout": "unik17", "normalisation": "body", "frames": 6, "stream": "joint"}
CONFIG = UNIKConfig(persons=1, widths=(8, 16), strides=(2, 2))


def succeed(*arguments: object) -> Result:
    result = RUN.invoke(command_line.app, ["export", *(str(argument) for argument in arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a classifier, and beside it a pre-trained model."""
    folder = tmp_path_factory.mktemp("export")
    encoder = UNIK(CONFIG)
    encoder.reset_classifier(2)
    save_classifier(folder / "run" / "joint.pt", encoder, {**METADATA, "label_names": ["walk [slow]", "clap"]})
    save_model(folder / "model.pt", TMOR(CONFIG), {**METADATA, "stage": 1, "trained_on": []})
    return folder / "run"


def test_a_file_and_what_it_takes(run: Path, tmp_path: Path) -> None:
    shown = succeed(run, tmp_path / "m.pt2").stdout
    for words in (
        "joints (batch, 2, 6, 17, 1) float32: clips, coordinates, frames, joints, persons", "unik17, x right, y down",
        "body: minus the clip's mean mid-hip", "6, resample", "scores (batch, 2): class scores before softmax",
        "walk [slow], clap",
    ):  # fmt: skip
        assert words in shown
    network = torch.export.load(tmp_path / "m.pt2").module()
    assert network(torch.randn(3, 2, 6, 17, 1)).shape == (3, 2)


def test_onnx_features(run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    shown = succeed(run.parent / "model.pt", tmp_path / "m.ONNX", "--output", "features")
    assert "features (batch, 16)" in shown.stdout
    assert "classes" not in shown.stdout
    session = onnxruntime.InferenceSession(tmp_path / "m.ONNX")
    assert session.run(None, {"joints": torch.randn(3, 2, 6, 17, 1).numpy()})[0].shape == (3, 16)


def test_errors_are_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.pt2"
    for arguments, message in (
        ([run, tmp_path / "m.pb"], "to a .pt2 (torch.export) or .onnx file"),
        ([run, out, "--output", "logits"], "unknown output 'logits'"),
        ([run, out, "--output", "embeddings"], "is a classifier"),
        ([run.parent / "model.pt", out, "--output", "scores"], "has no classifier"),
        ([tmp_path, out], "holds no model.pt"),
    ):
        monkeypatch.setattr(sys, "argv", ["tmor", "export", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command_line.run()
        assert stopped.value.code == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: "), last
        assert message in last
    assert not out.exists()
