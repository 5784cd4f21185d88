"""Going on with a run: from where it was, only with what it was started with, and whatever stopped it."""

from __future__ import annotations

import importlib
import random
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from limits import largest_file

import tmor_fast
from tmor_fast.atomic import DiskFullError
from tmor_fast.data.packed import PackedClips
from tmor_fast.errors import DataError
from tmor_fast.nn.checkpoint import load_model
from tmor_fast.nn.objective import Objective
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.unik import UNIK
from tmor_fast.training.batches import shuffled_loader
from tmor_fast.training.checkpoints import checkpoints_in, damage, write_checkpoint
from tmor_fast.training.config import (
    AugmentationConfig,
    BackboneConfig,
    CheckpointConfig,
    FinetuneConfig,
    OptimiserConfig,
    PretrainConfig,
)
from tmor_fast.training.datasets import PretrainData
from tmor_fast.training.finetune import ClassifierModule, finetune
from tmor_fast.training.pretrain import PretrainModule, pretrain_on
from tmor_fast.training.run_record import KEY, is_finished
from tmor_fast.training.run_state import random_states, set_random_states

OPTIMISER = OptimiserConfig(name="adamw", rate=2e-3, scale_rate=False, batch_size=6, epochs=2)
CONFIG = PretrainConfig(
    backbone=BackboneConfig(preset="unik-micro"),
    augmentation=AugmentationConfig(frames=8),
    optimiser=OPTIMISER,
    options=TMOROptions(embedding_dim=16, head_hidden=32, momentum=0.9, min_samples=2, max_cluster_share=1.0),
    stage2_epochs=1,
    checkpoints=CheckpointConfig(every_steps=3, every_minutes=0),
)
TUNING = FinetuneConfig(
    backbone=CONFIG.backbone, augmentation=CONFIG.augmentation, optimiser=OPTIMISER, checkpoints=CONFIG.checkpoints
)


class StoppedError(Exception):
    """What a test stops a run with."""


def run(data: PretrainData, out: Path, config: PretrainConfig = CONFIG, **more: Any) -> dict[str, torch.Tensor]:
    return pretrain_on(data, out, config, progress=False, **more)[0].state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(out: Path) -> list[str]:
    return [(out / part / "log" / "losses.csv").read_text() for part in ("stage1", "stage2")]


def names(out: Path, part: str) -> list[str]:
    return [path.name for path in checkpoints_in(out / part / "checkpoints")]


def at_step(stage: int, step: int, action: Callable[[], Any]) -> Callable[..., None]:
    """A hook that acts before the step of a stage."""

    def strike(self: PretrainModule, *_: Any) -> None:
        if (self.stage, self.global_step) == (stage, step):
            action()

    return strike


def stop() -> None:
    raise StoppedError


@pytest.fixture(scope="module")
def unbroken(twenty: PretrainData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    run(twenty, out)
    return out


@pytest.fixture(scope="module")
def stopped_once(twenty: PretrainData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretrainModule, "on_train_batch_start", at_step(1, 7, stop))
        with pytest.raises(StoppedError):
            run(twenty, out)
    return out


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A run that was stopped in the second epoch of stage 1, behind checkpoints at the end of epoch 0 and at step 6."""
    return Path(shutil.copytree(stopped_once, tmp_path / "run"))


def check(out: Path, unbroken: Path) -> None:
    assert losses(out) == losses(unbroken)
    assert same(load_model(out / "model.pt")[0].state_dict(), load_model(unbroken / "model.pt")[0].state_dict())


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


def test_too_little_data_is_refused_before_anything_is_written(twenty: PretrainData, tmp_path: Path):
    alone = PretrainData(twenty.packed.subset([0]), twenty.teachers, twenty.texts)
    with pytest.raises(DataError, match=r"1 clip to train on; .* at least two"):
        run(alone, tmp_path / "run")
    large = replace(CONFIG, optimiser=replace(OPTIMISER, batch_size=21))
    with pytest.raises(ValueError, match=r"optimiser.batch_size=21, and there are 20 clips .* at most 20"):
        run(twenty, tmp_path / "run", large)
    assert not (tmp_path / "run").exists()


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
