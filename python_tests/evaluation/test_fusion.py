"""fuse_scores: the equation, the difference between softmax and logits, weights, bad input."""

from __future__ import annotations

import pytest
import torch

from tmor_fast.evaluation import fuse_scores


def test_softmax_and_logits_follow_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    joint, bone = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(fuse_scores([joint, bone]), joint.softmax(1) + bone.softmax(1))
    torch.testing.assert_close(fuse_scores([joint, bone], method="logits"), joint + bone)
    torch.testing.assert_close(fuse_scores([joint, bone], [2.0, 0.5], method="logits"), 2 * joint + 0.5 * bone)
    torch.testing.assert_close(fuse_scores([joint, bone], [1.0, 0.0]), joint.softmax(1))


def test_methods_can_disagree() -> None:
    # The bone stream is very sure of class 0; both joint-like streams prefer class 1.
    bone, joint = torch.tensor([[30.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    streams = [bone, joint, joint]
    assert fuse_scores(streams, method="logits").argmax().item() == 0
    assert fuse_scores(streams, method="softmax").argmax().item() == 1


def test_half_precision_is_computed_in_float32() -> None:
    large = torch.full((1, 2), 60000.0, dtype=torch.float16)
    fused = fuse_scores([large, large], method="logits")
    assert fused.dtype == torch.float32
    # The sum is beyond float16's largest number, 65504.
    assert torch.equal(fused, 2 * large.float())


def test_errors() -> None:
    good = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="at least one stream"):
        fuse_scores([])
    with pytest.raises(ValueError, match=r"stream 1 is \(2, 4\)"):
        fuse_scores([good, torch.zeros(2, 4)])
    with pytest.raises(ValueError, match="1 weights for 2 streams"):
        fuse_scores([good, good], [1.0])
    for weights in ([-1.0], [0.0], [float("nan")]):
        with pytest.raises(ValueError, match="weights must be"):
            fuse_scores([good], weights)
    with pytest.raises(ValueError, match="stream 0 has scores that are not finite"):
        fuse_scores([torch.tensor([[float("nan")]])])
    with pytest.raises(ValueError, match="'softmax' or 'logits'"):
        fuse_scores([good], method="mean")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="floating point"):
        fuse_scores([torch.zeros(1, 2, dtype=torch.int64)])
