"""Pre-training: stage 1 (L_mm + L_mv) and stage 2 (+ L_mt), with a clustering after every epoch."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from tmor_fast.data.packed import PackedClips
from tmor_fast.nn.checkpoint import save_model
from tmor_fast.nn.objective import Objective
from tmor_fast.nn.tmor import TMOR
from tmor_fast.training.batches import ClipBatches, shuffled_loader
from tmor_fast.training.clustering import Clustering, cluster_embeddings
from tmor_fast.training.config import PretrainConfig, save_config
from tmor_fast.training.datasets import PretrainData, action_text, load_pretrain_data
from tmor_fast.training.features import embed_in_batches
from tmor_fast.training.optimiser import build_optimiser
from tmor_fast.training.trainer import build_trainer


class PretrainModule(L.LightningModule):
    """One stage of pre-training as a Lightning module.

    Args:
        objective: model, key encoder and banks; stage 2 continues with those of stage 1.
        batches: makes two random views of each clip.
        config: the run.
        stage: 1 or 2.
    """

    def __init__(self, objective: Objective, batches: ClipBatches, config: PretrainConfig, stage: int) -> None:
        super().__init__()
        self.objective, self.batches, self.config, self.stage = objective, batches, config, stage
        self.history: list[Clustering] = []

    @property
    def optimiser_config(self) -> Any:
        """The optimiser of this stage."""
        config = self.config.optimiser
        if self.stage == 1:
            return config
        rate = config.rate if self.config.stage2_rate is None else self.config.stage2_rate
        return dataclasses.replace(config, epochs=self.config.stage2_epochs, rate=rate)

    def configure_optimizers(self) -> Any:
        config = self.optimiser_config
        return build_optimiser(self.objective.model.parameters(), config, len(self.train_dataloader()))

    def train_dataloader(self) -> Any:
        seed = self.config.seed * 10 + self.stage
        return shuffled_loader(range(len(self.batches.packed)), self.optimiser_config.batch_size, seed)

    def on_fit_start(self) -> None:
        self.batches.packed = self.batches.packed.to(self.device)
        if self.objective.bank.num_filled() == 0:
            self._fill_bank()
            if self.config.options.warmup_epochs == 0:
                self.objective.set_clusters(self._find_clusters().labels)

    @torch.no_grad()
    def _fill_bank(self) -> None:
        # The first step already compares with every sample.
        self.objective.train()
        for index in torch.arange(len(self.batches.packed)).split(self.optimiser_config.batch_size):
            if len(index) > 1:
                index = index.to(self.device)
                self.objective.bank.update(index, self.objective.keys(self.batches.plain(index)))

    def training_step(self, index: Tensor, _: int) -> Tensor:
        draw = torch.Generator().manual_seed((self.config.seed * 10 + self.stage) * 1_000_003 + self.global_step)
        query = self.batches.random(index, draw, crop=self.config.augmentation.crop_query)
        key = self.batches.random(index, draw)
        try:
            losses = self.objective(query, key, index, stage=self.stage)
        except ValueError as error:
            # The loss itself refuses embeddings that are not finite.
            with torch.no_grad():
                if bool(torch.isfinite(self.objective.model.embed_motion(query)).all()):
                    raise
            raise self._diverged("embeddings") from error
        if not torch.isfinite(losses["loss"]):
            raise self._diverged("loss")
        self.log_dict(
            {name: value.detach() for name, value in losses.items()},
            prog_bar=True, on_step=False, on_epoch=True, batch_size=len(index),
        )  # fmt: skip
        return losses["loss"]

    def _diverged(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"training diverged: {what} not finite at step {self.global_step}; "
            "lower optimiser.rate or set optimiser.gradient_clip=1"
        )

    def on_train_batch_end(self, *_: Any) -> None:
        self.objective.after_step()

    def on_train_epoch_end(self) -> None:
        self.log("epoch", float(self.current_epoch))
        if self.stage == 2 and self.config.options.stage2_clusters == "labels":
            return
        done = self.current_epoch + 1
        past_warmup = self.stage == 2 or done >= self.config.options.warmup_epochs
        if past_warmup and done % self.config.options.cluster_every == 0:
            self._cluster()

    def _find_clusters(self) -> Clustering:
        options = self.config.options
        embeddings = embed_in_batches(self.objective.model, self.batches, kind=options.cluster_input)
        found = cluster_embeddings(embeddings, options, None if options.refresh_eps else self.objective.eps)
        if found.labels is not None:
            # The radius of an unusable clustering would be kept for good.
            self.objective.eps = found.eps
        self.history.append(found)
        return found

    def _cluster(self) -> None:
        found = self._find_clusters()
        self.objective.set_clusters(None if found.labels is None else found.labels.to(self.device))
        self.log_dict(
            {
                "clusters": float(found.clusters),
                "noise_share": found.noise_share,
                "largest_cluster_share": found.largest_share,
                "eps": found.eps,
            }
        )
        if found.warning:
            warnings.warn(f"epoch {self.current_epoch}: {found.warning}", stacklevel=1)


def pretrain(
    stores: Sequence[str | Path],
    out: str | Path,
    config: PretrainConfig,
    *,
    resume: str | Path | None = None,
    progress: bool = True,
) -> tuple[TMOR, dict[str, Any]]:
    """Pre-train T-MOR and write `model.pt`, `config.yaml`, logs and checkpoints to a run folder.

    Args:
        stores: clip stores to train on, together.
        out: the run folder.
        config: everything else.
        resume: a Lightning checkpoint of the same run's unfinished stage.
        progress: show progress bars.

    Returns:
        The trained model in eval mode, and the metadata saved with it.

    Raises:
        DataError: the data cannot be used.
        ValueError: stage 2 is asked for and no clip has text.
        FloatingPointError: training diverged.
    """
    data = load_pretrain_data(stores, config, progress=progress)
    return pretrain_on(data, out, config, resume=resume, progress=progress)


def pretrain_on(
    data: PretrainData,
    out: str | Path,
    config: PretrainConfig,
    *,
    resume: str | Path | None = None,
    progress: bool = True,
) -> tuple[TMOR, dict[str, Any]]:
    """`pretrain` on data that is already in memory."""
    if config.stage2_epochs and data.teachers.text is None:
        raise ValueError(
            "stage 2 aligns motion with text, and no clip has any; set stage2_epochs=0, or choose a text_teacher "
            "and leave at least one data set out of 'unlabelled'"
        )
    out = Path(out)
    save_config(out, config)
    L.seed_everything(config.seed, verbose=False)
    objective = build_objective(data, config)
    batches = ClipBatches(
        data.packed, config.augmentation, channels=config.backbone.channels, stream=config.options.stream
    )
    stages = [(1, config.optimiser.epochs), (2, config.stage2_epochs)]
    resumed_stage = 0 if resume is None else _stage_of(resume)
    for stage, epochs in stages:
        if epochs == 0 or stage < resumed_stage:
            continue
        module = PretrainModule(objective, batches, config, stage)
        trainer = build_trainer(
            out / f"stage{stage}", epochs=epochs, precision=config.precision,
            gradient_clip=config.optimiser.gradient_clip, progress=progress,
        )  # fmt: skip
        trainer.fit(module, ckpt_path=resume if stage == resumed_stage else None, weights_only=True)
        save_model(out / f"stage{stage}.pt", objective.model, _metadata(data.packed, data.texts, config, stage))
    metadata = _metadata(data.packed, data.texts, config, 2 if config.stage2_epochs else 1)
    save_model(out / "model.pt", objective.model, metadata)
    return objective.model.cpu().eval(), metadata


def build_objective(data: PretrainData, config: PretrainConfig) -> Objective:
    """A fresh model and objective for the data."""
    video = None if data.teachers.video is None else data.teachers.video.shape[1]
    text = None if data.teachers.text is None else data.teachers.text.shape[1]
    model = TMOR(config.backbone.build(data.packed.layout.num_joints), config.options, video_dim=video, text_dim=text)
    return Objective(model, len(data.packed), data.teachers, labels=data.packed.label, seed=config.seed)


def _metadata(packed: PackedClips, texts: list[str], config: PretrainConfig, stage: int) -> dict[str, Any]:
    return {
        "layout": packed.layout.name,
        "normalisation": config.normalisation,
        "frames": config.augmentation.frames,
        "sampling": config.augmentation.sampling,
        "persons": config.backbone.persons,
        "held_out": list(config.held_out),
        "view_yaw_degrees": config.augmentation.view_yaw_degrees,
        "stream": config.options.stream,
        "stage": stage,
        "text_teacher": config.text_teacher,
        "video_teacher": config.video_teacher,
        "texts": texts,
        "trained_on": sorted({action_text(packed.label_names[i]) for i in packed.label.unique().tolist() if i >= 0}),
        "clips": len(packed),
    }


def _stage_of(checkpoint: str | Path) -> int:
    for part in Path(checkpoint).resolve().parts[::-1]:
        if part in ("stage1", "stage2"):
            return int(part[-1])
    raise ValueError(f"{checkpoint}: a checkpoint to resume lies in the stage1 or stage2 folder of its run")
