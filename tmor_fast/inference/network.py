"""One trained network and the way from clips to its features: that of training and evaluation, imported from there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches
from tmor_fast.data.layout import SkeletonLayout
from tmor_fast.data.packed import PackedClips
from tmor_fast.data.prepare import prepare_batch
from tmor_fast.data.ragged import ClipBatch, pad_persons
from tmor_fast.evaluation.features import embed_in_batches
from tmor_fast.inference.settings import TrainedWith
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik import UNIK
from tmor_fast.nn.unik_config import UNIKConfig

# The share of the circle of directions at which a clip is seen along its z axis, from the front.
FRONT = 0.5


class Network:
    """An encoder with a classifier, or a T-MOR model, and how its clips are prepared.

    Args:
        module: in eval mode, where it is to run.
        settings: of its training.
    """

    def __init__(self, module: TMOR | UNIK, settings: TrainedWith) -> None:
        self.module, self.settings = module, settings

    @property
    def encoder(self) -> UNIK:
        """The motion encoder."""
        return self.module.backbone if isinstance(self.module, TMOR) else self.module

    @property
    def config(self) -> UNIKConfig:
        """Of the encoder."""
        return self.encoder.config

    def features(
        self,
        batch: ClipBatch,
        layout: SkeletonLayout,
        named: list[bool],
        views: int,
        batch_size: int,
        min_confidence: float,
    ) -> Tensor:
        """Pooled features (views, n, F) float32 of clips, as `tmor_fast.training` computes them for its tests.

        Args:
            batch: n clips of `layout`.
            layout: their skeleton.
            named: which clips have a name of their own. Where a 2D network sees a 3D clip, the name fixes the
                direction as in evaluation; a clip without is seen from the front first.
            views: directions from which a 3D clip is seen.
            batch_size: clips at a time in the network.
            min_confidence: joints below count as not seen.
        """
        packed = self._pack(batch, layout, min_confidence)
        inputs = _Inputs(packed, named, self.settings, self.config.channels)
        rows = [embed_in_batches(self.module, inputs, view=view, batch_size=batch_size) for view in range(views)]
        return torch.stack(rows)

    def _pack(self, batch: ClipBatch, layout: SkeletonLayout, min_confidence: float) -> PackedClips:
        target, slots, count = self.settings.layout, self.config.persons, len(batch)
        joints, valid = prepare_batch(batch, layout, target, self.settings.normalisation, min_confidence)
        nothing = [""] * count
        return PackedClips(
            joints=torch.from_numpy(pad_persons(joints[:, :slots], slots)),
            valid=torch.from_numpy(pad_persons(valid[:, :slots], slots)),
            offsets=torch.from_numpy(batch.offsets),
            label=torch.full((count,), -1),
            planar=torch.full((count,), joints.shape[-1] == 2),
            clip_ids=batch.clip_id,
            captions=nothing, splits=nothing, subjects=nothing, views=nothing,
            label_names=[],
            layout=target,
        )  # fmt: skip

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Class scores (n, K) float32 on the CPU, of features (views, n, F) averaged over the views."""
        classifier = self.encoder.classifier
        assert classifier is not None
        rows = features.mean(0)
        return classifier(rows.to(classifier.weight)).float().cpu()

    @torch.no_grad()
    def projections(self, features: Tensor) -> Tensor:
        """Embeddings (n, d) float32 on the CPU in the space of the text, averaged over the views."""
        assert isinstance(self.module, TMOR)
        module = self.module
        return torch.stack([module.project_motion(rows).float().cpu() for rows in features]).mean(0)


class _Inputs(ClipBatches):
    """The inputs of evaluation; a clip that nobody named has no direction of its own and is seen from the front."""

    def __init__(self, packed: PackedClips, named: list[bool], settings: TrainedWith, channels: int) -> None:
        sampling: Any = settings.sampling
        seen = AugmentationConfig(frames=settings.frames, sampling=sampling, view_yaw_degrees=settings.view_yaw_degrees)
        super().__init__(packed, seen, channels=channels, stream=settings.stream)
        self._view[~torch.tensor(named, dtype=torch.bool)] = FRONT
