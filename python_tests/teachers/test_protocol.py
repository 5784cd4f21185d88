"""Shared checks of teachers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tmor_fast.teachers import ClassicalVideoTeacher, PrecomputedTeacher, Teacher
from tmor_fast.teachers.protocol import check_frames, check_texts, even_positions, fingerprint


def test_teachers_satisfy_the_protocol() -> None:
    assert isinstance(ClassicalVideoTeacher(), Teacher)
    assert isinstance(PrecomputedTeacher({"a": [1.0]}), Teacher)
    assert not isinstance(object(), Teacher)


def test_texts_must_be_a_sequence_of_strings() -> None:
    assert check_texts(("a", "b")) == ["a", "b"]
    with pytest.raises(TypeError, match="one string"):
        check_texts("walk")
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string, got int"):
        check_texts(["a", 3])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        (np.zeros((1, 2, 4, 4, 3), np.float32), TypeError, "uint8"),
        (np.zeros((2, 4, 4, 3), np.uint8), ValueError, "shape"),
        (np.zeros((1, 2, 3, 4, 4), np.uint8), ValueError, "shape"),
        (np.zeros((1, 0, 4, 4, 3), np.uint8), ValueError, "at least one frame"),
        ([[1]], TypeError, "list"),
    ],
)
def test_wrong_frames_are_named(frames: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_frames(frames)  # type: ignore[arg-type]


def test_frames_keep_their_values() -> None:
    frames = np.arange(24, dtype=np.uint8).reshape(1, 2, 2, 2, 3)
    assert torch.equal(check_frames(frames), torch.from_numpy(frames))


def test_even_positions() -> None:
    assert even_positions(10, 1) == [4]
    assert even_positions(9, 3) == [0, 4, 8]
    assert even_positions(2, 4) == [0, 0, 1, 1]
    assert even_positions(8, 8) == list(range(8))
    with pytest.raises(ValueError, match="at least 1"):
        even_positions(0, 3)


def test_fingerprint_ignores_order_and_sees_values() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
