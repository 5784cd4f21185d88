"""Synthetic motion as a data set: reproducible, labelled and described, written to a store."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from tmor_fast.data.synthetic import (
    ACTIONS,
    ZERO_SHOT_ACTIONS,
    SyntheticBatch,
    action_names,
    generate,
    get_actions,
)
from tmor_fast.data.synthetic.action import gerund, inflect, third_person

MID_HIP, LEFT_ANKLE = 4, 15
NAMES = action_names()


def only(num_clips: int, **options) -> SyntheticBatch:
    """All clips in one batch."""
    return next(generate(num_clips, batch=num_clips, **options))


def assert_same(a: SyntheticBatch, b: SyntheticBatch) -> None:
    for field in ("joints", "valid", "length", "index", "label", "subject", "test", "repetitions"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)
    assert (a.caption, a.view, a.style) == (b.caption, b.view, b.style)


# Reproducibility


@pytest.mark.parametrize("dims", [2, 3])
def test_clips_do_not_depend_on_batch_number_or_start(dims: int) -> None:
    whole = only(300, seed=5, dims=dims)
    again = only(300, seed=5, dims=dims)
    assert_same(whole, again)
    parts = list(generate(300, seed=5, dims=dims, batch=77))
    assert [len(part) for part in parts] == [77, 77, 77, 69]
    for number, part in enumerate(parts):
        assert_same(part, whole.slice(77 * number, 77 * number + len(part)))
    assert_same(only(40, seed=5, dims=dims), whole.slice(0, 40))
    assert_same(only(50, seed=5, dims=dims, start=240), whole.slice(240, 290))


def test_seeds_differ_in_everything() -> None:
    a, b = only(64, seed=1), only(64, seed=2)
    assert (a.label != b.label).any()
    assert (a.length != b.length).any()
    assert a.caption != b.caption
    assert not np.isclose(a.joints[a.valid & b.valid], b.joints[a.valid & b.valid]).all(axis=-1).any()


def test_noise_and_gaps_do_not_change_the_motion_below() -> None:
    plain = only(64, seed=4, noise=0.0, missing=0.0)
    noisy = only(64, seed=4, noise=0.01, missing=0.1)
    np.testing.assert_array_equal(plain.label, noisy.label)
    assert plain.caption == noisy.caption
    error = (noisy.joints - plain.joints)[noisy.valid]
    height = 1.65
    assert 0.7 * 0.01 * height < error.std() < 1.4 * 0.01 * height
    # Half of the noise is slow: errors of neighbouring frames correlate at about one half.
    error = noisy.joints - plain.joints
    both = noisy.valid[:, 1:] & noisy.valid[:, :-1]
    correlation = np.corrcoef(error[:, 1:][both].ravel(), error[:, :-1][both].ravel())[0, 1]
    assert 0.35 < correlation < 0.6


# Shape and bookkeeping


@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_types_and_padding(dims: int) -> None:
    batch = only(100, seed=3, dims=dims, frames=(30, 50))
    assert batch.joints.shape == (100, 50, 1, 17, dims)
    assert batch.joints.dtype == np.float32
    assert batch.valid.shape == (100, 50, 1, 17)
    assert np.isfinite(batch.joints).all()
    assert batch.length.min() >= 30
    assert batch.length.max() <= 50
    assert len(set(batch.length.tolist())) > 10
    outside = np.arange(50) >= batch.length[:, None]
    assert not batch.valid[outside].any()
    assert (batch.joints[~batch.valid] == 0).all()
    assert batch.image_size == ((640, 480) if dims == 2 else None)


def test_labels_are_balanced() -> None:
    batch = only(10 * len(ACTIONS), seed=9, frames=(2, 4), noise=0.0, missing=0.0)
    assert (np.bincount(batch.label, minlength=len(ACTIONS)) == 10).all()
    counts = np.bincount(only(1000, seed=9, frames=(2, 4), noise=0.0, missing=0.0, actions=NAMES[:7]).label)
    assert counts.max() - counts.min() <= 1


def test_people_are_held_out_as_a_whole() -> None:
    batch = only(1500, seed=2, frames=(2, 3), noise=0.0, missing=0.0, subjects=50, test_share=0.3)
    held_out = set(batch.subject[batch.test].tolist())
    assert held_out.isdisjoint(batch.subject[~batch.test].tolist())
    assert len(held_out) == 15
    assert not only(10, seed=2, frames=(2, 3), test_share=0.0).test.any()


@pytest.mark.parametrize("rate", [0.02, 0.25])
def test_missing_joints_come_in_runs_at_the_rate_asked_for(rate: float) -> None:
    batch = only(512, seed=6, missing=rate, frames=(60, 60))
    lost = ~batch.valid[:, :, 0]
    assert lost.mean() == pytest.approx(rate, rel=0.12)
    starts = (lost[:, 1:] & ~lost[:, :-1]).sum()
    assert lost[:, 1:].sum() / starts > 4.0


# Words


def test_there_are_enough_actions_with_distinct_names() -> None:
    assert len(ACTIONS) >= 48
    assert len(set(NAMES)) == len(NAMES)
    for action in ACTIONS:
        assert inflect(action.phrases[0], "base") == action.name
        assert len(set(action.phrases)) >= 3
        for word in action.verb.split(" and "):
            assert re.search(rf"\b{word}\b", action.name)
        for side in ("left", "right"):
            assert (side in action.name.split()) == (action.side == side)


def test_words_of_held_out_actions_occur_elsewhere() -> None:
    known = {word for name in NAMES if name not in ZERO_SHOT_ACTIONS for word in name.split()}
    for name in ZERO_SHOT_ACTIONS:
        assert name in NAMES
        assert set(name.split()) <= known


def test_verb_forms() -> None:
    assert [third_person(v) for v in ("wave", "push", "do", "stretch", "carry", "play")] == [
        "waves", "pushes", "does", "stretches", "carries", "plays",
    ]  # fmt: skip
    assert [gerund(v) for v in ("wave", "sit", "run", "kick", "bow")] == [
        "waving", "sitting", "running", "kicking", "bowing",
    ]  # fmt: skip
    assert inflect("*walk and *wave the left hand", "third") == "walks and waves the left hand"


def test_captions_say_action_and_style() -> None:
    batch = only(1000, seed=12, noise=0.0, missing=0.0)
    for i, caption in enumerate(batch.caption):
        action = batch.actions[batch.label[i]]
        forms = {inflect(p, form) for p in action.phrases for form in ("base", "third", "gerund")}
        assert any(phrase in caption for phrase in forms), caption
        assert not re.search(r"[*{}]|  ", caption)
    assert any("slow" in c for c, s in zip(batch.caption, batch.style, strict=True) if s == "slow")
    plain = [c for c, s in zip(batch.caption, batch.style, strict=True) if s == "plain"]
    assert not any(re.search(r"slow|fast|quick|tired", c) for c in plain)
    twice = [i for i, c in enumerate(batch.caption) if c.split()[-1] == "twice"]
    assert twice
    assert all(batch.repetitions[i] == 2 for i in twice)
    assert len(set(batch.caption)) > 500
    assert batch.attributes[0] == batch.actions[batch.label[0]].attributes


def test_slow_clips_are_slower() -> None:
    batch = only(600, seed=3, frames=(60, 60), noise=0.0, missing=0.0, actions=["walk"])
    speed = np.abs(np.diff(batch.joints[:, :, 0, LEFT_ANKLE], axis=1)).sum(axis=-1).mean(axis=1)
    style = np.array(batch.style)
    assert speed[style == "slow"].mean() < 0.8 * speed[style == "plain"].mean()
    assert speed[style == "quick"].mean() > 1.2 * speed[style == "plain"].mean()


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 4}, "dims must be 2 or 3"),
        ({"frames": (10, 5)}, "frames"),
        ({"noise": -0.1}, "noise"),
        ({"missing": 1.0}, "missing"),
        ({"camera": "fisheye"}, "camera"),
        ({"seed": -1}, "seed"),
        ({"subjects": 0}, "subjects"),
        ({"batch": 0}, "batch"),
        ({"actions": ["fly"]}, "no synthetic action 'fly'"),
        ({"actions": []}, "at least one"),
        ({"actions": ["walk", "walk"]}, "once"),
    ],
)
def test_bad_options_are_named_at_the_call(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(10, **{"seed": 0, **options})


def test_chosen_actions_give_the_labels() -> None:
    chosen = ["run", "bow", "wave the left hand"]
    assert action_names(get_actions(chosen)) == chosen
    batch = only(30, seed=0, actions=chosen, frames=(10, 10))
    assert action_names(batch.actions) == chosen
    assert set(batch.label.tolist()) == {0, 1, 2}


# Use


def test_a_linear_classifier_tells_actions_apart() -> None:
    batch = only(25 * len(ACTIONS), seed=21, yaw=(-0.5, 0.5))
    place = np.linspace(0, 1, 12)[None] * (batch.length - 1)[:, None]
    joints = batch.joints[:, :, 0] - batch.joints[:, :1, 0, MID_HIP : MID_HIP + 1]
    sampled = np.take_along_axis(joints, place.astype(int)[:, :, None, None], axis=1)
    inside = batch.valid[:, :, 0].any(axis=2)[:, :, None, None]
    spread = np.sqrt((joints**2 * inside).sum(axis=1) / batch.length[:, None, None])
    features = np.concatenate([sampled.reshape(len(batch), -1), spread.reshape(len(batch), -1)], axis=1)
    features = (features - features[~batch.test].mean(axis=0)) / features[~batch.test].std(axis=0).clip(1e-6)
    train, test = features[~batch.test].astype(np.float64), features[batch.test]
    targets = np.eye(len(ACTIONS))[batch.label[~batch.test]] - 1.0 / len(ACTIONS)
    weights = np.linalg.solve(train.T @ train + 100.0 * np.eye(train.shape[1]), train.T @ targets)
    accuracy = ((test @ weights).argmax(axis=1) == batch.label[batch.test]).mean()
    assert accuracy > 0.4  # chance is 1/78


def test_fast_enough_for_training_sets() -> None:
    start = time.perf_counter()
    made = sum(len(batch) for batch in generate(2000, seed=0))
    assert made == 2000
    assert time.perf_counter() - start < 10.0


@pytest.mark.parametrize("dims", [2, 3])
def test_written_stores_read_back(tmp_path: Path, dims: int) -> None:
    pytest.importorskip("pyarrow")
    from tmor_fast.data.synthetic import write_synthetic_store

    store = write_synthetic_store(
        tmp_path / "store", clips=120, seed=7, dims=dims, frames=(20, 30), dtype="float32", clips_per_shard=50
    )
    batch = only(120, seed=7, dims=dims, frames=(20, 30))
    assert len(store) == 120
    assert store.label_names == NAMES
    assert store.units == ("metres" if dims == 3 else "pixels")
    for i in (0, 49, 50, 119):
        clip = store[i]
        clip.check()
        length = batch.length[i]
        np.testing.assert_array_equal(clip.joints, batch.joints[i, :length])
        np.testing.assert_array_equal(clip.valid, batch.valid[i, :length])
        assert (clip.label, clip.caption, clip.view) == (batch.label[i], batch.caption[i], batch.view[i])
        assert clip.split == ("test" if batch.test[i] else "train")
        assert clip.subject == f"person_{batch.subject[i]:04d}"
        assert clip.image_size == ((640, 480) if dims == 2 else None)
        assert clip.extra["style"] == batch.style[i]
    info = json.loads((tmp_path / "store" / "dataset.json").read_text())
    assert info["attributes"]["wave the left hand"] == {"verb": "wave", "part": "hand", "side": "left"}
    assert info["synthetic"]["seed"] == 7


def test_a_refused_store_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from tmor_fast.data.synthetic import write_synthetic_store

    with pytest.raises(ValueError, match="clips must be at least 1"):
        write_synthetic_store(tmp_path / "store", clips=0, seed=1)
    with pytest.raises(ValueError, match="no synthetic action"):
        write_synthetic_store(tmp_path / "store", clips=5, seed=1, actions=["fly"])
    assert list(tmp_path.iterdir()) == []
