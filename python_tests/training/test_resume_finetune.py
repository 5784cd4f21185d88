"""Going on with fine-tuning, only with what it was started with, and after a full disk."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from limits import largest_file
from resuming import CONFIG, OPTIMISER, StoppedError, same

from tmor_fast.atomic import DiskFullError
from tmor_fast.data.packed import PackedClips
from tmor_fast.errors import DataError
from tmor_fast.nn.unik import UNIK
from tmor_fast.training.config import FinetuneConfig
from tmor_fast.training.datasets import PretrainData
from tmor_fast.training.finetune import ClassifierModule, finetune

TUNING = FinetuneConfig(
    backbone=CONFIG.backbone, augmentation=CONFIG.augmentation, optimiser=OPTIMISER, checkpoints=CONFIG.checkpoints
)


def tune(packed: PackedClips, out: Path, config: FinetuneConfig = TUNING, **more: Any) -> dict[str, torch.Tensor]:
    return finetune(packed, config, out, progress=False, **more).scores


def test_fine_tuning_goes_on_and_what_is_finished_is_not_trained_again(
    twenty: PretrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    packed = replace(twenty.packed, splits=["train" if i % 4 else "test" for i in range(20)])
    config = replace(TUNING, streams=("joint", "bone"))
    expected = tune(packed, tmp_path / "whole", config)
    steps: list[str] = []
    original = ClassifierModule.training_step

    def step(self: ClassifierModule, batch: torch.Tensor, number: int) -> Any:
        steps.append(self.batches.stream)
        if steps.count("bone") == 5:
            raise StoppedError
        return original(self, batch, number)

    monkeypatch.setattr(ClassifierModule, "training_step", step)
    with pytest.raises(StoppedError):
        tune(packed, tmp_path / "broken", config)
    assert steps == ["joint"] * 6 + ["bone"] * 5
    steps.clear()
    found = tune(packed, tmp_path / "broken", config, resume=True)
    # Saved at step 3, the end of the first epoch.
    assert steps == ["bone"] * 3
    assert same(found, expected)
    steps.clear()
    assert same(tune(packed, tmp_path / "broken", config, resume=True), expected)
    assert steps == []
    for file in ("joint.json", "joint+bone.json", "bone/log/losses.csv", "bone/log/metrics.csv"):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


@pytest.mark.slow
def test_fine_tuning_refuses_what_is_not_its_own(twenty: PretrainData, tmp_path: Path):
    packed = replace(twenty.packed, splits=["train" if i % 4 else "test" for i in range(20)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        tune(packed, tmp_path)
    with pytest.raises(FileExistsError, match=r"holds a run already \(joint.pt\)"):
        tune(packed, tmp_path)
    with pytest.raises(DataError, match=r"share: 1\.0 in the checkpoint, 0\.5 now"):
        tune(packed, tmp_path, replace(TUNING, share=0.5), resume=True)
    with pytest.raises(DataError, match=r"start_weights: \(absent\) in the checkpoint, \w+ now"):
        tune(packed, tmp_path, backbone=UNIK(CONFIG.backbone.build(17)), resume=True)
    tune(packed, tmp_path, replace(TUNING, seed=2), overwrite=True)
    few = replace(packed, splits=["train" if i == 0 else "test" for i in range(20)])
    with pytest.raises(DataError, match="1 clip to train on"):
        tune(few, tmp_path / "few")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["joint.pt", "joint.json"])
def test_fine_tuning_on_a_full_disk_names_the_file(
    file: str, twenty: PretrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    packed = replace(twenty.packed, splits=["train" if i % 4 else "test" for i in range(20)])
    limit = largest_file(10)
    target = "save_classifier" if file == "joint.pt" else "classification_report"
    # The package exports a function of the same name.
    module = importlib.import_module("tmor_fast.training.finetune")
    original = getattr(module, target)

    def fill(*arguments: Any, **named: Any) -> Any:
        limit.__enter__()
        return original(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, target, fill)
        try:
            with pytest.raises(DiskFullError, match=rf"/{file}: no space left"):
                tune(packed, tmp_path)
        finally:
            limit.__exit__(None, None, None)
    assert not (tmp_path / file).exists()
    tune(packed, tmp_path, resume=True)
    assert (tmp_path / file).is_file()
