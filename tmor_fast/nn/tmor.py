"""The T-MOR model: a motion encoder and the heads that bring motion, video and text into one space."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tmor_fast.nn.detection import FrameClassifier
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.projection import ProjectionHead
from tmor_fast.nn.unik import UNIK
from tmor_fast.nn.unik_config import UNIKConfig

# The losses in the order of the paper: motion-motion, motion-video, motion-text.
LOSSES = ("mm", "mv", "mt")

# Below 0.01 the softmax saturates, above 1 it tells nothing apart.
TEMPERATURE_RANGE = (0.01, 1.0)


class TMOR(nn.Module):
    """Motion encoder E_M with projection heads phi_M, phi_V, phi_T (T-MOR, Eq. 4).

    The teachers E_V and E_T are frozen and live outside: this model sees their embeddings alone, and needs neither
    them nor their heads to recognise actions from skeletons.

    Args:
        backbone: configuration of the UNIK encoder.
        options: the method's options; the heads are built from them.
        video_dim: dimension of the video teacher's embeddings, None without one.
        text_dim: dimension of the text teacher's embeddings, None without one.
    """

    def __init__(
        self,
        backbone: UNIKConfig,
        options: TMOROptions | None = None,
        *,
        video_dim: int | None = None,
        text_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.options = options or TMOROptions()
        self.video_dim, self.text_dim = video_dim, text_dim
        self.backbone = UNIK(backbone)
        names = LOSSES if self.options.per_loss_heads else ("motion",)
        self.motion_heads = nn.ModuleDict({name: self._head(self.backbone.feature_dim) for name in names})
        self.video_head = None if video_dim is None else self._head(video_dim)
        self.text_head = None if text_dim is None else self._head(text_dim)
        if self.options.head_layers == 0:
            self._check_equal_dims()
        start = torch.tensor(math.log(self.options.temperature))
        if self.options.learn_temperature:
            low, high = TEMPERATURE_RANGE
            if not low <= self.options.temperature <= high:
                raise ValueError(
                    f"a learned temperature starts between {low} and {high}, got {self.options.temperature}"
                )
            self.log_temperature = nn.Parameter(start)
        else:
            self.register_buffer("log_temperature", start)

    def _head(self, in_dim: int) -> ProjectionHead:
        o = self.options
        hidden = in_dim if o.head_hidden is None else o.head_hidden
        return ProjectionHead(in_dim, hidden, o.embedding_dim, o.head_layers, o.head_batch_norm)

    def _check_equal_dims(self) -> None:
        for name, dim in (("video", self.video_dim), ("text", self.text_dim)):
            if dim is not None and dim != self.backbone.feature_dim:
                raise ValueError(
                    f"head_layers=0 compares raw embeddings, so they must have one dimension: motion has "
                    f"{self.backbone.feature_dim}, {name} has {dim}; use head_layers >= 1"
                )

    @property
    def embedding_dim(self) -> int:
        """Dimension of the shared space."""
        return next(iter(self.motion_heads.values())).out_dim  # type: ignore[return-value]

    @property
    def temperature(self) -> Tensor | float:
        """The softmax temperature: a tensor with gradient if it is learned, else a number."""
        if self.options.learn_temperature:
            return self.log_temperature.exp()
        return self.options.temperature

    @torch.no_grad()
    def limit_temperature(self) -> None:
        """Bring a learned temperature back into `TEMPERATURE_RANGE`; call it after every optimiser step."""
        if self.options.learn_temperature:
            low, high = TEMPERATURE_RANGE
            self.log_temperature.clamp_(math.log(low), math.log(high))

    def frame_classifier(self, num_classes: int) -> FrameClassifier:
        """The encoder with the frame-wise head that `options.detection_head` names; shares the encoder's weights."""
        return FrameClassifier(self.backbone, num_classes, self.options.detection_head)

    def project_motion(self, features: Tensor, loss: str = "mt") -> Tensor:
        """Unit embeddings (N, d) of backbone features (N, F); `loss` picks the head where each loss has its own."""
        name = loss if self.options.per_loss_heads else "motion"
        return self.motion_heads[name](features)

    def embed_motion(self, joints: Tensor, loss: str = "mt") -> Tensor:
        """Unit embeddings (N, d) of clips.

        Args:
            joints: (N, C, T, V, M), normalised as in training.
            loss: "mm", "mv" or "mt": the head to use where each loss has its own.
        """
        return self.project_motion(self.backbone.features(joints), loss)

    def embed_video(self, features: Tensor) -> Tensor:
        """Unit embeddings (N, d) of the video teacher's embeddings (N, video_dim).

        Raises:
            ValueError: the model was built without a video teacher.
        """
        if self.video_head is None:
            raise ValueError("this model was trained without a video teacher; it has no video head")
        return self.video_head(features)

    def embed_text(self, features: Tensor) -> Tensor:
        """Unit embeddings (N, d) of the text teacher's embeddings (N, text_dim).

        Raises:
            ValueError: the model was built without a text teacher.
        """
        if self.text_head is None:
            raise ValueError("this model was trained without text; zero-shot needs a checkpoint of stage 2")
        return self.text_head(features)
