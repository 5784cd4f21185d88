"""Which clips train and which test, and which metric counts: the named protocols of the data sets.

    train, test = get_protocol("smarthome_cv2").split(clips)

`clips` is a `PackedClips`, a `ClipStore` or a mapping of columns: `clip_ids`, `splits`, `subjects`, `views`, `label`,
`label_names` (a protocol reads only the columns that it needs).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tmor_fast.errors import DataError

Role = Literal["train", "test", ""]
Metric = Literal["top1", "mean_per_class"]

# Names of columns here -> names of columns in a clip store.
_STORE_COLUMNS = {"clip_ids": "clip_id", "splits": "split", "subjects": "subject", "views": "view", "label": "label"}


@dataclass(frozen=True)
class Protocol:
    """A split and a metric.

    Attributes:
        name: e.g. "smarthome_cs".
        metric: the metric that the data set's authors report, a field of `ClassificationReport`.
        column: the column that decides, one of clip_ids, splits, subjects, views.
        role: value of that column -> "train", "test" or "" (in neither). Raises DataError for a value that it cannot
            read.
        class_names: classes in the protocol's order; () takes the classes of the data set.
        class_of: clip id -> class name, where file names carry the class; None reads `label`.
        description: one line.
    """

    name: str
    metric: Metric
    column: str
    role: Callable[[str], Role]
    class_names: tuple[str, ...] = ()
    class_of: Callable[[str], str] | None = None
    description: str = ""

    def split(self, clips: Any) -> tuple[Tensor, Tensor]:
        """Indices of the training and of the test clips, ascending, int64.

        Raises:
            DataError: a column is missing or a value cannot be read, or one of the two sides is empty.
        """
        roles = [self.role(str(value)) for value in column(clips, self.column)]
        train, test = _where(roles, "train"), _where(roles, "test")
        if not len(train) or not len(test):
            raise DataError(
                f"protocol {self.name!r}: {len(train)} training and {len(test)} test clips of {len(roles)}, decided by "
                f"the column {self.column!r}; both need some. Is this the right data set?"
            )
        return train, test

    def labels(self, clips: Any) -> Tensor:
        """Class of each clip in the protocol's numbering, -1 for a class outside the protocol: (n,) int64.

        Raises:
            DataError: a column is missing, a clip id cannot be read or the data set has a class of another name.
        """
        if not self.class_names:
            return torch.as_tensor(column(clips, "label"), dtype=torch.int64).clone()
        number = {name: index for index, name in enumerate(self.class_names)}
        if self.class_of is not None:
            names: Iterable[str] = map(self.class_of, column(clips, "clip_ids"))
        else:
            # Data sets write their class names with underscores or with spaces.
            known = [name.replace(" ", "_") for name in column(clips, "label_names")]
            foreign = [name for name in known if name not in number]
            if foreign:
                raise DataError(f"protocol {self.name!r} has no class {foreign[0]!r}; its classes: {self.class_names}")
            names = (known[int(label)] if int(label) >= 0 else "" for label in column(clips, "label"))
        return torch.tensor([number.get(name, -1) for name in names], dtype=torch.int64)

    def label_names(self, clips: Any) -> tuple[str, ...]:
        """Names of the protocol's classes, in the order of `labels`."""
        return self.class_names or tuple(column(clips, "label_names"))


def column(clips: Any, name: str) -> Sequence[Any]:
    """A column of packed clips, of a clip store or of a mapping.

    Raises:
        DataError: there is no such column.
    """
    if isinstance(clips, Mapping):
        if name in clips:
            return clips[name]
    elif hasattr(clips, name):
        return getattr(clips, name)
    elif name in _STORE_COLUMNS and hasattr(clips, "column"):
        return clips.column(_STORE_COLUMNS[name])
    raise DataError(f"the clips have no column {name!r}, which the protocol needs")


