"""`ActionModel.predict`: every form of input gives the same answer, and no clip's answer depends on its neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmor_fast.data.conversion import conversions, convert_joints
from tmor_fast.data.layout import LAYOUTS, get_layout
from tmor_fast.inference import ActionModel, Prediction, load

ACTIONS = ("wave the left hand", "squat", "walk", "clap")
UNIK = {"layout": "unik17"}


def scores(prediction: Any) -> np.ndarray:
    """Probabilities by class."""
    assert isinstance(prediction, Prediction)
    return np.array([prediction.scores[prediction.names.index(name)] for name in ACTIONS])


def body(joints: int, frames: int, seed: int, persons: int = 1, channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (persons, joints, channels)
    return rng.normal(300, 60, size=(1, *shape)) + rng.normal(0, 5, size=(frames, *shape))


def test_a_prediction_has_sorted_probabilities_and_says_what_it_is_of(model: ActionModel, clip: np.ndarray):
    found = model.predict(clip, layout="unik17", fps=6.0, clip_ids="kitchen", top=3)
    assert isinstance(found, Prediction)
    assert (found.clip_id, found.start, found.stop, found.stop_seconds) == ("kitchen", 0, 12, 2.0)
    assert len(found.names) == len(found.scores) == 3
    assert found.top == found.names[0]
    assert found.score == max(found.scores)
    assert list(found.scores) == sorted(found.scores, reverse=True)
    everything = model.predict(clip, layout="unik17", top=None)
    assert set(everything.names) == set(ACTIONS)
    assert sum(everything.scores) == pytest.approx(1, abs=1e-6)
    assert everything.names[:3] == found.names
    assert found.embedding.shape == (model.embed(clip, layout="unik17").shape[1],)
    with pytest.raises(AttributeError):
        found.clip_id = "other"


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int32, np.int16])
def test_numpy_and_torch_of_any_real_dtype_agree(model: ActionModel, clip: np.ndarray, kind: Any):
    array = clip.astype(kind)
    expected = scores(model.predict(array.astype(np.float32), **UNIK, top=None))
    assert np.array_equal(scores(model.predict(array, **UNIK, top=None)), expected)
    assert np.array_equal(scores(model.predict(torch.from_numpy(array), **UNIK, top=None)), expected)


def test_bfloat16_and_gradients(model: ActionModel, clip: np.ndarray):
    rounded = torch.from_numpy(clip).bfloat16()
    expected = scores(model.predict(rounded.float(), **UNIK, top=None))
    assert np.array_equal(scores(model.predict(rounded, **UNIK, top=None)), expected)
    tracked = rounded.float().requires_grad_()
    found = model.predict(tracked, **UNIK, top=None)
    assert np.array_equal(scores(found), expected)
    assert not found.embedding.requires_grad


def test_strided_and_read_only_arrays_are_read_and_left_alone(model: ActionModel, clip: np.ndarray):
    expected = scores(model.predict(clip, **UNIK, top=None))
    wide = np.full((24, 17, 4), np.nan, dtype=np.float32)
    wide[::2, :, 1:3] = clip
    swapped = np.ascontiguousarray(clip.transpose(2, 1, 0)).transpose(2, 1, 0)
    frozen = clip.copy()
    frozen[0, 0] = np.nan
    before = frozen.copy()
    frozen.setflags(write=False)
    assert np.array_equal(scores(model.predict(wide[::2, :, 1:3], **UNIK, top=None)), expected)
    assert np.array_equal(scores(model.predict(torch.from_numpy(wide)[::2, :, 1:3], **UNIK, top=None)), expected)
    assert np.array_equal(scores(model.predict(swapped, **UNIK, top=None)), expected)
    model.predict(frozen, **UNIK)
    assert np.array_equal(frozen, before, equal_nan=True)


def test_one_clip_a_batch_and_a_list_agree(model: ActionModel, clip: np.ndarray):
    moved = clip[::-1] * 1.1
    expected = [scores(model.predict(one, **UNIK, top=None)) for one in (clip, moved)]
    for many in (
        [clip, moved],
        (clip[:, None], torch.from_numpy(moved.copy())),
        np.stack((clip, moved))[:, :, None],
        torch.from_numpy(np.stack((clip, moved))[:, :, None]),
    ):
        found = model.predict(many, **UNIK, top=None)
        assert isinstance(found, list)
        assert np.allclose([scores(one) for one in found], expected, atol=1e-5)
    assert model.predict([], **UNIK) == []
    assert model.predict(np.zeros((0, 4, 1, 17, 2)), **UNIK) == []
    assert model.embed([], **UNIK).shape == model.embed(clip, **UNIK)[:0].shape


@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=7),
    batch_size=st.integers(1, 4),
    missing=st.floats(0, 0.6),
    seed=st.integers(0, 99),
)
def test_neighbours_and_order_do_not_matter(
    model: ActionModel, lengths: list[int], batch_size: int, missing: float, seed: int
):
    rng = np.random.default_rng(seed)
    clips = [body(17, length, seed + i)[:, 0] for i, length in enumerate(lengths)]
    for one in clips:
        gone = rng.random(one.shape[:2]) < missing
        gone[0, 0] = False
        one[gone] = np.nan
    alone = [scores(model.predict(one, **UNIK, top=None)) for one in clips]
    assert np.isfinite(alone).all()
    together = model.predict(clips, **UNIK, top=None, batch_size=batch_size)
    assert np.allclose([scores(one) for one in together], alone, atol=1e-5)
    assert [one.clip_id for one in together] == [f"clip-{i}" for i in range(len(clips))]
    assert [one.stop for one in together] == lengths


@pytest.mark.parametrize("name", sorted({source for source, target in conversions() if target == "unik17"}))
@pytest.mark.parametrize("frames", [1, 2, 30])
def test_every_layout_is_converted(model: ActionModel, name: str, frames: int):
    layout = get_layout(name)
    poses = body(layout.num_joints, frames, 3)[:, 0].astype(np.float32)
    converted, _ = convert_joints(poses, np.ones(poses.shape[:-1], dtype=bool), layout, "unik17")
    found = scores(model.predict(poses, layout=name, top=None))
    assert np.allclose(found, scores(model.predict(converted, **UNIK, top=None)), atol=1e-5)


def test_the_layout_is_found_by_its_joints_where_it_is_the_only_one(model: ActionModel):
    poses = body(13, 5, 0)[:, 0]
    assert model.predict(poses) == model.predict(poses, layout="penn13")
    # unik17 itself has the joints of coco17 and others.
    same = [name for name, layout in LAYOUTS.items() if layout.num_joints == 17]
    with pytest.raises(ValueError, match="17 joints may be any of") as caught:
        model.predict(body(17, 5, 0)[:, 0])
    assert {"unik17", "coco17"} <= set(same)
    assert all(repr(name) in str(caught.value) for name in ("unik17", "coco17"))
    with pytest.raises(ValueError, match=r"no known layout of 14 joints can become 'unik17'.*'penn13' \(13\)"):
        model.predict(body(14, 5, 0)[:, 0])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0.05, 0.9), frames=st.integers(1, 20))
def test_missing_joints_may_be_said_in_any_way(model: ActionModel, seed: int, share: float, frames: int):
    rng = np.random.default_rng(seed)
    poses = body(17, frames, seed)[:, 0]
    valid = rng.random(poses.shape[:2]) > share
    valid[rng.integers(frames), rng.integers(17)] = True
    holes = np.where(valid[..., None], poses, np.nan)
    expected = scores(model.predict(holes, **UNIK, top=None))
    garbage = np.where(valid[..., None], poses, 1e6)
    half = np.where((rng.random(poses.shape) < 0.5) & ~valid[..., None], np.nan, poses)
    weight = np.where(valid, rng.uniform(0.5, 1, valid.shape), 0)
    for joints, how in (
        (garbage, {"valid": valid}),
        (half, {"valid": torch.from_numpy(valid)}),
        (garbage, {"confidence": weight}),
        (garbage, {"confidence": torch.from_numpy(np.where(valid, weight, 0.3)), "min_confidence": 0.4}),
        (holes, {"valid": np.ones_like(valid)}),
    ):
        assert np.array_equal(scores(model.predict(joints, **UNIK, **how, top=None)), expected)  # type: ignore[arg-type]
    if not valid.all():
        assert not np.array_equal(scores(model.predict(garbage, **UNIK, top=None)), expected)


def test_persons_beyond_the_slots_do_not_count_and_missing_ones_are_empty(model: ActionModel, pair: ActionModel):
    two = body(17, 6, 1, persons=2)
    # Both persons place and scale the clip, as in training; the second is not seen by a model of one.
    absent = two.copy()
    absent[:, 1] = np.nan
    assert np.array_equal(
        scores(model.predict(absent, **UNIK, top=None)), scores(model.predict(two[:, :1], **UNIK, top=None))
    )
    alone, both = pair.predict([two[:, :1], two], **UNIK, top=None)
    assert not np.allclose(scores(alone), scores(both), atol=1e-4)
    assert np.allclose(scores(pair.predict(absent, **UNIK, top=None)), scores(alone), atol=1e-5)
    third = np.concatenate((two, two[:, :1]), axis=1)
    third[:, 2] = np.nan
    assert np.allclose(scores(pair.predict(third, **UNIK, top=None)), scores(both), atol=1e-5)


def test_a_3d_clip_is_seen_from_the_front_and_from_further_directions(model: ActionModel):
    deep = body(17, 6, 2, channels=3)[:, 0] / 100 * np.array([1, -1, 1])
    front = scores(model.predict(deep, **UNIK, units="metres", top=None))
    # Along the z axis: what a 2D camera there sees, y down. In 2D the size has a lower limit, so scale it the same.
    assert not np.allclose(front, scores(model.predict(deep, **UNIK, units="metres", top=None, views=3)), atol=1e-6)
    sideways = deep[..., [2, 1, 0]] * np.array([-1, 1, 1])
    assert not np.allclose(front, scores(model.predict(sideways, **UNIK, units="metres", top=None)), atol=1e-6)
    nearer = deep + np.array([0, 0, 5])
    assert np.allclose(front, scores(model.predict(nearer, **UNIK, units="metres", top=None)), atol=1e-4)
    other = model.predict([deep, deep], **UNIK, clip_ids=["a", "b"], top=None)
    assert not np.allclose(scores(other[0]), scores(other[1]), atol=1e-6)


def test_a_3d_model_takes_3d_and_refuses_2d(make: Any, clip: np.ndarray):
    deep = load(make(channels=3))
    assert deep.channels == 3
    assert scores(deep.predict(body(17, 4, 0, channels=3)[:, 0], **UNIK, top=None)).sum() == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="sees 3D skeletons and the clips are 2D"):
        deep.predict(clip, **UNIK)


def test_the_screen_normalisation_needs_the_image(make: Any, clip: np.ndarray):
    screen = load(make(normalisation="screen"))
    with pytest.raises(ValueError, match="image size"):
        screen.predict(clip, **UNIK)
    small, large = (scores(screen.predict(clip, **UNIK, image_size=s, top=None)) for s in ((640, 480), (1920, 1080)))
    assert not np.allclose(small, large, atol=1e-4)


def test_a_window_sampling_model_takes_any_length(make: Any):
    window = load(make(sampling="window"))
    found = window.predict([body(17, frames, 0)[:, 0] for frames in (1, 7, 8, 40)], **UNIK, top=None)
    assert np.allclose([scores(one).sum() for one in found], 1, atol=1e-6)
    # The middle 8 frames are what it sees, after normalising the whole clip.
    assert not np.allclose(scores(found[0]), scores(found[3]), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_agree(folder: Any, model: ActionModel, clip: np.ndarray, dtype: torch.dtype):
    other = load(folder / "plain.pt", "cpu", dtype)
    assert other.dtype == dtype
    found = scores(other.predict(clip, **UNIK, top=None))
    tolerance = 1e-5 if dtype == torch.float64 else 0.05
    assert np.allclose(found, scores(model.predict(clip, **UNIK, top=None)), atol=tolerance)
