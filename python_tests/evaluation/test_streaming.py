"""ClassificationMetrics: batches give the report of the whole, also after reset and from several processes."""

from __future__ import annotations

import pytest
import torch

from tmor_fast.evaluation import ClassificationMetrics, classification_report


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(50, 8, generator=generator), torch.randint(0, 7, (50,), generator=generator)


def test_batches_equal_the_whole() -> None:
    scores, labels = data()
    metric = ClassificationMetrics(8)
    for a, b in ((0, 20), (20, 21), (21, 50)):
        metric.update(scores[a:b], labels[a:b])
    whole = classification_report(scores, labels)
    assert metric.report().to_dict() == whole.to_dict()
    values = metric.compute()
    assert values["top1"].item() == pytest.approx(whole.top1)
    assert values["top5"].item() == pytest.approx(whole.top5)
    assert values["mean_per_class"].item() == pytest.approx(whole.mean_per_class)
    metric.reset()
    metric.update(scores[:5], labels[:5])
    assert metric.report().num_samples == 5


def test_sums_over_processes() -> None:
    scores, labels = data()
    metric = ClassificationMetrics(list("abcdefgh"), class_average="all")
    metric.update(scores, labels)
    # What two processes with the same batches would see: every state gathered twice.
    metric.dist_sync_fn = lambda state, group=None: [state, state]
    metric.distributed_available_fn = lambda: True
    assert metric.report().num_samples == 100
    assert metric.compute()["top1"].item() == pytest.approx(classification_report(scores, labels).top1)
    assert int(metric.confusion.sum()) == 50


def test_errors() -> None:
    metric = ClassificationMetrics(["a", "b"])
    with pytest.raises(ValueError, match=r"scores must be \(n, 2\)"):
        metric.update(torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match="no samples"):
        metric.report()
    with pytest.raises(ValueError, match="at least one class"):
        ClassificationMetrics([])
