"""Predictions are those of evaluation: the same scores, and so the same accuracy, on the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tmor_fast
from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches
from tmor_fast.data.prepare import prepare
from tmor_fast.data.store import ClipStore
from tmor_fast.evaluation.features import embed_in_batches
from tmor_fast.evaluation.metrics import classification_report
from tmor_fast.evaluation.zero_shot import embed_actions, zero_shot_scores
from tmor_fast.inference import Prediction
from tmor_fast.nn.checkpoint import load_model
from tmor_fast.teachers import get_teacher
from tmor_fast.training.zero_shot import zero_shot


def table(predictions: Sequence[Prediction], names: Sequence[str]) -> Tensor:
    """Probabilities (n, K) in the order of the names."""
    return torch.tensor([[p.scores[p.names.index(name)] for name in names] for p in predictions])


def test_a_fine_tuned_run_gives_the_fused_scores_of_its_test(tuned: Any, store3d: ClipStore):
    model = tmor_fast.load(tuned.path)
    assert model.describe()["streams"] == ["joint", "bone"]
    clips = [store3d[i] for i in tuned.result.test.tolist()]
    found = model.predict(clips, top=None)
    scores = table(found, store3d.label_names)
    assert torch.allclose(scores, tuned.result.scores["joint+bone"] / 2, atol=1e-5)
    labels = torch.tensor([clip.label for clip in clips])
    recorded = tuned.result.reports["joint+bone"]
    assert classification_report(scores, labels, store3d.label_names).to_dict() == recorded.to_dict()
    right = [p.top == store3d.label_names[clip.label] for p, clip in zip(found, clips, strict=True)]
    assert np.mean(right) == recorded.top1


def test_one_stream_of_it_gives_its_own_scores(tuned: Any, store3d: ClipStore):
    clips = [store3d[i] for i in tuned.result.test.tolist()]
    for stream in ("joint", "bone"):
        found = tmor_fast.load(tuned.path / f"{stream}.pt").predict(clips, top=None)
        expected = tuned.result.scores[stream].softmax(1)
        assert torch.allclose(table(found, store3d.label_names), expected, atol=1e-5)


def test_arrays_with_the_names_of_the_clips_give_what_the_clips_give(tuned: Any, store3d: ClipStore):
    model = tmor_fast.load([tuned.path / "joint.pt", tuned.path / "bone.pt"])
    clips = list(store3d)[:10]
    stored = model.predict(clips)
    arrays = model.predict(
        [torch.from_numpy(clip.joints) for clip in clips], layout=store3d.layout, valid=[c.valid for c in clips],
        clip_ids=[c.clip_id for c in clips],
    )  # fmt: skip
    assert arrays == stored
    # Without a name the direction is another: the front.
    front = model.predict([c.joints for c in clips], layout=store3d.layout, valid=[c.valid for c in clips])
    assert [p.scores for p in front] != [p.scores for p in stored]


def test_a_probe_gives_its_recorded_scores(probed: Any, store2d: ClipStore):
    model = tmor_fast.load(probed.path)
    assert model.describe()["training"] == "linear probe"
    found = model.predict([store2d[i] for i in probed.result.test.tolist()], top=None)
    expected = probed.result.scores["probe"].softmax(1)
    assert torch.allclose(table(found, store2d.label_names), expected, atol=1e-5)


def test_a_store_gives_what_its_clips_give_in_their_order(probed: Any, store2d: ClipStore):
    model = tmor_fast.load(probed.path)
    whole = model.predict(store2d, batch_size=7)
    assert [p.clip_id for p in whole] == store2d.column("clip_id")
    assert whole[3].names == model.predict(store2d[3]).names
    assert [p.stop for p in whole] == list(store2d.column("num_frames"))


@pytest.mark.parametrize("views", [1, 3])
def test_names_give_the_scores_of_zero_shot(text_file: Path, store3d: ClipStore, views: int):
    names = ["walk", "clap", "squat"]
    tmor, metadata = load_model(text_file)
    teacher = get_teacher(metadata["text_teacher"])
    seen = AugmentationConfig(frames=8, view_yaw_degrees=60)
    packed = prepare(store3d)
    batches = ClipBatches(packed, seen)
    motion = torch.stack([embed_in_batches(tmor, batches, kind="projection", view=v) for v in range(views)]).mean(0)
    cosines = zero_shot_scores(motion, embed_actions(tmor, teacher, names))
    model = tmor_fast.load(text_file)
    found = model.predict(store3d, actions=names, views=views)
    temperature = float(tmor.temperature)
    assert torch.allclose(table(found, names), (cosines / temperature).softmax(1), atol=1e-5)
    report = zero_shot(tmor, packed, teacher, names, augmentation=seen, views=views).reports["motion"]
    labelled = [(p, c) for p, c in zip(found, store3d, strict=True) if store3d.label_names[c.label] in names]
    assert np.mean([p.top == store3d.label_names[c.label] for p, c in labelled]) == pytest.approx(report.top1)


def test_embeddings_are_the_features_of_training(text_file: Path, store3d: ClipStore):
    tmor, _ = load_model(text_file)
    batches = ClipBatches(prepare(store3d), AugmentationConfig(frames=8, view_yaw_degrees=60))
    model = tmor_fast.load(text_file)
    features = model.embed(store3d)
    assert torch.allclose(features, embed_in_batches(tmor, batches), atol=1e-5)
    shared = model.embed(store3d, shared=True)
    assert torch.allclose(shared, embed_in_batches(tmor, batches, kind="projection"), atol=1e-5)
    assert torch.allclose(shared.norm(dim=1), torch.ones(len(shared)), atol=1e-5)
    predicted = model.predict(store3d)
    assert isinstance(predicted, list)
    assert torch.equal(torch.stack([p.embedding for p in predicted]), features)
