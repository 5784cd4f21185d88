"""Going on after failures: damaged checkpoints, a full disk, a loss that is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from limits import largest_file
from resuming import at_step, check, names, run

from tmor_fast.atomic import DiskFullError
from tmor_fast.errors import DataError
from tmor_fast.nn.objective import Objective
from tmor_fast.training.checkpoints import checkpoints_in, damage
from tmor_fast.training.datasets import PretrainData
from tmor_fast.training.pretrain import PretrainModule


def harm(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))


def test_a_flipped_checkpoint_costs_the_steps_since_the_one_before(stopped: Path, unbroken: Path, twenty: PretrainData):
    harm(stopped / "stage1" / "checkpoints" / "epoch-0001-step-000000006.ckpt")
    with pytest.warns(UserWarning, match=r"000000006.ckpt is damaged.* going back to .*epoch-0000.ckpt"):
        run(twenty, stopped, resume=True)
    check(stopped, unbroken)


def test_no_whole_checkpoint_is_an_error_that_says_so(stopped: Path, twenty: PretrainData):
    for path in checkpoints_in(stopped / "stage1" / "checkpoints"):
        harm(path)
    with pytest.raises(DataError, match=r"no whole checkpoint is left: .*epoch-0000.ckpt is damaged"):
        run(twenty, stopped, resume=True)
    with pytest.raises(DataError, match=r"epoch-0000.ckpt is damaged.*resume without a path"):
        run(twenty, stopped, resume=stopped / "stage1" / "checkpoints" / "epoch-0000.ckpt")


def limited(size: int, patch: pytest.MonkeyPatch, stage: int, step: int) -> Any:
    """No file beyond `size` bytes from a step on, until the context ends."""
    limit = largest_file(size)
    patch.setattr(PretrainModule, "on_train_batch_start", at_step(stage, step, limit.__enter__))
    return limit


@pytest.mark.parametrize(
    ("stage", "step", "file"),
    [(1, 5, "epoch-0001-step-000000006.ckpt"), pytest.param(2, 0, "epoch-0000-step-", marks=pytest.mark.slow)],
)
def test_a_disk_that_fills_up(
    stage: int,
    step: int,
    file: str,
    unbroken: Path,
    twenty: PretrainData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    with monkeypatch.context() as patch:
        limit = limited(100_000, patch, stage, step)
        try:
            with pytest.raises(DiskFullError, match=rf"stage{stage}/checkpoints/{file}\S* no space left.*--resume"):
                run(twenty, tmp_path)
        finally:
            limit.__exit__(None, None, None)
    kept = checkpoints_in(tmp_path / "stage1" / "checkpoints")
    assert len(kept) >= 1
    assert all(damage(path) == "" for path in kept)
    assert not list(tmp_path.rglob("*.tmp"))
    run(twenty, tmp_path, resume=True)
    check(tmp_path, unbroken)


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_table_or_the_model(
    unbroken: Path, twenty: PretrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        limit = limited((unbroken / "stage1" / "log" / "losses.csv").stat().st_size // 2, patch, 1, 4)
        patch.setattr("torch.utils.tensorboard.SummaryWriter.flush", lambda self: None)
        try:
            with pytest.raises(DiskFullError, match=r"log/losses\.csv: no space left"):
                run(twenty, tmp_path)
        finally:
            limit.__exit__(None, None, None)
    with monkeypatch.context() as patch:
        limit = largest_file(100_000)
        patch.setattr(PretrainModule, "on_train_end", lambda self: limit.__enter__())
        try:
            with pytest.raises(DiskFullError, match=r"/stage1\.pt: no space left"):
                run(twenty, tmp_path, resume=True)
        finally:
            limit.__exit__(None, None, None)
    assert not (tmp_path / "stage1.pt").exists()
    run(twenty, tmp_path, resume=True)
    check(tmp_path, unbroken)


def test_a_term_that_is_not_finite_is_named_and_the_last_checkpoint_is_whole(
    twenty: PretrainData, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    original = Objective._video_loss

    def sick(self: Objective, *arguments: Any) -> torch.Tensor:
        loss = original(self, *arguments)
        return loss * float("nan") if int(self.step) == 7 else loss

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "_video_loss", sick)
        with pytest.raises(
            FloatingPointError, match=r"loss \(mv\) not finite at stage 1, step 7; lower optimiser\.rate"
        ):
            run(twenty, tmp_path)
    kept = checkpoints_in(tmp_path / "stage1" / "checkpoints")
    assert [damage(path) for path in kept] == ["", ""]
    run(twenty, tmp_path, resume=True)
    check(tmp_path, unbroken)


@pytest.mark.slow
def test_a_file_that_reads_back_wrong_is_an_error_and_deletes_nothing(
    stopped: Path, twenty: PretrainData, monkeypatch: pytest.MonkeyPatch
):
    before = names(stopped, "stage1")
    with monkeypatch.context() as patch:
        patch.setattr("tmor_fast.training.run_state.damage", lambda path: "with other bytes")
        with pytest.raises(OSError, match=r"epoch-0001.ckpt: written, and read back with other bytes; check the disk"):
            run(twenty, stopped, resume=True)
    assert set(before) <= set(names(stopped, "stage1"))
