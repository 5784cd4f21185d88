"""Generic import of .npz files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tmor_fast.data import get_layout, import_npz
from tmor_fast.errors import DataError

RNG = np.random.default_rng(0)


def fields(**changes: object) -> dict[str, np.ndarray]:
    """Three clips of 2, 3 and 4 frames in UNIK's layout; None removes a key."""
    values: dict[str, object] = {
        "joints": RNG.normal(size=(9, 17, 3)).astype(np.float16),
        "offsets": np.array([0, 2, 5, 9]),
        "joint_names": np.array(get_layout("unik17").joint_names),
        "label": np.array([1, 0, -1], np.int32),
        "label_names": np.array(["walk", "wave-left-hand"]),
        **changes,
    }
    return {name: np.asarray(value) for name, value in values.items() if value is not None}


def save(folder: Path, **changes: object) -> Path:
    path = folder / "motion.npz"
    np.savez(path, **fields(**changes))
    return path


def test_clips_and_their_columns(tmp_path: Path) -> None:
    values = fields(
        text=np.array(["a", "b", "c"]),
        clip_id=np.array(["x", "y", "z"]),
        subject=np.array([13, 13, 14]),
        fps=np.array(60),
        style=np.array([1, 0, 1]),
        style_names=np.array(["calm", "wild"]),
        speed=np.array([0.5, 1.0, 2.0]),
        split=np.array(["train", "test", ""]),
    )
    np.savez(tmp_path / "m.npz", **values)
    store = import_npz(tmp_path / "m.npz", tmp_path / "s", licence="CC0")
    assert store.name == "m"
    assert store.units == "metres"
    assert store.info["licence"] == "CC0"
    assert store.info["dtype"] == "float16", "float16 sources stay float16"
    clips = list(store)
    np.testing.assert_array_equal(clips[1].joints[:, 0], values["joints"][2:5].astype(np.float32))
    assert [clip.label for clip in clips] == [1, 0, -1]
    assert clips[0].fps == 60
    assert [clip.caption for clip in clips] == ["a", "b", "c"]
    assert store.column("subject") == ["13", "13", "14"]
    assert store.column("split") == ["train", "test", ""]
    assert store.column("style") == ["wild", "calm", "wild"]
    assert clips[2].extra == {"style": "wild", "speed": 2.0}


def test_defaults(tmp_path: Path) -> None:
    store = import_npz(save(tmp_path), tmp_path / "s", name="set")
    assert store.column("clip_id") == ["set-000000", "set-000001", "set-000002"]
    assert store.column("caption") == ["wave left hand", "walk", ""]
    assert store.column("fps").tolist() == [30, 30, 30]  # type: ignore[union-attr]
    flat = import_npz(save(tmp_path, joints=np.zeros((9, 2, 17, 2), np.float32)), tmp_path / "t")
    assert flat.units == "pixels"
    assert flat.max_persons == 2
    assert flat.info["dtype"] == "float32"


def test_a_file_called_data_is_named_after_its_folder(tmp_path: Path) -> None:
    (tmp_path / "moves").mkdir()
    np.savez(tmp_path / "moves" / "data.npz", **fields())
    assert import_npz(tmp_path / "moves" / "data.npz", tmp_path / "s").name == "moves"


def test_missing_coordinates_are_invalid(tmp_path: Path) -> None:
    joints = np.zeros((9, 17, 3), np.float32)
    joints[4, 6, 1] = np.nan
    clip = import_npz(save(tmp_path, joints=joints), tmp_path / "s")[1]
    assert not clip.valid[2, 0, 6]
    assert clip.valid.sum() == 3 * 17 - 1


def test_frame_labels(tmp_path: Path) -> None:
    store = import_npz(save(tmp_path, label=None, frame_label=np.array([0, 1, 1, 0, -1, 0, 0, 1, 1])), tmp_path / "s")
    assert [clip.frame_label.tolist() for clip in store] == [[0, 1], [1, 0, -1], [0, 0, 1, 1]]  # type: ignore[union-attr]
    assert store.column("label").tolist() == [-1, -1, -1]  # type: ignore[union-attr]


def test_an_unknown_skeleton_is_made_from_names_and_edges(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        joints=np.zeros((9, 3, 3), np.float32),
        joint_names=np.array(["npz_hip", "left_npz", "right_npz"]),
        edges=np.array([[0, 1], [0, 2]]),
    )
    store = import_npz(path, tmp_path / "s", layout_name="npz-test")
    assert store.layout.name == "npz-test"
    assert store.layout.parents == (-1, 0, 0)
    assert store.layout.left_right == ((1, 2),)
    assert get_layout("npz-test") == store.layout


