"""Linear probe: one linear layer on frozen features (T-MOR's linear evaluation)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tmor_fast.data.clip_batches import ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.evaluation.features import embed_in_batches
from tmor_fast.evaluation.metrics import classification_report
from tmor_fast.nn.checkpoint import save_classifier
from tmor_fast.nn.unik import UNIK
from tmor_fast.training.batches import EpochShuffle
from tmor_fast.training.config import ProbeConfig
from tmor_fast.training.finetune import TransferResult, classifier_metadata, labelled_split
from tmor_fast.training.optimiser import build_optimiser
from tmor_fast.training.recording import top_predictions
from tmor_fast.training.trainer import build_trainer, fit


class ProbeModule(L.LightningModule):
    """A linear classifier on a table of features.

    With `config.standardise` the features are standardised by the training table's mean and deviation, which is a
    linear map: `classifier()` folds it into one layer of F * K + K parameters.

    Args:
        features: (n, F) frozen features.
        labels: (n,) classes.
        num_classes: K.
        config: optimiser and seed.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, config: ProbeConfig) -> None:
        super().__init__()
        self.features, self.targets, self.config = features, labels, config
        mean, deviation = torch.zeros(features.shape[1]), torch.ones(features.shape[1])
        if config.standardise:
            mean, deviation = features.mean(0), features.std(0, correction=0)
        self.register_buffer("mean", mean)
        # A feature that never changes says nothing; dividing by its deviation would be 0 / 0.
        self.register_buffer("scale", torch.where(deviation > 1e-8, 1 / deviation.clamp_min(1e-8), 0.0))
        self.linear = torch.nn.Linear(features.shape[1], num_classes)

    def configure_optimizers(self) -> Any:
        return build_optimiser(self.linear.parameters(), self.config.optimiser, len(self.train_dataloader()))

    def train_dataloader(self) -> Any:
        dataset = TensorDataset(self.features, self.targets)
        size = min(self.config.optimiser.batch_size, len(dataset))
        return DataLoader(dataset, batch_size=size, sampler=EpochShuffle(len(dataset), self.config.seed))

    def forward(self, features: Tensor) -> Tensor:
        return self.linear((features - self.mean) * self.scale)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss.detach(), prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def classifier(self) -> torch.nn.Linear:
        """The trained layer on raw features."""
        folded = torch.nn.Linear(self.linear.in_features, self.linear.out_features)
        with torch.no_grad():
            folded.weight.copy_(self.linear.weight * self.scale)
            folded.bias.copy_(self.linear.bias - folded.weight @ self.mean)
        return folded


def probe(
    packed: PackedClips,
    config: ProbeConfig,
    backbone: UNIK | None = None,
    *,
    save: str | Path | None = None,
    progress: bool = True,
) -> TransferResult:
    """Train a linear layer on the features of a frozen encoder and test it.

    Args:
        packed: the data set, prepared as the backbone was trained.
        config: protocol, optimiser, views.
        backbone: the encoder; None takes `config.backbone` with random weights (the papers' baseline).
        save: file for the encoder with the trained layer as its classifier, which `tmor_fast.load` reads; None for
            none.
        progress: show a progress bar.

    Returns:
        Metrics and scores on the test side, under the name "probe".
    """
    L.seed_everything(config.seed, verbose=False)
    encoder = UNIK(config.backbone.build(packed.layout.num_joints)) if backbone is None else backbone
    split = labelled_split(packed, config.protocol, config.share, config.few_shot, config.seed)
    batches = ClipBatches(packed, config.augmentation, channels=encoder.config.channels, stream=config.stream)
    tables = [embed_in_batches(encoder, batches, split.train)]
    draw = torch.Generator().manual_seed(config.seed)
    tables += [embed_in_batches(encoder, batches, split.train, generator=draw) for _ in range(config.views)]
    features, labels = torch.cat(tables), split.labels[split.train].repeat(len(tables))
    module = ProbeModule(features.cpu(), labels.cpu(), len(split.label_names), config)
    trainer = build_trainer(None, epochs=config.optimiser.epochs, progress=progress)
    fit(trainer, module)
    layer = module.cpu().classifier()
    with torch.no_grad():
        scores = layer(embed_in_batches(encoder, batches, split.test).cpu())
    if save is not None:
        metadata = classifier_metadata(packed, split, config, config.stream)
        save_classifier(save, _with_classifier(encoder, layer), {**metadata, "training": "linear probe"})
    labels = split.labels[split.test]
    report = classification_report(scores, labels, split.label_names)
    clip_ids = [packed.clip_ids[i] for i in split.test.tolist()]
    predicted = {"probe": top_predictions(scores, labels, clip_ids, split.label_names)}
    return TransferResult({"probe": report}, {"probe": scores}, split.test, len(split.train), predicted)


def _with_classifier(encoder: UNIK, layer: torch.nn.Linear) -> UNIK:
    joined = copy.deepcopy(encoder).cpu()
    joined.reset_classifier(layer.out_features)
    assert joined.classifier is not None
    joined.classifier.load_state_dict(layer.state_dict())
    return joined
