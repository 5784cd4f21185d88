"""Layouts of annotated and of UNIK's own joints.

- `unik17`: the 17 joints that the released UNIK code makes of every real-world data set.
- `penn13`: the 13 joints that Penn Action's annotators marked (Zhang, Zhu and Derpanis, ICCV 2013).
"""

from __future__ import annotations

from tmor_fast.data.layouts.topology import SkeletonLayout

UNIK17 = SkeletonLayout(
    "unik17",
    (
        *("head", "mouth", "neck", "chest", "mid_hip", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
        *("left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    parents=(-1, 0, 1, 2, 3, 2, 2, 5, 6, 7, 8, 4, 4, 11, 12, 13, 14),
    center=4,
    left_right=((5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
)
PENN13 = SkeletonLayout(
    "penn13",
    (
        *("head", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
        *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    # Penn Action has no trunk joints: shoulders hang from the head, each hip from the shoulder above it.
    parents=(-1, 0, 0, 1, 2, 3, 4, 1, 2, 7, 8, 9, 10),
    center=7,
    left_right=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12)),
)