def hold_out(
    column_name: str, test_values: Iterable[str], *, name: str = "hold_out", metric: Metric = "top1"
) -> Protocol:
    """Protocol that tests on the clips whose column has one of the given values, and trains on all others.

    Args:
        column_name: "subjects", "views", "splits" or "clip_ids".
        test_values: values that are held out.
        name: name of the protocol, for messages.
        metric: metric to report.

    Raises:
        ValueError: an unknown column or no value.
    """
    if column_name not in _STORE_COLUMNS or column_name == "label":
        raise ValueError(f"hold_out: column must be clip_ids, splits, subjects or views, got {column_name!r}")
    held_out = frozenset(map(str, test_values))
    if not held_out:
        raise ValueError("hold_out: give at least one value to test on")
    return Protocol(
        name,
        metric,
        column_name,
        lambda value: "test" if value in held_out else "train",
        description=f"tests on {column_name} {', '.join(sorted(held_out))}",
    )


def bandai2(test_styles: Iterable[str] = ("feminine", "youthful")) -> Protocol:
    """Bandai-Namco motion data set 2 with whole styles held out; it has no official split.

    The default styles are this library's choice. The style is read from the clip id
    (`dataset-2_<action>_<style>_<number>`).

    Raises:
        ValueError: a style that the data set does not have, or all of them.
    """
    held_out = frozenset(test_styles)
    if not held_out or not held_out < BANDAI2_STYLES:
        raise ValueError(f"bandai2: test_styles must be some of {sorted(BANDAI2_STYLES)}, got {sorted(held_out)}")

    def role(clip: str) -> Role:
        parts = clip.rsplit("_", 2)
        if len(parts) != 3 or parts[1] not in BANDAI2_STYLES:
            raise DataError(f"clip {clip!r}: expected an id like dataset-2_walk_active_001")
        return "test" if parts[1] in held_out else "train"

    return Protocol("bandai2", "top1", "clip_ids", role, description=f"tests on styles {', '.join(sorted(held_out))}")


BANDAI2_STYLES = frozenset({"active", "elderly", "exhausted", "feminine", "masculine", "normal", "youthful"})

PENN_ACTION_CLASSES = (
    "baseball_pitch", "baseball_swing", "bench_press", "bowl", "clean_and_jerk", "golf_swing", "jump_rope",
    "jumping_jacks", "pullup", "pushup", "situp", "squat", "strum_guitar", "tennis_forehand", "tennis_serve",
)  # fmt: skip


def _official_flag(value: str) -> Role:
    if value not in ("train", "test", ""):
        raise DataError(f"split {value!r}: accepted are 'train', 'test' and '' (in neither)")
    return value  # type: ignore[return-value]


def _cmu_subject(clip: str) -> Role:
    subject = re.match(r"(13|14)_\d+", clip)
    if subject is None:
        raise DataError(f"clip {clip!r}: expected a CMU sequence of subject 13 or 14, like 13_29")
    return "train" if subject[1] == "13" else "test"


def _where(roles: Sequence[str], wanted: str) -> Tensor:
    return torch.tensor([index for index, role in enumerate(roles) if role == wanted], dtype=torch.int64)


def _protocols() -> dict[str, Protocol]:
    from tmor_fast.evaluation import smarthome, uav_human

    named = [
        Protocol("official", "top1", "splits", _official_flag, description="the split column of the data set"),
        Protocol(
            "penn_action",
            "top1",
            "splits",
            _official_flag,
            PENN_ACTION_CLASSES,
            description="official train flag (1,258 / 1,068 clips), 15 classes",
        ),
        Protocol("cmu_exercise6", "top1", "clip_ids", _cmu_subject, description="subject 13 trains, 14 tests"),
        bandai2(),
        *smarthome.PROTOCOLS,
        *uav_human.PROTOCOLS,
    ]
    return {protocol.name: protocol for protocol in named}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: there is none; the message lists what there is.
    """
    protocols = _protocols()
    if name not in protocols:
        raise ValueError(f"unknown protocol {name!r}; accepted: {', '.join(sorted(protocols))}")
    return protocols[name]


def protocol_names() -> tuple[str, ...]:
    """Names that `get_protocol` knows, sorted."""
    return tuple(sorted(_protocols()))
