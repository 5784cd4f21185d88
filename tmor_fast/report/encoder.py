"""The encoder of a report: a pre-trained model or a classifier, the clips it is shown, and what it calls them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.data.prepare import prepare
from tmor_fast.data.store import ClipStore
from tmor_fast.errors import DataError
from tmor_fast.evaluation.features import embed_in_batches
from tmor_fast.evaluation.zero_shot import action_text, embed_actions, zero_shot_scores
from tmor_fast.nn.checkpoint import load_classifier, load_model
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik import UNIK
from tmor_fast.report.results import Prediction
from tmor_fast.report.sampled_store import SampledStore, draw_rows
from tmor_fast.teachers import get_teacher
from tmor_fast.training.recording import top_predictions

Advance = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""

BATCH = 128


@dataclass
class Encoder:
    """A loaded checkpoint.

    Args:
        path: the file, resolved.
        backbone: the encoder.
        model: the T-MOR model, None for a classifier.
        metadata: what was saved with it.
    """

    path: Path
    backbone: UNIK
    model: TMOR | None
    metadata: dict[str, Any]

    @property
    def name(self) -> str:
        """File name."""
        return self.path.name

    @property
    def augmentation(self) -> AugmentationConfig:
        """How it was shown clips."""
        names = ("frames", "sampling", "view_yaw_degrees")
        return AugmentationConfig(**{name: self.metadata[name] for name in names if name in self.metadata})


@dataclass
class EmbeddedClips:
    """Clips and their features.

    Args:
        features: (n, F) float32 pooled backbone features.
        packed: the clips without their frames' use: ids, labels, captions, splits.
        store: name of the store of each clip.
        total: clips of the stores altogether.
        training: (n,) bool, clips that the split and held-out actions of the training do not exclude.
        codes: ids of all clips of all stores, in order, to find a recorded clustering's clips.
        places: (n,) place of each clip among them.
    """

    features: Tensor
    packed: PackedClips
    store: list[str]
    total: int
    training: Tensor
    codes: list[str] = field(repr=False)
    places: list[int] = field(repr=False)


def open_encoder(path: str | Path) -> Encoder:
    """A model of `tmor pretrain` or a classifier of `tmor finetune`.

    Raises:
        FileNotFoundError, DataError: no such file, another file, or its metadata says too little.
    """
    path = Path(path)
    model: TMOR | None = None
    try:
        model, metadata = load_model(path)
        backbone = model.backbone
    except DataError as error:
        try:
            backbone, metadata = load_classifier(path)
        except DataError:
            raise error from None
    absent = [name for name in ("layout", "normalisation", "frames", "stream") if name not in metadata]
    if absent:
        raise DataError(f"{path}: its metadata lacks {', '.join(absent)}, so no clips can be shown to it; train again")
    return Encoder(path.resolve(), backbone, model, metadata)


def embed_clips(encoder: Encoder, stores: Sequence[str | Path], limit: int, advance: Advance) -> EmbeddedClips:
    """Features of at most `limit` clips of the stores, each clip whole and seen from its fixed direction.

    Raises:
        DataError, ValueError: a store is damaged or does not fit the encoder.
    """
    opened = [ClipStore(store) for store in stores]
    rows = draw_rows([len(store) for store in opened], limit)
    parts: list[PackedClips] = []
    names: list[str] = []
    ids: list[str] = []
    places: list[int] = []
    for number, (store, drawn) in enumerate(zip(opened, rows, strict=True)):
        advance(f"reading {store.name}", number, len(opened))
        parts.append(
            prepare(
                SampledStore(store.path, drawn), layout=encoder.metadata["layout"],
                normalisation=encoder.metadata["normalisation"], persons=encoder.backbone.config.persons,
            )
        )  # fmt: skip
        names += [store.name] * len(drawn)
        places += [len(ids) + row for row in drawn]
        ids += [str(name) for name in store.column("clip_id")]
    packed = PackedClips.concatenate(parts)
    batches = ClipBatches(
        packed, encoder.augmentation, channels=encoder.backbone.config.channels, stream=encoder.metadata["stream"]
    )
    done = []
    for part in torch.arange(len(packed)).split(BATCH):
        advance("embedding clips", int(part[0]), len(packed))
        done.append(embed_in_batches(encoder.backbone, batches, part))
    advance("embedding clips", len(packed), len(packed))
    return EmbeddedClips(torch.cat(done), packed, names, len(ids), _training(packed, encoder), ids, places)


def _training(packed: PackedClips, encoder: Encoder) -> Tensor:
    held_out = {packed.label_names.index(n) for n in encoder.metadata.get("held_out", ()) if n in packed.label_names}
    kept = torch.tensor([label not in held_out for label in packed.label.tolist()], dtype=torch.bool)
    return kept & torch.tensor([split in ("train", "") for split in packed.splits], dtype=torch.bool)


def predict(encoder: Encoder, clips: EmbeddedClips) -> list[Prediction]:
    """What the checkpoint itself says about labelled clips outside its training, or about all where there are none.

    A classifier gives probabilities of its classes. A model of stage 2 gives the nearest action names in the shared
    space, by cosine similarity: of the actions held out of its training and their clips, else of all of the stores.

    Raises:
        ValueError: it knows no classes, or no clip has one of its classes.
        MissingDependencyError, TeacherUnavailableError: the text encoder is not there.
    """
    packed = clips.packed
    named = [("" if label < 0 else packed.label_names[label]) for label in packed.label.tolist()]
    if encoder.model is None:
        classes = [str(name) for name in encoder.metadata.get("label_names", ())]
        assert encoder.backbone.classifier is not None
        with torch.no_grad():
            scores = encoder.backbone.classifier(clips.features)
        kind: Any = "logits"
        source = f"{Path(encoder.name).stem} classifier"
    else:
        if encoder.metadata.get("stage", 1) < 2:
            raise ValueError(
                "the model ended with stage 1 and knows no action names; probe or fine-tune it, or pre-train stage 2"
            )
        held_out = set(encoder.metadata.get("held_out", ())) & set(named)
        classes = sorted(held_out or {name for name in named if name})
        teacher = get_teacher(encoder.metadata["text_teacher"])
        with torch.no_grad():
            scores = zero_shot_scores(
                encoder.model.project_motion(clips.features), embed_actions(encoder.model, teacher, classes)
            )
        kind, source = "cosine", f"{encoder.name}, nearest of {len(classes)} action names"
        source += ", none of them trained on" if held_out else ""
    spelled = {action_text(name): place for place, name in enumerate(classes)}
    labels = torch.tensor([spelled.get(action_text(name), -1) for name in named])
    tested = (labels >= 0) & ~clips.training
    chosen = (tested if bool(tested.any()) else labels >= 0).nonzero().squeeze(1)
    if not len(chosen):
        raise ValueError("no clip of the stores shows an action that the checkpoint knows")
    ids = [packed.clip_ids[i] for i in chosen.tolist()]
    found = top_predictions(scores[chosen], labels[chosen], ids, classes, kind=kind)
    return [
        Prediction(
            source, clip, classes[label], tuple((classes[t], s) for t, s in zip(top, score, strict=True)), found["unit"]
        )
        for clip, label, top, score in zip(found["clips"], found["label"], found["top"], found["score"], strict=True)
    ]
