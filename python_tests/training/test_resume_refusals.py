"""Going on with a run only with what it was started with: configuration, data, kind of run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import CONFIG, OPTIMISER, check, names, run

from tmor_fast.errors import DataError
from tmor_fast.training.checkpoints import write_checkpoint
from tmor_fast.training.config import CheckpointConfig
from tmor_fast.training.datasets import PretrainData
from tmor_fast.training.run_record import KEY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 7}, "seed: 1 in the checkpoint, 7 now"),
        ({"optimiser": replace(OPTIMISER, rate=0.5)}, "optimiser.rate: 0.002 in the checkpoint, 0.5 now"),
        ({"stage2_epochs": 3}, "stage2_epochs: 1 in the checkpoint, 3 now"),
        ({"layout": "coco17"}, "layout: unik17 in the checkpoint, coco17 now"),
        ({"held_out": ("clap",)}, r"held_out: \[\] in the checkpoint, \['clap'\] now"),
    ],
)
def test_another_configuration_is_refused(changes: dict[str, Any], message: str, stopped: Path, twenty: PretrainData):
    config = (stopped / "config.yaml").read_text()
    with pytest.raises(DataError, match=rf"000000006.ckpt: made with another configuration\. .*{message}.*config.yaml"):
        run(twenty, stopped, replace(CONFIG, **changes), resume=True)
    # The folder is as it was.
    assert (stopped / "config.yaml").read_text() == config
    assert names(stopped, "stage1") == ["epoch-0000.ckpt", "epoch-0001-step-000000006.ckpt"]


@pytest.mark.slow
def test_saving_at_other_times_is_no_other_configuration(stopped: Path, unbroken: Path, twenty: PretrainData):
    run(twenty, stopped, replace(CONFIG, checkpoints=CheckpointConfig(every_minutes=1e-9)), resume=True)
    check(stopped, unbroken)
    # Every step of stage 2 was saved.
    assert names(stopped, "stage2") == ["epoch-0000-step-000000003.ckpt", "epoch-0000.ckpt"]


def test_other_data_are_refused(stopped: Path, twenty: PretrainData):
    packed = twenty.packed
    renamed = replace(packed, clip_ids=[*packed.clip_ids[:-1], "another"])
    relabelled = replace(packed, label=packed.label.roll(1))
    taller = replace(packed.layout, name="other17")
    for changed, message in (
        (renamed, r"made on other data\. clip_ids: \w+ in the checkpoint, \w+ now\. "),
        (relabelled, r"labels: "),
        (replace(packed, layout=taller), "layout: unik17 in the checkpoint, other17 now"),
        (packed.subset(torch.arange(19, -1, -1)), "clip_ids: "),
    ):
        with pytest.raises(DataError, match=rf"{message}.*Resume with the stores the run was started with"):
            run(PretrainData(changed, twenty.teachers, twenty.texts), stopped, resume=True)
    fewer = PretrainData(packed.subset(torch.arange(19)), twenty.teachers, twenty.texts)
    with pytest.raises(DataError, match="clips: 20 in the checkpoint, 19 now"):
        run(fewer, stopped, resume=True)


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    write_checkpoint(content, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c[KEY].update(version=99),
            "checkpoint format 99, this tmor_fast reads format 1; finish the run with",
        ),
        (lambda c: c.pop(KEY), r"not a checkpoint that training can go on from .*older tmor_fast"),
        (lambda c: c[KEY].update(kind="finetune"), r"made by finetune \(stage1\), wanted for pretrain \(stage1\)"),
        (lambda c: c[KEY].update(part="joint"), r"made by pretrain \(joint\), wanted for pretrain \(stage1\)"),
    ],
)
def test_a_checkpoint_of_another_kind_or_version_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, stopped: Path, twenty: PretrainData
):
    rewrite(stopped / "stage1" / "checkpoints" / "epoch-0001-step-000000006.ckpt", change)
    with pytest.raises(DataError, match=rf"000000006.ckpt: {message}"):
        run(twenty, stopped, resume=True)


@pytest.mark.slow
def test_another_torch_is_a_warning(stopped: Path, twenty: PretrainData):
    rewrite(stopped / "stage1" / "checkpoints" / "epoch-0001-step-000000006.ckpt", lambda c: c[KEY].update(torch="1.0"))
    with pytest.warns(UserWarning, match=r"made with torch 1\.0, this is .*last digits"):
        run(twenty, stopped, resume=True)


def test_too_little_data_is_refused_before_anything_is_written(twenty: PretrainData, tmp_path: Path):
    alone = PretrainData(twenty.packed.subset([0]), twenty.teachers, twenty.texts)
    with pytest.raises(DataError, match=r"1 clip to train on; .* at least two"):
        run(alone, tmp_path / "run")
    large = replace(CONFIG, optimiser=replace(OPTIMISER, batch_size=21))
    with pytest.raises(ValueError, match=r"optimiser.batch_size=21, and there are 20 clips .* at most 20"):
        run(twenty, tmp_path / "run", large)
    assert not (tmp_path / "run").exists()
