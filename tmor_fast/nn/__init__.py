"""UNIK, projection heads, embedding banks, contrastive losses, the T-MOR model and its pre-training objective."""

from tmor_fast.distributed import gather_rows
from tmor_fast.nn.banks import FeatureBank, FIFOQueue, SampleBank
from tmor_fast.nn.checkpoint import load_checkpoint, load_classifier, load_model, save_classifier, save_model
from tmor_fast.nn.clip_loss import ClipLoss
from tmor_fast.nn.contrastive import InfoNCELoss, NTXentLoss, SupConLoss
from tmor_fast.nn.detection import FrameClassifier
from tmor_fast.nn.for_inference import for_inference
from tmor_fast.nn.momentum import MomentumEncoder, ema_update
from tmor_fast.nn.objective import Objective, TeacherFeatures
from tmor_fast.nn.options import TMOROptions, option_table
from tmor_fast.nn.projection import ProjectionHead
from tmor_fast.nn.sharded_bank import ShardedBank
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik import UNIK
from tmor_fast.nn.unik_checkpoint import config_from_official, load_official, to_official
from tmor_fast.nn.unik_config import UNIKConfig

__all__ = [
    "TMOR",
    "UNIK",
    "ClipLoss",
    "FIFOQueue",
    "FeatureBank",
    "FrameClassifier",
    "InfoNCELoss",
    "MomentumEncoder",
    "NTXentLoss",
    "Objective",
    "ProjectionHead",
    "SampleBank",
    "ShardedBank",
    "SupConLoss",
    "TMOROptions",
    "TeacherFeatures",
    "UNIKConfig",
    "config_from_official",
    "ema_update",
    "for_inference",
    "gather_rows",
    "load_checkpoint",
    "load_classifier",
    "load_model",
    "load_official",
    "option_table",
    "save_classifier",
    "save_model",
    "to_official",
]
