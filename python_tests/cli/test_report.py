"""`tmor report` after a real, tiny pre-training and fine-tuning: what training records is what the report needs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tmor_fast.cli import app as command_line
from tmor_fast.data.synthetic import write_synthetic_store

ACTIONS = ("squat", "walk", "clap")
TINY = (
    "backbone.preset=unik-micro", "augmentation.frames=8", "optimiser.name=adamw", "optimiser.rate=0.002",
    "optimiser.scale_rate=false", "optimiser.batch_size=16", "optimiser.epochs=1",
)  # fmt: skip


def succeed(*arguments: object) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(command_line.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def settings(*values: str) -> list[str]:
    return [word for value in (*TINY, *values) for word in ("--set", value)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "store"
    write_synthetic_store(folder, clips=36, seed=3, actions=ACTIONS, frames=(24, 40), subjects=12)
    return folder


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training of both stages, without a language model."""
    folder = tmp_path_factory.mktemp("run")
    torch.save(dict(zip(ACTIONS, torch.eye(3), strict=True)), folder / "texts.bin.pt")
    texts = folder.parent / "texts.pt"
    (folder / "texts.bin.pt").rename(texts)
    chosen = settings(
        "stage2_epochs=1", f"text_teacher=precomputed:{texts}", "video_teacher=null", "options.warmup_epochs=0"
    )
    succeed("pretrain", store, "--out", folder, *chosen)
    return folder


def data_of(page: str) -> dict:
    return json.loads(page.partition('id="report-data">')[2].partition("</script>")[0])


def test_pretraining_leaves_what_the_report_needs(run: Path, store: Path):
    shown = succeed("report", run, "--projection", "pca")
    assert f"report: {run / 'report.html'}" in shown
    page = (run / "report.html").read_text()
    for words in ("k-distance curve: stage1", "k-distance curve: stage2", "Clusters found after each epoch",
                  "Clusters of the last clustering of the training", "nearest of 3 action names"):  # fmt: skip
        assert words in page, words
    data = data_of(page)
    assert len(data["map"]["x"]) == 36
    # The clusters on the map are those of the training's table.
    with (run / "stage2" / "log" / "metrics.csv").open() as stream:
        import csv

        last = list(csv.DictReader(stream))[-1]
    clustered = [c for c in data["map"]["cluster"] if c >= -1]
    assert len(clustered) == data["map"]["split"].count("train")
    if float(last["clusters"]):
        assert clustered.count(-1) / len(clustered) == pytest.approx(float(last["noise_share"]), abs=1e-6)


def test_finetuning_records_predictions(run: Path, store: Path, tmp_path: Path):
    succeed("finetune", store, "--out", tmp_path / "ft", "--checkpoint", run / "model.pt", *settings())
    page_file = tmp_path / "ft.html"
    succeed("report", tmp_path / "ft", "--store", store, "--out", page_file, "--projection", "pca", "--clips", 3)
    page = page_file.read_text()
    assert len(data_of(page)["clips"]) == 3
    assert "Predicted by joint:" in page
    assert len(data_of(page)["matrices"]) == 1
    assert "Not here" in page, "fine-tuning finds no clusters, and that is said"


def test_a_probe_and_a_zero_shot_file(run: Path, store: Path, tmp_path: Path):
    succeed("probe", store, "--checkpoint", run / "model.pt", "--out", tmp_path / "probe.json", *settings())
    succeed("zeroshot", run / "model.pt", store, "--actions", "walk,clap", "--out", tmp_path / "zs.json")
    succeed("report", tmp_path, "--store", store, "--checkpoint", run / "model.pt", "--projection", "pca")
    page = (tmp_path / "report.html").read_text()
    data = data_of(page)
    assert {matrix["name"] for matrix in data["matrices"]} == {"probe · probe", "zs · motion"}
    assert "probability" in page
    assert "cosine similarity" in page
    assert "50.0\u00a0%" in page, "the chance of two actions"


def test_errors_are_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for arguments, message in (
        ([tmp_path / "gone"], "no run at"),
        ([tmp_path], "no logs, results or models"),
        ([run, "--store", tmp_path], "is no clip store"),
        ([run, "--projection", "umap"], "'umap'; accepted: 'auto', 'pca', 'tsne'"),
        ([run, "--points", "0"], "max_points 0"),
    ):
        monkeypatch.setattr(sys, "argv", ["tmor", "report", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command_line.run()
        shown = capsys.readouterr().err
        assert stopped.value.code == 1
        assert message in shown
        assert shown.count("\n") == 1
