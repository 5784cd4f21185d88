"""From stores to training data: what is left out really is, texts are encoded once, teachers fit."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tmor_fast.data.store import ClipStore
from tmor_fast.data.store_writer import ClipStoreWriter
from tmor_fast.data.synthetic import write_synthetic_store
from tmor_fast.errors import DataError
from tmor_fast.evaluation.zero_shot import action_text
from tmor_fast.nn.options import TMOROptions
from tmor_fast.teachers import PrecomputedTeacher
from tmor_fast.training.config import BackboneConfig, PretrainConfig
from tmor_fast.training.datasets import PretrainData, embed_videos, encode_texts, load_pretrain_data
from tmor_fast.training.pretrain import build_objective

datasets = importlib.import_module("tmor_fast.training.datasets")

NO_TEACHERS = PretrainConfig(video_teacher=None, text_teacher="fake")
FIRST, SECOND = ("squat", "walk", "clap"), ("walk", "raise both hands")


class CountingTeacher:
    """Encodes a text by the numbers of its letters and remembers what it was asked."""

    name, dim, settings = "fake", 26, {"teacher": "fake"}

    def __init__(self, supports: Sequence[str] = ("text",)) -> None:
        self.supports, self.asked = frozenset(supports), []

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.asked += list(texts)
        return torch.tensor([[text.count(chr(97 + i)) for i in range(26)] for text in texts]).float()


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> CountingTeacher:
    fake = CountingTeacher()
    monkeypatch.setattr(datasets, "get_teacher", lambda spec: fake)
    return fake


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    folder = tmp_path_factory.mktemp("stores") / "first"
    return write_synthetic_store(folder, clips=30, seed=1, actions=FIRST, name="first")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    folder = tmp_path_factory.mktemp("stores") / "second"
    return write_synthetic_store(folder, clips=20, seed=2, actions=SECOND, name="second", splits=False)


def load(stores: Sequence[ClipStore], config: PretrainConfig) -> PretrainData:
    return load_pretrain_data([store.path for store in stores], config, progress=False)


def column(store: ClipStore, name: str) -> list[str]:
    return [str(value) for value in store.column(name)]


def test_training_clips_of_all_stores_with_their_texts(first: ClipStore, second: ClipStore, teacher: CountingTeacher):
    data = load([first, second], NO_TEACHERS)
    train = [split == "train" for split in column(first, "split")]
    # A data set without a split is used whole.
    assert len(data.packed) == sum(train) + 20
    assert 0 < sum(train) < 30
    assert data.packed.label_names == [*FIRST, "raise both hands"]
    assert data.texts == sorted([*FIRST, "raise both hands"])
    names = [data.packed.label_names[label] for label in data.packed.label.tolist()]
    assert [data.texts[i] for i in data.teachers.text_id.tolist()] == names
    torch.testing.assert_close(data.teachers.text, CountingTeacher().encode_text(data.texts))
    assert data.teachers.video is None


def test_the_split_can_be_ignored(first: ClipStore, teacher: CountingTeacher):
    assert len(load([first], replace(NO_TEACHERS, split="all")).packed) == 30


def test_held_out_actions_leave_neither_clips_nor_texts(first: ClipStore, second: ClipStore, teacher: CountingTeacher):
    config = replace(NO_TEACHERS, held_out=("walk",), split="all")
    data = load([first, second], config)
    names = [data.packed.label_names[label] for label in data.packed.label.tolist()]
    walks = sum(
        store.label_names[label] == "walk" for store in (first, second) for label in store.column("label").tolist()
    )
    assert walks > 0
    assert "walk" not in names
    assert len(data.packed) == 50 - walks
    assert data.texts == ["clap", "raise both hands", "squat"]
    assert not any("walk" in text for text in teacher.asked)


def test_an_unlabelled_set_gives_motion_alone(first: ClipStore, second: ClipStore, teacher: CountingTeacher):
    config = replace(NO_TEACHERS, split="all", unlabelled=("first",), options=TMOROptions(text="both"))
    data = load([first, second], config)
    assert len(data.packed) == 50
    assert (data.teachers.text_id[:30] == -1).all()
    assert (data.teachers.text_id[30:] >= 0).all()
    assert not {"squat", "clap"} & set(teacher.asked)
    assert not set(column(first, "caption")) & set(teacher.asked)
    # Not as clusters of stage 2 either.
    objective = build_objective(data, replace(config, backbone=BackboneConfig(preset="unik-micro")))
    assert (objective.labels[:30] == -1).all()
    assert (objective.labels[30:] >= 0).all()


def test_all_sets_unlabelled_leaves_no_text(first: ClipStore, teacher: CountingTeacher):
    data = load([first], replace(NO_TEACHERS, unlabelled=("first",)))
    assert data.teachers.text is None
    assert data.texts == teacher.asked == []


def test_wrong_names_list_the_right_ones(first: ClipStore, second: ClipStore, teacher: CountingTeacher):
    with pytest.raises(DataError, match=r"'jump'; they have: clap, raise both hands, squat, walk"):
        load([first, second], replace(NO_TEACHERS, held_out=("jump",)))
    with pytest.raises(DataError, match=r"'third'; they are: first, second"):
        load([first, second], replace(NO_TEACHERS, unlabelled=("third",)))
    with pytest.raises(DataError, match="only 0 clips are left"):
        load([first], replace(NO_TEACHERS, held_out=FIRST))


@pytest.mark.parametrize("text", ["label", "caption", "both"])
def test_which_text_a_clip_has(text: str, second: ClipStore, teacher: CountingTeacher):
    data = load([second], replace(NO_TEACHERS, options=TMOROptions(text=text)))
    names = [second.label_names[label] for label in second.column("label").tolist()]
    captions = column(second, "caption")
    assert all(captions)
    expected = {"label": names, "caption": captions, "both": list(map(" / ".join, zip(names, captions, strict=True)))}
    assert [data.texts[i] for i in data.teachers.text_id.tolist()] == expected[text]
    # Each distinct sentence is encoded once.
    assert len(teacher.asked) == len(set(teacher.asked))
    assert set(teacher.asked) == ({*names, *captions} if text == "both" else set(expected[text]))


def test_two_texts_are_averaged_and_none_is_minus_one():
    teacher = CountingTeacher()
    features, texts = encode_texts([("ab", "b"), ("", ""), ("ab", "b"), ("", "c"), ("ab", "")], teacher)
    assert texts == ["c", "ab", "ab / b"]
    assert features.text_id.tolist() == [2, -1, 2, 0, 1]
    assert features.text[2, :3].tolist() == [0.5, 1.0, 0.0]
    assert sorted(teacher.asked) == ["ab", "b", "c"]


def test_a_teacher_that_encodes_no_text_is_refused():
    with pytest.raises(ValueError, match="text_teacher: 'fake' encodes video"):
        encode_texts([("a", "")], CountingTeacher(("video",)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "words"),
    [("raise-up-both-hands", "raise up both hands"), ("bench_press", "bench press"), (" sit  down ", "sit down")],
)
def test_action_names_as_words(name: str, words: str):
    assert action_text(name) == words


def test_finished_video_embeddings_are_matched_by_clip(
    first: ClipStore, second: ClipStore, tmp_path: Path, teacher: CountingTeacher, monkeypatch: pytest.MonkeyPatch
):
    ids = [*column(first, "clip_id"), *column(second, "clip_id")]
    rows = {clip_id: np.full(4, 1.0 + number, np.float32) for number, clip_id in enumerate(dict.fromkeys(ids))}
    np.savez(tmp_path / "features.npz", **rows)
    finished = PrecomputedTeacher(tmp_path / "features.npz")
    # A table with keys could be of texts too.
    assert finished.supports == {"text", "video"}
    monkeypatch.setattr(datasets, "get_teacher", lambda spec: teacher if spec == "fake" else finished)
    data = load([first, second], replace(NO_TEACHERS, video_teacher="precomputed:features.npz"))
    assert data.teachers.video.shape == (len(data.packed), 4)
    for clip_id, row in zip(data.packed.clip_ids, data.teachers.video, strict=True):
        assert row.tolist() == rows[clip_id].tolist()


def test_embeddings_are_kept_under_the_name_that_is_returned(second: ClipStore, tmp_path: Path):
    ids = column(second, "clip_id")
    table = torch.arange(len(ids) * 3).reshape(-1, 3).float() + 1
    for keys, expected in ((None, "t"), (ids, "t-video")):
        name = embed_videos(second, PrecomputedTeacher(table, keys, name="t"), progress=False)
        assert name == expected
        assert np.array_equal(second.embeddings(name), table.numpy())
    with pytest.raises(ValueError, match="not 'video'"):
        embed_videos(second, CountingTeacher(), progress=False)  # type: ignore[arg-type]


def without_texts(store: ClipStore, path: Path, silent: Sequence[str]) -> ClipStore:
    """A copy of a store in which some clips have neither caption nor label."""
    options = {"name": "partly", "layout": store.layout.name, "channels": 3, "units": store.units}
    with ClipStoreWriter(path, label_names=list(store.label_names), **options) as writer:
        for clip in store:
            known = clip.clip_id not in silent
            writer.add(clip if known else replace(clip, caption="", label=-1))
    return ClipStore(path)


@pytest.mark.parametrize(
    ("text", "what"), [("label", "action name"), ("caption", "caption"), ("both", "action name and no caption")]
)
def test_clips_without_the_text_of_stage_2_are_counted_and_named(
    text: str, what: str, second: ClipStore, teacher: CountingTeacher, tmp_path: Path
):
    ids = column(second, "clip_id")
    partly = without_texts(second, tmp_path / "partly", ids[2:6])
    config = replace(NO_TEACHERS, options=TMOROptions(text=text))
    named = rf"'partly': 4 of 20 clips have no {what} for stage 2: {ids[2]}, {ids[3]}, {ids[4]}, \.\.\."
    with pytest.raises(DataError, match=named) as refused:
        load([partly], config)
    for remedy in ("options.text", "missing_text=skip", "unlabelled", "stage2_epochs=0"):
        assert remedy in str(refused.value)
    # Each remedy works.
    skipped = load([partly], replace(config, missing_text="skip"))
    assert int((skipped.teachers.text_id < 0).sum()) == 4
    assert load([partly, second], replace(config, unlabelled=("partly",))).teachers.text is not None
    assert len(load([partly], replace(config, stage2_epochs=0)).packed) == 20


def test_clips_without_an_embedding_of_the_video_teacher_are_named(
    second: ClipStore, teacher: CountingTeacher, monkeypatch: pytest.MonkeyPatch
):
    ids = column(second, "clip_id")
    table = PrecomputedTeacher(torch.ones(18, 3), ids[:18], name="partial")
    monkeypatch.setattr(datasets, "get_teacher", lambda spec: teacher if spec == "fake" else table)
    with pytest.raises(DataError, match=ids[18]):
        load([second], replace(NO_TEACHERS, video_teacher="precomputed:partial.npz"))


def test_a_store_with_a_single_clip_is_refused(second: ClipStore, teacher: CountingTeacher, tmp_path: Path):
    with ClipStoreWriter(
        tmp_path / "one", name="one", layout=second.layout.name, channels=3, units=second.units,
        label_names=list(second.label_names),
    ) as writer:  # fmt: skip
        writer.add(next(iter(second)))
    with pytest.raises(DataError, match="only 1 clips are left to train on"):
        load([ClipStore(tmp_path / "one")], NO_TEACHERS)
