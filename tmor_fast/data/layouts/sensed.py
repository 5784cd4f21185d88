"""Layouts of depth cameras.

- `kinect20`: first Kinect, the enumeration NUI_SKELETON_POSITION_INDEX of its SDK (1.x).
- `ntu25`: second Kinect as NTU RGB+D numbers its joints (Shahroudy et al., CVPR 2016, figure 1; there from 1, here from
  0). That is the order of JointType in the Kinect SDK 2.0. The bones are those of the released UNIK code, which are
  those of 2s-AGCN: everything hangs from the spine at the shoulders, and a hand from its arm, the thumb from the hand,
  the tip from the thumb.
"""

from __future__ import annotations

from tmor_fast.data.layouts.topology import SkeletonLayout

KINECT20 = SkeletonLayout(
    "kinect20",
    (
        *("hip_center", "spine", "shoulder_center", "head", "left_shoulder", "left_elbow", "left_wrist", "left_hand"),
        *("right_shoulder", "right_elbow", "right_wrist", "right_hand", "left_hip", "left_knee", "left_ankle"),
        *("left_foot", "right_hip", "right_knee", "right_ankle", "right_foot"),
    ),
    parents=(-1, 0, 1, 2, 2, 4, 5, 6, 2, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18),
    center=0,
    left_right=((4, 8), (5, 9), (6, 10), (7, 11), (12, 16), (13, 17), (14, 18), (15, 19)),
)
NTU25 = SkeletonLayout(
    "ntu25",
    (
        *("spine_base", "spine_mid", "neck", "head", "left_shoulder", "left_elbow", "left_wrist", "left_hand"),
        *("right_shoulder", "right_elbow", "right_wrist", "right_hand", "left_hip", "left_knee", "left_ankle"),
        *("left_foot", "right_hip", "right_knee", "right_ankle", "right_foot", "spine_shoulder"),
        *("left_hand_tip", "left_thumb", "right_hand_tip", "right_thumb"),
    ),
    parents=(1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, -1, 22, 7, 24, 11),
    center=0,
    left_right=(
        *((4, 8), (5, 9), (6, 10), (7, 11), (12, 16), (13, 17), (14, 18), (15, 19)),
        *((21, 23), (22, 24)),
    ),
)
