"""Ctrl-C, SIGTERM, a full disk and `--resume` on the command line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from tmor_fast.cli import app as command_line
from tmor_fast.cli.stopping import NEWEST, stoppable, with_resume_value
from tmor_fast.data.synthetic import write_synthetic_store
from tmor_fast.errors import DataError
from tmor_fast.nn.checkpoint import load_model
from tmor_fast.training.pretrain import PretrainModule
from tmor_fast.training.probe import ProbeModule

TINY = (
    "backbone.preset=unik-micro", "augmentation.frames=8", "optimiser.name=adamw", "optimiser.rate=0.002",
    "optimiser.scale_rate=false", "optimiser.batch_size=6", "optimiser.epochs=2",
)  # fmt: skip
ALONE = (*TINY, "stage2_epochs=0", "text_teacher=null", "video_teacher=null", "checkpoints.every_steps=2")
RUN = CliRunner(env={"COLUMNS": "200"})


def settings(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def invoke(*arguments: object) -> Result:
    return RUN.invoke(command_line.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping") / "store"
    write_synthetic_store(folder, clips=18, seed=3, actions=("squat", "walk"), frames=(24, 40), subjects=9)
    return folder


def at_step(step: int, number: int) -> Any:
    def strike(self: torch.nn.Module, *_: Any) -> None:
        if self.global_step == step:
            os.kill(os.getpid(), number)

    return strike


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["a", "--resume"], ["a", "--resume", NEWEST]),
        (["--resume", "--out", "r"], ["--resume", NEWEST, "--out", "r"]),
        (["--resume", "store", "--out", "r"], ["--resume", NEWEST, "store", "--out", "r"]),
        (["--resume", "r/x.ckpt", "store"], ["--resume", "r/x.ckpt", "store"]),
        (["--resume", "model.pt"], ["--resume", "model.pt"]),
        (["--resume=x.ckpt", "a"], ["--resume=x.ckpt", "a"]),
        (["a"], ["a"]),
    ],
)
def test_resume_may_stand_alone(given: list[str], read: list[str]):
    assert with_resume_value(given) == read


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_have_their_status_and_one_line(number: int, status: int, capsys: pytest.CaptureFixture[str]):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as stop, stoppable("do this"):
        signal.raise_signal(number)
    assert stop.value.exit_code == status
    assert capsys.readouterr().err == "stopped; do this\n"
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(SystemExit, match="3"), stoppable("do this"):
        raise SystemExit(3)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_goes_on_as_its_line_says(
    number: int, status: int, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(PretrainModule, "on_train_batch_start", at_step(4, number))
        stopped = invoke("pretrain", store, "--out", tmp_path / "a run", *settings(*ALONE))
    assert stopped.exit_code == status, stopped.output
    lines = [line for line in stopped.output.splitlines() if "stopped" in line]
    assert lines == [f"stopped; go on with: tmor pretrain {store} --out '{tmp_path}/a run' --resume"]
    assert not (tmp_path / "a run" / "model.pt").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    done = invoke("pretrain", store, "--out", tmp_path / "a run", "--resume")
    assert done.exit_code == 0, done.output
    invoke("pretrain", store, "--out", tmp_path / "whole", *settings(*ALONE))
    log = Path("stage1") / "log" / "losses.csv"
    assert (tmp_path / "a run" / log).read_text() == (tmp_path / "whole" / log).read_text()
    found, expected = (load_model(tmp_path / run / "model.pt")[0].state_dict() for run in ("a run", "whole"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    if number == signal.SIGTERM:
        return
    again = invoke("pretrain", store, "--out", tmp_path / "whole", "--resume")
    assert "this run was finished already; nothing was trained" in again.output
    other = invoke("pretrain", store, "--out", tmp_path / "whole", "--resume", "--set", "seed=9")
    assert isinstance(other.exception, DataError)
    assert "seed: 1 in the checkpoint, 9 now" in str(other.exception)
    twice = invoke("pretrain", store, "--out", tmp_path / "whole", *settings(*ALONE))
    assert isinstance(twice.exception, FileExistsError)


def test_there_must_be_a_run_to_resume(store: Path, tmp_path: Path):
    for verb in ("pretrain", "finetune"):
        refused = invoke(verb, store, "--out", tmp_path / "nothing", "--resume")
        assert isinstance(refused.exception, FileNotFoundError)
        assert "no run to resume in" in str(refused.exception)
    assert not (tmp_path / "nothing").exists()


def test_a_stopped_probe_leaves_the_older_result_and_repeats(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, chosen = tmp_path / "probe.json", settings(*TINY)
    assert invoke("probe", store, "--out", out, *chosen).exit_code == 0
    before = out.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(ProbeModule, "on_train_batch_start", at_step(2, signal.SIGINT), raising=False)
        stopped = invoke("probe", store, "--out", out, *chosen)
    assert stopped.exit_code == 130, stopped.output
    assert "stopped; no file was changed" in stopped.output
    assert out.read_bytes() == before
    assert invoke("probe", store, "--out", out, *chosen).exit_code == 0
    assert json.loads(out.read_text()) == json.loads(before)


def test_fine_tuning_goes_on(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tmor_fast.training.finetune import ClassifierModule

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierModule, "on_train_batch_start", at_step(3, signal.SIGINT), raising=False)
        stopped = invoke("finetune", store, "--out", tmp_path, *settings(*TINY))
    assert stopped.exit_code == 130, stopped.output
    assert f"go on with: tmor finetune {store} --out {tmp_path} --resume" in stopped.output
    done = invoke("finetune", store, "--out", tmp_path, "--resume")
    assert done.exit_code == 0, done.output
    steps = (tmp_path / "joint" / "log" / "losses.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[1]) for line in steps] == list(range(len(steps)))
    assert len(steps) > 3
