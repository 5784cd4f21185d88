"""The pre-training objective: L_mm + L_mv in stage 1, + L_mt in stage 2, over banks of a whole data set.

Equations (1) to (9) of the T-MOR paper; the loss itself is `tmor_fast.ops.cluster_infonce`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from tmor_fast import ops
from tmor_fast.distributed import gather_rows, world_size
from tmor_fast.nn.banks import FeatureBank, FIFOQueue, SampleBank, has_batch_statistics
from tmor_fast.nn.momentum import MomentumEncoder
from tmor_fast.nn.tmor import TMOR

# Teacher features that go through a head together; the activations of more would take gigabytes.
PROJECTED_AT_ONCE = 65536


@dataclasses.dataclass
class TeacherFeatures:
    """What the frozen teachers say of every sample of the data set.

    Args:
        video: (n, D_V) video embeddings; a row of zeros means that the sample has none.
        text: (U, D_T) embeddings of the distinct texts.
        text_id: (n,) row of `text` for each sample, -1 without text.
    """

    video: Tensor | None = None
    text: Tensor | None = None
    text_id: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.text is None) != (self.text_id is None):
            raise ValueError("TeacherFeatures: text and text_id come together")
        if self.text is not None and self.text_id is not None and int(self.text_id.max()) >= len(self.text):
            raise ValueError(f"TeacherFeatures: text_id reaches {int(self.text_id.max())}, text has {len(self.text)}")


class Objective(nn.Module):
    """Losses of a batch against the banks, and the state that goes with them: key encoder, banks, clusters.

    Every random draw comes from `seed` and the step counter, so a resumed run draws what an unbroken one would.

    Args:
        model: the online model.
        num_samples: n, samples of the data set.
        teachers: frozen embeddings of the samples.
        labels: (n,) action labels, needed only for `stage2_clusters="labels"`.
        seed: of the draws of negatives and positives.
    """

    clusters: Tensor
    step: Tensor
    text_id: Tensor
    has_video: Tensor
    video_rows: Tensor
    text_rows: Tensor

    def __init__(
        self,
        model: TMOR,
        num_samples: int,
        teachers: TeacherFeatures | None = None,
        *,
        labels: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        options = model.options
        if options.symmetric and options.per_loss_heads:
            raise ValueError("symmetric=True needs a shared motion head; set per_loss_heads=False")
        self.model, self.options, self.seed = model, options, seed
        self.key_encoder: MomentumEncoder | None = None
        if options.momentum > 0:
            # The key encoder runs in train mode on its own views, so it keeps its own batch statistics.
            online = (model.backbone, self._motion_head())
            self.key_encoder = MomentumEncoder(*online, momentum=options.momentum, buffers="keep")
        dtype = getattr(torch, options.bank_dtype)
        if options.motion_bank == "sample":
            self.bank: SampleBank | FIFOQueue = SampleBank(num_samples, model.embedding_dim, dtype)
        else:
            self.bank = FIFOQueue(options.num_negatives or num_samples, model.embedding_dim, dtype)
        self.register_buffer("clusters", torch.full((num_samples,), -1, dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.clustered = False
        # DBSCAN radius of the first clustering, kept from then on.
        self.eps: float | None = None
        self.labels = labels
        # Batch normalisation in the heads needs two rows.
        self._fewest = 2 if options.head_batch_norm else 1
        self._attach(teachers or TeacherFeatures(), num_samples)

    def _attach(self, teachers: TeacherFeatures, num_samples: int) -> None:
        has_video = torch.zeros(num_samples, dtype=torch.bool)
        self.video: FeatureBank | None = None
        if teachers.video is not None:
            has_video = teachers.video.any(1)
            self.video = FeatureBank(teachers.video)
        self.register_buffer("has_video", has_video, persistent=False)
        text_id = torch.full((num_samples,), -1) if teachers.text_id is None else teachers.text_id.long()
        self.register_buffer("text_id", text_id, persistent=False)
        # The samples with video and with text: looking for them in a step would wait for the device.
        self.register_buffer("video_rows", has_video.nonzero().squeeze(1), persistent=False)
        self.register_buffer("text_rows", (text_id >= 0).nonzero().squeeze(1), persistent=False)
        self.text = None if teachers.text is None else FeatureBank(teachers.text)
        if self.options.head_batch_norm and self.text is not None and len(self.text) < 2:
            raise ValueError("head_batch_norm needs at least two distinct texts; this data set has one")

    def _motion_head(self) -> nn.Module:
        return self.model.motion_heads["mm" if self.options.per_loss_heads else "motion"]

    def get_extra_state(self) -> dict[str, Any]:
        return {"clustered": self.clustered, "eps": self.eps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.clustered, self.eps = bool(state["clustered"]), state["eps"]

    @torch.no_grad()
    def set_clusters(self, clusters: Tensor | None) -> None:
        """Use `clusters` (n,) int64, -1 for noise, from now on; None goes back to instance discrimination."""
        self.clustered = clusters is not None
        self.clusters.copy_(torch.full_like(self.clusters, -1) if clusters is None else clusters)

    @torch.no_grad()
    def keys(self, joints: Tensor) -> Tensor:
        """Key embeddings (N, d) of clips (N, C, T, V, M): by the EMA encoder, or the online one without gradient."""
        encoder = self.key_encoder
        return self.model.embed_motion(joints, "mm") if encoder is None else encoder(joints)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the key encoder towards the online model; call it after every optimiser step."""
        if self.key_encoder is not None:
            self.key_encoder.update(self.model.backbone, self._motion_head())
        self.model.limit_temperature()
        self.step += 1

    def forward(self, query: Tensor, key: Tensor, index: Tensor, stage: int = 1) -> dict[str, Tensor]:
        """Losses of a batch; the keys then enter the bank.

        Under `torch.distributed` every rank brings its part of the batch, and the keys of all enter the bank of each.
        The averages over ranks of the losses and of the gradients are then those of one process with the whole batch,
        apart from batch statistics, which are a rank's own, and from which positives are drawn.

        Args:
            query: (B, C, T, V, M) view of the samples that gets the gradient.
            key: (B, C, T, V, M) other view of the same samples.
            index: (B,) their places in the data set.
            stage: 1 for L_mm + L_mv (Eq. 5), 2 for L_mm + L_mv + L_mt (Eq. 9).

        Returns:
            "loss" (the sum, with gradient) and its parts "mm", "mv", "mt" as far as the teachers allow.
        """
        features = self.model.backbone.features(query)
        positive = self.keys(key)
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.step))
        clusters = self._stage_clusters(stage)
        whole, _ = gather_rows(index)
        parts = {"mm": self._motion_loss(features, positive, index, whole, clusters, draw)}
        if self.video is not None:
            parts["mv"] = self._video_loss(features, index, whole, clusters, draw)
        if stage == 2 and self.text is not None:
            parts["mt"] = self._text_loss(features, index, whole, clusters, draw)
        self.bank.update(whole, gather_rows(positive)[0], check=False)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def _stage_clusters(self, stage: int) -> Tensor:
        if stage == 2 and self.options.stage2_clusters == "labels":
            if self.labels is None:
                raise ValueError("stage2_clusters='labels' needs the action labels of the data set")
            return self.labels.to(self.clusters.device)
        return self.clusters

    def _draw_rows(self, rows: Tensor, clusters: Tensor, draw: torch.Generator) -> Tensor:
        """Bank rows to compare with: `num_negatives` of the samples `rows`, or all if queries draw."""
        if self._leaves_out("not_negative", clusters):
            rows = rows[clusters[rows] >= 0]
        count = self.options.num_negatives
        if count is None or len(rows) <= count or self.options.negatives == "per_query":
            return rows
        chosen = torch.randperm(len(rows), generator=draw)[:count]
        return rows[chosen.to(rows.device)]

    def _motion_rows(self, clusters: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        if isinstance(self.bank, FIFOQueue):
            ids, keys = self.bank.entries()
            if self._leaves_out("not_negative", clusters):
                keep = clusters[ids] >= 0
                ids, keys = ids[keep], keys[keep]
            return ids, keys
        ids = self._draw_rows(self.bank.filled.nonzero().squeeze(1), clusters, draw)
        return ids, self.bank.gather(ids, check=False)

    def _motion_loss(
        self, features: Tensor, positive: Tensor, index: Tensor, whole: Tensor, clusters: Tensor, draw: torch.Generator
    ) -> Tensor:
        """L_mm (Eq. 1 to 3): the own other view and same-cluster keys against the rest of the bank."""
        query = self.model.project_motion(features, "mm")
        ids, keys = self._motion_rows(clusters, draw)
        instance = self.options.max_positives == 0
        mode = "instance" if instance else self.options.positives
        loss = self._infonce(
            query, keys, positive, index, ids, clusters, mode, None if instance else self.options.max_positives, draw
        )
        return self._average(loss, index, whole, clusters)

    def _video_loss(
        self, features: Tensor, index: Tensor, whole: Tensor, clusters: Tensor, draw: torch.Generator
    ) -> Tensor:
        """L_mv: the embedding of the own video against those of other samples."""
        assert self.video is not None
        assert self.model.video_head is not None
        # Places, not a mask: every use of a mask waits for the device.
        seen = self.has_video[index].nonzero().squeeze(1)
        if len(seen) < self._fewest:
            return features.sum() * 0
        index, query = index[seen], self.model.project_motion(features[seen], "mv")
        rows = self._draw_rows(self.video_rows, clusters, draw)
        grad = self.options.negative_gradient
        # Batch statistics are those of all rows; otherwise a large bank goes through the head in blocks.
        block = None if has_batch_statistics(self.model.video_head) else PROJECTED_AT_ONCE
        keys = self.video.project(rows, self.model.video_head, grad=grad, check=False, block=block)
        own = self.video.project(index, self.model.video_head, check=False)
        whole = index if world_size() == 1 else whole[self.has_video[whole]]
        return self._cross_loss(query, own, keys, index, whole, rows, clusters, draw, None)

    def _text_loss(
        self, features: Tensor, index: Tensor, whole: Tensor, clusters: Tensor, draw: torch.Generator
    ) -> Tensor:
        """L_mt (Eq. 6 to 8): the embedding of the own text against those of other samples."""
        assert self.text is not None
        assert self.model.text_head is not None
        seen = (self.text_id[index] >= 0).nonzero().squeeze(1)
        if len(seen) < self._fewest:
            return features.sum() * 0
        index, query = index[seen], self.model.project_motion(features[seen], "mt")
        rows = self._draw_rows(self.text_rows, clusters, draw)
        # Few distinct texts stand for many samples, so each is projected once.
        every = torch.arange(len(self.text), device=index.device)
        block = None if has_batch_statistics(self.model.text_head) else PROJECTED_AT_ONCE
        projected = self.text.project(every, self.model.text_head, check=False, block=block)
        keys = projected if self.options.negative_gradient else projected.detach()
        captions = self.text_id if self.options.text_negatives == "text_or_cluster" else None
        own = projected[self.text_id[index]]
        whole = index if world_size() == 1 else whole[self.text_id[whole] >= 0]
        return self._cross_loss(query, own, keys[self.text_id[rows]], index, whole, rows, clusters, draw, captions)

    def _cross_loss(
        self,
        query: Tensor,
        own: Tensor,
        keys: Tensor,
        index: Tensor,
        whole: Tensor,
        rows: Tensor,
        clusters: Tensor,
        draw: torch.Generator,
        captions: Tensor | None,
    ) -> Tensor:
        cluster_positives = self.options.cross_positives == "cluster"
        mode, limit = ("sum", self.options.max_positives) if cluster_positives else ("instance", None)
        each = self._infonce(query, keys, own, index, rows, clusters, mode, limit, draw, captions)
        loss = self._average(each, index, whole, clusters)
        if self.options.symmetric and len(index):
            ids, motion = self._motion_rows(clusters, draw)
            back = self._infonce(own, motion, query, index, ids, clusters, mode, limit, draw, captions)
            loss = (loss + self._average(back, index, whole, clusters)) / 2
        return loss

    def _infonce(
        self,
        query: Tensor,
        keys: Tensor,
        positive: Tensor,
        index: Tensor,
        rows: Tensor,
        clusters: Tensor,
        mode: str,
        max_positives: int | None,
        draw: torch.Generator,
        captions: Tensor | None = None,
    ) -> Tensor:
        """Loss (B,) of queries against bank rows, each compared with all rows or with a draw of its own."""
        if len(index) == 0:
            return query.sum(1)
        seed = int(torch.randint(2**31 - 1, (1,), generator=draw))

        def loss(of: slice | Tensor, among: slice | Tensor) -> Tensor:
            return ops.cluster_infonce(
                query[of],
                keys[among],
                positive[of].to(query.dtype),
                query_id=index[of],
                key_id=rows[among],
                query_cluster=clusters[index[of]],
                key_cluster=clusters[rows[among]],
                query_caption=None if captions is None else captions[index[of]],
                key_caption=None if captions is None else captions[rows[among]],
                temperature=self.model.temperature,
                positives=mode,
                denominator=self.options.denominator,
                max_positives=max_positives,
                seed=seed,
            )

        count = self.options.num_negatives
        if self.options.negatives == "shared" or count is None or len(rows) <= count:
            return loss(slice(None), slice(None))
        # Each query draws its own rows: one call a query.
        losses = []
        for i in range(len(index)):
            among = torch.randperm(len(rows), generator=draw)[:count].to(rows.device)
            losses.append(loss(slice(i, i + 1), among))
        return torch.cat(losses)

    def _leaves_out(self, choice: str, clusters: Tensor) -> bool:
        """Whether noise is treated as `choice` says; while nothing is clustered, all would be noise."""
        return self.options.noise == choice and bool((clusters >= 0).any())

    def _average(self, loss: Tensor, index: Tensor, whole: Tensor, clusters: Tensor) -> Tensor:
        """Mean over the samples; with several ranks their average is the mean over `whole`, the samples of all."""
        if self._leaves_out("no_loss", clusters):
            loss, whole = loss[clusters[index] >= 0], whole[clusters[whole] >= 0]
        return loss.sum() * (world_size() / max(len(whole), 1))
