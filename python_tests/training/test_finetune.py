"""Fine-tuning: it learns, starts from the weights it is given, fuses streams, and draws few shots by class."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tmor_fast.data.clip_batches import ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.errors import DataError
from tmor_fast.evaluation.fusion import fuse_scores
from tmor_fast.evaluation.metrics import classification_report
from tmor_fast.nn.unik import UNIK
from tmor_fast.training.config import (
    AugmentationConfig,
    BackboneConfig,
    FinetuneConfig,
    OptimiserConfig,
    load_config,
)
from tmor_fast.training.finetune import class_scores, finetune, labelled_split

TINY = FinetuneConfig(
    backbone=BackboneConfig(preset="unik-micro"),
    augmentation=AugmentationConfig(frames=8, view_yaw_degrees=20, rotation_degrees=5),
    optimiser=OptimiserConfig(name="adamw", rate=3e-3, scale_rate=False, batch_size=16, epochs=1),
)
STILL = replace(TINY, optimiser=replace(TINY.optimiser, name="sgd", rate=1e-12))


def encoder(seed: int = 5) -> UNIK:
    torch.manual_seed(seed)
    model = UNIK(TINY.backbone.build(17))
    # Batch statistics as after training.
    for _ in range(30):
        model.features(torch.randn(8, 2, 8, 17, 1))
    return model.eval()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def learned(packed: PackedClips, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    out = tmp_path_factory.mktemp("finetune")
    config = replace(TINY, streams=("joint", "bone"), label_smoothing=0.05, optimiser=replace(TINY.optimiser, epochs=8))
    return out, finetune(packed, config, out, progress=False)


def test_four_easy_actions_are_learned(learned: tuple, packed: PackedClips):
    _, result = learned
    assert result.train_clips + len(result.test) == len(packed)
    assert result.reports["joint"].num_samples == len(result.test)
    # A guess is right a quarter of the time.
    assert result.reports["joint"].top1 > 0.6
    assert result.reports["joint+bone"].top1 > 0.6


def test_two_streams_are_fused_by_their_scores(learned: tuple, packed: PackedClips):
    _, result = learned
    assert list(result.scores) == ["joint", "bone", "joint+bone"]
    assert not torch.equal(result.scores["joint"], result.scores["bone"])
    fused = fuse_scores([result.scores["joint"], result.scores["bone"]])
    assert torch.equal(result.scores["joint+bone"], fused)
    expected = classification_report(fused, packed.label[result.test], packed.label_names)
    assert result.reports["joint+bone"].to_dict() == expected.to_dict()


def test_the_run_folder_holds_models_that_give_the_same_scores(learned: tuple, packed: PackedClips):
    out, result = learned
    assert load_config(FinetuneConfig, out / "config.yaml").streams == ("joint", "bone")
    for stream in ("joint", "bone"):
        content = torch.load(out / f"{stream}.pt", weights_only=True)
        assert content["metadata"]["stream"] == stream
        assert content["metadata"]["label_names"] == packed.label_names
        model = UNIK(TINY.backbone.build(17, num_classes=4))
        assert content["backbone"]["num_classes"] == 4
        model.load_state_dict(content["state_dict"])
        batches = ClipBatches(packed, TINY.augmentation, stream=stream)
        assert torch.equal(class_scores(model, batches, result.test), result.scores[stream])
        saved = json.loads((out / f"{stream}.json").read_text())
        assert saved["top1"] == pytest.approx(result.reports[stream].top1)
        assert (out / stream / "log" / "metrics.csv").is_file()
    ids = json.loads((out / "train_clips.json").read_text())
    train = [i for i, split in enumerate(packed.splits) if split == "train"]
    assert ids == [packed.clip_ids[i] for i in train]
    for file in out.glob("*/checkpoints/*.ckpt"):
        torch.load(file, weights_only=True)


def test_starts_from_the_given_weights_and_leaves_them_alone(packed: PackedClips, tmp_path: Path):
    backbone = encoder()
    before = copy.deepcopy(backbone.state_dict())
    finetune(packed, STILL, tmp_path, backbone=backbone, progress=False)
    assert same(backbone.state_dict(), before)
    assert not backbone.training
    assert backbone.classifier is None
    trained = torch.load(tmp_path / "joint.pt", weights_only=True)["state_dict"]
    parameters = dict(backbone.named_parameters())
    assert all(torch.allclose(trained[name], value, atol=1e-6) for name, value in parameters.items())
    other = dict(encoder(seed=6).named_parameters())
    assert not all(torch.allclose(trained[name], value, atol=1e-6) for name, value in other.items())


def test_batch_norms_of_a_loaded_encoder_adapt_to_the_new_clips(packed: PackedClips, tmp_path: Path):
    # A checkpoint comes in eval mode, in which they would stay as they are.
    backbone = encoder()
    finetune(packed, STILL, tmp_path, backbone=backbone, progress=False)
    trained = torch.load(tmp_path / "joint.pt", weights_only=True)["state_dict"]
    assert not torch.allclose(trained["data_bn.running_var"], backbone.data_bn.running_var)
    assert trained["data_bn.num_batches_tracked"] > backbone.data_bn.num_batches_tracked


def test_the_seed_fixes_the_result(packed: PackedClips):
    scores = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)
        scores.append(finetune(packed, replace(TINY, seed=seed), progress=False).scores["joint"])
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_checkpointing_blocks_changes_no_result(packed: PackedClips):
    plain, kept = (
        finetune(packed, replace(TINY, checkpointing=checkpointing), progress=False).scores["joint"]
        for checkpointing in (False, True)
    )
    assert torch.equal(plain, kept)


def test_few_shot_takes_its_share_of_every_class(packed: PackedClips, tmp_path: Path):
    result = finetune(packed, replace(TINY, share=0.1), tmp_path, progress=False)
    ids = json.loads((tmp_path / "train_clips.json").read_text())
    assert result.train_clips == len(ids) == len(set(ids))
    place = {clip_id: i for i, clip_id in enumerate(packed.clip_ids)}
    assert all(packed.splits[place[clip_id]] == "train" for clip_id in ids)
    train = torch.tensor([split == "train" for split in packed.splits])
    available = torch.bincount(packed.label[train], minlength=4)
    chosen = torch.bincount(packed.label[[place[clip_id] for clip_id in ids]], minlength=4)
    assert chosen.tolist() == [max(1, int(0.1 * count + 0.5)) for count in available.tolist()]
    assert len(result.test) == int((~train).sum())


def test_shares_are_nested_and_depend_on_the_seed(packed: PackedClips):
    def draw(share: float, seed: int) -> set[int]:
        return set(labelled_split(packed, "official", share, "stratified", seed).train.tolist())

    assert draw(0.2, 1) < draw(0.5, 1) < draw(1.0, 1)
    assert draw(0.2, 1) != draw(0.2, 2)
    assert draw(0.2, 1) == draw(0.2, 1)


def test_an_unlabelled_clip_of_the_split_is_named(packed: PackedClips):
    label = packed.label.clone()
    label[7] = -1
    with pytest.raises(DataError, match=packed.clip_ids[7]):
        finetune(replace(packed, label=label), TINY, progress=False)
    # Outside the split nobody asks for its label.
    splits = list(packed.splits)
    splits[7] = ""
    split = labelled_split(replace(packed, label=label, splits=splits), "official", 1.0, "stratified", 1)
    assert 7 not in [*split.train.tolist(), *split.test.tolist()]


def test_a_data_set_without_a_split_is_refused(packed: PackedClips):
    with pytest.raises(DataError, match="0 training"):
        finetune(replace(packed, splits=[""] * len(packed)), TINY, progress=False)
    with pytest.raises(ValueError, match=r"accepted: .*official"):
        finetune(packed, replace(TINY, protocol="no_such"), progress=False)


def test_scores_do_not_depend_on_the_batch(packed: PackedClips):
    model = UNIK(TINY.backbone.build(17, num_classes=4))
    batches = ClipBatches(packed, TINY.augmentation)
    together = class_scores(model, batches, torch.arange(5))
    alone = torch.cat([class_scores(model, batches, torch.tensor([i])) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
