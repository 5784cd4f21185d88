"""What a run records for its report: bounded, read back as written, and what pre-training really found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tmor_fast.cluster import k_distance, suggest_eps
from tmor_fast.errors import DataError
from tmor_fast.training import recording
from tmor_fast.training.clustering import Clustering
from tmor_fast.training.recording import (
    distance_curve,
    name_code,
    read_clustering,
    record_clustering,
    record_stores,
    top_predictions,
)


def points(count: int) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


def test_a_clustering_is_read_back(tmp_path: Path):
    names = [f"clip {i}" for i in range(30)]
    found = Clustering(torch.arange(30) % 4 - 1, 0.25, 3, 0.25, 0.25)
    record_clustering(tmp_path / "a" / "c.npz", points(30), found, names, min_samples=4, epoch=7)
    read = read_clustering(tmp_path / "a" / "c.npz")
    assert (read.epoch, read.eps, read.k, read.warning) == (7, 0.25, 3, "")
    assert read.labels.tolist() == found.labels.tolist()  # type: ignore[union-attr]
    assert read.clips.tolist() == [name_code(name) for name in names]
    unit = torch.nn.functional.normalize(points(30), dim=1)
    assert np.array_equal(read.curve, k_distance(unit, 3, metric="cosine").numpy())
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["c.npz"]


def test_an_unused_clustering_keeps_its_reason(tmp_path: Path):
    record_clustering(
        tmp_path / "c.npz", points(5), Clustering(None, 0.1, 0, 1.0, 0.0, "no cluster"), list("abcde"), min_samples=4,
        epoch=0,
    )  # fmt: skip
    read = read_clustering(tmp_path / "c.npz")
    assert read.labels.tolist() == [-1] * 5
    assert read.warning == "no cluster"


def test_the_curve_is_bounded_keeps_its_ends_and_holds_the_suggested_radius():
    rows = torch.nn.functional.normalize(points(3000), dim=1)
    k, curve = distance_curve(3 * rows, 4)
    assert k == 3
    assert len(curve) == recording.CURVE_POINTS
    whole = k_distance(rows, 3, metric="cosine", sample=recording.CURVE_SAMPLE).numpy()
    assert (curve[0], curve[-1]) == pytest.approx((whole[0], whole[-1]))
    assert (np.diff(curve) >= 0).all()
    eps = suggest_eps(rows, 4, metric="cosine")
    assert np.abs(whole - eps).min() < 1e-12
    assert curve[0] < eps < curve[-1]


@pytest.mark.parametrize("rows", [2, 3])
def test_fewer_clips_than_min_samples(rows: int):
    k, curve = distance_curve(points(rows), 4)
    assert (k, len(curve)) == (rows - 1, rows)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04N.", b"no file"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"c\.npz"):
        read_clustering(tmp_path / "c.npz")


def test_arrays_that_do_not_agree_are_refused(tmp_path: Path):
    good = {
        "epoch": 0,
        "eps": 0.1,
        "k": 3,
        "curve": np.zeros(3),
        "labels": np.zeros(2),
        "clips": np.zeros(2),
        "warning": "",
    }
    for change in ({"labels": np.zeros(3)}, {"eps": np.nan}, {"curve": np.array([np.inf])}, {"epoch": "x"}):
        np.savez(tmp_path / "c.npz", **{**good, **change})
        with pytest.raises(DataError):
            read_clustering(tmp_path / "c.npz")
    np.savez(tmp_path / "c.npz", **good)
    assert read_clustering(tmp_path / "c.npz").k == 3


def test_stores_are_noted_by_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    record_stores(tmp_path / "run", ["data/a", tmp_path / "b"])
    assert json.loads((tmp_path / "run/stores.json").read_text()) == [str(tmp_path / "data/a"), str(tmp_path / "b")]


def test_the_best_classes_of_each_kind_of_score():
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    label, ids, names = torch.tensor([2]), ["x"], list("abcd")
    logits = top_predictions(scores, label, ids, names)
    assert logits["top"] == [[1, 2, 0]]
    assert logits["score"][0] == pytest.approx(scores.softmax(1)[0, [1, 2, 0]].tolist(), abs=1e-4)
    assert (logits["unit"], logits["label"], logits["clips"]) == ("probability", [2], ["x"])
    assert top_predictions(scores, label, ids, names, kind="probability")["score"] == [[0.5, 0.3333, 0.1667]]
    cosine = top_predictions(scores / 4, label, ids, names, kind="cosine")
    assert (cosine["score"], cosine["unit"]) == ([[0.75, 0.5, 0.25]], "cosine similarity")


def test_predictions_are_bounded_and_spread_over_the_clips():
    ids = [str(i) for i in range(1000)]
    found = top_predictions(torch.rand(1000, 2), torch.zeros(1000, dtype=torch.long), ids, ["a", "b"])
    assert len(found["clips"]) == recording.PREDICTED_CLIPS
    assert (found["clips"][0], found["clips"][-1]) == ("0", "999")
    assert len(set(found["clips"])) == recording.PREDICTED_CLIPS
    assert all(len(top) == 2 for top in found["top"])
    assert len(json.dumps(found)) < 50_000