def test_hold_out_makes_the_split(tmp_path: Path) -> None:
    style = np.array(["old", "young", "calm"])
    store = import_npz(save(tmp_path, style=style), tmp_path / "s", hold_out={"style": ["old", "calm"]})
    assert store.column("split") == ["test", "train", "test"]
    assert store.info["hold_out"] == {"style": ["old", "calm"]}
    with pytest.raises(DataError, match=r"never has \['wild'\]"):
        import_npz(save(tmp_path, style=style), tmp_path / "t", hold_out={"style": ["wild"]})
    with pytest.raises(DataError, match="no column 'mood'"):
        import_npz(save(tmp_path, style=style), tmp_path / "t", hold_out={"mood": ["wild"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": None}, "lacks joints"),
        ({"joints": np.zeros((9, 17, 4))}, "'joints' is float64.*C = 2 or 3"),
        ({"joints": np.zeros((9, 17, 3), int)}, "'joints'.*floats"),
        ({"joints": np.zeros((9, 13, 3))}, "'joint_names'.*13 strings"),
        ({"offsets": np.array([0, 2, 8])}, "'offsets'.*rising from 0 to the 9 frames"),
        ({"offsets": np.array([0, 5, 5, 9])}, "no clip empty"),
        ({"offsets": np.array([0.0, 9.0])}, "'offsets'.*integers"),
        ({"joint_names": np.array([f"j{i}" for i in range(17)])}, "'edges'"),
        (
            {"joint_names": np.array([f"j{i}" for i in range(17)]), "edges": np.zeros((16, 2), int)},
            "'joint_names' and 'edges': 16 edges over 17 joints are no tree",
        ),
        ({"joint_names": np.array([f"j{i}" for i in range(17)]), "edges": np.zeros((16, 3), int)}, "'edges'.*V - 1, 2"),
        ({"label": np.array([0, 1])}, "'label'.*3 integers"),
        ({"label": np.array([0, 1, 2])}, "'label'.*-1 .none. to 1"),
        ({"label_names": None}, "'label' but no 'label_names'"),
        ({"label_names": np.array(["a", "a"])}, "'label_names'.*distinct"),
        ({"frame_label": np.zeros(8, int)}, "'frame_label'.*9 integers"),
        ({"valid": np.ones((9, 17))}, "'valid'.*bool"),
        ({"confidence": np.full((9, 17), 2.0)}, r"'confidence'.*\[0, 1\]"),
        ({"text": np.array(["a"])}, "'text'.*3 strings"),
        ({"fps": np.array([0.0])}, "'fps'.*positive"),
        ({"width": np.array(640.5)}, "'width'.*whole"),
        ({"units": np.array("feet")}, "'units' is 'feet'; accepted: one of pixels"),
        ({"clip_id": np.array(["a", "a", "b"])}, "'a' occurs twice"),
        ({"split": np.array(["a", "", ""])}, "split 'a'"),
        ({"extra": np.zeros((3, 2))}, "'extra'.*one string or number a clip"),
        ({"persons": np.zeros(3)}, "'persons'"),
        ({"mood": np.array([0, 1, 5]), "mood_names": np.array(["a", "b"])}, "'mood'.*numbers of mood_names, 0 to 1"),
        ({"valid": np.zeros((9, 17), bool), "label": np.array([object()] * 3)}, "'label' cannot be read"),
    ],
)
def test_a_malformed_key_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=rf"motion\.npz: .*{message}"):
        import_npz(save(tmp_path, **changes), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_a_truncated_file_is_named(tmp_path: Path, keep: float) -> None:
    path = save(tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match=r"motion\.npz"):
        import_npz(path, tmp_path / "s")


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = save(tmp_path)
    data = bytearray(path.read_bytes())
    data[400] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"motion\.npz"):
        import_npz(path, tmp_path / "s")


def test_what_is_no_npz_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.npz"):
        import_npz(tmp_path / "nope.npz", tmp_path / "s")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"one\.npy: a single array"):
        import_npz(tmp_path / "one.npy", tmp_path / "s")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(DataError, match=r"text\.npz"):
        import_npz(tmp_path / "text.npz", tmp_path / "s")
