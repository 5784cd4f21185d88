"""Network inputs: shapes, determinism, views of 3D clips, streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tmor_fast.data import augment
from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.data.prepare import prepare
from tmor_fast.data.sampling import sample_full
from tmor_fast.data.streams import bone_stream
from tmor_fast.data.synthetic import write_synthetic_store

ACTIONS = ("wave the left hand", "squat", "walk", "clap")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedClips:
    """24 clips of four actions, 3D."""
    folder: Path = tmp_path_factory.mktemp("batches3d") / "synthetic"
    return prepare(write_synthetic_store(folder, clips=24, seed=3, actions=ACTIONS, yaw=(-0.3, 0.3)))


@pytest.fixture(scope="module")
def packed2d(tmp_path_factory: pytest.TempPathFactory) -> PackedClips:
    """12 clips of the same actions as a camera sees them."""
    folder: Path = tmp_path_factory.mktemp("batches2d") / "synthetic"
    return prepare(write_synthetic_store(folder, clips=12, seed=4, dims=2, actions=ACTIONS))


PLAIN = AugmentationConfig(frames=16, rotation_degrees=0, rotation_radians=0)


def test_plain_clips_repeat_and_random_clips_follow_the_generator(packed: PackedClips):
    batches = ClipBatches(packed, replace(PLAIN, rotation_degrees=20, scale=0.1, shift=0.1, mirror=0.5, jitter=0.01))
    index = torch.tensor([3, 0, 9])
    assert batches.plain(index).shape == (3, 2, 16, 17, 1)
    assert torch.equal(batches.plain(index), batches.plain(index))
    draws = [batches.random(index, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.isfinite(draws[2]).all()


def test_the_plain_view_of_a_clip_does_not_depend_on_the_rest(packed: PackedClips):
    batches = ClipBatches(packed, PLAIN)
    alone = ClipBatches(packed.subset([5]), PLAIN)
    torch.testing.assert_close(batches.plain(torch.tensor([5])), alone.plain(torch.tensor([0])))


def test_views_differ_in_yaw_alone(packed: PackedClips):
    batches = ClipBatches(packed, PLAIN)
    index = torch.tensor([2])
    first, second = batches.plain(index), batches.plain(index, view=1)
    assert not torch.allclose(first, second)
    # Turning about the vertical axis leaves heights alone.
    torch.testing.assert_close(first[:, 1], second[:, 1])


def test_view_range_zero_is_the_frontal_projection(packed: PackedClips):
    batches = ClipBatches(packed, replace(PLAIN, view_yaw_degrees=0))
    index = torch.arange(4)
    joints = sample_full(packed, index, 16)
    zero = torch.zeros(4)
    torch.testing.assert_close(batches.plain(index), augment.project(joints, zero, zero))


def test_2d_clips_pass_unprojected_and_3d_networks_refuse_them(packed: PackedClips, packed2d: PackedClips):
    index = torch.arange(3)
    torch.testing.assert_close(ClipBatches(packed2d, PLAIN).plain(index), sample_full(packed2d, index, 16))
    both = PackedClips.concatenate([packed, packed2d])
    last = torch.tensor([len(both) - 1])
    expected = sample_full(packed2d, torch.tensor([len(packed2d) - 1]), 16)
    torch.testing.assert_close(ClipBatches(both, PLAIN).plain(last), expected)
    with pytest.raises(ValueError, match="2D"):
        ClipBatches(both, PLAIN, channels=3)
    with pytest.raises(ValueError, match="2D"):
        ClipBatches(packed2d, PLAIN, channels=3)


def test_a_3d_network_sees_3d_clips_and_small_rotations(packed: PackedClips):
    batches = ClipBatches(packed, replace(PLAIN, rotation_radians=0.3), channels=3)
    index = torch.arange(2)
    torch.testing.assert_close(batches.plain(index), sample_full(packed, index, 16))
    turned = ClipBatches(packed, replace(PLAIN, rotation_radians=0.3, min_crop=1.0), channels=3).random(
        index, torch.Generator().manual_seed(0)
    )
    plain = batches.plain(index)
    assert not torch.allclose(turned, plain)
    torch.testing.assert_close(turned.norm(dim=1), plain.norm(dim=1), rtol=1e-4, atol=1e-4)


def test_bone_stream(packed2d: PackedClips):
    index = torch.arange(2)
    bones = ClipBatches(packed2d, PLAIN, stream="bone").plain(index)
    torch.testing.assert_close(bones, bone_stream(sample_full(packed2d, index, 16), packed2d.layout))


def test_clips_whose_action_names_a_side_are_never_mirrored(packed: PackedClips):
    unturned = replace(PLAIN, min_crop=1.0, view_yaw_degrees=0, view_pitch_degrees=0, mirror=1.0)
    batches = ClipBatches(packed, unturned)
    index = torch.arange(len(packed))
    plain, drawn = batches.plain(index), batches.random(index, torch.Generator().manual_seed(0))
    mirrored = augment.mirror(plain, packed.layout)
    for i, label in enumerate(packed.label.tolist()):
        sided = "left" in packed.label_names[label]
        torch.testing.assert_close(drawn[i], plain[i] if sided else mirrored[i], rtol=1e-4, atol=1e-4)
    assert {"left" in packed.label_names[label] for label in packed.label.tolist()} == {True, False}
