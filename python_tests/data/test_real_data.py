"""The real data sets: counts their authors state, and left and right as bodies have them."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tmor_fast.data import ClipStore, PackedClips, get_layout, import_npz, import_penn, prepare, project, sample_full

pytestmark = pytest.mark.real_data
UNIK = get_layout("unik17")
LEFT, RIGHT = UNIK.index("left_wrist"), UNIK.index("right_wrist")


@pytest.fixture(scope="module")
def penn(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    return import_penn(real_data / "penn_action" / "labels.tar.xz", tmp_path_factory.mktemp("penn") / "store")


@pytest.fixture(scope="module")
def bandai(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    return import_npz(
        real_data / "bandai2" / "data.npz",
        tmp_path_factory.mktemp("bandai") / "store",
        hold_out={"style": ["elderly", "youthful"]},
    )


@pytest.fixture(scope="module")
def prepared(penn: ClipStore, bandai: ClipStore) -> tuple[PackedClips, PackedClips, float]:
    """Both sets prepared, and the CPU seconds that took."""
    start = time.process_time()
    parts = prepare(penn), prepare(bandai)
    return (*parts, time.process_time() - start)


@pytest.fixture(scope="module")
def penn_packed(prepared: tuple[PackedClips, PackedClips, float]) -> PackedClips:
    return prepared[0]


@pytest.fixture(scope="module")
def bandai_packed(prepared: tuple[PackedClips, PackedClips, float]) -> PackedClips:
    return prepared[1]


def test_penn_counts(penn: ClipStore) -> None:
    assert (len(penn), penn.num_frames, len(penn.label_names)) == (2326, 163_841, 15)
    assert Counter(penn.column("split")) == {"train": 1258, "test": 1068}
    assert penn.label_names == sorted(penn.label_names)
    assert "tennis serve" in penn.label_names
    assert set(penn.column("view")) == {"front", "back", "left", "right"}
    batches = list(penn.batches())
    total = sum(batch.valid.size for batch in batches)
    invisible = sum(int((batch.confidence < 1).sum()) for batch in batches if batch.confidence is not None)
    assert invisible / total == pytest.approx(0.2204, abs=1e-4)
    assert 1 - sum(int(batch.valid.sum()) for batch in batches) / total == pytest.approx(0.0880, abs=1e-4)


def test_bandai_counts(bandai: ClipStore) -> None:
    assert (len(bandai), bandai.num_frames, len(bandai.label_names)) == (2902, 384_931, 10)
    assert bandai.layout == get_layout("bandai21")
    assert len(set(bandai.column("style"))) == 7
    assert Counter(bandai.column("split")) == {"train": 2187, "test": 715}
    clip = bandai[2901]
    assert clip.caption == "a person waves the right hand in a youthful style"
    assert clip.joints.shape == (209, 1, 21, 3)


def test_cmu_keeps_its_frame_labels(real_data: Path, tmp_path: Path) -> None:
    store = import_npz(real_data / "cmu_exercise6" / "continuous.npz", tmp_path / "store")
    packed = prepare(store)
    assert len(store) == 5
    assert store.layout == get_layout("cmu31")
    assert store.column("subject")[0] == "13"
    assert packed.frame_label is not None
    assert len(packed.frame_label) == 4845
    assert set(packed.frame_label.tolist()) <= set(range(-1, 12))


def test_preparing_is_fast_and_finite(prepared: tuple[PackedClips, PackedClips, float]) -> None:
    penn_clips, bandai_clips, seconds = prepared
    assert seconds < 10
    both = PackedClips.concatenate([penn_clips, bandai_clips])
    assert len(both) == 2326 + 2902
    assert torch.isfinite(both.joints).all()
    assert len(both.label_names) == 25
    assert both.planar.sum() == 2326


def test_bodies_have_the_same_size_in_2d_and_3d(penn_packed: PackedClips, bandai_packed: PackedClips) -> None:
    def length(packed: PackedClips, one: str, other: str) -> float:
        gap = packed.joints[:, 0, UNIK.index(one)] - packed.joints[:, 0, UNIK.index(other)]
        return gap.norm(dim=-1).median().item()

    for packed, low in ((penn_packed, 0.85), (bandai_packed, 0.95)):
        assert low < length(packed, "neck", "mid_hip") < 1.05
        assert 0.3 < length(packed, "head", "neck") < 0.5
        assert packed.joints.abs().max() < 30


def test_sides_are_the_persons_own_in_penn(penn_packed: PackedClips) -> None:
    shoulders = sample_full(penn_packed, torch.arange(len(penn_packed)), 8)[:, 0, :, [5, 6], 0]
    left_minus_right = (shoulders[..., 0] - shoulders[..., 1]).median(dim=1).values
    for view, sign in (("front", 1), ("back", -1)):
        chosen = torch.tensor([name == view for name in penn_packed.views])
        seen = left_minus_right[chosen].abs() > 0.1
        assert ((left_minus_right[chosen][seen] * sign) > 0).float().mean() > 0.7


def test_sides_are_the_persons_own_in_bandai(bandai_packed: PackedClips) -> None:
    clips = sample_full(bandai_packed, torch.arange(len(bandai_packed)), 32)
    rise = clips[:, 1].amax(dim=1) - clips[:, 1].amin(dim=1)
    for name, busy, calm in (("left", LEFT, RIGHT), ("right", RIGHT, LEFT)):
        chosen = bandai_packed.label == bandai_packed.label_names.index(f"raise-up-{name}-hand")
        assert (rise[chosen, busy, 0] > 2 * rise[chosen, calm, 0]).float().mean() > 0.95


def test_a_frontal_projection_of_bandai_has_the_sides_of_frontal_penn(bandai_packed: PackedClips) -> None:
    """Turned to face the camera, a person's left shoulder is on the image's right, as in Penn's frontal clips."""
    clips = sample_full(bandai_packed, torch.arange(0, len(bandai_packed), 20), 16).double()
    across = (clips[:, :, :, 5, 0] - clips[:, :, :, 6, 0]).mean(dim=2)  # from the right to the left shoulder
    yaw = torch.atan2(across[:, 2], across[:, 0])  # turns that vector into +x
    flat = project(clips, yaw, torch.zeros_like(yaw))
    assert (flat[:, 0, :, 5, 0] - flat[:, 0, :, 6, 0]).mean(dim=1).min() > 0
    assert (flat[:, 1, :, 0, 0] < flat[:, 1, :, 16, 0]).float().mean() > 0.99, "heads above ankles, y down"
    # facing the camera, walkers come towards it: z grows
    turned = clips[:, 2] * yaw.cos().view(-1, 1, 1, 1) - clips[:, 0] * yaw.sin().view(-1, 1, 1, 1)
    walking = bandai_packed.label[::20] == bandai_packed.label_names.index("walk")
    assert ((turned[walking, -1, 4, 0] - turned[walking, 0, 4, 0]) > 0).float().mean() > 0.9


def test_placeholders_never_reach_training(penn: ClipStore) -> None:
    raw = prepare(penn, layout=None, normalisation="none")
    corner = (raw.joints < 2).all(dim=-1)
    assert not corner.any(), f"{int(corner.sum())} joints at the image corner"
    sizes = np.diff(raw.offsets.numpy())
    assert sizes.min() == 18
    assert sizes.max() == 663
