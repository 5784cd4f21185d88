"""Preparing clips: gaps, normalisation, layouts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmor_fast.data import Clip, ClipBatch, ClipStore, convert_joints, get_layout, prepare, prepare_batch
from tmor_fast.data.gaps import fill_gaps
from tmor_fast.data.prepare import clip_percentile
from tmor_fast.errors import DataError

Make = Callable[..., Clip]
Write = Callable[..., ClipStore]
UNIK = get_layout("unik17")


def filled(values: list[float | None], joint: int = 0) -> list[float]:
    """One joint's x over time with None for gaps, filled; all other joints are seen at 100."""
    joints = np.full((len(values), 1, 17, 2), 100.0, np.float32)
    valid = np.ones(joints.shape[:3], bool)
    joints[:, 0, joint, 0] = [np.nan if value is None else value for value in values]
    valid[:, 0, joint] = [value is not None for value in values]
    batch = ClipBatch.build(joints, np.array([0, len(values)]), ["c"], valid=valid)
    return fill_gaps(batch, UNIK)[:, 0, joint, 0].tolist()


@pytest.mark.parametrize(
    ("given_values", "expected"),
    [
        ([1, None, 3], [1, 2, 3]),
        ([0, None, None, None, 8, None, 9], [0, 2, 4, 6, 8, 8.5, 9]),
        ([None, None, 5, 6], [5, 5, 5, 6]),
        ([5, 6, None, None], [5, 6, 6, 6]),
        ([None, 7, None], [7, 7, 7]),
        ([1, 2, 3], [1, 2, 3]),
        ([None, None], [100, 100]),
    ],
)
def test_gaps_are_linear_inside_and_constant_at_the_ends(
    given_values: list[float | None], expected: list[float]
) -> None:
    assert filled(given_values) == expected


def test_gaps_do_not_reach_into_other_clips() -> None:
    joints = np.zeros((6, 1, 17, 2), np.float32)
    joints[:, 0, 3, 0] = [1, 2, np.nan, np.nan, 20, 21]
    valid = np.isfinite(joints).all(-1)
    batch = ClipBatch.build(joints, np.array([0, 3, 6]), ["a", "b"], valid=valid)
    assert fill_gaps(batch, UNIK)[:, 0, 3, 0].tolist() == [1, 2, 2, 20, 20, 21]


def test_a_joint_never_seen_takes_its_partners_then_its_ancestors_place() -> None:
    joints = np.arange(17, dtype=np.float32)[None, None, :, None] + np.zeros((2, 1, 1, 2), np.float32)
    valid = np.ones((2, 1, 17), bool)
    for name in ("left_knee", "left_wrist", "right_wrist"):
        valid[:, 0, UNIK.index(name)] = False
    result = fill_gaps(ClipBatch.build(joints, np.array([0, 2]), ["a"], valid=valid), UNIK)[0, 0, :, 0]
    assert result[UNIK.index("left_knee")] == UNIK.index("right_knee")
    assert result[UNIK.index("left_wrist")] == UNIK.index("left_elbow")
    assert result[UNIK.index("right_wrist")] == UNIK.index("right_elbow")


def test_one_seen_joint_carries_the_whole_body() -> None:
    joints = np.full((1, 1, 17, 3), np.nan, np.float32)
    joints[0, 0, 16] = 4.0
    batch = ClipBatch.build(joints, np.array([0, 1]), ["a"], valid=np.isfinite(joints).all(-1))
    assert (fill_gaps(batch, UNIK) == 4.0).all()


