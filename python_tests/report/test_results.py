"""Reports and predictions found in JSON, wherever they are nested, and the confusions told in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tmor_fast.evaluation.metrics import classification_report
from tmor_fast.report.results import Result, biggest_confusions, find_results
from tmor_fast.training.recording import top_predictions


def report(labels: list[int], predicted: list[int]) -> dict[str, Any]:
    return classification_report(torch.eye(3)[predicted], torch.tensor(labels), list("abc")).to_dict()


def test_names_come_from_the_place_and_chance_from_above():
    content = {"zero_shot": {"chance": 0.25, "reports": {"motion": report([0, 1], [0, 2])}}, "note": [1, "x"]}
    (found,), predictions, problems = find_results(content, ["demo"])
    assert (found.name, found.chance, found.top1, found.clips) == ("demo · zero shot · motion", 0.25, 0.5, 2)
    assert found.above_chance == 0.25
    assert not predictions
    assert not problems


def test_predictions_are_read_back():
    scores = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    written = top_predictions(scores, torch.tensor([2, 1]), ["x", "y"], list("abc"))
    _, (first, second), _ = find_results({"predictions": {"probe": written}}, [])
    assert (first.source, first.clip_id, first.label, first.unit) == ("probe", "x", "c", "probability")
    assert [name for name, _ in first.top] == ["a", "c", "b"]
    assert first.top[0][1] == pytest.approx(torch.tensor([2.0, 0.0, 1.0]).softmax(0)[0].item(), abs=1e-4)
    assert (first.right, second.right) == (False, True)


@pytest.mark.parametrize(
    "change",
    [
        {"confusion": [[1, 2], [3, 4]]}, {"confusion": [[1, 0, 0], [0, -1, 0], [0, 0, 1]]}, {"top1": float("nan")},
        {"top1": None}, {"confusion": "many"}, {"label_names": 3}, {"confusion": [[1], [1, 2]]},
    ],
)  # fmt: skip
def test_a_malformed_report_is_left_out_and_named(change: dict[str, Any]):
    good = report([0, 1], [0, 1])
    results, _, (problem,) = find_results({"bad": {**good, **change}, "good": good}, [])
    assert [result.name for result in results] == ["good"]
    assert "bad is malformed" in problem


@pytest.mark.parametrize("change", [{"top": [[7]]}, {"top": [[-1]]}, {"label": [9]}, {"score": [[]]}, {"top": [[]]}])
def test_malformed_predictions_are_left_out(change: dict[str, Any]):
    good = {"clips": ["x"], "label": [0], "top": [[0]], "score": [[1.0]], "label_names": ["a", "b"]}
    assert len(find_results({"p": good}, [])[1]) == 1
    _, predictions, (problem,) = find_results({"p": {**good, **change}}, [])
    assert predictions == []
    assert "malformed" in problem


def test_biggest_confusions_by_count_then_by_share():
    confusion = np.array([[5, 2, 1], [2, 1, 0], [0, 9, 90]])
    result = Result("r", list("abc"), confusion, 0.9, 1.0, 0.8, 3)
    assert biggest_confusions(result, 3) == [("c", "b", 9, 99), ("b", "a", 2, 3), ("a", "b", 2, 8)]
    assert len(biggest_confusions(result)) == 4
