from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import cluster as peers

from tmor_fast.cluster import neighbours as neighbours_module
from tmor_fast.cluster import verify
from tmor_fast.ops import dbscan

# Two clusters that both reach the border point 0.0 at index 4; min_samples 4 keeps it from being a core point.
LINE = np.array([[-2.0], [-1.8], [-1.5], [-1.0], [0.0], [1.0], [1.5], [1.8], [2.0], [40.0]])
LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, -1])


def test_accepts_the_labels_of_the_op() -> None:
    assert dbscan(torch.from_numpy(LINE), 1.0, 4)[0].tolist() == LABELS.tolist()
    verdict = verify(LINE, LABELS, 1.0, 4, strict=True)
    assert verdict
    assert verdict.reason == ""


def test_accepts_every_valid_labelling() -> None:
    other_side = LABELS.copy()
    other_side[4] = 1
    assert verify(LINE, other_side, 1.0, 4)
    swapped = np.array([7, 7, 7, 7, 3, 3, 3, 3, 3, -1])
    assert verify(LINE, swapped, 1.0, 4)
    assert verify(torch.from_numpy(LINE), torch.from_numpy(swapped).int(), 1.0, 4)
    assert verify(LINE, LABELS.tolist(), 1.0, 4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({0: -1}, "point 0 is a core point but labelled noise"),
        ({4: -1}, "point 4 is labelled noise but lies within eps of core point 3"),
        ({9: 1}, "point 9 is in cluster 1 but no core point of it lies within eps"),
        ({9: 2}, "point 9 is in cluster 2 but no core point of it lies within eps"),
        ({4: 2}, "point 4 is in cluster 2 but no core point of it lies within eps"),
        ({0: 5}, "core points 0 and 1 are neighbours but in clusters 5 and 0"),
        ({5: 0, 6: 0, 7: 0, 8: 0}, "core points 0 and 5 are in cluster 0, but no chain of core points connects them"),
        ({3: -2}, "label -2 of point 3 is below -1"),
    ],
)
def test_rejects_with_a_reason(change: dict[int, int], reason: str) -> None:
    labels = LABELS.copy()
    for point, label in change.items():
        labels[point] = label
    verdict = verify(LINE, labels, 1.0, 4)
    assert not verdict
    assert verdict.reason == reason


def test_strict_names_ties_and_numbering() -> None:
    other_side = LABELS.copy()
    other_side[4] = 1
    assert verify(LINE, other_side, 1.0, 4, strict=True).reason == (
        "border point 4 is in cluster 1, the smallest cluster that reaches it is 0"
    )
    swapped = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, -1])
    assert "cluster 1 appears before cluster 0" in verify(LINE, swapped, 1.0, 4, strict=True).reason


def test_labels_of_the_wrong_kind() -> None:
    assert "shape (3,)" in verify(LINE, [0, 0, 0], 1.0, 4).reason
    assert "integers" in verify(LINE, LABELS.astype(float), 1.0, 4).reason


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_accepts_scikit_learn_and_rejects_what_was_tampered_with(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 60))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    metric = data.draw(st.sampled_from(["euclidean", "cosine"]))
    points = rng.normal(size=(n, 3))
    eps = data.draw(st.sampled_from([0.3, 0.6, 0.9])) * (1.0 if metric == "euclidean" else 0.1)
    min_samples = data.draw(st.integers(1, 5))
    labels = peers.DBSCAN(eps=eps, min_samples=min_samples, metric=metric, algorithm="brute").fit(points).labels_
    assert verify(points, labels, eps, min_samples, metric, strict=True)
    changed = labels.copy()
    row = data.draw(st.integers(0, n - 1))
    changed[row] = data.draw(st.sampled_from([x for x in range(-1, labels.max() + 2) if x != labels[row]]))
    # Whatever changed, it is not the one strict labelling any more.
    assert not verify(points, changed, eps, min_samples, metric, strict=True)


def test_weights_and_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours_module, "_BLOCK_ELEMENTS", 3 * 80)
    rng = np.random.default_rng(5)
    points, weight = rng.normal(size=(80, 2)), rng.uniform(0.1, 2.0, size=80)
    labels = dbscan(torch.from_numpy(points), 0.4, 4, sample_weight=torch.from_numpy(weight))[0].numpy()
    assert labels.max() > 0
    assert verify(points, labels, 0.4, 4, sample_weight=weight, strict=True)
    assert not verify(points, labels, 0.4, 4, sample_weight=5 * weight, strict=True)


def test_exact_ties_are_decided_as_the_op_decides() -> None:
    points = np.random.default_rng(3).integers(0, 3, size=(200, 6)) * 0.1
    for eps in (0.1, 0.2, 0.1 * 6**0.5):
        labels = dbscan(torch.from_numpy(points), eps, 4)[0]
        assert verify(points, labels, eps, 4, strict=True)
