"""Layouts of 2D (and lifted) pose estimators.

- `coco17`: keypoints of COCO (`categories.keypoints` of its annotation files); HRNet, RTMPose, Detectron2, UAV-Human.
- `openpose18`, `openpose25`: models COCO and BODY_25 of OpenPose (its doc/02_output.md and poseParameters.cpp). Their
  "neck" is the middle of the shoulders, their "mid_hip" that of the hips. `openpose18` is also Kinetics-skeleton's.
- `mediapipe33`: MediaPipe Pose, the enumeration PoseLandmark. Its connections are no tree (a face, a mouth and hands in
  rings); the parents here are a tree over them.
"""

from __future__ import annotations

from tmor_fast.data.layouts.topology import SkeletonLayout

COCO17 = SkeletonLayout(
    "coco17",
    (
        *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
        *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee"),
        *("left_ankle", "right_ankle"),
    ),
    parents=(-1, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
    center=11,
    left_right=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
)
OPENPOSE18 = SkeletonLayout(
    "openpose18",
    (
        *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist"),
        *("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
        *("right_eye", "left_eye", "right_ear", "left_ear"),
    ),
    parents=(1, -1, 1, 2, 3, 1, 5, 6, 1, 8, 9, 1, 11, 12, 0, 0, 14, 15),
    center=1,
    left_right=((5, 2), (6, 3), (7, 4), (11, 8), (12, 9), (13, 10), (15, 14), (17, 16)),
)
OPENPOSE25 = SkeletonLayout(
    "openpose25",
    (
        *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist"),
        *("mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
        *("right_eye", "left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel"),
        *("right_big_toe", "right_small_toe", "right_heel"),
    ),
    parents=(1, -1, 1, 2, 3, 1, 5, 6, 1, 8, 9, 10, 8, 12, 13, 0, 0, 15, 16, 14, 19, 14, 11, 22, 11),
    center=8,
    left_right=(
        *((5, 2), (6, 3), (7, 4), (12, 9), (13, 10), (14, 11), (16, 15), (18, 17)),
        *((19, 22), (20, 23), (21, 24)),
    ),
)
MEDIAPIPE33 = SkeletonLayout(
    "mediapipe33",
    (
        *("nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer"),
        *("left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow"),
        *("right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index"),
        *("left_thumb", "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
        *("right_ankle", "left_heel", "right_heel", "left_foot_index", "right_foot_index"),
    ),
    # The trunk's connections are a ring; as in coco17 the shoulders hang from the nose and each hip from its shoulder.
    parents=(
        *(-1, 0, 1, 2, 0, 4, 5, 3, 6, 0, 0, 0, 0, 11, 12, 13, 14, 15, 16, 15, 16, 15, 16),
        *(11, 12, 23, 24, 25, 26, 27, 28, 29, 30),
    ),
    center=23,
    left_right=(
        *((1, 4), (2, 5), (3, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16), (17, 18), (19, 20), (21, 22)),
        *((23, 24), (25, 26), (27, 28), (29, 30), (31, 32)),
    ),
)
