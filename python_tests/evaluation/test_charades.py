"""Charades: 25 points a video, inclusive labels, missing videos, annotation files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tmor_fast.errors import DataError
from tmor_fast.evaluation.charades import (
    Annotation,
    localisation_map,
    parse_actions,
    point_labels,
    point_scores,
    read_annotations,
    time_points,
    unofficial_map,
)


def test_time_points_leave_out_the_end() -> None:
    times = time_points(50.0)
    assert times[0] == 0
    assert times[1] == 2
    assert times[-1] == 48


def test_labels_are_inclusive() -> None:
    labels = point_labels(Annotation(25.0, ((1, 3.0, 5.0), (0, 24.5, 30.0))), 3)
    assert labels[:, 1].nonzero().flatten().tolist() == [3, 4, 5]
    assert not labels[:, 0].any()


def test_scores_are_taken_at_the_nearest_prediction() -> None:
    # 4 predictions a second for 10 seconds; point j is at 0.4 j seconds, that is prediction 1.6 j.
    scores = torch.arange(40.0)[:, None]
    taken = point_scores(scores, 10.0, rate=4.0)[:, 0]
    assert taken[:5].tolist() == [0, 2, 3, 5, 6]
    # A stream that is too short repeats its last prediction.
    assert point_scores(scores[:3], 10.0, rate=4.0)[-1].item() == 2


def test_map_with_a_missing_video() -> None:
    annotations = {"a": Annotation(25.0, ((0, 0.0, 24.0),)), "b": Annotation(25.0, ((0, 0.0, 24.0), (1, 0.0, 4.0)))}
    report = localisation_map({"a": torch.ones(25, 2)}, annotations, ["x", "y"])
    # Class 0: 25 hits at precision 1, then 25 at the tied last rank with precision 1. Class 1: 5 of 50 at the end.
    assert report.per_class == (1.0, pytest.approx(5 / 50))
    assert report.mean_ap == pytest.approx((1 + 0.1) / 2)
    assert report.weighted_ap == pytest.approx((50 * 1 + 5 * 0.1) / 55)


def test_unofficial_variants() -> None:
    scores, labels = torch.zeros(60, 2), torch.zeros(60, 2, dtype=torch.bool)
    labels[1::2, 0] = True
    # Every second row from row 1 on: all of them are positive.
    assert unofficial_map([(scores, labels)], rows="sampled25").per_class == (1.0, None)
    dense = unofficial_map([(scores, labels)])
    assert dense.per_class == (0.5, None)
    assert dense.mean_ap == 0.25
    assert "unofficial" in dense.protocol
    with pytest.raises(ValueError, match="no video"):
        unofficial_map([(scores[:25], labels[:25])], rows="sampled25")
    with pytest.raises(ValueError, match="'dense' or 'sampled25'"):
        unofficial_map([(scores, labels)], rows="all")  # type: ignore[arg-type]


def test_annotation_file(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text('id,subject,actions,length\nAB12,S,"c092 11.90 21.20;c147 0.00 12.60",30.5\nCD34,S,,12\n')
    annotations = read_annotations(path)
    assert annotations["AB12"] == Annotation(30.5, ((92, 11.9, 21.2), (147, 0.0, 12.6)))
    assert annotations["CD34"].actions == ()
    path.write_text("id,actions,length\nAB12,c092 1,30.5\n")
    with pytest.raises(DataError, match=r"test\.csv, line 2, video AB12.*'c092 1'"):
        read_annotations(path)
    path.write_text("id,actions,length\nAB12,c092 1 2,0\n")
    with pytest.raises(DataError, match="length must be positive"):
        read_annotations(path)
    path.write_text("id,actions\n")
    with pytest.raises(DataError, match="no column length"):
        read_annotations(path)


def test_errors() -> None:
    annotation = {"a": Annotation(25.0, ((0, 0.0, 1.0),))}
    with pytest.raises(ValueError, match="not among them: \\['z'\\]"):
        localisation_map({"z": torch.ones(25, 2)}, annotation, ["x", "y"])
    with pytest.raises(ValueError, match=r"a needs scores \(25, 2\)"):
        localisation_map({"a": torch.ones(24, 2)}, annotation, ["x", "y"])
    with pytest.raises(ValueError, match="NaN"):
        localisation_map({"a": torch.full((25, 1), float("nan"))}, annotation, ["x"])
    with pytest.raises(ValueError, match="class 5 is not in 0 to 1"):
        point_labels(Annotation(1.0, ((5, 0.0, 1.0),)), 2)
    with pytest.raises(ValueError, match="length must be positive"):
        time_points(0.0)
    with pytest.raises(DataError, match="c<class>"):
        parse_actions("x01 0 1")
