"""Arrays of UNIK and 2s-AGCN, made here as their generators make them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tmor_fast.data import ClipStore, get_layout, import_unik
from tmor_fast.data.importers.unik import labels_beside, read_labels, replayed_length
from tmor_fast.errors import DataError


def make(shape: tuple[int, ...] = (3, 2, 8, 17, 2), seed: int = 0) -> np.ndarray:
    """(N, C, T, V, M) with an empty second person, as the feeder appends it."""
    data = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    data[..., 1:] = 0
    return data


def write(
    folder: Path, data: np.ndarray, names: Any = None, labels: Any = None, stem: str = "train", protocol: int = 2
) -> tuple[Path, Path]:
    array, pickled = folder / f"{stem}_data_joint.npy", folder / f"{stem}_label.pkl"
    np.save(array, data)
    names = [f"S{number:03d}.skeleton" for number in range(len(data))] if names is None else names
    labels = [number % 2 for number in range(len(data))] if labels is None else labels
    pickled.write_bytes(pickle.dumps((names, labels), protocol))
    return array, pickled


def test_arrays_become_clips(tmp_path: Path) -> None:
    data = make()
    store = import_unik(*write(tmp_path, data), tmp_path / "s", label_names=["sit_down", "stand"])
    assert (store.layout, store.channels, store.units) == (get_layout("unik17"), 2, "normalised")
    assert store.name == "train_data_joint"
    assert store.column("clip_id") == ["S000.skeleton", "S001.skeleton", "S002.skeleton"]
    assert store.column("label").tolist() == [0, 1, 0]  # type: ignore[union-attr]
    assert store.column("caption") == ["sit down", "stand", "sit down"]
    assert store.column("split") == ["train"] * 3, "from the file's name"
    for clip, source in zip(store, data, strict=True):
        np.testing.assert_array_equal(clip.joints[:, 0], source[..., 0].transpose(1, 2, 0))
        assert clip.joints.shape[1] == 1, "the empty second person goes"


def test_padding_with_zeros_goes(tmp_path: Path) -> None:
    data = make()
    data[1, :, 5:] = 0
    data[2, :, 0] = 0  # not found at the start: stays, as missing
    data[2, :, 3, 4, 0] = 0
    store = import_unik(*write(tmp_path, data), tmp_path / "s")
    assert store.column("num_frames").tolist() == [8, 5, 8]  # type: ignore[union-attr]
    valid = store[2].valid[:, 0]
    assert not valid[0].any()
    assert not valid[3, 4]
    assert valid.sum() == 8 * 17 - 17 - 1


@pytest.mark.parametrize(("own", "whole"), [(3, 8), (4, 8), (7, 8), (2, 9)])
def test_padding_by_replay_goes(tmp_path: Path, own: int, whole: int) -> None:
    data = make((1, 2, whole, 17, 2))
    clip = data[:, :, :own]
    data[:] = np.concatenate([clip] * whole, axis=2)[:, :, :whole]
    (read,) = import_unik(*write(tmp_path, data), tmp_path / "s")
    assert len(read.joints) == own
    np.testing.assert_array_equal(read.joints[:, 0], clip[0, ..., 0].transpose(1, 2, 0))


def test_what_is_no_replay_stays() -> None:
    moving = np.random.default_rng(0).normal(size=(8, 1, 17, 2))
    assert replayed_length(moving, 8) == 8
    still = np.ones((8, 1, 17, 2))
    assert replayed_length(still, 8) == 8, "of a body that does not move nothing can be told"
    returning = moving.copy()
    returning[4] = returning[0]  # comes back once, then moves on
    assert replayed_length(returning, 8) == 8
    returning[7] = returning[0]  # ends where it began
    assert replayed_length(returning, 8) == 7, "one repeated frame and one replayed frame are the same thing"
    assert replayed_length(np.concatenate([moving, np.zeros_like(moving)]), 8) == 8, "padded with zeros, not replayed"


def test_three_channels_are_xyz_or_xy_and_score(tmp_path: Path) -> None:
    ntu = make((2, 3, 6, 25, 2))
    store = import_unik(*write(tmp_path, ntu), tmp_path / "s")
    assert (store.layout, store.channels, store.units) == (get_layout("ntu25"), 3, "metres")
    x, y, z = ntu[0, ..., 0]
    np.testing.assert_array_equal(store[0].joints[:, 0], np.stack((-x, z, y), axis=-1), "z was up")

    kinetics = make((2, 3, 6, 18, 2))
    kinetics[:, 2] = np.abs(kinetics[:, 2])
    flat = import_unik(*write(tmp_path, kinetics), tmp_path / "t")
    assert (flat.layout, flat.channels) == (get_layout("openpose18"), 2)
    x, y, score = kinetics[0, ..., 0]
    np.testing.assert_array_equal(flat[0].joints[:, 0], np.stack((x, -y), axis=-1), "y was up")
    confidence = flat[0].confidence
    assert confidence is not None
    np.testing.assert_allclose(confidence[:, 0], np.clip(score, 0, 1), atol=1e-3)


def test_five_channels_hold_2d_and_3d(tmp_path: Path) -> None:
    data = make((2, 5, 6, 17, 1))
    files = write(tmp_path, data)
    flat, solid = import_unik(*files, tmp_path / "s"), import_unik(*files, tmp_path / "t", dims=3, split="test")
    np.testing.assert_array_equal(flat[1].joints[:, 0], data[1, :2, ..., 0].transpose(1, 2, 0))
    np.testing.assert_array_equal(solid[1].joints[:, 0], data[1, 2:, ..., 0].transpose(1, 2, 0))
    assert solid.column("split") == ["test", "test"]


def test_labels_as_arrays_and_of_every_protocol(tmp_path: Path) -> None:
    for protocol in (2, 3, 4, 5):
        _, labels = write(tmp_path, make(), np.array(["a", "b", "c"]), np.array([1, 0, 1]), protocol=protocol)
        assert read_labels(labels, 3) == (["a", "b", "c"], [1, 0, 1])


def test_the_label_file_beside_an_array(tmp_path: Path) -> None:
    array, labels = write(tmp_path, make(), stem="val")
    assert labels_beside(array) == labels
    labels.unlink()
    assert labels_beside(array) is None


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (lambda data, names, labels: data.__setitem__((1, 0, 2, 7, 0), np.nan), "b",
         r"frame 2, person 0, joint 'left_elbow': is marked valid but not finite"),
        (lambda data, names, labels: data.__setitem__((1, 0, 2, 7, 0), -np.inf), "b", r"frame 2, .*'left_elbow'"),
        (lambda data, names, labels: data.__setitem__(1, 0), "b", "no joint was observed in any of its 8 frames"),
        (lambda data, names, labels: labels.__setitem__(1, -1), "b", "label -1 is outside the list, 0 to 1"),
        (lambda data, names, labels: labels.__setitem__(1, "walk"), "b", "label walk is outside the list"),
        (lambda data, names, labels: names.__setitem__(1, "a"), "a", "'a' occurs twice"),
    ],
)  # fmt: skip
def test_a_bad_clip_is_named_or_left_out_by_name(tmp_path: Path, change: Any, name: str, message: str) -> None:
    data, names, labels = make(), ["a", "b", "c"], [0, 0, 1]
    out = tmp_path / "s"
    import_unik(*write(tmp_path, data, names, labels), out)
    change(data, names, labels)
    files = write(tmp_path, data, names, labels)
    with pytest.raises(DataError, match=rf"train_data_joint\.npy: clip '{name}'.*{message}"):
        import_unik(*files, out, overwrite=True)
    assert ClipStore(out).column("clip_id") == ["a", "b", "c"], "an earlier store is whole"
    assert len(list(tmp_path.iterdir())) == 3, "and nothing half-written"
    store = import_unik(*files, out, overwrite=True, skip_bad=True)
    assert store.column("clip_id") == ["a", "c"]
    assert [entry["clip"] for entry in store.info["skipped"]] == [name]


@pytest.mark.parametrize("keep", [5, 60, 200, 3000])
def test_a_truncated_array_is_named(tmp_path: Path, keep: int) -> None:
    array, labels = write(tmp_path, make())
    array.write_bytes(array.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"train_data_joint\.npy: truncated"):
        import_unik(array, labels, tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.zeros((2, 2, 8, 17)), {}, r"float64 \(2, 2, 8, 17\)"),
        (np.zeros((2, 4, 8, 17, 1)), {}, r"2, 3 or 5 coordinates"),
        (np.zeros((2, 2, 8, 17, 1), int), {}, "int64"),
        (np.zeros((0, 2, 8, 17, 1)), {}, r"\(0, 2"),
        (np.ones((2, 2, 8, 9, 1)), {}, "9 joints are no layout"),
        (np.ones((2, 2, 8, 9, 1)), {"layout": "coco17"}, "9 joints, but layout 'coco17' has 17"),
    ],
)
def test_an_array_of_another_shape_is_named(tmp_path: Path, data: np.ndarray, options: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"train_data_joint\.npy: .*{message}"):
        import_unik(*write(tmp_path, data), tmp_path / "s", **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((["a", "b"], [0, 1]), "2 names and 2 labels, but the array has 3 clips"),
        ((["a", "b", "c"], [0, 1]), "3 names and 2 labels"),
        ({"a": 1}, "no pair of names and labels"),
        ([["a"]], "no pair"),
        ((["a", "b", "c"], [(np.zeros((4, 2)), 4)] * 3), "a label for every frame"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path: Path, content: Any, message: str) -> None:
    array, labels = write(tmp_path, make())
    labels.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=rf"train_label\.pkl: .*{message}"):
        import_unik(array, labels, tmp_path / "s")


def test_pickled_objects_in_an_array_or_its_labels_are_refused(tmp_path: Path) -> None:
    array, labels = write(tmp_path, make())
    np.save(array, np.array([None, "x"], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"train_data_joint\.npy: .*no plain \.npy"):
        import_unik(array, labels, tmp_path / "s")
    array, labels = write(tmp_path, make(), names=[Path("a"), "b", "c"])
    with pytest.raises(DataError, match=r"train_label\.pkl: refers to pathlib"):
        import_unik(array, labels, tmp_path / "s")


def test_arguments_that_do_not_fit(tmp_path: Path) -> None:
    files = write(tmp_path, make())
    for options, message in (
        ({"dims": 3}, "dims 3 of an array with 2 channels"),
        ({"split": "dev"}, "split 'dev'; accepted: 'auto', 'train', 'test', ''"),
        ({"axes": "z-up"}, "axes 'z-up' for 2D"),
        ({"layout": "nope"}, "unknown skeleton layout"),
    ):
        with pytest.raises(ValueError, match=message):
            import_unik(*files, tmp_path / "s", **options)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        import_unik(tmp_path / "none.npy", files[1], tmp_path / "s")
    with pytest.raises(FileNotFoundError, match=r"none\.pkl"):
        import_unik(files[0], tmp_path / "none.pkl", tmp_path / "s")
