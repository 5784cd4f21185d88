"""PKU-MMD: segments from frames, IoU, the data set's average precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmor_fast.evaluation.pku_mmd import (
    Segment,
    frames_to_segments,
    segment_average_precision,
    segment_iou,
    segment_map,
)

TRUTH = [Segment("v", 1, 0, 10), Segment("v", 1, 20, 30)]
HITS = [Segment("v", 1, 0, 10, 0.9), Segment("v", 1, 20, 30, 0.8)]


def wrong(confidence: float, start: float = 100) -> Segment:
    return Segment("v", 1, start, start + 5, confidence)


def test_iou() -> None:
    assert segment_iou(Segment("v", 1, 0, 10), Segment("v", 1, 5, 15)) == pytest.approx(1 / 3)
    assert segment_iou(Segment("v", 1, 0, 10), Segment("v", 1, 20, 30)) == pytest.approx(-1 / 3)


@pytest.mark.parametrize(
    ("proposals", "expected"),
    [
        (HITS, 1.0),
        ([], 0.0),
        (HITS[:1], 0.5),
        ([*HITS, wrong(0.1)], 1.0),  # a false positive below all hits costs nothing
        ([*HITS, Segment("v", 1, 1, 10, 0.1)], 1.0),  # nor does a duplicate there
        ([*HITS, wrong(0.95)], 2 / 3),  # on top it does: precision 2/3 at full recall
        ([HITS[0], wrong(0.85), wrong(0.84, 200), HITS[1]], 0.5),  # not .75: precision 1 at .9 is never looked at
        ([Segment("other", 1, 0, 10, 0.9)], 0.0),
        ([Segment("v", 2, 0, 10, 0.9)], 0.0),
    ],
)
def test_toy_cases(proposals: list[Segment], expected: float) -> None:
    assert segment_average_precision(proposals, TRUTH, 0.5) == pytest.approx(expected)


def test_threshold_is_inclusive() -> None:
    half = [Segment("v", 1, 0, 5, 0.9)]
    assert segment_average_precision(half, TRUTH[:1], 0.5) == 1.0
    assert segment_average_precision(half, TRUTH[:1], 0.51) == 0.0


def test_a_duplicate_between_hits_counts_as_a_proposal() -> None:
    proposals = [HITS[0], Segment("v", 1, 1, 10, 0.85), Segment("v", 1, 20, 30, 0.7)]
    # Full list: 2 found of 3. Without .7: 1 of 2. Without the duplicate: 1 of 1, so the last half of recall gets 1.
    assert segment_average_precision(proposals, TRUTH, 0.5) == pytest.approx(0.5 * 2 / 3 + 0.5 * 1.0)


@settings(deadline=None, max_examples=60)
@given(
    data=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(1, 15), st.floats(0, 1)), min_size=0, max_size=12
    ),
    iou=st.sampled_from([0.1, 0.3, 0.5]),
)
def test_bounds_and_perfect_prediction(data: list[tuple[int, int, int, float]], iou: float) -> None:
    proposals = [Segment("v", label, start, start + length, conf) for label, start, length, conf in data]
    assert 0.0 <= segment_average_precision(proposals, TRUTH, iou) <= 1.0
    perfect = {(segment.label, segment.start, segment.end): segment for segment in proposals}.values()
    if perfect:
        assert segment_map(perfect, perfect, [1.0]).mean_ap[1.0] == pytest.approx(1.0)


def test_map_is_over_the_classes_of_the_ground_truth() -> None:
    truth = [*TRUTH, Segment("v", 2, 50, 60)]
    report = segment_map([*HITS, Segment("v", 7, 0, 10, 1.0)], truth)
    assert report.mean_ap == {0.1: 0.5, 0.3: 0.5, 0.5: 0.5}
    assert report.per_class[0.3] == {1: 1.0, 2: 0.0}
    assert report.summary().startswith("mAP@0.1 50.00 %")
    with pytest.raises(ValueError, match="no ground truth"):
        segment_map(HITS, [])


def test_frames_to_segments() -> None:
    probabilities = torch.tensor(
        [
            [0.9, 0.1, 0.0],
            [0.5, 0.4, 0.1],
            [0.1, 0.2, 0.7],
            [0.7, 0.3, 0.0],
            [0.2, 0.8, 0.0],
        ]
    )
    first, second = frames_to_segments(probabilities, "v", frames_per_step=4)
    assert (first.start, first.end, first.label) == (4, 12, 2)
    assert first.confidence == pytest.approx(0.4)
    assert (second.start, second.end, second.label) == (16, 20, 1)
    assert second.confidence == pytest.approx(0.8)
    assert frames_to_segments(probabilities, "v", threshold=0.9) == []
    # One run where all is active; 1 - p must exceed the threshold.
    assert len(frames_to_segments(probabilities, "v", threshold=0.0)) == 1


def test_errors() -> None:
    for start, end in ((5, 5), (float("nan"), 1), (0, float("inf"))):
        with pytest.raises(ValueError, match="start < end"):
            Segment("v", 1, start, end)
    with pytest.raises(ValueError, match="confidence"):
        Segment("v", 1, 0, 1, float("nan"))
    with pytest.raises(ValueError, match=r"iou must be in \(0, 1\]"):
        segment_average_precision(HITS, TRUTH, 0.0)
    with pytest.raises(ValueError, match="no ground truth"):
        segment_average_precision(HITS, [], 0.5)
    with pytest.raises(ValueError, match="apply softmax"):
        frames_to_segments(torch.tensor([[2.0, -1.0]]), "v")
    with pytest.raises(ValueError, match="threshold"):
        frames_to_segments(torch.tensor([[0.5, 0.5]]), "v", threshold=1.0)
    with pytest.raises(ValueError, match=r"\(T, K \+ 1\)"):
        frames_to_segments(torch.zeros(3, 1), "v")
