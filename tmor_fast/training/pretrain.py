"""Pre-training: stage 1 (L_mm + L_mv) and stage 2 (+ L_mt), with a clustering after every epoch."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from tmor_fast.atomic import space_for
from tmor_fast.data.clip_batches import ClipBatches
from tmor_fast.data.packed import PackedClips
from tmor_fast.errors import DataError
from tmor_fast.evaluation.features import embed_in_batches
from tmor_fast.evaluation.zero_shot import action_text
from tmor_fast.nn.checkpoint import save_model
from tmor_fast.nn.objective import Objective
from tmor_fast.nn.tmor import TMOR
from tmor_fast.training.batches import shuffled_loader
from tmor_fast.training.clustering import Clustering, cluster_embeddings
from tmor_fast.training.config import PretrainConfig, save_config
from tmor_fast.training.datasets import PretrainData, load_pretrain_data
from tmor_fast.training.optimiser import build_optimiser
from tmor_fast.training.recording import record_clustering, record_stores
from tmor_fast.training.run_record import RunRecord, begin, check_record, fingerprint, make_record, read_record
from tmor_fast.training.run_state import RunState
from tmor_fast.training.trainer import build_trainer, fit

# Files that a run ends with.
RESULTS = ("stage1.pt", "stage2.pt", "model.pt")


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
        # What the clustering at the end of an epoch adds to the epoch's row of the table.
        self.epoch_metrics: dict[str, float] = {}

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

    def training_step(self, index: Tensor, _: int) -> dict[str, Tensor]:
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
            terms = [name for name, value in losses.items() if name != "loss" and not torch.isfinite(value)]
            raise self._diverged(f"loss ({' and '.join(terms) or 'the sum of ' + ', '.join(losses)})")
        shown = {name: value.detach() for name, value in losses.items()}
        self.log_dict(shown, prog_bar=True, logger=False, batch_size=len(index))
        return losses

    def _diverged(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"training diverged: {what} not finite at stage {self.stage}, step {self.global_step}; "
            "lower optimiser.rate or set optimiser.gradient_clip=1. Checkpoints of earlier steps are whole"
        )

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        # Here, not at the end of the batch: a checkpoint after the step has the key encoder of after the step.
        self.objective.after_step()

    def on_train_epoch_end(self) -> None:
        self.epoch_metrics = {}
        if self.stage == 2 and self.config.options.stage2_clusters == "labels":
            return
        done = self.current_epoch + 1
        past_warmup = self.stage == 2 or done >= self.config.options.warmup_epochs
        if past_warmup and done % self.config.options.cluster_every == 0:
            self._cluster()

    def _find_clusters(self) -> Clustering:
        options = self.config.options
        embeddings = embed_in_batches(self.objective.model, self.batches, kind=options.cluster_input)
        started = time.perf_counter()
        found = cluster_embeddings(embeddings, options, None if options.refresh_eps else self.objective.eps)
        # To the loggers alone: the tables of a run that was resumed are those of one that was not, times are not.
        for logger in self.trainer.loggers:
            logger.log_metrics({"clustering_seconds": time.perf_counter() - started}, step=self.global_step)
        if found.labels is not None:
            # The radius of an unusable clustering would be kept for good.
            self.objective.eps = found.eps
        self.history.append(found)
        self._record(embeddings, found)
        return found

    def _record(self, embeddings: Tensor, found: Clustering) -> None:
        # Without loggers the run keeps nothing.
        if self.trainer.loggers and self.trainer.is_global_zero:
            record_clustering(
                Path(str(self.trainer.loggers[0].log_dir)) / "clusters.npz", embeddings, found,
                self.batches.packed.clip_ids, min_samples=self.config.options.min_samples,
                epoch=self.current_epoch if self.global_step else -1,
            )  # fmt: skip

    def _cluster(self) -> None:
        found = self._find_clusters()
        self.objective.set_clusters(None if found.labels is None else found.labels.to(self.device))
        self.epoch_metrics = {
            "clusters": float(found.clusters),
            "noise_share": found.noise_share,
            "largest_cluster_share": found.largest_share,
            "eps": found.eps,
        }
        if found.warning:
            warnings.warn(f"epoch {self.current_epoch}: {found.warning}", stacklevel=1)


def pretrain(
    stores: Sequence[str | Path],
    out: str | Path,
    config: PretrainConfig,
    *,
    resume: str | Path | bool | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[TMOR, dict[str, Any]]:
    """Pre-train T-MOR and write `model.pt`, `config.yaml`, logs and checkpoints to a run folder.

    A run that was killed and goes on (`resume=True`) ends with the same losses, weights, banks and clusters as one that
    was not, on a CPU with the same number of threads to the last bit.

    Args:
        stores: clip stores to train on, together.
        out: the run folder.
        config: everything else.
        resume: True goes on from the newest whole checkpoint of the run, or starts it where there is none yet; a path
            goes on from that checkpoint.
        overwrite: replace a run that is in the folder.
        progress: show progress bars.

    Returns:
        The trained model in eval mode, and the metadata saved with it.

    Raises:
        DataError: the data cannot be used, or the checkpoint is damaged or belongs to another run.
        ValueError: stage 2 is asked for and no clip has text, or a batch is larger than the data.
        FileExistsError: the folder holds a run, and neither `resume` nor `overwrite` is given.
        DiskFullError: there is no space left; earlier checkpoints are whole.
        FloatingPointError: training diverged.
    """
    data = load_pretrain_data(stores, config, progress=progress)
    trained = pretrain_on(data, out, config, resume=resume, overwrite=overwrite, progress=progress)
    record_stores(out, stores)
    return trained


def pretrain_on(
    data: PretrainData,
    out: str | Path,
    config: PretrainConfig,
    *,
    resume: str | Path | bool | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[TMOR, dict[str, Any]]:
    """`pretrain` on data that is already in memory."""
    check_data(data, config)
    out = Path(out)
    with space_for(out):
        stages = {1: config.optimiser.epochs, 2: config.stage2_epochs}
        found = fingerprint(data.packed, data.teachers)
        records = {stage: make_record("pretrain", f"stage{stage}", config, found) for stage in stages}
        checkpoint = begin(out, [record.part for record in records.values()], RESULTS, resume, overwrite)
        resumed = 0 if checkpoint is None else _resumed_stage(checkpoint, records)
        save_config(out, config)
        L.seed_everything(config.seed, verbose=False)
        objective = build_objective(data, config)
        batches = ClipBatches(
            data.packed, config.augmentation, channels=config.backbone.channels, stream=config.options.stream
        )
        for stage, epochs in stages.items():
            if epochs == 0 or stage < resumed:
                continue
            module = PretrainModule(objective, batches, config, stage)
            state = RunState(
                out / f"stage{stage}", records[stage], config.checkpoints, checkpoint if stage == resumed else None
            )
            trainer = build_trainer(
                state, epochs=epochs, precision=config.precision, gradient_clip=config.optimiser.gradient_clip,
                progress=progress,
            )  # fmt: skip
            fit(trainer, module, state.resumed)
            save_model(out / f"stage{stage}.pt", objective.model, _metadata(data.packed, data.texts, config, stage))
        metadata = _metadata(data.packed, data.texts, config, 2 if config.stage2_epochs else 1)
        save_model(out / "model.pt", objective.model, metadata)
    return objective.model.cpu().eval(), metadata


def check_data(data: PretrainData, config: PretrainConfig) -> None:
    """Refuse data that a run cannot train on, before anything is written.

    Raises:
        DataError: fewer than two clips.
        ValueError: stage 2 without any text, or a batch larger than the data.
    """
    clips, batch = len(data.packed), config.optimiser.batch_size
    if clips < 2:
        raise DataError(f"{clips} clip to train on; contrastive training compares clips, it needs at least two")
    if batch > clips:
        raise ValueError(
            f"optimiser.batch_size={batch}, and there are {clips} clips to train on (the learning rate is meant for "
            f"full batches); set optimiser.batch_size to at most {clips}"
        )
    if config.stage2_epochs and data.teachers.text is None:
        raise ValueError(
            "stage 2 aligns motion with text, and no clip has any; set stage2_epochs=0, or choose a text_teacher "
            "and leave at least one data set out of 'unlabelled'"
        )


def _resumed_stage(checkpoint: Path, records: dict[int, RunRecord]) -> int:
    found = read_record(checkpoint)
    stage = next((stage for stage, record in records.items() if record.part == found["part"]), 1)
    check_record(checkpoint, found, records[stage])
    return stage


def build_objective(data: PretrainData, config: PretrainConfig) -> Objective:
    """A fresh model and objective for the data."""
    video = None if data.teachers.video is None else data.teachers.video.shape[1]
    text = None if data.teachers.text is None else data.teachers.text.shape[1]
    model = TMOR(config.backbone.build(data.packed.layout.num_joints), config.options, video_dim=video, text_dim=text)
    model.backbone.checkpointing = config.checkpointing
    return Objective(model, len(data.packed), data.teachers, labels=data.packed.label, seed=config.seed)


def _metadata(packed: PackedClips, texts: list[str], config: PretrainConfig, stage: int) -> dict[str, Any]:
    return {
        "layout": packed.layout.name,
        "skeleton": packed.layout.to_dict(),
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