def test_a_clip_without_any_joint_is_named(clip: Make, write_store: Write) -> None:
    empty = clip(1, 3)
    empty.valid[:] = False
    with pytest.raises(DataError, match=r"clip 'clip1': no joint is valid in any of its 3 frames"):
        prepare(write_store([clip(0), empty]))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(["penn13", "unik17"]),
    st.sampled_from([2, 3]),
    st.sampled_from(["body", "none"]),
)
def test_no_coordinate_is_ever_nan(seed: int, layout: str, channels: int, normalisation: str) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, rng.integers(1, 5))
    shape = (int(lengths.sum()), 2, get_layout(layout).num_joints)
    joints = rng.normal(size=(*shape, channels)).astype(np.float32) * rng.choice([0.0, 1e-3, 1.0, 1e3])
    valid = rng.random(shape) < rng.choice([0.05, 0.5, 0.95])
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    valid[offsets[:-1], 0, 0] = True  # one joint a clip
    joints[~valid] = np.nan
    batch = ClipBatch.build(joints, offsets, [str(i) for i in range(len(lengths))], valid=valid)
    result, ok = prepare_batch(batch, get_layout(layout), UNIK, normalisation)
    assert np.isfinite(result).all()
    assert result.dtype == np.float32
    _, expected = convert_joints(joints, valid, layout, UNIK)
    np.testing.assert_array_equal(ok, expected)
    absent = ~np.logical_or.reduceat(valid.any(2), offsets[:-1])
    for number, person in np.argwhere(absent):
        assert (result[offsets[number] : offsets[number + 1], person] == 0).all()


def reference_body(joints: np.ndarray) -> np.ndarray:
    """The definition of "body" for one fully seen clip of one person, in float64."""
    j = joints[:, 0].astype(np.float64)
    center = j[:, 4].mean(axis=0)
    size = np.percentile(np.linalg.norm(j[:, 2] - j[:, 4], axis=-1), 90)
    if j.shape[-1] == 2:
        extent = np.linalg.norm(j.max(axis=1) - j.min(axis=1), axis=-1)
        size = max(size, 0.22 * np.percentile(extent, 90))
    return (joints - center) / size


@pytest.mark.parametrize("channels", [2, 3])
def test_body_normalisation_is_its_definition(clip: Make, write_store: Write, channels: int) -> None:
    clips = [clip(i, 3 + i, channels=channels) for i in range(4)]
    clips[1].joints *= 50
    clips[2].joints += 300
    clips[3].joints[:, :, 2] = clips[3].joints[:, :, 4] + 0.01  # a torso seen end-on
    packed = prepare(write_store(clips))
    for number, one in enumerate(clips):
        rows = slice(int(packed.offsets[number]), int(packed.offsets[number + 1]))
        np.testing.assert_allclose(packed.joints[rows], reference_body(one.joints), rtol=2e-4, atol=3e-4)


def test_body_normalisation_ignores_place_and_size(clip: Make, write_store: Write) -> None:
    one, two = clip(0, 8), clip(0, 8, clip_id="other")
    two.joints = two.joints * 37 + np.float32([250, -100])
    packed = prepare(write_store([one, two]))
    torch.testing.assert_close(packed.joints[:8], packed.joints[8:], rtol=0, atol=1e-4)


