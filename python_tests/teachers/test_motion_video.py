"""Drawn skeleton videos: what must and what must not change a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

cv2 = pytest.importorskip("cv2")

from moving_figures import figure  # noqa: E402

from tmor_fast.data.layout import get_layout  # noqa: E402
from tmor_fast.data.packed import PackedClips  # noqa: E402
from tmor_fast.errors import DataError  # noqa: E402
from tmor_fast.teachers import RenderSettings, render_clip, render_clips  # noqa: E402

BACKGROUND = np.array([28, 28, 32])


def _drawn(frames: np.ndarray) -> np.ndarray:
    return (np.abs(frames.astype(int) - BACKGROUND) > 8).any(-1)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("planar", [True, False])
def test_shape_and_cover(size: int, planar: bool) -> None:
    frames = render_clip(figure("walk", planar=planar), "unik17", size=size, frames=5)
    assert frames.shape == (5, size, size, 3)
    assert frames.dtype == np.uint8
    share = _drawn(frames).mean((1, 2))
    assert ((share > 0.05) & (share < 0.6)).all()
    assert not _drawn(frames)[:, [0, -1]].any(), "the margin stays free"


@pytest.mark.parametrize("motion", ["walk", "raise both"])
def test_place_and_size_do_not_matter(motion: str) -> None:
    clip = figure(motion)
    first = render_clip(clip, "unik17").astype(int)
    moved = render_clip(clip * 3.7 + np.array([250.0, -90.0], np.float32), "unik17").astype(int)
    assert np.abs(first - moved).mean() < 0.5


def test_upright_in_2d_and_3d() -> None:
    for planar in (True, False):
        clip = figure("still", planar=planar)
        frame = render_clip(clip, "unik17", frames=1, yaw=0.0, pitch=0.0)[0]
        rows = np.flatnonzero(_drawn(frame).any(1))
        bright = np.flatnonzero((frame.min(-1) > 200).any(1))  # the head is the brightest part
        assert bright.mean() < rows[0] + 0.25 * np.ptp(rows)


def test_sides_differ() -> None:
    frame = render_clip(figure("still"), "unik17", frames=1)[0].astype(int)
    warm = np.argwhere(frame[..., 0] - frame[..., 2] > 80)[:, 1]
    cold = np.argwhere(frame[..., 2] - frame[..., 0] > 80)[:, 1]
    assert len(warm) > 30
    assert len(cold) > 30
    assert warm.mean() > cold.mean() + 3, "the left side of a person who faces the viewer is on the right"


def test_facing_view_undoes_any_turn() -> None:
    clip = figure("wave left", planar=False)
    angle = 1.1
    turned = clip.copy()
    turned[..., 0] = clip[..., 0] * np.cos(angle) + clip[..., 2] * np.sin(angle)
    turned[..., 2] = clip[..., 2] * np.cos(angle) - clip[..., 0] * np.sin(angle)
    first, second = (render_clip(joints, "unik17").astype(int) for joints in (clip, turned))
    stored = render_clip(turned, "unik17", view="stored").astype(int)
    assert np.abs(first - second).mean() < 1.0
    assert np.abs(first - stored).mean() > 3.0


def test_drawn_views_follow_seed_and_position() -> None:
    clip = figure("wave left", planar=False)
    first = render_clip(clip, "unik17", view="drawn", position=3)
    assert np.array_equal(first, render_clip(clip, "unik17", view="drawn", position=3))
    assert not np.array_equal(first, render_clip(clip, "unik17", view="drawn", position=4))
    assert not np.array_equal(first, render_clip(clip, "unik17", view="drawn", position=3, seed=1))


def test_pitch_looks_down() -> None:
    """Seen from above, what is nearer to the viewer appears lower in the image."""
    clip = np.zeros((1, 1, 17, 3), np.float32)
    clip[..., :2] = figure("still", planar=False)[:1, :, :, :2]
    clip[0, 0, 9, 2] = clip[0, 0, 7, 2] = 0.8  # the left arm points at the viewer
    level = render_clip(clip, "unik17", frames=1, view="stored", yaw=0.0, pitch=0.0)[0].astype(int)
    above = render_clip(clip, "unik17", frames=1, view="stored", yaw=0.0, pitch=0.6)[0].astype(int)
    left = [np.argwhere(frame[..., 0] - frame[..., 2] > 80) for frame in (level, above)]
    right = [np.argwhere(frame[..., 2] - frame[..., 0] > 80) for frame in (level, above)]
    shift = [one[:, 0].mean() - other[:, 0].mean() for one, other in zip(left, right, strict=True)]
    assert shift[1] > shift[0] + 1


def test_gaps_are_filled_and_unseen_joints_left_out() -> None:
    clip = figure("walk", frames=21)
    valid = np.ones(clip.shape[:3], bool)
    valid[8:12, 0, 9] = False
    broken = clip.copy()
    broken[~valid] = np.nan
    straight = clip.copy()
    ramp = np.linspace(0, 1, 6)[1:-1, None]
    straight[8:12, 0, 9] = clip[7, 0, 9] * (1 - ramp) + clip[12, 0, 9] * ramp
    np.testing.assert_array_equal(
        render_clip(broken, "unik17", valid=valid, frames=21), render_clip(straight, "unik17", frames=21)
    )
    valid[:, 0, [13, 15]] = False
    without = render_clip(broken, "unik17", valid=valid)
    assert _drawn(without).sum() < 0.95 * _drawn(render_clip(clip, "unik17")).sum()


def test_empty_second_person_changes_nothing_and_a_real_one_is_drawn() -> None:
    clip = figure("squat")
    empty = np.concatenate([clip, np.zeros_like(clip)], 1)
    np.testing.assert_array_equal(render_clip(clip, "unik17"), render_clip(empty, "unik17"))
    two = np.concatenate([clip, clip + np.array([300.0, 0.0], np.float32)], 1)
    frames = _drawn(render_clip(two, "unik17"))
    half = frames.shape[2] // 2
    assert frames[:, :, :half].any((1, 2)).all()
    assert frames[:, :, half:].any((1, 2)).all()


def test_a_long_path_keeps_the_figure_visible() -> None:
    clip = figure("still")
    far = clip.copy()
    far[..., 0] += np.linspace(0, 20_000, len(clip))[:, None, None]
    drawn = _drawn(render_clip(far, "unik17"))
    heights = [np.ptp(np.flatnonzero(frame.any(1))) for frame in drawn]
    assert min(heights) > 0.35 * drawn.shape[1]
    places = [np.flatnonzero(frame.any(0)).mean() for frame in drawn]
    assert (np.diff(places) > 0).all(), "the walk itself stays visible"


@pytest.mark.parametrize("layout", ["unik17", "penn13", "coco17", "bandai21", "cmu31"])
@pytest.mark.parametrize("channels", [2, 3])
def test_every_layout_can_be_drawn(layout: str, channels: int) -> None:
    joints = np.random.default_rng(0).normal(size=(3, 1, get_layout(layout).num_joints, channels))
    assert _drawn(render_clip(joints, layout, frames=3)).any((1, 2)).all()


def test_packed_clips_and_arrays_agree() -> None:
    flat, deep = figure("squat", frames=12), figure("wave left", frames=9, planar=False)
    padded = np.concatenate([flat, np.zeros_like(flat[..., :1])], -1)
    packed = PackedClips(
        joints=torch.from_numpy(np.concatenate([padded, deep])),
        valid=torch.ones(21, 1, 17, dtype=torch.bool),
        offsets=torch.tensor([0, 12, 21]),
        label=torch.tensor([-1, -1]),
        planar=torch.tensor([True, False]),
        clip_ids=["a", "b"],
        captions=["", ""],
        splits=["", ""],
        subjects=["", ""],
        views=["", ""],
        label_names=[],
        layout=get_layout("unik17"),
    )
    frames = render_clips(packed, size=32, frames=4, workers=2)
    np.testing.assert_array_equal(frames[0], render_clip(flat, "unik17", size=32, frames=4))
    np.testing.assert_array_equal(frames[1], render_clip(deep, "unik17", size=32, frames=4))
    np.testing.assert_array_equal(render_clips(packed, size=32, frames=4, indices=[1]), frames[1:])
    np.testing.assert_array_equal(render_clips([flat, deep], "unik17", size=32, frames=4, workers=1), frames)


def test_opencv_threads_are_restored() -> None:
    before = cv2.getNumThreads()
    render_clips([figure("walk")], "unik17")
    assert cv2.getNumThreads() == before


def test_bad_input_is_named() -> None:
    clip = figure("walk")
    with pytest.raises(ValueError, match=r"unik17.*got"):
        render_clip(clip[:, :, :5], "unik17")
    with pytest.raises(ValueError, match="valid must have shape"):
        render_clip(clip, "unik17", valid=np.ones((2, 1, 17), bool))
    with pytest.raises(DataError, match="no joint is valid"):
        render_clip(np.zeros_like(clip), "unik17")
    with pytest.raises(DataError, match="clip 1: no joint"):
        render_clips([clip, np.full_like(clip, np.nan)], "unik17")
    with pytest.raises(ValueError, match="layout is needed"):
        render_clips([clip])
    with pytest.raises(TypeError, match="unknown render setting 'sise'"):
        render_clip(clip, "unik17", sise=3)
    for wrong in ({"size": 4}, {"frames": 0}, {"view": "side"}, {"margin": -1.0}):
        with pytest.raises(ValueError):
            RenderSettings(**wrong)  # type: ignore[arg-type]
