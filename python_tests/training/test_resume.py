"""Going on with a run from where it was, as if it had not been stopped."""

from __future__ import annotations

import random
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from resuming import CONFIG, StoppedError, at_step, check, names, run, same, stop

import tmor_fast
from tmor_fast.nn.checkpoint import load_model
from tmor_fast.training.batches import shuffled_loader
from tmor_fast.training.datasets import PretrainData
from tmor_fast.training.pretrain import PretrainModule
from tmor_fast.training.run_record import is_finished
from tmor_fast.training.run_state import random_states, set_random_states


@pytest.mark.parametrize("bank", ["sample", "fifo"])
def test_a_run_against_the_whole_data_set_goes_on_with_its_bank(
    bank: Literal["sample", "fifo"], twenty: PretrainData, tmp_path: Path
):
    options = replace(CONFIG.options, motion_bank=bank, num_negatives=None)
    config = replace(CONFIG, options=options, stage2_epochs=0)
    run(twenty, tmp_path / "unbroken", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretrainModule, "on_train_batch_start", at_step(1, 7, stop))
        with pytest.raises(StoppedError):
            run(twenty, tmp_path / "run", config)
    run(twenty, tmp_path / "run", config, resume=True)
    found = []
    for out in (tmp_path / "run", tmp_path / "unbroken"):
        newest = max((out / "stage1" / "checkpoints").glob("*.ckpt"), key=lambda path: path.name)
        found.append(torch.load(newest, weights_only=True)["state_dict"])
    banks = [name for name in found[0] if ".bank." in name]
    assert len(banks) == (2 if bank == "sample" else 3)
    assert same(load_model(tmp_path / "run" / "model.pt")[0].state_dict(),
                load_model(tmp_path / "unbroken" / "model.pt")[0].state_dict())  # fmt: skip
    assert all(torch.equal(found[0][name], found[1][name]) for name in banks)


def test_checkpoints_at_steps_and_epochs_and_the_last_two_stay(stopped: Path, unbroken: Path):
    assert names(stopped, "stage1") == ["epoch-0000.ckpt", "epoch-0001-step-000000006.ckpt"]
    # Step 8 ends the epoch, which saves by itself; 9 steps are not reached.
    assert names(unbroken, "stage1") == ["epoch-0001-step-000000006.ckpt", "epoch-0001.ckpt"]
    assert names(unbroken, "stage2") == ["epoch-0000-step-000000003.ckpt", "epoch-0000.ckpt"]


def test_a_run_goes_on_inside_an_epoch(stopped: Path, unbroken: Path, twenty: PretrainData):
    assert not (stopped / "model.pt").exists()
    torch.manual_seed(99)
    seen: list[tuple[int, int]] = []
    original = PretrainModule.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PretrainModule,
            "training_step",
            lambda s, b, i: (seen.append((s.stage, s.global_step)), original(s, b, i))[1],
        )
        run(twenty, stopped, resume=True)
    # What was done is not done again.
    assert seen == [(1, 6), (1, 7), (2, 0), (2, 1), (2, 2), (2, 3)]
    check(stopped, unbroken)


@pytest.mark.slow
def test_a_run_without_a_checkpoint_starts(unbroken: Path, twenty: PretrainData, tmp_path: Path):
    (tmp_path / "stage1" / "log").mkdir(parents=True)
    (tmp_path / "stage1" / "log" / "losses.csv").write_text("epoch,step,loss\n0,0,1.0\n")
    run(twenty, tmp_path, resume=True)
    check(tmp_path, unbroken)


