"""classification_report: hand-worked cases, ties, absent classes, agreement with scikit-learn and torchmetrics."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tmor_fast.evaluation import classification_report
from tmor_fast.evaluation.metrics import count_predictions, label_ranks, report_from_counts

NAMES = ("run", "sit", "walk")


def hand_scores() -> tuple[Tensor, Tensor]:
    # Predictions 0, 0, 1, 1, 0; labels 0, 0, 0, 1, 1.
    scores = torch.tensor(
        [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1]], dtype=torch.float32
    )
    return scores, torch.tensor([0, 0, 0, 1, 1])


def test_hand_worked() -> None:
    report = classification_report(*hand_scores(), NAMES)
    assert report.confusion.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert report.num_samples == 5
    assert report.top1 == pytest.approx(3 / 5)
    assert report.top5 == 1.0
    assert report.top_k == 3
    assert report.per_class == (pytest.approx(2 / 3), pytest.approx(1 / 2), None)
    assert report.absent == ("walk",)
    assert report.support == (3, 2, 0)
    assert report.mean_per_class == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_fixed_class_count_divides_by_all_classes() -> None:
    report = classification_report(*hand_scores(), NAMES, class_average="all")
    assert report.mean_per_class == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert report.class_average == "all"


def test_ties_go_to_the_smaller_class() -> None:
    report = classification_report(torch.zeros(8, 8), torch.arange(8))
    assert report.confusion[:, 0].tolist() == [1] * 8
    assert report.top1 == pytest.approx(1 / 8)
    assert report.top5 == pytest.approx(5 / 8)
    scores = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    assert [int(label_ranks(scores, torch.tensor([c]))) for c in range(4)] == [2, 0, 1, 3]


def test_top5_of_seven() -> None:
    scores = torch.arange(7, 0, -1, dtype=torch.float32).expand(7, 7)
    report = classification_report(scores, torch.arange(7))
    assert report.top_k == 5
    assert report.top5 == pytest.approx(5 / 7)
    assert report.top1 == pytest.approx(1 / 7)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 60), num_classes=st.integers(2, 11), levels=st.integers(1, 40), seed=st.integers(0, 999))
def test_agrees_with_sklearn(n: int, num_classes: int, levels: int, seed: int) -> None:
    from sklearn.metrics import confusion_matrix

    generator = torch.Generator().manual_seed(seed)
    # Few levels make ties.
    scores = torch.randint(0, levels, (n, num_classes), generator=generator).float()
    labels = torch.randint(0, num_classes, (n,), generator=generator)
    report = classification_report(scores, labels)
    predicted = scores.numpy().argmax(axis=1)
    expected = confusion_matrix(labels.numpy(), predicted, labels=range(num_classes))
    assert report.confusion.tolist() == expected.tolist()
    ranked = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :5]
    assert report.top5 == pytest.approx((ranked == labels[:, None]).any(1).double().mean().item())
    recalls = [expected[c, c] / expected[c].sum() for c in range(num_classes) if expected[c].sum()]
    assert report.mean_per_class == pytest.approx(sum(recalls) / len(recalls))


def test_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(200, 9, generator=generator), torch.arange(200) % 9
    report = classification_report(scores, labels)
    assert torch.equal(report.confusion, multiclass_confusion_matrix(scores, labels, 9))
    for value, top_k, average in (
        (report.top1, 1, "micro"),
        (report.top5, 5, "micro"),
        (report.mean_per_class, 1, "macro"),
    ):
        wanted = multiclass_accuracy(scores, labels, 9, average=average, top_k=top_k).item()
        assert value == pytest.approx(wanted, abs=1e-6)


def test_counts_add_up_over_batches() -> None:
    scores, labels = hand_scores()
    parts = [count_predictions(scores[a:b], labels[a:b]) for a, b in ((0, 2), (2, 2), (2, 5))]
    summed = report_from_counts(sum(c for c, _ in parts), sum(h for _, h in parts), NAMES)  # type: ignore[arg-type]
    assert summed.to_dict() == classification_report(scores, labels, NAMES).to_dict()


def test_half_precision_integers_and_infinities() -> None:
    scores = torch.tensor([[float("inf"), 0.0], [0.0, -float("inf")]], dtype=torch.float16)
    report = classification_report(scores, torch.tensor([0, 1], dtype=torch.uint8))
    assert report.per_class == (1.0, 0.0)


def test_json_and_table(tmp_path: Path) -> None:
    report = classification_report(*hand_scores(), NAMES)
    saved = json.loads(report.save(tmp_path / "new" / "report.json").read_text())
    assert saved == report.to_dict()
    assert saved["per_class"][2] is None
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.json"]
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.to_table("Penn"))
    text = console.export_text()
    assert "sit (1)" in text
    assert "no clips" in text
    assert "66.7" in text
    assert report.summary() in " ".join(text.split())
    assert "1 classes without clips" in report.summary()


@pytest.mark.parametrize(
    ("scores", "labels", "error", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), ValueError, "sample 1 has label 3, accepted are 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), ValueError, "leave unlabelled samples out"),
        (torch.zeros(2, 3), torch.tensor([0]), ValueError, r"labels must be \(2,\)"),
        (torch.zeros(3), torch.tensor([0]), ValueError, r"\(n, K\)"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), ValueError, "no samples"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 1]), TypeError, "floating point"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), TypeError, "integers"),
        (torch.tensor([[0.0, 0.0], [0.0, float("nan")]]), torch.tensor([0, 1]), ValueError, "sample 1 contain NaN"),
    ],
)
def test_bad_input(scores: Tensor, labels: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        classification_report(scores, labels)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        classification_report(*hand_scores(), ["a", "b"])
    with pytest.raises(ValueError, match="'present' or 'all'"):
        classification_report(*hand_scores(), class_average="macro")  # type: ignore[arg-type]
