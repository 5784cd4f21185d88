"""Skeleton data: layouts, the clip store, importers, packed clips, sampling and augmentation.

From official files to a training batch:

>>> store = import_penn("labels.tar.xz", "stores/penn")        # once; ClipStore("stores/penn") from then on
>>> clips = prepare(store)                                      # 17 joints, gaps filled, body-normalised
>>> batch = sample_crop(clips, torch.arange(32), 64)            # (32, 2, 64, 17, 1)
"""

from __future__ import annotations

from tmor_fast.data.augment import (
    draw_views,
    jitter,
    mirror,
    project,
    random_mirror,
    random_move,
    random_rotation,
    random_scale,
    random_shift,
    rotate2d,
    rotate3d,
)
from tmor_fast.data.check.paths import check_path
from tmor_fast.data.clip import Clip
from tmor_fast.data.conversion import conversions, convert_joints, register_conversion, to_unik17
from tmor_fast.data.importers import (
    import_bandai,
    import_cmu,
    import_npz,
    import_penn,
    import_pyskl,
    import_unik,
)
from tmor_fast.data.layout import LAYOUTS, SkeletonLayout, get_layout, register_layout
from tmor_fast.data.packed import PackedClips
from tmor_fast.data.prepare import prepare, prepare_batch
from tmor_fast.data.ragged import ClipBatch
from tmor_fast.data.sampling import sample_clips, sample_crop, sample_full, sample_window
from tmor_fast.data.store import ClipStore, ClipStoreWriter
from tmor_fast.data.streams import bone_stream, motion_stream

__all__ = [
    "LAYOUTS",
    "Clip",
    "ClipBatch",
    "ClipStore",
    "ClipStoreWriter",
    "PackedClips",
    "SkeletonLayout",
    "bone_stream",
    "check_path",
    "conversions",
    "convert_joints",
    "draw_views",
    "get_layout",
    "import_bandai",
    "import_cmu",
    "import_npz",
    "import_penn",
    "import_pyskl",
    "import_unik",
    "jitter",
    "mirror",
    "motion_stream",
    "prepare",
    "prepare_batch",
    "project",
    "random_mirror",
    "random_move",
    "random_rotation",
    "random_scale",
    "random_shift",
    "register_conversion",
    "register_layout",
    "rotate2d",
    "rotate3d",
    "sample_clips",
    "sample_crop",
    "sample_full",
    "sample_window",
    "to_unik17",
]
