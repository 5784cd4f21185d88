"""select_few_shot: counts per class, seeds, nesting, order independence, files."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmor_fast.errors import DataError
from tmor_fast.evaluation import FewShotSelection, select_few_shot


def clips(counts: list[int]) -> tuple[list[str], list[int]]:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return [f"clip{index:04d}" for index in range(len(labels))], labels


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    share=st.floats(0.01, 1.0),
    seed=st.integers(0, 99),
)
def test_stratified_counts(counts: list[int], share: float, seed: int) -> None:
    ids, labels = clips(counts)
    selection = select_few_shot(ids, labels, share, seed=seed)
    label_of = dict(zip(ids, labels, strict=True))
    drawn = Counter(label_of[clip] for clip in selection.clip_ids)
    wanted = {c: max(1, math.floor(share * n + 0.5)) for c, n in enumerate(counts) if n}
    assert drawn == wanted
    assert len(set(selection.clip_ids)) == len(selection.clip_ids)
    assert selection.available == len(ids)


def test_five_percent_of_penn_like_classes() -> None:
    ids, labels = clips([100, 90, 10, 3])
    drawn = Counter(labels[i] for i in select_few_shot(ids, labels, 0.05).indices(ids).tolist())
    assert drawn == {0: 5, 1: 5, 2: 1, 3: 1}


def test_seeds_nesting_and_order() -> None:
    ids, labels = clips([30, 50, 20])
    five, ten = (select_few_shot(ids, labels, share, seed=7) for share in (0.05, 0.1))
    assert set(five.clip_ids) < set(ten.clip_ids)
    assert ten.clip_ids == select_few_shot(ids[::-1], torch.tensor(labels[::-1]), 0.1, seed=7).clip_ids
    assert ten.clip_ids != select_few_shot(ids, labels, 0.1, seed=8).clip_ids
    state = torch.get_rng_state()
    select_few_shot(ids, labels, 0.1)
    assert torch.equal(state, torch.get_rng_state())


def test_uniform_ignores_classes_and_unlabelled_clips_stay_out() -> None:
    ids, labels = clips([99, 1])
    selection = select_few_shot(ids, labels, 0.05, strategy="uniform")
    assert len(selection.clip_ids) == 5
    labels[:50] = [-1] * 50
    selection = select_few_shot(ids, labels, 1.0, strategy="uniform")
    assert selection.clip_ids == tuple(ids[50:])


def test_save_load_and_indices(tmp_path: Path) -> None:
    ids, labels = clips([10, 10])
    selection = select_few_shot(ids, labels, 0.2, seed=3)
    loaded = FewShotSelection.load(selection.save(tmp_path / "shots.json"))
    assert loaded == selection
    shuffled = ids[::-1]
    picked = loaded.indices(shuffled)
    assert picked.dtype == torch.int64
    assert picked.tolist() == sorted(picked.tolist())
    assert {shuffled[i] for i in picked} == set(selection.clip_ids)
    with pytest.raises(DataError, match="not in the data set"):
        loaded.indices(ids[:1])
    for text in ("[]", "{}", "no json", '{"clip_ids": "ab", "share": 1, "seed": 0, "strategy": "uniform"}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match="no few-shot selection"):
            FewShotSelection.load(tmp_path / "bad.json")


def test_errors() -> None:
    for share in (0.0, 1.5, float("nan"), -0.1):
        with pytest.raises(ValueError, match="share must be"):
            select_few_shot(["a"], [0], share)
    with pytest.raises(ValueError, match="strategy"):
        select_few_shot(["a"], [0], 0.5, strategy="balanced")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 clip ids and 1 labels"):
        select_few_shot(["a", "b"], [0], 0.5)
    with pytest.raises(DataError, match="'a' occurs twice"):
        select_few_shot(["a", "a"], [0, 1], 0.5)
    with pytest.raises(ValueError, match="no clip has a label"):
        select_few_shot(["a"], [-1], 0.5)
