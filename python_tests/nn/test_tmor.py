"""The T-MOR model: heads, temperature, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.tmor import LOSSES, TMOR
from tmor_fast.nn.unik_config import UNIKConfig

TINY = UNIKConfig.preset("unik-micro", widths=(8, 16), strides=(1, 2), persons=1)
SMALL = {"embedding_dim": 8, "head_hidden": 12}


def build(video: int | None = 6, text: int | None = 5, **options) -> TMOR:
    torch.manual_seed(0)
    return TMOR(TINY, TMOROptions(**{**SMALL, **options}), video_dim=video, text_dim=text).eval()


def clips(count: int = 3) -> Tensor:
    return torch.randn(count, 2, 8, 17, 1, generator=torch.Generator().manual_seed(1))


def test_all_modalities_meet_on_one_unit_sphere():
    model = build()
    embedded = (model.embed_motion(clips()), model.embed_video(torch.randn(3, 6)), model.embed_text(torch.randn(3, 5)))
    for rows in embedded:
        assert rows.shape == (3, 8)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    assert model.embedding_dim == 8


def test_motion_embeddings_are_the_head_of_the_backbone_features():
    model = build()
    features = model.backbone.features(clips())
    assert torch.equal(model.embed_motion(clips()), model.motion_heads["motion"](features))
    assert torch.equal(model.embed_motion(clips()), model.project_motion(features))


def test_one_shared_head_serves_every_loss():
    model = build()
    assert list(model.motion_heads) == ["motion"]
    first, *others = (model.embed_motion(clips(), loss) for loss in LOSSES)
    assert all(torch.equal(first, other) for other in others)


def test_per_loss_heads_are_separate_and_motion_text_is_the_default():
    model = build(per_loss_heads=True)
    assert tuple(model.motion_heads) == LOSSES
    embedded = {loss: model.embed_motion(clips(), loss) for loss in LOSSES}
    assert not torch.allclose(embedded["mm"], embedded["mv"])
    assert not torch.allclose(embedded["mv"], embedded["mt"])
    # Zero-shot compares motion with text, so the unnamed head is that of L_mt.
    assert torch.equal(model.embed_motion(clips()), embedded["mt"])
    with torch.no_grad():
        model.motion_heads["mv"].mlp[0].weight.zero_()
    assert torch.equal(model.embed_motion(clips(), "mt"), embedded["mt"])


@pytest.mark.parametrize(("layers", "linear"), [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_head_layers(layers: int, linear: int):
    model = build(None, None, head_layers=layers)
    head = model.motion_heads["motion"]
    assert sum(isinstance(module, torch.nn.Linear) for module in head.modules()) == linear
    assert model.embedding_dim == (8 if layers else model.backbone.feature_dim)


def test_no_head_layers_needs_teachers_of_the_motion_dimension():
    model = build(16, 16, head_layers=0)
    raw = torch.randn(2, 16)
    torch.testing.assert_close(model.embed_video(raw), torch.nn.functional.normalize(raw, dim=1))
    for dims, named in (((16, 5), "text has 5"), ((6, 16), "video has 6")):
        with pytest.raises(ValueError, match=named):
            build(*dims, head_layers=0)


def test_a_fixed_temperature_is_a_number_and_no_parameter():
    model = build(temperature=0.07)
    assert model.temperature == 0.07
    assert "log_temperature" not in dict(model.named_parameters())
    assert math.exp(model.state_dict()["log_temperature"]) == pytest.approx(0.07)


def test_a_learned_temperature_gets_the_gradient_of_its_logarithm():
    model = build(temperature=0.2, learn_temperature=True)
    assert model.temperature.item() == pytest.approx(0.2)
    (3.0 / model.temperature).backward()
    # d(3 e^-x)/dx = -3 / t
    assert float(model.log_temperature.grad) == pytest.approx(-15.0, rel=1e-5)


@pytest.mark.parametrize(("reached", "limited"), [(1e-4, 0.01), (50.0, 1.0), (0.3, 0.3)])
def test_a_learned_temperature_is_brought_back_into_its_range(reached: float, limited: float):
    model = build(learn_temperature=True)
    with torch.no_grad():
        model.log_temperature.fill_(math.log(reached))
    model.limit_temperature()
    assert model.temperature.item() == pytest.approx(limited)
    # At a limit the gradient still flows, so that it can come back.
    model.temperature.backward()
    assert model.log_temperature.grad.item() == pytest.approx(limited)


def test_a_fixed_temperature_is_not_limited_and_a_learned_one_starts_in_range():
    fixed = build(temperature=5.0)
    fixed.limit_temperature()
    assert fixed.temperature == 5.0
    with pytest.raises(ValueError, match="between"):
        build(temperature=5.0, learn_temperature=True)


def test_the_hidden_width_of_a_head_is_that_of_its_input_unless_it_is_set():
    model = build(head_hidden=None)
    assert model.motion_heads["motion"].mlp[0].out_features == model.backbone.feature_dim
    assert model.text_head.mlp[0].out_features == 5
    assert build(head_hidden=12).text_head.mlp[0].out_features == 12


@pytest.mark.parametrize("head", ["fc", "tcn"])
def test_the_frame_classifier_is_the_one_the_options_name_on_the_same_encoder(head: str):
    model = build(detection_head=head)
    classifier = model.frame_classifier(4)
    assert classifier.backbone is model.backbone
    assert isinstance(classifier.head, torch.nn.Conv1d) == (head == "fc")
    assert classifier.eval()(clips()).shape == (3, 8, 4)


def test_a_model_without_a_teacher_says_so():
    bare = build(None, None)
    with pytest.raises(ValueError, match="without a video teacher"):
        bare.embed_video(torch.randn(1, 6))
    with pytest.raises(ValueError, match="stage 2"):
        bare.embed_text(torch.randn(1, 5))
    with pytest.raises(ValueError, match="6"):
        build().embed_video(torch.randn(1, 7))


def test_gradients_reach_backbone_and_heads():
    model = build().train()
    motion, video, text = (
        model.embed_motion(clips()),
        model.embed_video(torch.randn(3, 6)),
        model.embed_text(torch.randn(3, 5)),
    )
    ((motion * video).sum() + (motion * text).sum()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
