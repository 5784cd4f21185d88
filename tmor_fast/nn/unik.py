"""UNIK, the skeleton-motion encoder of T-MOR (Yang et al., BMVC 2021), as released, with its heads fused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

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

    In eval mode an empty person slot is computed once for all clips of a call, and without gradients the batch norms
    are folded into the products before them: the same features but for rounding.

    Args:
        config: what to build, see `UNIKConfig` and `UNIKConfig.preset`.

    Attributes:
        checkpointing: whether training keeps the input of each block alone and computes the rest again in the backward
            pass: less memory for a third more time. False at first.
    """

    def __init__(self, config: UNIKConfig | None = None) -> None:
        super().__init__()
        config = UNIKConfig() if config is None else config
        if not isinstance(config, UNIKConfig):
            raise TypeError(f"UNIK takes a UNIKConfig, e.g. UNIKConfig.preset('unik'); got {type(config).__name__}")
        self.config = config
        self.checkpointing = False
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
        maps, places = self._encode(joints)
        # Averaged in the dtype of the parameters, also under autocast.
        pooled = maps.mean((2, 3), dtype=self.data_bn.weight.dtype)
        persons = _spread(pooled, places).unflatten(0, (joints.shape[0], -1))
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
        maps, places = self._encode(joints)
        pooled = maps.mean(3, dtype=self.data_bn.weight.dtype)
        persons = _spread(pooled, places).unflatten(0, (joints.shape[0], -1))
        frames = (persons * self._person_weights(joints)[:, :, None, None]).sum(1).transpose(1, 2)
        if not upsample:
            return frames
        return F.interpolate(frames.transpose(1, 2), size=joints.shape[2], mode="linear").transpose(1, 2)

    def _encode(self, joints: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, C, T, V, M) to (R, feature_dim, T', V), and which row each of the N * M persons has, None: its own."""
        self._check(joints)
        n, c, t, v, m = joints.shape
        # The norm's channels run persons, joints, coordinates; its batch is every time step.
        steps = joints.to(self.data_bn.weight.dtype).permute(0, 2, 4, 3, 1).reshape(n * t, m * v * c)
        x = self.data_bn(steps).view(n, t, m, v, c).transpose(1, 2).reshape(n * m, t, v, c)
        rows, places = (None, None) if self.training else _distinct_persons(joints)
        x = (x if rows is None else x[rows]).permute(0, 3, 1, 2)
        for block in self.blocks:
            x = self._run(block, x)
        return x, places

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if not (self.checkpointing and self.training and torch.is_grad_enabled()):
            out: Tensor = block(x)
            return out
        kept: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _counted(block)))
        return kept

    def _person_weights(self, joints: Tensor) -> Tensor:
        """(N, M) weights of the persons of each clip, which sum to 1."""
        n, persons = joints.shape[0], joints.shape[4]
        everyone = torch.full((n, persons), 1 / persons, dtype=self.data_bn.weight.dtype, device=joints.device)
        if self.config.person_average == "all":
            return everyone
        present = _present(joints).to(everyone.dtype)
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


def _present(joints: Tensor) -> Tensor:
    """Which slots (N, M) of joints (N, C, T, V, M) hold a person: not all zeros."""
    return (joints != 0).flatten(1, 3).any(1)


def _distinct_persons(joints: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Which persons to compute in eval mode: an empty slot gives the same maps in every clip, so it is computed once.

    Args:
        joints: (N, C, T, V, M).

    Returns:
        rows: (R,) of the N * M persons, those to compute.
        places: (N * M,), the place in `rows` of every person. Both None where nothing is spared, or where the number of
            rows may not depend on the values: in a traced, compiled or captured graph.
    """
    n, persons = joints.shape[0], joints.shape[4]
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    # Fake and meta tensors have no values to ask.
    if n == 1 or traced or type(joints) is not Tensor or joints.is_meta:
        return None, None
    if joints.is_cuda and torch.cuda.is_current_stream_capturing():
        return None, None
    # The gradient of an empty person's joints is its own.
    if joints.requires_grad and torch.is_grad_enabled():
        return None, None
    empty = ~_present(joints)
    own = torch.arange(n * persons, device=joints.device).view(n, persons)
    # An empty slot stands for the empty ones of the same slot: the input norm differs from slot to slot.
    first = torch.where(empty, own, n * persons).amin(0)
    source = torch.where(empty, first, own).flatten()
    rows, places = torch.unique(source, return_inverse=True)
    return (None, None) if len(rows) == n * persons else (rows, places)


def _spread(rows: Tensor, places: Tensor | None) -> Tensor:
    """Every person's row, where some were computed once for all."""
    return rows if places is None else rows[places]


@contextmanager
def _counted(block: nn.Module) -> Iterator[None]:
    """Run `block` a second time: its norms have counted this batch in their running statistics already."""
    norms = [norm for norm in block.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)
