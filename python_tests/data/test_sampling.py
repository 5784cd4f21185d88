"""Batches from packed clips against numpy's interpolation, and the released window."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmor_fast.data import PackedClips, get_layout, sample_clips, sample_crop, sample_full, sample_window

Make = Callable[..., PackedClips]


def clips_of(seed: int, lengths: list[int], persons: int = 1, channels: int = 2) -> PackedClips:
    count, frames = len(lengths), sum(lengths)
    return PackedClips(
        joints=torch.randn(frames, persons, 17, channels, generator=torch.Generator().manual_seed(seed)),
        valid=torch.ones(frames, persons, 17, dtype=torch.bool),
        offsets=torch.tensor([0, *np.cumsum(lengths).tolist()]),
        label=torch.zeros(count, dtype=torch.int64),
        planar=torch.ones(count, dtype=torch.bool),
        label_names=["x"],
        layout=get_layout("unik17"),
        **{name: [""] * count for name in ("clip_ids", "captions", "splits", "subjects", "views")},  # type: ignore[arg-type]
    )


def counting(lengths: list[int]) -> PackedClips:
    """Every coordinate of frame t of clip i is 100 * (i + 1) + t."""
    packed = clips_of(0, lengths)
    value = torch.cat([100.0 * (i + 1) + torch.arange(float(n)) for i, n in enumerate(lengths)])
    packed.joints = value.view(-1, 1, 1, 1).expand_as(packed.joints).contiguous()
    return packed


def track(batch: torch.Tensor) -> list[list[float]]:
    return batch[:, 0, :, 0, 0].tolist()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_sampling_is_numpys_interpolation(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    persons, channels = data.draw(st.integers(1, 2)), data.draw(st.integers(2, 3))
    packed = clips_of(data.draw(st.integers(0, 99)), lengths, persons, channels)
    index = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    frames = data.draw(st.integers(1, 15))
    start = data.draw(st.lists(st.floats(-2, 10), min_size=len(index), max_size=len(index)))
    length = data.draw(st.lists(st.floats(1, 14), min_size=len(index), max_size=len(index)))
    batch = sample_clips(packed, torch.tensor(index), frames, torch.tensor(start), torch.tensor(length))
    assert batch.shape == (len(index), channels, frames, 17, persons)
    assert batch.is_contiguous()
    start, length = torch.tensor(start).tolist(), torch.tensor(length).tolist()
    for row, clip in enumerate(index):
        offset = int(packed.offsets[clip])
        source = packed.joints[offset : offset + lengths[clip]].double().numpy()
        times = start[row] + np.linspace(0, 1, frames) * (length[row] - 1)
        for c, v, m in ((0, 0, 0), (channels - 1, 16, persons - 1), (1, 7, 0)):
            expected = np.interp(times, np.arange(lengths[clip]), source[:, m, v, c])  # numpy holds the ends too
            np.testing.assert_allclose(batch[row, c, :, v, m].double().numpy(), expected, rtol=0, atol=2e-6)


def test_full_spans_the_clip_and_keeps_its_frames() -> None:
    packed = counting([5, 1, 3])
    assert track(sample_full(packed, torch.tensor([0, 1, 2]), 5)) == [
        [100, 101, 102, 103, 104],
        [200] * 5,
        [300, 300.5, 301, 301.5, 302],
    ]
    assert track(sample_full(packed, torch.tensor([0]), 1)) == [[100]]


def test_crops_stay_inside_have_the_right_length_and_repeat_with_the_seed() -> None:
    packed = counting([41] * 200)
    index = torch.arange(200)
    batch = sample_crop(packed, index, 9, min_ratio=0.5, max_ratio=0.75, generator=torch.Generator().manual_seed(3))
    local = batch[:, 0, :, 0, 0] - 100 * (index[:, None] + 1)
    assert local.min() >= -1e-3
    assert local.max() <= 40 + 1e-3
    span = local[:, -1] - local[:, 0] + 1
    assert span.min() >= 0.5 * 41 - 1e-2
    assert span.max() <= 0.75 * 41 + 1e-2
    assert span.std() > 1
    assert local[:, 0].min() < 2
    assert local[:, -1].max() > 38
    again = sample_crop(packed, index, 9, min_ratio=0.5, max_ratio=0.75, generator=torch.Generator().manual_seed(3))
    other = sample_crop(packed, index, 9, min_ratio=0.5, max_ratio=0.75, generator=torch.Generator().manual_seed(4))
    assert torch.equal(batch, again)
    assert not torch.equal(batch, other)


def test_a_crop_of_everything_is_the_whole_clip() -> None:
    packed = counting([7, 1])
    index = torch.tensor([0, 1])
    crop = sample_crop(packed, index, 5, min_ratio=1.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(crop, sample_full(packed, index, 5))


def test_window_without_generator_is_centred() -> None:
    packed = counting([9, 4, 6])
    window = track(sample_window(packed, torch.tensor([0, 1, 2]), 6))
    assert window == [[101, 102, 103, 104, 105, 106], [0, 200, 201, 202, 203, 0], [300, 301, 302, 303, 304, 305]]


def test_random_windows_reach_every_offset_and_no_other() -> None:
    packed = counting([8, 3])
    index = torch.tensor([0, 1]).repeat(200)
    window = sample_window(packed, index, 5, generator=torch.Generator().manual_seed(0))[:, 0, :, 0, 0]
    crops = {tuple(row) for row in window[::2].tolist()}
    assert crops == {tuple(100.0 + s + k for k in range(5)) for s in range(4)}
    padded = {tuple(row) for row in window[1::2].tolist()}
    assert padded == {(*[0.0] * k, 200.0, 201.0, 202.0, *[0.0] * (2 - k)) for k in range(3)}
    again = sample_window(packed, index, 5, generator=torch.Generator().manual_seed(0))[:, 0, :, 0, 0]
    assert torch.equal(window, again)


def test_long_clips_keep_sub_frame_precision() -> None:
    packed = clips_of(0, [200_000 // 50])
    packed.joints = torch.arange(4000.0).view(-1, 1, 1, 1).expand(-1, 1, 17, 2).contiguous()
    batch = sample_clips(packed, torch.tensor([0]), 3, torch.tensor([3990.25]), torch.tensor([2.0]))
    assert track(batch) == [[3990.25, 3990.75, 3991.25]]


def test_an_empty_batch_is_empty() -> None:
    assert sample_full(counting([3]), torch.empty(0, dtype=torch.int64), 4).shape == (0, 2, 4, 17, 1)


@pytest.mark.parametrize(
    ("index", "frames", "message"),
    [
        (torch.tensor([[0]]), 4, "index"),
        (torch.tensor([0.0]), 4, "index"),
        (torch.tensor([True]), 4, "index"),
        (torch.tensor([0]), 0, "frames"),
    ],
)
def test_wrong_arguments_are_refused(index: torch.Tensor, frames: int, message: str) -> None:
    for sample in (sample_full, sample_crop, sample_window):
        with pytest.raises(ValueError, match=message):
            sample(counting([3]), index, frames)


@pytest.mark.parametrize("ratios", [(0.0, 1.0), (0.8, 0.5), (0.5, 1.5)])
def test_wrong_ratios_are_refused(ratios: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="min_ratio"):
        sample_crop(counting([3]), torch.tensor([0]), 4, min_ratio=ratios[0], max_ratio=ratios[1])
