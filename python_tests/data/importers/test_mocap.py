"""CMU and Bandai-Namco .npz files, and bad clips of any .npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tmor_fast.data import ClipStore, get_layout, import_bandai, import_cmu, import_npz
from tmor_fast.errors import DataError


def save(path: Path, layout: str, **changes: object) -> Path:
    """Three clips of 2, 3 and 4 frames; None removes a key."""
    joints = np.random.default_rng(0).normal(size=(9, get_layout(layout).num_joints, 3)).astype(np.float32)
    fields: dict[str, object] = {
        "joints": joints,
        "offsets": np.array([0, 2, 5, 9]),
        "joint_names": np.array(get_layout(layout).joint_names),
        "label_names": np.array(["jog", "squat"]),
        "clip_id": np.array(["a", "b", "c"]),
        **changes,
    }
    np.savez(path, **{key: np.asarray(value) for key, value in fields.items() if value is not None})
    return path


def test_cmu_keeps_frame_labels_and_holds_subjects_out(tmp_path: Path) -> None:
    labels = np.array([0, 0, 1, 1, -1, 0, 0, 1, 1])
    path = save(tmp_path / "m.npz", "cmu31", frame_label=labels, subject=np.array([13, 13, 14]))
    store = import_cmu(path, tmp_path / "s")
    assert store.layout == get_layout("cmu31")
    assert store.column("split") == ["train", "train", "test"]
    assert [clip.frame_label.tolist() for clip in store] == [[0, 0], [1, 1, -1], [0, 0, 1, 1]]  # type: ignore[union-attr]
    assert "free to use" in store.info["licence"]
    assert import_cmu(path, tmp_path / "t", test_subjects=()).column("split") == ["", "", ""]


def test_bandai_holds_styles_out(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.npz", "bandai21", label=np.array([0, 1, 0]), style=np.array(["elderly", "normal", "youthful"])
    )
    store = import_bandai(path, tmp_path / "s")
    assert store.column("split") == ["test", "train", "test"]
    assert store.info["licence"] == "CC BY-NC 4.0"


def test_another_files_are_refused(tmp_path: Path) -> None:
    labels = np.zeros(9, int)
    other = save(tmp_path / "m.npz", "unik17", frame_label=labels, subject=np.array([13, 13, 14]))
    with pytest.raises(DataError, match=r"m\.npz: its joints are not those of 'cmu31'.*tmor data import npz"):
        import_cmu(other, tmp_path / "s")
    with pytest.raises(DataError, match=r"m\.npz: lacks frame_label"):
        import_cmu(save(tmp_path / "m.npz", "cmu31", subject=np.array([13, 13, 14])), tmp_path / "s")
    with pytest.raises(DataError, match=r"never has \['14'\]"):
        import_cmu(save(tmp_path / "m.npz", "cmu31", frame_label=labels, subject=np.array([1, 2, 3])), tmp_path / "s")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": np.array([0, 7, 1])}, "'label' is 7 for clip 'b'.*-1 .none. to 1"),
        ({"frame_label": np.array([0, 0, 0, 0, 9, 0, 0, 0, 0])}, "'frame_label' is 9 for clip 'b', frame 2"),
        ({"valid": np.ones(1, bool), "joints": np.where(np.arange(9)[:, None, None] == 3, np.nan, np.ones((9, 17, 3)))},
         r"clip 'b', frame 1, person 0, joint 'head': is marked valid but not finite"),
        ({"valid": (np.arange(9)[:, None] < 2) | (np.arange(9)[:, None] > 4) & np.ones((9, 17), bool)},
         "clip 'b': no joint was observed in any of its 3 frames"),
        ({"clip_id": np.array(["a", "a", "c"])}, "clip 'a': .*'a' occurs twice"),
    ],
)  # fmt: skip
def test_a_bad_clip_of_an_npz_file_is_named_or_left_out(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    out = tmp_path / "s"
    import_npz(save(tmp_path / "m.npz", "unik17"), out)
    if "valid" in changes:
        changes = {**changes, "valid": np.broadcast_to(np.asarray(changes["valid"]), (9, 17))}
    path = save(tmp_path / "m.npz", "unik17", **changes)
    with pytest.raises(DataError, match=rf"m\.npz: .*{message}"):
        import_npz(path, out, overwrite=True)
    assert ClipStore(out).column("clip_id") == ["a", "b", "c"], "an earlier store is whole"
    assert {file.name for file in tmp_path.iterdir()} == {"m.npz", "s"}, "and nothing half-written"
    store = import_npz(path, out, overwrite=True, skip_bad=True)
    assert store.column("clip_id") == ["a", "c"]
    assert store[1].joints.shape[0] == 4
    assert len(store.info["skipped"]) >= 1
