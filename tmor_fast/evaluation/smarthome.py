"""Toyota Smarthome: cross-subject (CS) and cross-view (CV1, CV2) protocols.

A file name `Cook.Cleandishes_p02_r00_v02_c03.mp4` carries the class, the subject (p) and the camera (c). The metric is
the mean per-class accuracy; `classification_report(..., class_average="all")` divides by the fixed number of classes
as the official script does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tmor_fast.errors import DataError
from tmor_fast.evaluation.protocols import Protocol, Role

# CS in the order of the released UNIK scripts, so that their 31-way classifiers fit; Usetelephone precedes Usetablet.
CS_CLASSES = (
    "Cook.Cleandishes", "Cook.Cleanup", "Cook.Cut", "Cook.Stir", "Cook.Usestove", "Cutbread", "Drink.Frombottle",
    "Drink.Fromcan", "Drink.Fromcup", "Drink.Fromglass", "Eat.Attable", "Eat.Snack", "Enter", "Getup", "Laydown",
    "Leave", "Makecoffee.Pourgrains", "Makecoffee.Pourwater", "Maketea.Boilwater", "Maketea.Insertteabag",
    "Pour.Frombottle", "Pour.Fromcan", "Pour.Fromkettle", "Readbook", "Sitdown", "Takepills", "Uselaptop",
    "Usetelephone", "Usetablet", "Walk", "WatchTV",
)  # fmt: skip
CV_CLASSES = (
    "Cutbread", "Drink.Frombottle", "Drink.Fromcan", "Drink.Fromcup", "Drink.Fromglass", "Eat.Attable", "Eat.Snack",
    "Enter", "Getup", "Leave", "Pour.Frombottle", "Pour.Fromcan", "Readbook", "Sitdown", "Takepills", "Uselaptop",
    "Usetablet", "Usetelephone", "Walk",
)  # fmt: skip

CS_TRAIN_SUBJECTS = frozenset({3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25})
CV1_TRAIN_CAMERAS = frozenset({1})
CV2_TRAIN_CAMERAS = frozenset({1, 3, 4, 6, 7})
CV_TEST_CAMERAS = frozenset({2})

_NAME = re.compile(r"(?:.*[/\\])?(?P<action>[A-Za-z.]+)_p(?P<subject>\d+)_r\d+_v\d+_c(?P<camera>\d+)(?:\.\w+)?")


@dataclass(frozen=True)
class SmarthomeName:
    """What a Smarthome file name says."""

    action: str
    subject: int
    camera: int


def parse_name(clip: str) -> SmarthomeName:
    """Class, subject and camera of a clip from its file name (folder and extension are ignored).

    Raises:
        DataError: the name does not follow the pattern, or the class is none of the 31.
    """
    match = _NAME.fullmatch(clip)
    if match is None:
        raise DataError(f"clip {clip!r}: expected a Smarthome name like Cook.Cleandishes_p02_r00_v02_c03")
    if match["action"] not in CS_CLASSES:
        raise DataError(f"clip {clip!r}: {match['action']!r} is none of Smarthome's 31 classes")
    return SmarthomeName(match["action"], int(match["subject"]), int(match["camera"]))


def _action(clip: str) -> str:
    return parse_name(clip).action


def _cross_subject(clip: str) -> Role:
    return "train" if parse_name(clip).subject in CS_TRAIN_SUBJECTS else "test"


def _cross_view(clip: str, train_cameras: frozenset[int]) -> Role:
    name = parse_name(clip)
    if name.action not in CV_CLASSES:
        return ""
    if name.camera in train_cameras:
        return "train"
    return "test" if name.camera in CV_TEST_CAMERAS else ""


def _cross_view_1(clip: str) -> Role:
    return _cross_view(clip, CV1_TRAIN_CAMERAS)


def _cross_view_2(clip: str) -> Role:
    return _cross_view(clip, CV2_TRAIN_CAMERAS)


PROTOCOLS = (
    Protocol(
        "smarthome_cs", "mean_per_class", "clip_ids", _cross_subject, CS_CLASSES, _action,
        "11 subjects train, the others test, 31 classes",
    ),
    Protocol(
        "smarthome_cv1", "mean_per_class", "clip_ids", _cross_view_1, CV_CLASSES, _action,
        "camera 1 trains, camera 2 tests, 19 classes",
    ),
    Protocol(
        "smarthome_cv2", "mean_per_class", "clip_ids", _cross_view_2, CV_CLASSES, _action,
        "cameras 1, 3, 4, 6, 7 train, camera 2 tests, 19 classes",
    ),
)  # fmt: skip
