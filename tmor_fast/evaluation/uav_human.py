"""UAV-Human: cross-subject protocols CSv1 and CSv2, top-1 (subject lists from the data set's README).

A file name `P070S01G10B00H10UC102000LC092000A031R0_09131758` carries the subject (P) and the class (A).
"""

from __future__ import annotations

import re

from tmor_fast.errors import DataError
from tmor_fast.evaluation.protocols import Protocol, Role

NUM_SUBJECTS = 119
CLASSES = tuple(f"A{index:03d}" for index in range(155))

# Each list has the 30 test subjects; the other 89 of 0 to 118 train.
CSV1_TEST_SUBJECTS = frozenset({
    1, 3, 4, 9, 22, 23, 24, 31, 41, 54, 58, 60, 66, 72, 74, 75, 91, 92, 93, 94, 95, 96, 97, 99, 101, 104, 107, 108,
    109, 113,
})  # fmt: skip
CSV2_TEST_SUBJECTS = frozenset({
    1, 2, 7, 9, 13, 15, 17, 23, 25, 27, 28, 33, 34, 41, 42, 48, 50, 51, 53, 55, 58, 65, 68, 76, 82, 85, 90, 98, 105,
    116,
})  # fmt: skip

_NAME = re.compile(r"(?:.*[/\\])?P(?P<subject>\d+)S\d+G\d+B\d+H\d+UC\d+LC\d+A(?P<action>\d+)R\d+_\d+(?:\.\w+)?")


def parse_name(clip: str) -> tuple[int, str]:
    """Subject and class of a clip from its file name (folder and extension are ignored).

    Raises:
        DataError: the name does not follow the pattern, or the subject or class is not in the data set.
    """
    match = _NAME.fullmatch(clip)
    if match is None or int(match["subject"]) >= NUM_SUBJECTS or int(match["action"]) >= len(CLASSES):
        raise DataError(
            f"clip {clip!r}: expected a UAV-Human name like P070S01G10B00H10UC102000LC092000A031R0_09131758 "
            f"with a subject below {NUM_SUBJECTS} and a class below {len(CLASSES)}"
        )
    return int(match["subject"]), f"A{int(match['action']):03d}"


def _action(clip: str) -> str:
    return parse_name(clip)[1]


def _cross_subject_1(clip: str) -> Role:
    return "test" if parse_name(clip)[0] in CSV1_TEST_SUBJECTS else "train"


def _cross_subject_2(clip: str) -> Role:
    return "test" if parse_name(clip)[0] in CSV2_TEST_SUBJECTS else "train"


PROTOCOLS = (
    Protocol("uav_human_csv1", "top1", "clip_ids", _cross_subject_1, CLASSES, _action, "89 subjects train, 30 test"),
    Protocol("uav_human_csv2", "top1", "clip_ids", _cross_subject_2, CLASSES, _action, "89 subjects train, 30 test"),
)
