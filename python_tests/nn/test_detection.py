"""Frame-wise heads: published parameter counts, one score row a frame, and how far the TCN sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tmor_fast.nn.detection import FrameClassifier
from tmor_fast.nn.unik import UNIK
from tmor_fast.nn.unik_config import UNIKConfig

MICRO = UNIKConfig.preset("unik-micro", widths=(8, 16), strides=(1, 2), persons=1)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("classes", "parameters"), [(51, 13_107), (157, 40_349)])
def test_the_linear_head_on_the_full_network_has_the_published_size(classes: int, parameters: int):
    backbone = UNIK(UNIKConfig.preset("unik"))
    assert backbone.feature_dim == 256
    assert count(FrameClassifier(backbone, classes).head) == parameters


@pytest.mark.parametrize("head", ["fc", "tcn"])
@pytest.mark.parametrize("frames", [1, 2, 7, 16])
def test_as_many_rows_of_scores_as_frames_come_in(head: str, frames: int):
    model = FrameClassifier(UNIK(MICRO), 5, head).eval()
    assert model(torch.randn(2, 2, frames, 17, 1)).shape == (2, frames, 5)


def test_the_linear_head_scores_each_upsampled_frame_by_itself():
    torch.manual_seed(0)
    model = FrameClassifier(UNIK(MICRO), 3).eval()
    joints = torch.randn(2, 2, 9, 17, 1)
    features = model.backbone.frame_features(joints, upsample=True)
    expected = features @ model.head.weight[:, :, 0].T + model.head.bias
    torch.testing.assert_close(model(joints), expected)


def influence(head: nn.Module, width: int, frames: int, at: int) -> Tensor:
    """Frames of the input on which the score of frame `at` depends."""
    features = torch.randn(1, width, frames, dtype=torch.float64, requires_grad=True)
    head(features)[0, :, at].sum().backward()
    return features.grad.abs().sum((0, 1)).nonzero().squeeze(1)


def test_the_tcn_sees_31_frames_to_either_side():
    torch.manual_seed(0)
    head = FrameClassifier(UNIK(MICRO), 4, "tcn").head.eval().double()
    seen = influence(head, 16, 101, 50)
    # Dilations 1 + 2 + 4 + 8 + 16, kernel 3.
    assert (int(seen.min()), int(seen.max())) == (50 - 31, 50 + 31)


def test_the_tcn_doubles_the_width_and_drops_out_in_training_alone():
    torch.manual_seed(0)
    model = FrameClassifier(UNIK(MICRO), 4, "tcn")
    convolutions = [m for m in model.head.modules() if isinstance(m, nn.Conv1d)]
    assert [c.out_channels for c in convolutions] == [32] * 11 + [4]
    assert [c.dilation[0] for c in convolutions if c.kernel_size == (3,)] == [1, 2, 4, 8, 16]
    features = torch.randn(1, 16, 20)
    model.eval()
    assert torch.equal(model.head(features), model.head(features))
    model.train()
    assert not torch.equal(model.head(features), model.head(features))


def test_gradients_reach_the_encoder():
    model = FrameClassifier(UNIK(MICRO), 4, "tcn")
    model(torch.randn(2, 2, 8, 17, 1)).square().mean().backward()
    without = [name for name, p in model.backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_what_is_refused():
    backbone = UNIK(MICRO)
    with pytest.raises(ValueError, match="num_classes"):
        FrameClassifier(backbone, 0)
    with pytest.raises(ValueError, match="'fc' or 'tcn'"):
        FrameClassifier(backbone, 3, "mlp")
