"""Linear probe: one linear layer, an untouched encoder, a baseline that repeats."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.evaluation.features import embed_in_batches
from tmor_fast.nn.unik import UNIK
from tmor_fast.training.config import BackboneConfig, OptimiserConfig, ProbeConfig
from tmor_fast.training.probe import ProbeModule, probe
from tmor_fast.training.trainer import build_trainer

TINY = ProbeConfig(
    backbone=BackboneConfig(preset="unik-micro"),
    augmentation=AugmentationConfig(frames=8, view_yaw_degrees=20, rotation_degrees=5),
    optimiser=OptimiserConfig(name="adamw", rate=1e-2, scale_rate=False, batch_size=64, epochs=5),
    standardise=True,
)


def table(count: int = 60, width: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Features of very different ranges, one that never changes, and classes that a line can tell apart."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    features = torch.randn(classes, width, generator=draw)[labels] + 0.1 * torch.randn(count, width, generator=draw)
    features = (features + 2) * torch.tensor([1.0, 50.0, 0.01, 1.0, 3.0, 1.0])
    features[:, 5] = 7.0
    return features, labels


def trained(standardise: bool) -> tuple[ProbeModule, Tensor, Tensor]:
    features, labels = table()
    torch.manual_seed(0)
    config = replace(TINY, standardise=standardise, optimiser=replace(TINY.optimiser, rate=0.1, epochs=30))
    module = ProbeModule(features, labels, 3, config)
    build_trainer(None, epochs=30, progress=False).fit(module)
    return module, features, labels


@pytest.mark.parametrize("standardise", [True, False])
def test_the_classifier_on_raw_features_is_what_was_trained(standardise: bool):
    module, features, labels = trained(standardise)
    classifier = module.classifier()
    assert sum(p.numel() for p in classifier.parameters()) == 6 * 3 + 3
    with torch.no_grad():
        expected = module(features)
        torch.testing.assert_close(classifier(features), expected, rtol=1e-5, atol=1e-5)
        if standardise:
            assert (expected.argmax(1) == labels).float().mean() > 0.9
            standardised = (features - features.mean(0)) / features.std(0, correction=0).clamp_min(1e-8)
            torch.testing.assert_close(module.linear(standardised), expected, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(module.linear(features), expected)


def test_a_feature_that_never_changes_has_no_say():
    module, features, _ = trained(True)
    shifted = features.clone()
    shifted[:, 5] = -100.0
    with torch.no_grad():
        torch.testing.assert_close(module.classifier()(shifted), module(features), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_the_encoder_stays_as_it_is(training: bool, packed: PackedClips):
    torch.manual_seed(0)
    backbone = UNIK(TINY.backbone.build(17)).train(training)
    before = copy.deepcopy(backbone.state_dict())
    result = probe(packed, replace(TINY, views=1), backbone, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(module.training == training for module in backbone.modules())
    assert all(p.grad is None for p in backbone.parameters())
    assert result.scores["probe"].shape == (len(result.test), 4)


def test_scores_are_a_linear_map_of_plain_features(packed: PackedClips):
    torch.manual_seed(0)
    backbone = UNIK(TINY.backbone.build(17)).eval()
    result = probe(packed, TINY, backbone, progress=False)
    features = embed_in_batches(backbone, ClipBatches(packed, TINY.augmentation), result.test).double()
    rows = torch.cat([features, torch.ones(len(features), 1)], 1)
    solution = torch.linalg.lstsq(rows, result.scores["probe"].double(), driver="gelsd").solution
    torch.testing.assert_close(rows @ solution, result.scores["probe"].double(), rtol=1e-3, atol=1e-3)


def test_more_views_give_the_layer_more_rows(packed: PackedClips, monkeypatch: pytest.MonkeyPatch):
    rows: list[Tensor] = []
    original = ProbeModule.__init__

    def spy(self: ProbeModule, features: Tensor, labels: Tensor, *rest: object) -> None:
        rows.append(torch.cat([features, labels[:, None].float()], 1))
        original(self, features, labels, *rest)

    monkeypatch.setattr(ProbeModule, "__init__", spy)
    result = None
    for views in (0, 2):
        result = probe(packed, replace(TINY, views=views), progress=False)
    assert result is not None
    count = result.train_clips
    assert [len(r) for r in rows] == [count, 3 * count]
    plain, first, second = rows[1].split(count)
    assert torch.equal(plain, rows[0])
    # The labels repeat, the features are new views.
    assert torch.equal(first[:, -1], plain[:, -1])
    assert not torch.allclose(first, plain)
    assert not torch.allclose(first, second)


def test_the_random_baseline_repeats_and_depends_on_the_seed(packed: PackedClips):
    scores = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)
        scores.append(probe(packed, replace(TINY, seed=seed, views=1), progress=False).scores["probe"])
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_a_probe_learns_easy_actions(packed: PackedClips):
    config = replace(
        TINY, optimiser=replace(TINY.optimiser, epochs=40), augmentation=replace(TINY.augmentation, frames=16)
    )
    result = probe(packed, config, progress=False)
    # Even random features tell the four actions apart better than the quarter of a guess.
    assert result.reports["probe"].top1 > 0.5
    assert result.reports["probe"].num_samples == len(result.test)


def test_share_and_stream(packed: PackedClips):
    full = probe(packed, TINY, progress=False)
    few = probe(packed, replace(TINY, share=0.1), progress=False)
    assert few.train_clips < 0.25 * full.train_clips
    assert torch.equal(few.test, full.test)
    torch.manual_seed(0)
    backbone = UNIK(TINY.backbone.build(17)).eval()
    joint, bone = (
        probe(packed, replace(TINY, stream=stream), backbone, progress=False) for stream in ("joint", "bone")
    )
    assert not torch.equal(joint.scores["probe"], bone.scores["probe"])
