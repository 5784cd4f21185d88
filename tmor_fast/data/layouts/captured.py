"""Layouts of motion capture.

- `bandai21`: Bandai-Namco Research Motiondataset, the joints of its BVH files.
- `cmu31`: the CMU Graphics Lab Motion Capture Database, the root and the 30 bones of its .asf skeletons; a joint is the
  lower end of the bone it is named after.
- `h36m17`: the 17 joints of Human3.6M (Ionescu et al., TPAMI 2014) that its benchmark evaluates, in the order of
  VideoPose3D and of everything that lifts 2D poses after it.
"""

from __future__ import annotations

from tmor_fast.data.layouts.topology import SkeletonLayout

BANDAI21 = SkeletonLayout(
    "bandai21",
    (
        *("Hips", "Spine", "Chest", "Neck", "Head", "Shoulder_L", "UpperArm_L", "LowerArm_L", "Hand_L"),
        *("Shoulder_R", "UpperArm_R", "LowerArm_R", "Hand_R", "UpperLeg_L", "LowerLeg_L", "Foot_L", "Toes_L"),
        *("UpperLeg_R", "LowerLeg_R", "Foot_R", "Toes_R"),
    ),
    parents=(-1, 0, 1, 2, 3, 2, 5, 6, 7, 2, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19),
    center=0,
    left_right=((5, 9), (6, 10), (7, 11), (8, 12), (13, 17), (14, 18), (15, 19), (16, 20)),
)
CMU31 = SkeletonLayout(
    "cmu31",
    (
        *("root", "lhipjoint", "rhipjoint", "lowerback", "lfemur", "rfemur", "upperback", "ltibia", "rtibia"),
        *("thorax", "lfoot", "rfoot", "lowerneck", "lclavicle", "rclavicle", "ltoes", "rtoes", "upperneck"),
        *("lhumerus", "rhumerus", "head", "lradius", "rradius", "lwrist", "rwrist", "lhand", "lthumb", "rhand"),
        *("rthumb", "lfingers", "rfingers"),
    ),
    parents=(
        *(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 10),
        *(11, 12, 13, 14, 17, 18, 19, 21, 22, 23, 23, 24, 24, 25, 27),
    ),
    center=0,
    left_right=(
        *((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (15, 16), (18, 19), (21, 22)),
        *((23, 24), (25, 27), (26, 28), (29, 30)),
    ),
)

H36M17 = SkeletonLayout(
    "h36m17",
    # Officially Hip, RHip, RKnee, RFoot, ..., Spine, Thorax, Neck/Nose, Head: the "foot" is the ankle, "neck_nose" lies
    # at the chin, "head" on top of the skull.
    (
        *("mid_hip", "right_hip", "right_knee", "right_foot", "left_hip", "left_knee", "left_foot", "spine", "thorax"),
        *("neck_nose", "head", "left_shoulder", "left_elbow", "left_wrist"),
        *("right_shoulder", "right_elbow", "right_wrist"),
    ),
    parents=(-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
    center=0,
    left_right=((4, 1), (5, 2), (6, 3), (11, 14), (12, 15), (13, 16)),
)
