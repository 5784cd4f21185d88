"""TSU: strict frame labels at any resolution, per-frame mAP over videos."""

from __future__ import annotations

import pytest
import torch

from tmor_fast.evaluation.tsu import FrameMAP, frame_labels


def test_labels_are_strict_at_both_ends() -> None:
    labels = frame_labels([(1, 2, 5), (0, 5, 6)], duration=8, num_frames=8, num_classes=3)
    assert labels[:, 1].nonzero().flatten().tolist() == [3, 4]
    assert not labels[:, 0].any()
    assert not labels[:, 2].any()


def test_labels_at_a_coarser_resolution() -> None:
    # One prediction for 16 frames: predictions stand at frames 0, 16, 32, 48.
    labels = frame_labels([(0, 15, 33)], duration=64, num_frames=4, num_classes=1)
    assert labels[:, 0].tolist() == [False, True, True, False]


def test_overlapping_actions_of_one_class_unite() -> None:
    labels = frame_labels([(0, 0, 3), (0, 2, 5)], duration=6, num_frames=6, num_classes=1)
    assert labels[:, 0].tolist() == [False, True, True, True, True, False]


def test_map_pools_the_frames_of_all_videos() -> None:
    metric = FrameMAP(3)
    metric.update(torch.tensor([[0.9, 0.2, 0.1], [0.8, 0.1, 0.1]]), torch.tensor([[1, 0, 0], [0, 0, 0]]).bool())
    metric.update(torch.tensor([[0.7, 0.9, 0.3]]), torch.tensor([[1, 1, 0]]).bool())
    report = metric.compute()
    # Class 0: hits at ranks 1 and 3 of the pooled frames; class 1: rank 1; class 2 never occurs and does not count.
    assert report.per_class == (pytest.approx(5 / 6), 1.0, None)
    assert report.mean_ap == pytest.approx((5 / 6 + 1) / 2)
    assert report.absent == ("2",)
    metric.reset()
    with pytest.raises(ValueError, match="no frame was added"):
        metric.compute()


def test_errors() -> None:
    with pytest.raises(ValueError, match="class 3 is not in 0 to 2"):
        frame_labels([(3, 0, 1)], 8, 8, 3)
    with pytest.raises(ValueError, match="must be positive"):
        frame_labels([], 0, 8)
    metric = FrameMAP(["a", "b"])
    with pytest.raises(ValueError, match=r"both be \(T, 2\)"):
        metric.update(torch.zeros(4, 2), torch.zeros(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="NaN"):
        metric.update(torch.full((1, 2), float("nan")), torch.zeros(1, 2, dtype=torch.bool))
