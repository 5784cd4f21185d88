"""average_precision against scikit-learn and by hand; detection_report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmor_fast.evaluation import average_precision, detection_report


def test_hand_worked_without_ties() -> None:
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    # Hits at ranks 1 and 3: (1/1 + 2/3) / 2.
    assert average_precision(scores, torch.tensor([True, False, True, False])) == pytest.approx(5 / 6)
    assert average_precision(scores, torch.tensor([False] * 4)) is None


def test_ties_share_a_threshold_whatever_their_order() -> None:
    scores = torch.tensor([0.5, 0.5, 0.5, 0.1])
    for hit in range(3):
        positive = torch.zeros(4, dtype=torch.bool)
        positive[hit] = True
        assert average_precision(scores, positive) == pytest.approx(1 / 3)
    assert average_precision(torch.full((4,), -float("inf")), torch.tensor([True, False, False, False])) == 0.25


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 80), levels=st.integers(1, 90), seed=st.integers(0, 999))
def test_agrees_with_sklearn(n: int, levels: int, seed: int) -> None:
    from sklearn.metrics import average_precision_score

    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, (n,), generator=generator).float()
    positive = torch.rand(n, generator=generator) < 0.4
    if positive.any():
        expected = average_precision_score(positive.numpy(), scores.numpy())
        assert average_precision(scores, positive) == pytest.approx(expected)


def test_report_means_and_json(tmp_path: Path) -> None:
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.2, 0.5], [0.7, 0.3, 0.5]])
    positive = torch.tensor([[True, True, False], [False, False, False], [True, False, False]])
    report = detection_report(scores, positive, ["a", "b", "c"], protocol="toy")
    assert report.per_class == (pytest.approx(5 / 6), pytest.approx(1 / 3), None)
    assert report.mean_ap == pytest.approx((5 / 6 + 1 / 3) / 2)
    assert report.weighted_ap == pytest.approx((2 * 5 / 6 + 1 / 3) / 3)
    assert report.absent == ("c",)
    assert report.support == (2, 1, 0)
    zero = detection_report(scores, positive, protocol="toy", absent_as_zero=True)
    assert zero.mean_ap == pytest.approx((5 / 6 + 1 / 3) / 3)
    assert json.loads(report.save(tmp_path / "report.json").read_text()) == report.to_dict()
    assert "1 classes without positives" in report.summary()


def test_errors() -> None:
    scores, positive = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="labels bool"):
        detection_report(scores, positive.float(), protocol="toy")
    with pytest.raises(ValueError, match="row 1 contain NaN"):
        detection_report(torch.tensor([[0.0], [float("nan")]]), positive[:, :1], protocol="toy")
    with pytest.raises(ValueError, match="no class has a positive"):
        detection_report(scores, ~positive, protocol="toy")
    with pytest.raises(ValueError, match="1 names for 3"):
        detection_report(scores, positive, ["a"], protocol="toy")
