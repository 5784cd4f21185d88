"""Fine-tuning, training from scratch and few-shot: a whole encoder with a classifier, one model a stream."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from tmor_fast.atomic import space_for
from tmor_fast.data.clip_batches import ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.errors import DataError
from tmor_fast.evaluation.few_shot import select_few_shot
from tmor_fast.evaluation.fusion import fuse_scores
from tmor_fast.evaluation.metrics import ClassificationReport, classification_report
from tmor_fast.evaluation.protocols import get_protocol
from tmor_fast.evaluation.saving import save_json
from tmor_fast.nn.checkpoint import save_classifier
from tmor_fast.nn.unik import UNIK
from tmor_fast.training.batches import shuffled_loader
from tmor_fast.training.config import FinetuneConfig, ProbeConfig, save_config
from tmor_fast.training.optimiser import build_optimiser
from tmor_fast.training.recording import top_predictions
from tmor_fast.training.run_record import begin, check_record, fingerprint, make_record, read_record
from tmor_fast.training.run_state import RunState
from tmor_fast.training.trainer import build_trainer, fit


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

    def training_step(self, index: Tensor, _: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.global_step)
        scores = self.encoder(self.batches.random(index, draw))
        target = self.labels[index]  # type: ignore[index]
        loss: Tensor = self.loss(scores, target)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"training diverged: loss not finite at step {self.global_step}; lower optimiser.rate or set "
                "optimiser.gradient_clip=1. Checkpoints of earlier steps are whole"
            )
        accuracy = (scores.argmax(1) == target).float().mean()
        self.log_dict({"loss": loss.detach(), "accuracy": accuracy}, prog_bar=True, logger=False, batch_size=len(index))
        return {"loss": loss, "accuracy": accuracy}


@dataclass
class TransferResult:
    """Outcome of a transfer protocol.

    Args:
        reports: metrics by stream, and "joint+bone" for their fusion.
        scores: (n, K) scores of the test clips by stream.
        test: (n,) their places in the data set.
        train_clips: number of labelled clips trained on.
        predictions: first classes of some test clips by stream (`recording.top_predictions`).
    """

    reports: dict[str, ClassificationReport]
    scores: dict[str, Tensor]
    test: Tensor
    train_clips: int
    predictions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        reports = {name: report.to_dict() for name, report in self.reports.items()}
        return {"train_clips": self.train_clips, "reports": reports, "predictions": self.predictions}


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
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> TransferResult:
    """Train encoder and classifier on labelled clips and test them (one model a stream, scores fused).

    Args:
        packed: the data set, prepared as the backbone was trained.
        config: protocol, streams, share, optimiser.
        out: run folder, None to keep nothing.
        backbone: pre-trained encoder to start from (a copy is trained); None builds `config.backbone` anew.
        resume: go on from the newest whole checkpoint of each stream in `out`; what is finished is not trained again.
        overwrite: replace a run that is in `out`.
        progress: show progress bars.

    Returns:
        Metrics and scores on the test side.

    Raises:
        DataError: a clip without a label, fewer than two training clips, or a checkpoint that is damaged or belongs to
            another run.
        FileExistsError: `out` holds a run, and neither `resume` nor `overwrite` is given.
        DiskFullError: there is no space left; earlier checkpoints are whole.
        FloatingPointError: training diverged.
    """
    split = labelled_split(packed, config.protocol, config.share, config.few_shot, config.seed)
    if len(split.train) < 2:
        raise DataError(f"{len(split.train)} clip to train on, at least two are needed; raise 'share' or label more")
    folder = None if out is None else Path(out)
    runs: dict[str, RunState | None] = dict.fromkeys(config.streams)
    if folder is not None:
        runs = _runs(folder, packed, config, backbone, resume, overwrite)
    with space_for(folder or "."):
        if folder is not None:
            save_config(folder, config)
            save_json(folder / "train_clips.json", [packed.clip_ids[i] for i in split.train.tolist()])
        scores = {s: _train_stream(packed, config, split, backbone, s, state, progress) for s, state in runs.items()}
        if len(scores) > 1:
            scores["+".join(scores)] = fuse_scores(list(scores.values()), method=config.fusion)
        clip_ids = [packed.clip_ids[i] for i in split.test.tolist()]
        return _result(scores, split, folder, clip_ids, config.fusion)


def _runs(
    folder: Path, packed: PackedClips, config: FinetuneConfig, backbone: UNIK | None, resume: bool, overwrite: bool
) -> dict[str, RunState | None]:
    """State of the run of each stream, with the checkpoint that it goes on from; nothing is written yet."""
    found = fingerprint(packed, start=backbone)
    runs: dict[str, RunState | None] = {}
    for stream in config.streams:
        record = make_record("finetune", stream, config, found)
        checkpoint = begin(folder, [stream], [f"{stream}.pt"], resume, overwrite)
        if checkpoint is not None:
            check_record(checkpoint, read_record(checkpoint), record)
        runs[stream] = RunState(folder / stream, record, config.checkpoints, checkpoint)
    return runs


def _train_stream(
    packed: PackedClips,
    config: FinetuneConfig,
    split: LabelledSplit,
    backbone: UNIK | None,
    stream: str,
    state: RunState | None,
    progress: bool,
) -> Tensor:
    """Train a model on one stream, save it, and return its scores of the test clips."""
    L.seed_everything(config.seed, verbose=False)
    encoder = _encoder(packed, config, backbone, len(split.label_names))
    batches = ClipBatches(packed, config.augmentation, channels=encoder.config.channels, stream=stream)
    module = ClassifierModule(encoder, batches, split.labels, split.train, config)
    trainer = build_trainer(
        state, epochs=config.optimiser.epochs, precision=config.precision,
        gradient_clip=config.optimiser.gradient_clip, progress=progress,
    )  # fmt: skip
    fit(trainer, module, None if state is None else state.resumed)
    # Lightning leaves the encoder on the CPU; the clips are still on the device it was trained on.
    scores = class_scores(encoder.to(batches.packed.device), batches, split.test)
    if state is not None:
        metadata = classifier_metadata(packed, split, config, stream)
        metadata["fusion"] = config.fusion
        metadata["training"] = "from scratch" if backbone is None else "fine-tuned"
        path = state.folder.parent / f"{stream}.pt"
        save_classifier(path, encoder.cpu(), metadata)
    return scores


def classifier_metadata(
    packed: PackedClips, split: LabelledSplit, config: FinetuneConfig | ProbeConfig, stream: str
) -> dict[str, Any]:
    """What is saved with a classifier: everything that clips must share with its training, and its classes."""
    return {
        "label_names": split.label_names,
        "layout": packed.layout.name,
        "skeleton": packed.layout.to_dict(),
        "normalisation": config.normalisation,
        "frames": config.augmentation.frames,
        "sampling": config.augmentation.sampling,
        "view_yaw_degrees": config.augmentation.view_yaw_degrees,
        "stream": stream,
        "protocol": config.protocol,
        "train_clips": len(split.train),
    }


def class_scores(model: Callable[[Tensor], Tensor], batches: ClipBatches, index: Tensor) -> Tensor:
    """Logits (n, K) of whole clips, on the CPU; a module is put in eval mode and must be where the clips are."""
    if isinstance(model, torch.nn.Module):
        model.eval()
    with torch.no_grad():
        parts = [part.to(batches.packed.device) for part in index.split(256)]
        return torch.cat([model(batches.plain(part)).float().cpu() for part in parts])


def _encoder(packed: PackedClips, config: FinetuneConfig, backbone: UNIK | None, classes: int) -> UNIK:
    if backbone is None:
        encoder = UNIK(config.backbone.build(packed.layout.num_joints, classes))
    else:
        # A loaded checkpoint is in eval mode, and Lightning leaves modes alone: batch norms would never adapt.
        encoder = copy.deepcopy(backbone).train()
        encoder.reset_classifier(classes)
    encoder.checkpointing = config.checkpointing
    return encoder


def _result(
    scores: dict[str, Tensor], split: LabelledSplit, folder: Path | None, clip_ids: list[str], fusion: str
) -> TransferResult:
    labels = split.labels[split.test]
    reports = {name: classification_report(s, labels, split.label_names) for name, s in scores.items()}
    if folder is not None:
        for name, report in reports.items():
            report.save(folder / f"{name}.json")
    predictions = {}
    for name, rows in scores.items():
        # The softmax fusion sums probabilities of the streams.
        kind: Any = "probability" if "+" in name and fusion == "softmax" else "logits"
        predictions[name] = top_predictions(rows, labels, clip_ids, split.label_names, kind=kind)
    if folder is not None:
        save_json(folder / "predictions.json", predictions)
    return TransferResult(reports, scores, split.test, len(split.train), predictions)
