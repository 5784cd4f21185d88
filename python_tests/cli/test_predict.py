"""`tmor predict` from files to a table, JSON and CSV."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from tmor_fast.cli import app as command_line
from tmor_fast.cli import predict as verb
from tmor_fast.data.store import ClipStore
from tmor_fast.data.synthetic import write_synthetic_store
from tmor_fast.inference import load
from tmor_fast.nn import TMOR, UNIK, UNIKConfig, save_classifier, save_model

ACTIONS = ("squat", "walk", "clap")
RUN = CliRunner(env={"COLUMNS": "200"})
METADATA = {"layout": "unik17", "normalisation": "body", "frames": 8, "stream": "joint"}


def invoke(*arguments: object) -> Result:
    return RUN.invoke(command_line.app, ["predict", *(str(argument) for argument in arguments)])


def succeed(*arguments: object) -> Result:
    result = invoke(*arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    folder = tmp_path_factory.mktemp("predict") / "store"
    return write_synthetic_store(folder, clips=6, seed=3, dims=2, actions=ACTIONS, frames=(20, 30))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a joint and a bone model, and beside it a model that knows text."""
    folder = tmp_path_factory.mktemp("predict-run")
    config = UNIKConfig.preset("unik-micro", persons=1)
    for seed, stream in enumerate(("joint", "bone")):
        torch.manual_seed(seed)
        encoder = UNIK(config)
        encoder.reset_classifier(3)
        save_classifier(folder / "run" / f"{stream}.pt", encoder, {
            **METADATA, "stream": stream, "label_names": list(ACTIONS)})  # fmt: skip
    torch.save(dict(zip(ACTIONS, torch.eye(3), strict=True)), folder / "texts.pt")
    save_model(folder / "model.pt", TMOR(config, text_dim=3), {
        **METADATA, "stage": 2, "text_teacher": f"precomputed:{folder / 'texts.pt'}", "trained_on": list(ACTIONS)
    })  # fmt: skip
    return folder / "run"


def test_a_table(run: Path, store: ClipStore, monkeypatch: pytest.MonkeyPatch):
    shown = succeed(run, store.path, "--top", 2)
    found = load(run).predict(store, top=2)
    assert "clip store: 6 clips of unik17" in shown.stderr
    assert "joint + bone; 3 actions" in shown.stderr
    for prediction in found:
        (line,) = [row for row in shown.stdout.splitlines() if prediction.clip_id in row]
        assert prediction.top in line
        assert f"{100 * prediction.score:.1f}" in line
    monkeypatch.setattr(verb, "MOST_ROWS", 4)
    assert "and 2 more; --out FILE.csv" in succeed(run, store.path).stdout


def test_json_says_everything(run: Path, store: ClipStore, tmp_path: Path):
    out = tmp_path / "p.json"
    shown = succeed(run, store.path, "--out", out, "--top", 3)
    assert shown.stdout == ""
    assert "p.json: 6 predictions" in shown.stderr
    content = json.loads(out.read_text())
    model = load(run)
    assert content["model"] == model.describe()
    assert content["source"] == {"path": str(store.path), "kind": "clip store"}
    assert content["clips"] == [json.loads(json.dumps(p.to_dict())) for p in model.predict(store, top=3)]


def test_csv_of_windows(run: Path, store: ClipStore, tmp_path: Path):
    out = tmp_path / "p.csv"
    succeed(run / "bone.pt", store.path, "--out", out, "--windows", 10, "--stride", 10, "--top", 1, "--device", "cpu")
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = load(run / "bone.pt").predict_windows(store, window=10, stride=10, top=1)
    assert [(row["clip_id"], int(row["start"]), row["name"]) for row in rows] == [
        (p.clip_id, p.start, p.top) for p in expected
    ]
    table = succeed(run / "bone.pt", store.path, "--windows", 10).stdout
    assert "windows" in table
    assert "0.00 - 0.33" in table


def test_names_of_ones_own(run: Path, store: ClipStore, tmp_path: Path):
    model = run.parent / "model.pt"
    succeed(model, store.path, "--actions", "walk, clap", "--out", tmp_path / "z.json")
    content = json.loads((tmp_path / "z.json").read_text())
    assert {entry["name"] for clip in content["clips"] for entry in clip["predictions"]} == {"walk", "clap"}
    assert content["model"]["supports_text"]


def test_a_pose_file(run: Path, tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    entries: list[dict[str, Any]] = []
    for image in range(12):
        keypoints = (torch.rand(17, 3, generator=generator) * torch.tensor([640, 480, 1.0])).flatten().tolist()
        entries.append({"image_id": image, "keypoints": keypoints, "score": 1.0})
    (tmp_path / "pose.json").write_text(json.dumps(entries))
    shown = succeed(run, tmp_path / "pose.json", "--fps", 6, "--windows", 6, "--stride", 6)
    assert "COCO results: 1 clip of coco17" in shown.stderr
    assert "1.00 - 2.00" in shown.stdout
    # Sides of the image are what a model of screen coordinates needs.
    assert succeed(run, tmp_path / "pose.json", "--image-size", "640x480", "--layout", "h36m17").exit_code == 0


def test_errors_are_one_line(
    run: Path, store: ClipStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "bad.json").write_text('[{"image_id": 1, "keypoints": ["x"]}]')
    (tmp_path / "newer.pt").write_bytes(b"")
    content = torch.load(run / "joint.pt", weights_only=True)
    torch.save({**content, "version": 99}, tmp_path / "newer.pt")
    out = tmp_path / "p.txt"
    for arguments, message in (
        ([tmp_path / "gone.pt", store.path], "no checkpoint at"),
        ([store.path, run], "is a clip store, not a model"),
        ([run, tmp_path / "gone"], "does not exist"),
        ([run, tmp_path / "bad.json"], "bad.json: entry 0"),
        ([tmp_path / "newer.pt", store.path], "newer tmor_fast"),
        ([run, store.path, "--out", out], ".json or a .csv"),
        ([run, store.path, "--actions", "walk"], "is a classifier of 3 actions"),
        ([run.parent / "model.pt", store.path, "--actions", "fly"], "fly"),
        ([run, store.path, "--layout", "coco17"], "its clips are 'unik17'"),
        ([run, store.path, "--stride", "4"], "--stride needs --windows"),
        ([run, store.path, "--image-size", "640"], "WIDTHxHEIGHT"),
        ([run, store.path, "--device", "abacus"], "device 'abacus' cannot be used"),
    ):
        monkeypatch.setattr(sys, "argv", ["tmor", "predict", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command_line.run()
        assert stopped.value.code == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: "), last
        assert message in last
    assert not out.exists()


def test_probe_saves_what_predict_reads(store: ClipStore, tmp_path: Path):
    clips = write_synthetic_store(tmp_path / "clips", clips=24, seed=1, dims=2, actions=ACTIONS, subjects=8)
    tiny = ("backbone.preset=unik-micro", "augmentation.frames=8", "optimiser.epochs=1", "optimiser.batch_size=8")
    sets = [word for value in tiny for word in ("--set", value)]
    done = RUN.invoke(command_line.app, ["probe", str(clips.path), "--save", str(tmp_path / "probe.pt"), *sets])
    assert done.exit_code == 0, done.output
    assert "linear probe, joint; 3 actions" in succeed(tmp_path / "probe.pt", store.path).stderr
