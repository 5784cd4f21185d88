"""Fine-tuning, training from scratch and few-shot: a whole encoder with a classifier, one model a stream."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from tmor_fast.data.packed import PackedClips
from tmor_fast.errors import DataError
from tmor_fast.evaluation.few_shot import select_few_shot
from tmor_fast.evaluation.fusion import fuse_scores
from tmor_fast.evaluation.metrics import ClassificationReport, classification_report
from tmor_fast.evaluation.protocols import get_protocol
from tmor_fast.evaluation.saving import save_json
from tmor_fast.nn.checkpoint import save_classifier
from tmor_fast.nn.unik import UNIK
from tmor_fast.training.batches import ClipBatches, shuffled_loader
from tmor_fast.training.config import FinetuneConfig, save_config
from tmor_fast.training.optimiser import build_optimiser
from tmor_fast.training.trainer import build_trainer


class ClassifierModule(L.LightningModule):
    """Supervised training of an encoder with its classifier.

    Args:
        encoder: UNIK with a classifier.
        batches: makes augmented network inputs.
        labels: (n,) class of every clip in the packed data.
        places: (k,) clips to train on.
        config: optimiser, smoothing, seed.
    """

    def __init__(
        self, encoder: UNIK, batches: ClipBatches, labels: Tensor, places: Tensor, config: FinetuneConfig
    ) -> None:
        super().__init__()
        self.encoder, self.batches, self.places, self.config = encoder, batches, places, config
        self.register_buffer("labels", labels, persistent=False)
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)

    def configure_optimizers(self) -> Any:
        steps = len(self.train_dataloader())
        return build_optimiser(self.encoder.parameters(), self.config.optimiser, steps)

    def train_dataloader(self) -> Any:
        return shuffled_loader(self.places, self.config.optimiser.batch_size, self.config.seed)

    def on_fit_start(self) -> None:
        self.batches.packed = self.batches.packed.to(self.device)

    def training_step(self, index: Tensor, _: int) -> Tensor:
        draw = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.global_step)
        scores = self.encoder(self.batches.random(index, draw))
        target = self.labels[index]  # type: ignore[index]
        loss: Tensor = self.loss(scores, target)
        accuracy = (scores.argmax(1) == target).float().mean()
        self.log_dict(
            {"loss": loss.detach(), "accuracy": accuracy},
            prog_bar=True, on_step=False, on_epoch=True, batch_size=len(index),
        )  # fmt: skip
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("epoch", float(self.current_epoch))


@dataclass
class TransferResult:
    """Outcome of a transfer protocol.

    Args:
        reports: metrics by stream, and "joint+bone" for their fusion.
        scores: (n, K) scores of the test clips by stream.
        test: (n,) their places in the data set.
        train_clips: number of labelled clips trained on.
    """

    reports: dict[str, ClassificationReport]
    scores: dict[str, Tensor]
    test: Tensor
    train_clips: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"train_clips": self.train_clips, "reports": {k: r.to_dict() for k, r in self.reports.items()}}


@dataclass
class LabelledSplit:
    """Training and test clips of a protocol, and their classes."""

    train: Tensor
    test: Tensor
    labels: Tensor
    label_names: list[str]


def labelled_split(packed: PackedClips, protocol: str, share: float, few_shot: str, seed: int) -> LabelledSplit:
    """The protocol's split, the training side cut to `share` of its clips.

    Raises:
        DataError: a clip of the split has no label.
    """
    rule = get_protocol(protocol)
    train, test = rule.split(packed)
    labels = rule.labels(packed)
    for side in (train, test):
        if bool((labels[side] < 0).any()):
            clip = packed.clip_ids[int(side[labels[side] < 0][0])]
            raise DataError(f"clip {clip!r} has no label; leave it out of the split or label it")
    if share < 1:
        ids = [packed.clip_ids[i] for i in train.tolist()]
        strategy: Any = few_shot
        chosen = set(select_few_shot(ids, labels[train], share, seed=seed, strategy=strategy).clip_ids)
        train = train[torch.tensor([clip_id in chosen for clip_id in ids])]
    return LabelledSplit(train, test, labels, list(rule.label_names(packed)))


def finetune(
    packed: PackedClips,
    config: FinetuneConfig,
    out: str | Path | None = None,
    *,
    backbone: UNIK | None = None,
    progress: bool = True,
) -> TransferResult:
    """Train encoder and classifier on labelled clips and test them (one model a stream, scores fused).

    Args:
        packed: the data set, prepared as the backbone was trained.
        config: protocol, streams, share, optimiser.
        out: run folder, None to keep nothing.
        backbone: pre-trained encoder to start from (a copy is trained); None builds `config.backbone` anew.
        progress: show progress bars.

    Returns:
        Metrics and scores on the test side.
    """
    split = labelled_split(packed, config.protocol, config.share, config.few_shot, config.seed)
    folder = None if out is None else Path(out)
    if folder is not None:
        save_config(folder, config)
        save_json(folder / "train_clips.json", [packed.clip_ids[i] for i in split.train.tolist()])
    scores: dict[str, Tensor] = {}
    for stream in config.streams:
        L.seed_everything(config.seed, verbose=False)
        encoder = _encoder(packed, config, backbone, len(split.label_names))
        channels = encoder.config.channels
        batches = ClipBatches(packed, config.augmentation, channels=channels, stream=stream)
        module = ClassifierModule(encoder, batches, split.labels, split.train, config)
        trainer = build_trainer(
            None if folder is None else folder / stream, epochs=config.optimiser.epochs, precision=config.precision,
            gradient_clip=config.optimiser.gradient_clip, progress=progress,
        )  # fmt: skip
        trainer.fit(module)
        # Lightning leaves the encoder on the CPU; the clips are still on the device it was trained on.
        scores[stream] = class_scores(encoder.to(batches.packed.device), batches, split.test)
        if folder is not None:
            metadata = {
                "label_names": split.label_names,
                "layout": packed.layout.name,
                "normalisation": config.normalisation,
                "frames": config.augmentation.frames,
                "sampling": config.augmentation.sampling,
                "stream": stream,
            }
            save_classifier(folder / f"{stream}.pt", encoder.cpu(), metadata)
    if len(scores) > 1:
        scores["+".join(scores)] = fuse_scores(list(scores.values()), method=config.fusion)
    return _result(scores, split, folder)


def class_scores(model: Callable[[Tensor], Tensor], batches: ClipBatches, index: Tensor) -> Tensor:
    """Logits (n, K) of whole clips, on the CPU; a module is put in eval mode and must be where the clips are."""
    if isinstance(model, torch.nn.Module):
        model.eval()
    with torch.no_grad():
        parts = [part.to(batches.packed.device) for part in index.split(256)]
        return torch.cat([model(batches.plain(part)).float().cpu() for part in parts])


def _encoder(packed: PackedClips, config: FinetuneConfig, backbone: UNIK | None, classes: int) -> UNIK:
    if backbone is None:
        return UNIK(config.backbone.build(packed.layout.num_joints, classes))
    # A loaded checkpoint is in eval mode, and Lightning leaves modes alone: batch norms would never adapt.
    encoder = copy.deepcopy(backbone).train()
    encoder.reset_classifier(classes)
    return encoder


def _result(scores: dict[str, Tensor], split: LabelledSplit, folder: Path | None) -> TransferResult:
    labels = split.labels[split.test]
    reports = {name: classification_report(s, labels, split.label_names) for name, s in scores.items()}
    if folder is not None:
        for name, report in reports.items():
            report.save(folder / f"{name}.json")
    return TransferResult(reports, scores, split.test, len(split.train))
