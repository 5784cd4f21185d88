"""Packed clips: subset, concatenation, saving."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tmor_fast.data import PackedClips, get_layout
from tmor_fast.errors import DataError

Make = Callable[..., PackedClips]


def frames(packed: PackedClips, clip: int) -> torch.Tensor:
    return packed.joints[int(packed.offsets[clip]) : int(packed.offsets[clip + 1])]


def test_lengths_and_size(packed: Make) -> None:
    clips = packed([3, 1, 4])
    assert len(clips) == 3
    assert clips.lengths.tolist() == [3, 1, 4]
    assert "3 clips, 8 frames" in repr(clips)
    assert clips.to("cpu").device.type == "cpu"


def test_subset_copies_the_chosen_clips_in_order(packed: Make) -> None:
    clips = packed([3, 1, 4, 2], embeddings={"t": torch.arange(8.0).view(4, 2)}, frame_label=torch.arange(10))
    part = clips.subset([2, 0, 2])
    assert part.lengths.tolist() == [4, 3, 4]
    assert part.clip_ids == ["s0-2", "s0-0", "s0-2"]
    for new, old in enumerate([2, 0, 2]):
        torch.testing.assert_close(frames(part, new), frames(clips, old), rtol=0, atol=0)
    assert part.embeddings["t"].tolist() == [[4, 5], [0, 1], [4, 5]]
    assert part.frame_label is not None
    assert part.frame_label[:7].tolist() == [4, 5, 6, 7, 0, 1, 2]
    part.joints.zero_()
    assert clips.joints.abs().sum() > 0, "a subset does not share memory"


def test_subset_takes_masks_arrays_and_nothing(packed: Make) -> None:
    clips = packed([3, 1, 4])
    assert clips.subset(torch.tensor([False, True, True])).clip_ids == ["s0-1", "s0-2"]
    assert clips.subset(np.array([1])).captions == ["caption 1"]
    assert len(clips.subset([])) == 0
    for wrong in ([3], [-1], torch.tensor([True, False])):
        with pytest.raises(IndexError):
            clips.subset(wrong)


@pytest.mark.parametrize("mmap", [True, False])
def test_save_and_open(packed: Make, tmp_path: Path, mmap: bool) -> None:
    clips = packed([3, 2], persons=2, embeddings={"a/b c": torch.randn(2, 4)}, frame_label=torch.arange(5))
    clips.save(tmp_path / "p")
    again = PackedClips.open(tmp_path / "p", mmap=mmap)
    for name in ("joints", "valid", "offsets", "label", "planar", "frame_label"):
        assert torch.equal(getattr(clips, name), getattr(again, name)), name
    assert torch.equal(clips.embeddings["a/b c"], again.embeddings["a/b c"])
    for name in ("clip_ids", "captions", "splits", "subjects", "views", "label_names", "layout"):
        assert getattr(clips, name) == getattr(again, name), name
    again.joints.zero_()
    assert PackedClips.open(tmp_path / "p").joints.abs().sum() > 0, "changes stay in memory"


def test_saving_is_atomic_and_asks_before_replacing(packed: Make, tmp_path: Path) -> None:
    packed([3]).save(tmp_path / "p")
    with pytest.raises(FileExistsError):
        packed([4]).save(tmp_path / "p")
    broken = packed([5])
    broken.captions = [object()]  # type: ignore[list-item]
    with pytest.raises(TypeError):
        broken.save(tmp_path / "p", overwrite=True)
    assert PackedClips.open(tmp_path / "p").lengths.tolist() == [3]
    packed([4]).save(tmp_path / "p", overwrite=True)
    assert PackedClips.open(tmp_path / "p").lengths.tolist() == [4]
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_damaged_files_are_named(packed: Make, tmp_path: Path) -> None:
    packed([30]).save(tmp_path / "p")
    joints = tmp_path / "p" / "joints.npy"
    whole = joints.read_bytes()
    joints.write_bytes(whole[:-5])
    with pytest.raises(DataError, match=r"joints\.npy"):
        PackedClips.open(tmp_path / "p")
    joints.unlink()
    with pytest.raises(DataError, match=r"joints\.npy"):
        PackedClips.open(tmp_path / "p")
    np.save(joints, np.zeros((29, 1, 17, 2), np.float32))
    with pytest.raises(DataError, match="no packed clips"):
        PackedClips.open(tmp_path / "p")
    description = json.loads((tmp_path / "p" / "packed.json").read_text())
    description["embeddings"] = {"t": "../../evil.npy"}
    (tmp_path / "p" / "packed.json").write_text(json.dumps(description))
    joints.write_bytes(whole)
    with pytest.raises(DataError, match="leaves the folder"):
        PackedClips.open(tmp_path / "p")
    with pytest.raises(DataError, match="no packed clips"):
        PackedClips.open(tmp_path)


def test_concatenate_joins_labels_dimensions_persons_and_embeddings(packed: Make) -> None:
    flat = packed([2, 3], channels=2, persons=2, embeddings={"t": torch.ones(2, 4)}, label=torch.tensor([1, -1]))
    solid = packed(
        [4, 1],
        channels=3,
        seed=1,
        label_names=["jump", "walk"],
        label=torch.tensor([0, 1]),
        frame_label=torch.tensor([0, 1, -1, 1, 0]),
    )
    both = PackedClips.concatenate([flat, solid])
    assert both.lengths.tolist() == [2, 3, 4, 1]
    assert both.joints.shape == (10, 2, 17, 3)
    assert both.label_names == ["walk", "run", "jump"]
    assert both.label.tolist() == [1, -1, 2, 0]
    assert both.planar.tolist() == [True, True, False, False]
    torch.testing.assert_close(both.joints[:5, :, :, :2], flat.joints)
    assert (both.joints[:5, :, :, 2] == 0).all()
    assert (both.joints[5:, 1] == 0).all()
    torch.testing.assert_close(both.joints[5:, 0], solid.joints[:, 0])
    assert not both.valid[5:, 1].any()
    assert both.valid[:5].all()
    assert both.has_embedding("t").tolist() == [True, True, False, False]
    assert both.frame_label is not None
    assert both.frame_label.tolist() == [-1] * 5 + [2, 0, -1, 0, 2]
    with pytest.raises(KeyError, match="'t'"):
        both.has_embedding("u")
    alone = PackedClips.concatenate([flat])
    assert torch.equal(alone.joints, flat.joints)
    assert alone.frame_label is None


def test_concatenate_refuses_what_does_not_fit(packed: Make) -> None:
    with pytest.raises(ValueError, match="at least one"):
        PackedClips.concatenate([])
    coco = packed([2], layout=get_layout("coco17"))
    with pytest.raises(ValueError, match="layouts differ: 'unik17' and 'coco17'"):
        PackedClips.concatenate([packed([2]), coco])
    with pytest.raises(ValueError, match="different widths"):
        PackedClips.concatenate(
            [packed([2], embeddings={"t": torch.ones(1, 2)}), packed([2], embeddings={"t": torch.ones(1, 3)})]
        )


@pytest.mark.parametrize(
    "change",
    [
        {"joints": torch.zeros(5, 1, 13, 2)},
        {"valid": torch.ones(4, 1, 17, dtype=torch.bool)},
        {"offsets": torch.tensor([0, 4])},
        {"label": torch.zeros(3, dtype=torch.int64)},
        {"captions": []},
        {"embeddings": {"t": torch.zeros(2, 2)}},
        {"frame_label": torch.zeros(4, dtype=torch.int64)},
    ],
)
def test_sizes_must_agree(packed: Make, change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        packed([5], **change)
