"""Pre-training and transfer as Lightning modules, with one function a verb."""

from tmor_fast.data.clip_batches import AugmentationConfig
from tmor_fast.training.config import (
    BackboneConfig,
    FinetuneConfig,
    OptimiserConfig,
    PretrainConfig,
    ProbeConfig,
    load_config,
    preset_names,
)
from tmor_fast.training.finetune import TransferResult, finetune
from tmor_fast.training.pretrain import pretrain, pretrain_on
from tmor_fast.training.probe import probe
from tmor_fast.training.zero_shot import ZeroShotResult, zero_shot

__all__ = [
    "AugmentationConfig",
    "BackboneConfig",
    "FinetuneConfig",
    "OptimiserConfig",
    "PretrainConfig",
    "ProbeConfig",
    "TransferResult",
    "ZeroShotResult",
    "finetune",
    "load_config",
    "preset_names",
    "pretrain",
    "pretrain_on",
    "probe",
    "zero_shot",
]
