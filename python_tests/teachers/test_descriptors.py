"""The classical visual encoder: hand-worked directions, invariances, and how well it tells motions apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

cv2 = pytest.importorskip("cv2")

from moving_figures import MOTIONS, figure  # noqa: E402

from tmor_fast.teachers import (  # noqa: E402
    ClassicalVideoTeacher,
    DescriptorSettings,
    render_clips,
    video_descriptor,
)
from tmor_fast.teachers.descriptors import _flow, _histograms, _overlap, _shares  # noqa: E402


def _blob(x: float, y: float, size: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    value = 40 + 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 90)
    return np.repeat(value.astype(np.uint8)[..., None], 3, -1)


@pytest.mark.parametrize(
    ("vector", "signed", "expected"),
    [
        ((2.0, 0.0), True, {0: 2.0}),
        ((0.0, 3.0), True, {2: 3.0}),
        ((-1.0, 0.0), True, {4: 1.0}),
        ((-1.0, 0.0), False, {0: 1.0}),
        ((0.0, -2.0), False, {4: 2.0}),
        ((np.cos(np.pi / 8), np.sin(np.pi / 8)), True, {0: 0.5, 1: 0.5}),
        ((np.cos(-np.pi / 8), np.sin(-np.pi / 8)), True, {7: 0.5, 0: 0.5}),
    ],
)
def test_histograms_by_hand(vector: tuple[float, float], signed: bool, expected: dict[int, float]) -> None:
    across, down = (np.zeros((2, 16, 16), np.float32) for _ in range(2))
    across[1, 3, 14], down[1, 3, 14] = vector
    histogram = _histograms(across, down, 8, signed=signed)
    wanted = np.zeros((2, 8, 8, 8))
    for direction, length in expected.items():
        wanted[1, 1, 7, direction] = length
    np.testing.assert_allclose(histogram, wanted, atol=2e-3)


@pytest.mark.parametrize(("steps", "periods"), [(1, 3), (2, 3), (3, 3), (7, 3), (11, 2)])
def test_periods_share_all_steps_equally(steps: int, periods: int) -> None:
    shares = _shares(steps, periods)
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_allclose(shares.sum(0), periods / steps)


@pytest.mark.parametrize("grid", [2, 3, 4, 8])
def test_cells_are_shared_without_loss(grid: int) -> None:
    np.testing.assert_allclose(_overlap(8, grid).sum(0), 1)


@pytest.mark.parametrize(("x", "y"), [(3, 0), (-3, 0), (0, 3), (0, -3)])
def test_flow_points_where_things_move(x: int, y: int) -> None:
    images = [_blob(30 + x * step, 30 + y * step)[..., 0] for step in range(2)]
    flow = _flow(images)
    assert flow.shape == (1, 2, 64, 64)
    np.testing.assert_allclose(flow[0, :, 30, 30], [x, y], atol=1.0)


def test_size_and_norm() -> None:
    teacher = ClassicalVideoTeacher()
    videos = torch.randint(0, 256, (3, 5, 48, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    embeddings = teacher.encode_video(videos)
    assert teacher.dim == 888
    assert embeddings.shape == (3, 888)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    assert torch.equal(embeddings, ClassicalVideoTeacher(workers=1).encode_video(videos.numpy()))
    assert teacher.encode_video(videos[:0]).shape == (0, 888)


@pytest.mark.parametrize(
    "settings", [DescriptorSettings(), DescriptorSettings(hog_grid=2, hog_bins=6, flow_times=1, flow_grid=2)]
)
def test_dim_is_the_length(settings: DescriptorSettings) -> None:
    frames = np.stack([_blob(20, 20), _blob(24, 20)])
    assert video_descriptor(frames, settings).shape == (settings.dim,)


def test_flat_video_is_zero_and_one_frame_does_not_move() -> None:
    settings = DescriptorSettings()
    flat = video_descriptor(np.full((4, 64, 64, 3), 90, np.uint8), settings)
    assert not flat.any()
    still = video_descriptor(_blob(30, 30)[None], settings)
    hog = settings.hog_grid**2 * settings.hog_bins * settings.hog_times
    assert np.isclose(np.linalg.norm(still[:hog]), 1)
    assert not still[hog:].any()


def test_direction_of_time_matters() -> None:
    frames = np.stack([_blob(15 + 4 * step, 30) for step in range(8)])
    forward, back = (video_descriptor(order, DescriptorSettings()) for order in (frames, frames[::-1].copy()))
    assert forward @ back < 0.9


def test_text_is_refused() -> None:
    teacher = ClassicalVideoTeacher()
    assert teacher.supports == {"video"}
    with pytest.raises(TypeError, match="encodes video, not text"):
        teacher.encode_text(["walk"])


def test_motions_are_told_apart_wherever_they_happen() -> None:
    """Nearest neighbour over six motions with random phase, speed, place and size; chance is 1/6."""
    teacher = ClassicalVideoTeacher()
    per_class = 8
    clips = [figure(motion, seed=seed) for motion in MOTIONS for seed in range(per_class)]
    frames = render_clips(clips, "unik17", settings=teacher.render_settings)
    embeddings = teacher.encode_video(torch.from_numpy(frames))
    label = torch.arange(len(MOTIONS)).repeat_interleave(per_class)
    similarity = embeddings @ embeddings.T
    similarity.fill_diagonal_(-1)
    assert (label[similarity.argmax(1)] == label).float().mean() > 0.9
    centre = torch.stack([embeddings[label == motion][::2].mean(0) for motion in range(len(MOTIONS))])
    test = torch.arange(len(label)) % 2 == 1
    assert ((embeddings[test] @ centre.T).argmax(1) == label[test]).float().mean() > 0.9


def test_motion_counts_not_only_appearance() -> None:
    """The flow blocks alone separate motions that share their poses: forwards and backwards."""
    clips = [figure("walk", seed=seed) for seed in range(8)]
    clips += [clip[::-1].copy() for clip in clips]
    teacher = ClassicalVideoTeacher()
    frames = render_clips(clips, "unik17", settings=teacher.render_settings)
    embeddings = teacher.encode_video(torch.from_numpy(frames))[:, 384:]
    label = torch.arange(16) // 8
    similarity = embeddings @ embeddings.T
    similarity.fill_diagonal_(-1)
    assert (label[similarity.argmax(1)] == label).float().mean() > 0.8
