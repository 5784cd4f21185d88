"""Frozen features in batches: the same as in one piece, in eval mode, and the model is left as it was."""

from __future__ import annotations

import pytest
import torch

from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.data.prepare import prepare
from tmor_fast.data.synthetic import write_synthetic_store
from tmor_fast.evaluation.features import embed_in_batches
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik import UNIK
from tmor_fast.training.config import BackboneConfig

AUGMENTATION = AugmentationConfig(frames=8, view_yaw_degrees=40)
CONFIG = BackboneConfig(preset="unik-micro").build(17)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedClips:
    """12 clips, 3D."""
    return prepare(write_synthetic_store(tmp_path_factory.mktemp("features") / "synthetic", clips=12, seed=3))


@pytest.fixture
def batches(packed: PackedClips) -> ClipBatches:
    return ClipBatches(packed.subset(range(11)), AUGMENTATION)


@pytest.fixture
def model() -> TMOR:
    torch.manual_seed(0)
    return TMOR(CONFIG, TMOROptions(embedding_dim=8, head_hidden=12, per_loss_heads=True))


def test_batches_give_what_one_pass_gives(batches: ClipBatches, model: TMOR):
    index = torch.tensor([9, 2, 2, 5, 0])
    with torch.no_grad():
        expected = model.eval().backbone.features(batches.plain(index))
    found = embed_in_batches(model.train(), batches, index, batch_size=2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    everything = embed_in_batches(model, batches, batch_size=4)
    assert everything.shape == (11, 128)
    torch.testing.assert_close(everything[index], expected, rtol=1e-4, atol=1e-5)


def test_features_and_projections(batches: ClipBatches, model: TMOR):
    features = embed_in_batches(model, batches)
    assert torch.equal(embed_in_batches(model.backbone, batches), features)
    projected = embed_in_batches(model, batches, kind="projection")
    with torch.no_grad():
        torch.testing.assert_close(projected, model.project_motion(features, "mt"))
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(11))
    assert features.dtype == projected.dtype == torch.float32
    assert not projected.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode_and_its_statistics(training: bool, batches: ClipBatches, model: TMOR):
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    embed_in_batches(model, batches)
    assert model.training == model.backbone.training == training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_views_and_random_draws(batches: ClipBatches, model: TMOR):
    plain = embed_in_batches(model, batches)
    assert torch.equal(plain, embed_in_batches(model, batches))
    assert not torch.allclose(plain, embed_in_batches(model, batches, view=1))
    draws = [embed_in_batches(model, batches, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.allclose(draws[0], draws[2])


def test_an_encoder_has_no_projection(batches: ClipBatches):
    encoder = UNIK(CONFIG)
    with pytest.raises(ValueError, match="'features'"):
        embed_in_batches(encoder, batches, kind="projection")
    assert encoder.training
