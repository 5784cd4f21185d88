"""Frame-wise recognition: a class score for every frame of a window (action detection)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tmor_fast.nn.unik import UNIK


class FrameClassifier(nn.Module):
    """An encoder whose frame features, brought back to the input's frame rate, are classified one by one.

    Args:
        backbone: the encoder.
        num_classes: K; for softmax with a background class count it too (PKU-MMD: 52).
        head: "fc" is one linear layer of feature_dim * K + K parameters (the papers' parameter counts), "tcn" the
            dilated temporal convolutions of the released detection code: 1x1 to twice the width, five residual layers
            (kernel 3, dilation 1, 2, 4, 8, 16, dropout 0.5), 1x1 to K.

    Raises:
        ValueError: an unknown head or no class.
    """

    def __init__(self, backbone: UNIK, num_classes: int, head: Literal["fc", "tcn"] = "fc") -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"FrameClassifier: num_classes must be at least 1, got {num_classes}")
        if head not in ("fc", "tcn"):
            raise ValueError(f"FrameClassifier: head must be 'fc' or 'tcn', got {head!r}")
        self.backbone = backbone
        width = backbone.feature_dim
        self.head: nn.Module
        if head == "fc":
            self.head = nn.Conv1d(width, num_classes, 1)
        else:
            layers = [_DilatedResidual(2 * width, dilation) for dilation in (1, 2, 4, 8, 16)]
            self.head = nn.Sequential(nn.Conv1d(width, 2 * width, 1), *layers, nn.Conv1d(2 * width, num_classes, 1))

    def forward(self, joints: Tensor) -> Tensor:
        """Scores (N, T, K), one for every input frame.

        Args:
            joints: (N, C, T, V, M).
        """
        features = self.backbone.frame_features(joints, upsample=True)
        scores: Tensor = self.head(features.transpose(1, 2))
        return scores.transpose(1, 2)


class _DilatedResidual(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.dropout(self.mix(torch.relu(self.dilated(x))), 0.5, self.training)
