"""UNIK, the skeleton-motion encoder of T-MOR (Yang et al., BMVC 2021), as released, with its heads fused."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tmor_fast.nn.unik_blocks import UNIKBlock
from tmor_fast.nn.unik_config import UNIKConfig

__all__ = ["UNIK", "UNIKConfig"]


class UNIK(nn.Module):
    """The released UNIK network: blocks of joint attention and temporal convolution.

    Same function, parameters and initial distribution as the released code; `tmor_fast.nn.unik_checkpoint` moves
    weights both ways. Input is `joints` (N, C, T, V, M): clips, channels, frames, joints, persons. Persons never mix;
    their features are averaged at the end. A missing person is all zeros.

    Joints are cast to the dtype of the parameters. `sum(p.numel() for p in model.parameters())` is the published size
    and includes the released, never used joint biases (170 for 17 joints) with `requires_grad=False`: leave it so
    when unfreezing, or distributed training waits for gradients that never come.

    Args:
        config: what to build, see `UNIKConfig` and `UNIKConfig.preset`.
    """

    def __init__(self, config: UNIKConfig | None = None) -> None:
        super().__init__()
        config = UNIKConfig() if config is None else config
        if not isinstance(config, UNIKConfig):
            raise TypeError(f"UNIK takes a UNIKConfig, e.g. UNIKConfig.preset('unik'); got {type(config).__name__}")
        self.config = config
        self.data_bn = nn.BatchNorm1d(config.persons * config.joints * config.channels)
        blocks = []
        channels = config.channels
        for i, (width, stride, dilation, heads) in enumerate(
            zip(config.widths, config.strides, config.dilations, config.block_heads, strict=True)
        ):
            block = UNIKBlock(
                channels,
                width,
                config.joints,
                heads,
                tau=config.tau,
                stride=stride,
                dilation=dilation,
                residual=i > 0,
                init=config.init,
            )
            blocks.append(block)
            channels = width
        self.blocks = nn.ModuleList(blocks)
        self.classifier: nn.Linear | None = None
        self.reset_classifier(config.num_classes)

    @property
    def feature_dim(self) -> int:
        """The width of a feature."""
        return self.config.widths[-1]

    @property
    def num_classes(self) -> int | None:
        """The outputs of the classifier, None without one."""
        return None if self.classifier is None else self.classifier.out_features

    def reset_classifier(self, num_classes: int | None) -> None:
        """Replace the classifier by a fresh one with `num_classes` outputs, or remove it with None.

        Its weight is drawn from N(0, sqrt(2 / num_classes)) as released. An optimiser made before does not know it.
        """
        if num_classes is None:
            self.classifier = None
            return
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes must be a positive integer or None, got {num_classes!r}")
        weight = self.data_bn.weight
        self.classifier = nn.Linear(self.feature_dim, num_classes, device=weight.device, dtype=weight.dtype)
        nn.init.normal_(self.classifier.weight, std=math.sqrt(2 / num_classes))

    def forward(self, joints: Tensor) -> Tensor:
        """Class scores (N, num_classes), or without a classifier the clip features (N, feature_dim)."""
        features = self.features(joints)
        return features if self.classifier is None else self.classifier(features)

    def features(self, joints: Tensor) -> Tensor:
        """One feature per clip: the mean over frames, joints and persons.

        Args:
            joints: (N, C, T, V, M) floating point.

        Returns:
            (N, feature_dim).

        Raises:
            TypeError: joints are not floating point.
            ValueError: the shape does not fit the configuration, or there is no clip or frame.
        """
        # Averaged in the dtype of the parameters, also under autocast.
        persons = self._encode(joints).mean((3, 4), dtype=self.data_bn.weight.dtype)
        return (persons * self._person_weights(joints)[:, :, None]).sum(1)

    def frame_features(self, joints: Tensor, *, upsample: bool = False) -> Tensor:
        """One feature per output frame: the mean over joints and persons.

        Args:
            joints: (N, C, T, V, M) floating point.
            upsample: interpolate linearly back to the T frames of the input.

        Returns:
            (N, T', feature_dim) with T' = `config.output_frames(T)`, or (N, T, feature_dim).

        Raises:
            TypeError, ValueError: as `features`.
        """
        persons = self._encode(joints).mean(4, dtype=self.data_bn.weight.dtype)
        frames = (persons * self._person_weights(joints)[:, :, None, None]).sum(1).transpose(1, 2)
        if not upsample:
            return frames
        return F.interpolate(frames.transpose(1, 2), size=joints.shape[2], mode="linear").transpose(1, 2)

    def _encode(self, joints: Tensor) -> Tensor:
        """(N, C, T, V, M) to (N, M, feature_dim, T', V)."""
        self._check(joints)
        n, c, t, v, m = joints.shape
        # The norm's channels run persons, joints, coordinates; its batch is every time step.
        steps = joints.to(self.data_bn.weight.dtype).permute(0, 2, 4, 3, 1).reshape(n * t, m * v * c)
        x = self.data_bn(steps).view(n, t, m, v, c).transpose(1, 2).reshape(n * m, t, v, c)
        x = x.permute(0, 3, 1, 2)
        for block in self.blocks:
            x = block(x)
        return x.unflatten(0, (n, m))

    def _person_weights(self, joints: Tensor) -> Tensor:
        """(N, M) weights of the persons of each clip, which sum to 1."""
        n, persons = joints.shape[0], joints.shape[4]
        everyone = torch.full((n, persons), 1 / persons, dtype=self.data_bn.weight.dtype, device=joints.device)
        if self.config.person_average == "all":
            return everyone
        present = (joints != 0).flatten(1, 3).any(1).to(everyone.dtype)
        count = present.sum(1, keepdim=True)
        # A clip without any person keeps the released average, so that it has a finite feature.
        return torch.where(count > 0, present / count.clamp(min=1), everyone)

    def _check(self, joints: Tensor) -> None:
        expected = (self.config.channels, self.config.joints, self.config.persons)
        wanted = "(N, C={}, T, V={}, M={}): clips, channels, frames, joints, persons".format(*expected)
        if not isinstance(joints, Tensor):
            raise TypeError(f"joints must be a tensor {wanted}; got {type(joints).__name__}")
        if joints.dim() != 5:
            raise ValueError(f"joints must be {wanted}; got {joints.dim()} axes, shape {tuple(joints.shape)}")
        if (joints.shape[1], joints.shape[3], joints.shape[4]) != expected:
            raise ValueError(
                f"joints must be {wanted}; got shape {tuple(joints.shape)}. Convert the skeleton layout, add or drop "
                "person slots, or build the model with matching channels, joints and persons"
            )
        if joints.shape[0] == 0 or joints.shape[2] == 0:
            raise ValueError(f"joints need at least one clip and one frame; got shape {tuple(joints.shape)}")
        if not joints.is_floating_point():
            raise TypeError(f"joints must be floating point, e.g. joints.float(); got {joints.dtype}")