def test_a_frontal_2d_body_and_its_3d_source_agree_in_scale(clip: Make, write_store: Write) -> None:
    standing = np.zeros((4, 1, 17, 3), np.float32)
    for name, place in {"head": (0, 1.6), "neck": (0, 1.4), "mid_hip": (0, 0.9), "left_wrist": (0.3, 0.9)}.items():
        standing[:, 0, UNIK.index(name), :2] = place
    solid = clip(0, 4, channels=3, joints=standing)
    flat = clip(1, 4, joints=standing[..., :2] * np.float32([90, -90]) + 200)
    one, two = prepare(write_store([solid], "a")), prepare(write_store([flat], "b"))
    torch.testing.assert_close(one.joints[..., 0], two.joints[..., 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(one.joints[..., 1], -two.joints[..., 1], atol=1e-4, rtol=0)
    assert not one.planar.any()
    assert two.planar.all()


def test_screen_normalisation_and_its_released_size(clip: Make, write_store: Write) -> None:
    one = clip(0, 2, image_size=(200, 100))
    one.joints[:] = (50, 25)
    store = write_store([one])
    own, released = (
        prepare(store, normalisation="screen"),
        prepare(store, normalisation="screen", screen_size=(640, 480)),
    )
    np.testing.assert_allclose(own.joints[0, 0, 0], [2 * 50 / 200 - 1, 2 * 25 / 200 - 100 / 200])
    np.testing.assert_allclose(released.joints[0, 0, 0], [2 * 50 / 640 - 1, 2 * 25 / 640 - 480 / 640], rtol=1e-6)


def test_screen_needs_pixels_and_their_image(clip: Make, write_store: Write) -> None:
    with pytest.raises(DataError, match=r"'clip0'.*image size.*screen_size"):
        prepare(write_store([clip()], "a"), normalisation="screen")
    with pytest.raises(ValueError, match="2D"):
        prepare(write_store([clip(channels=3)], "b"), normalisation="screen")


def test_none_keeps_coordinates_and_layout(clip: Make, write_store: Write) -> None:
    one = clip(0, layout="penn13", label=1, split="test", subject="s", view="left", caption="c")
    packed = prepare(write_store([one]), layout=None, normalisation="none")
    np.testing.assert_array_equal(packed.joints, one.joints)
    assert packed.layout.name == "penn13"
    assert (packed.label.tolist(), packed.splits, packed.subjects, packed.views, packed.captions) == (
        [1], ["test"], ["s"], ["left"], ["c"],
    )  # fmt: skip


def test_empty_persons_stay_zero_and_are_cut_or_added(clip: Make, write_store: Write) -> None:
    two = clip(0, 5, persons=2)
    two.valid[:, 1] = False
    store = write_store([two, clip(1, 4)])
    packed = prepare(store)
    assert packed.joints.shape[1] == 2
    assert (packed.joints[:, 1] == 0).all()
    assert not packed.valid[:, 1].any()
    assert prepare(store, persons=1).joints.shape[1] == 1
    three = prepare(store, persons=3)
    torch.testing.assert_close(three.joints[:, :2], packed.joints)
    assert (three.joints[:, 2] == 0).all()
    with pytest.raises(ValueError, match="persons"):
        prepare(store, persons=0)


def test_doubtful_joints_can_be_dropped(clip: Make, write_store: Write) -> None:
    one = clip(0, 3)
    one.confidence = np.ones((3, 1, 17), np.float32)
    one.confidence[1, 0, 7] = 0.5
    store = write_store([one])
    assert prepare(store).valid.all()
    strict = prepare(store, normalisation="none", min_confidence=0.6)
    assert strict.valid.sum() == 3 * 17 - 1
    assert not strict.valid[1, 0, 7]
    middle = (one.joints[0, 0, 7] + one.joints[2, 0, 7]) / 2
    np.testing.assert_allclose(strict.joints[1, 0, 7], middle, rtol=1e-5)


def test_shards_teachers_and_frame_labels_come_along(clip: Make, write_store: Write) -> None:
    clips = [clip(i, 2 + i, frame_label=np.full(2 + i, i % 2) if i != 1 else None) for i in range(5)]
    store = write_store(clips, clips_per_shard=2)
    store.write_embeddings("t", np.arange(10, dtype=np.float32).reshape(5, 2))
    packed = prepare(store, teachers=["t"], progress=True)
    assert packed.lengths.tolist() == [2, 3, 4, 5, 6]
    assert packed.embeddings["t"][3].tolist() == [6, 7]
    assert packed.frame_label is not None
    assert packed.frame_label.tolist() == [0] * 2 + [-1] * 3 + [0] * 4 + [1] * 5 + [0] * 6
    with pytest.raises(DataError, match="no embeddings of teacher 'u'; there are: t"):
        prepare(store, teachers=["u"])


def test_unknown_settings_are_refused(clip: Make, write_store: Write) -> None:
    store = write_store([clip()])
    with pytest.raises(ValueError, match="accepted: body, screen, none"):
        prepare(store, normalisation="z-score")
    with pytest.raises(ValueError, match="no conversion"):
        prepare(store, layout="coco17")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_percentile_is_numpys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, 4)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    values, mask = rng.normal(size=(offsets[-1], 2)), rng.random((offsets[-1], 2)) < 0.7
    result = clip_percentile(values, mask, offsets, 90.0)
    for number in range(4):
        rows = slice(offsets[number], offsets[number + 1])
        kept = values[rows][mask[rows]]
        expected = np.percentile(kept, 90) if kept.size else np.nan
        np.testing.assert_allclose(result[number], expected, rtol=1e-12)
