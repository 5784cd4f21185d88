"""From clip stores on disk to what a run trains on: packed clips, their texts and their teachers' embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tmor_fast.data.packed import PackedClips
from tmor_fast.data.prepare import prepare
from tmor_fast.data.store import ClipStore
from tmor_fast.errors import DataError
from tmor_fast.evaluation.zero_shot import action_text
from tmor_fast.nn.objective import TeacherFeatures
from tmor_fast.nn.options import TMOROptions
from tmor_fast.teachers import Teacher, embed_store, get_teacher
from tmor_fast.training.config import PretrainConfig


@dataclass
class PretrainData:
    """What pre-training reads.

    Args:
        packed: all clips.
        teachers: frozen embeddings of the clips.
        texts: the distinct texts, in the order of `teachers.text`.
    """

    packed: PackedClips
    teachers: TeacherFeatures
    texts: list[str]


def load_pretrain_data(stores: Sequence[str | Path], config: PretrainConfig, *, progress: bool = True) -> PretrainData:
    """Prepare and join the stores of a pre-training run and encode what their teachers need.

    Args:
        stores: folders of clip stores.
        config: split, held-out actions, teachers, texts.
        progress: show progress bars.

    Raises:
        DataError: no clip is left, a held-out or unlabelled name does not exist, or a clip of a labelled data set has
            not the text that stage 2 needs.
    """
    opened = [ClipStore(path) for path in stores]
    _check_names(opened, config)
    video = config.video_teacher
    if video is not None:
        teacher = get_teacher(video)
        for store in opened:
            video = embed_videos(store, teacher, progress=progress)
    parts, texts = [], []
    for store in opened:
        packed = prepare(
            store,
            layout=config.layout,
            normalisation=config.normalisation,
            persons=config.backbone.persons,
            teachers=() if video is None else (video,),
            progress=progress,
        )
        packed = packed.subset(_chosen(packed, config))
        named = store.name not in config.unlabelled
        found = _texts(packed, config.options) if named else [("", "")] * len(packed)
        if named and config.stage2_epochs and config.text_teacher is not None and config.missing_text == "error":
            _check_texts(store.name, packed, found, config.options)
        texts += found
        # Labels can serve as clusters, so those of an unlabelled data set must go.
        parts.append(packed if named else replace(packed, label=torch.full_like(packed.label, -1)))
    packed = PackedClips.concatenate(parts)
    if len(packed) < 2:
        raise DataError(f"only {len(packed)} clips are left to train on; look at split and held_out")
    features, distinct = encode_texts(texts, None if config.text_teacher is None else get_teacher(config.text_teacher))
    if video is not None:
        features.video = packed.embeddings[video].float()
    return PretrainData(packed, features, distinct)


def embed_videos(store: ClipStore, teacher: Teacher, *, progress: bool = True) -> str:
    """Keep the teacher's embeddings of the drawn clips in the store.

    Returns:
        The name under which they are kept: the teacher's, or with "-video" behind it where it encodes text too.

    Raises:
        ValueError: the teacher does not encode video.
    """
    name = teacher.name if teacher.supports == {"video"} else f"{teacher.name}-video"
    embed_store(store, teacher, modality="video", name=name, progress=progress)
    return name


def encode_texts(texts: Sequence[tuple[str, str]], teacher: Teacher | None) -> tuple[TeacherFeatures, list[str]]:
    """Embed the texts of clips, each distinct one once.

    Args:
        texts: (action name, caption) of each clip; of a pair with two entries the mean embedding is taken, a clip
            with none has no text.
        teacher: the text encoder; None gives features without text.

    Returns:
        The features and the distinct texts.

    Raises:
        ValueError: the teacher does not encode text.
    """
    if teacher is not None and "text" not in teacher.supports:
        raise ValueError(f"text_teacher: {teacher.name!r} encodes video, not text; choose one that does, e.g. 'minilm'")
    distinct = sorted({pair for pair in texts if any(pair)})
    if teacher is None or not distinct:
        return TeacherFeatures(), []
    place = {pair: i for i, pair in enumerate(distinct)}
    sentences = sorted({sentence for pair in distinct for sentence in pair if sentence})
    vectors = dict(zip(sentences, teacher.encode_text(sentences), strict=True))
    embedded = torch.stack([torch.stack([vectors[s] for s in pair if s]).mean(0) for pair in distinct])
    ids = torch.tensor([place.get(pair, -1) for pair in texts])
    return TeacherFeatures(text=embedded.float(), text_id=ids), [" / ".join(filter(None, pair)) for pair in distinct]


def _texts(packed: PackedClips, options: TMOROptions) -> list[tuple[str, str]]:
    pairs = []
    for label, caption in zip(packed.label.tolist(), packed.captions, strict=True):
        name = action_text(packed.label_names[label]) if label >= 0 else ""
        pairs.append(
            (name if options.text in ("label", "both") else "", caption if options.text in ("caption", "both") else "")
        )
    return pairs


def _check_texts(store: str, packed: PackedClips, texts: Sequence[tuple[str, str]], options: TMOROptions) -> None:
    silent = [clip for clip, pair in zip(packed.clip_ids, texts, strict=True) if not any(pair)]
    if silent:
        what = {"label": "action name", "caption": "caption", "both": "action name and no caption"}[options.text]
        raise DataError(
            f"data set {store!r}: {len(silent)} of {len(packed)} clips have no {what} for stage 2: "
            f"{', '.join(silent[:3])}{', ...' if len(silent) > 3 else ''}. Add them, choose other texts "
            "(options.text=label, caption or both), train these clips without text (missing_text=skip), name the data "
            "set in 'unlabelled', or set stage2_epochs=0"
        )


def _chosen(packed: PackedClips, config: PretrainConfig) -> Tensor:
    held_out = {packed.label_names.index(name) for name in config.held_out if name in packed.label_names}
    keep = torch.tensor([label not in held_out for label in packed.label.tolist()], dtype=torch.bool)
    if config.split == "train" and any(packed.splits):
        keep &= torch.tensor([split in ("train", "") for split in packed.splits])
    return keep.nonzero().squeeze(1)


def _check_names(stores: Sequence[ClipStore], config: PretrainConfig) -> None:
    actions = sorted({name for store in stores for name in store.label_names})
    for name in config.held_out:
        if name not in actions:
            raise DataError(f"held_out: no data set has the action {name!r}; they have: {', '.join(actions)}")
    names = [store.name for store in stores]
    for name in config.unlabelled:
        if name not in names:
            raise DataError(f"unlabelled: no data set is called {name!r}; they are: {', '.join(names)}")