def test_a_finished_run_trains_nothing(
    unbroken: Path, twenty: PretrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "copy"
    shutil.copytree(unbroken, out)
    assert is_finished(out, "stage2", 1, "model.pt")
    assert not is_finished(out, "stage2", 2, "model.pt")
    monkeypatch.setattr(PretrainModule, "training_step", lambda *_: stop())
    run(twenty, out, resume=True)
    check(out, unbroken)
    # The model alone was lost.
    (out / "model.pt").unlink()
    assert not is_finished(out, "stage2", 1, "model.pt")
    run(twenty, out, resume=True)
    check(out, unbroken)


@pytest.mark.slow
def test_a_run_is_not_replaced_by_accident(stopped: Path, unbroken: Path, twenty: PretrainData):
    before = sorted(path.name for path in stopped.rglob("*"))
    with pytest.raises(FileExistsError, match=r"holds a run already.*--resume.*--overwrite"):
        run(twenty, stopped)
    assert sorted(path.name for path in stopped.rglob("*")) == before
    run(twenty, stopped, overwrite=True)
    check(stopped, unbroken)
    assert names(stopped, "stage1") == names(unbroken, "stage1")


@pytest.mark.slow
def test_going_back_by_hand_leaves_the_later_checkpoints_until_they_are_passed(
    stopped: Path, unbroken: Path, twenty: PretrainData
):
    run(twenty, stopped, resume=stopped / "stage1" / "checkpoints" / "epoch-0000.ckpt")
    check(stopped, unbroken)
    assert names(stopped, "stage1") == names(unbroken, "stage1")


@pytest.mark.slow
def test_the_global_random_states_go_on_too(twenty: PretrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: dict[tuple[int, int], list[float]] = {}
    original = PretrainModule.training_step

    def draw(self: PretrainModule, batch: torch.Tensor, number: int) -> Any:
        numbers = [float(torch.rand(())), float(np.random.rand()), random.random(), float(np.random.randn())]  # noqa: NPY002
        drawn[self.stage, self.global_step] = numbers
        return original(self, batch, number)

    monkeypatch.setattr(PretrainModule, "training_step", draw)
    run(twenty, tmp_path / "whole")
    expected = dict(drawn)
    assert len(expected) == 12
    assert len({n for numbers in expected.values() for n in numbers}) == 48
    for stage, step in ((1, 7), (2, 1)):
        drawn.clear()
        out = tmp_path / f"broken{stage}"
        with monkeypatch.context() as patch:
            patch.setattr(PretrainModule, "on_train_batch_start", at_step(stage, step, stop))
            with pytest.raises(StoppedError):
                run(twenty, out)
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)
        run(twenty, out, resume=True)
        assert drawn == expected


def test_random_states_are_plain_and_come_back(tmp_path: Path):
    torch.save(random_states(), tmp_path / "states.pt")

    def numbers() -> tuple[float, ...]:
        return float(torch.rand(())), float(np.random.randn()), random.gauss(0, 1)  # noqa: NPY002

    first = numbers()
    second = numbers()
    set_random_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert (numbers(), numbers()) == (first, second)


@pytest.mark.parametrize("done", [0, 1, 3, 4])
def test_a_loader_goes_on_where_it_was(done: int):
    loader = shuffled_loader(range(11), 3, seed=5)
    loader.order.set_epoch(2)
    whole = [batch.tolist() for batch in loader]
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    state = loader.state_dict()
    other = shuffled_loader(range(11), 3, seed=5)
    other.load_state_dict(state)
    other.order.set_epoch(2)
    # At the end of an epoch the next one starts at its beginning.
    assert [batch.tolist() for batch in other] == (whole[done:] if done < 4 else whole)
    # The place is used once.
    assert [batch.tolist() for batch in other] == whole


def test_no_part_of_training_runs_in_another_process_that_could_die():
    assert shuffled_loader(range(10), 3, seed=5).num_workers == 0
    forbidden = re.compile(
        r"multiprocessing|subprocess|ProcessPool|os\.fork|num_workers=[^0]|DataLoader\([^)]*num_workers"
    )
    package = Path(tmor_fast.__file__).parent
    for room in ("training", "teachers", "nn", "cluster", "ops"):
        for source in (package / room).rglob("*.py"):
            found = [line for line in source.read_text().splitlines() if forbidden.search(line)]
            assert not found, f"{source}: {found}"
