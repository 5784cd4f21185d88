"""What the importers share: axes, class names, leaving bad clips out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tmor_fast.data import ClipStoreWriter
from tmor_fast.data.importers.writing import AXES, names_for, read_label_names, turn_axes
from tmor_fast.errors import DataError


@pytest.mark.parametrize("axes", sorted(AXES[3]))
def test_turning_axes_keeps_left_and_right(axes: str) -> None:
    """A rotation has determinant 1; a reflection would swap the sides."""
    turned = turn_axes(np.eye(3), axes)
    assert np.linalg.det(turned) == pytest.approx(1.0)


def test_what_each_axis_becomes() -> None:
    point = np.array([1.0, 2.0, 3.0])
    assert turn_axes(point, "store").tolist() == [1, 2, 3]
    assert turn_axes(point, "kinect").tolist() == [-1, 2, -3]
    assert turn_axes(point, "z-up").tolist() == [-1, 3, 2]
    assert turn_axes(point[:2], "image-up").tolist() == [1, -2]
    assert turn_axes(np.array([np.nan, 2.0, 3.0]), "kinect")[1] == 2, "a NaN stays where it is"
    with pytest.raises(ValueError, match=r"axes 'up' for 3D; accepted: 'store': x right"):
        turn_axes(point, "up")


def test_class_names(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("walk\n\n run fast \n", encoding="utf-8")
    assert read_label_names(path) == ["walk", "run fast"]
    for content, message in ((b"a\nb\na\n", "names that repeat: a"), (b"\n", "no names"), (b"\xff\xfe", "no UTF-8")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"names\.txt: {message}"):
            read_label_names(path)
    with pytest.raises(FileNotFoundError):
        read_label_names(tmp_path / "none.txt")
    assert names_for([2, 0], None) == ["0", "1", "2"]
    assert names_for([], None) == []
    assert names_for([2**50, 1], None) == ["0", "1"], "damage does not fill the memory"
    assert names_for([5], ["a"]) == ["a"]


def test_notes_are_kept_and_taken_names_refused(tmp_path: Path) -> None:
    with ClipStoreWriter(tmp_path / "s", name="n", layout="unik17", channels=2, units="pixels") as writer:
        writer.add_batch(np.zeros((1, 2, 1, 17, 2), np.float32), ["a"])
        for name in ("layout", "num_clips", "shards"):
            with pytest.raises(ValueError, match=name):
                writer.note(**{name: 1})
        writer.note(skipped=[{"clip": "b"}])
    assert '"skipped"' in (tmp_path / "s" / "dataset.json").read_text()
