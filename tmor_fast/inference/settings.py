"""What a checkpoint says about its training, checked: a file may come from anybody."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tmor_fast.data.layout import SkeletonLayout, get_layout, register_layout
from tmor_fast.data.prepare import NORMALISATIONS
from tmor_fast.errors import DataError
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik import UNIK

SAMPLINGS = ("resample", "window")
STREAMS = ("joint", "bone")
FUSIONS = ("softmax", "logits")

# A clip of more frames would not fit into memory: the number was edited.
MOST_FRAMES = 100_000

# What files written before these were noted were trained with.
EARLIER: Mapping[str, Any] = {"sampling": "resample", "view_yaw_degrees": 180.0, "fusion": "softmax", "stage": 0}


@dataclass(frozen=True)
class TrainedWith:
    """How clips must be prepared for a network, and what it can name.

    Args:
        layout: skeleton of its input.
        normalisation: as in `tmor_fast.data.prepare`.
        frames: T of its input.
        sampling: "resample" or "window".
        view_yaw_degrees: range of directions from which a 2D network saw 3D clips.
        stream: "joint" or "bone".
        fusion: how its scores join those of another stream.
        label_names: classes of its classifier; of a model trained with text: the actions it was trained on.
        text_teacher: name of its text encoder, None for a model that knows no text.
        training: "pre-trained", "fine-tuned", "from scratch", "linear probe" or "trained".
    """

    layout: SkeletonLayout
    normalisation: str
    frames: int
    sampling: str
    view_yaw_degrees: float
    stream: str
    fusion: str
    label_names: tuple[str, ...]
    text_teacher: str | None
    training: str


def trained_with(path: str, module: TMOR | UNIK, metadata: Mapping[str, Any]) -> TrainedWith:
    """The settings in a checkpoint's metadata.

    Args:
        path: its file, for messages.
        module: the network it holds.
        metadata: what was saved with it.

    Raises:
        DataError: something that prediction needs is missing, malformed or does not fit the network.
    """
    values = {**EARLIER, **metadata}
    absent = [name for name in ("layout", "normalisation", "frames", "stream") if name not in values]
    if absent:
        raise DataError(
            f"{path}: its metadata lacks {', '.join(absent)}, so clips cannot be prepared as in its training; train "
            "again with `tmor`, or pass these to save_model / save_classifier"
        )

    def choice(name: str, accepted: Sequence[str]) -> str:
        if values[name] not in accepted:
            raise DataError(f"{path}: metadata {name} is {values[name]!r}; accepted: {', '.join(accepted)}")
        return str(values[name])

    frames, yaw = values["frames"], values["view_yaw_degrees"]
    if isinstance(frames, bool) or not isinstance(frames, int) or not 1 <= frames <= MOST_FRAMES:
        raise DataError(f"{path}: metadata frames is {frames!r}; a whole number from 1 to {MOST_FRAMES} is needed")
    if isinstance(yaw, bool) or not isinstance(yaw, (int, float)) or not (math.isfinite(yaw) and 0 <= yaw <= 180):
        raise DataError(f"{path}: metadata view_yaw_degrees is {yaw!r}; a number from 0 to 180 is needed")
    return TrainedWith(
        layout=_layout(path, module, values),
        normalisation=choice("normalisation", NORMALISATIONS),
        frames=frames,
        sampling=choice("sampling", SAMPLINGS),
        view_yaw_degrees=float(yaw),
        stream=choice("stream", STREAMS),
        fusion=choice("fusion", FUSIONS),
        label_names=_label_names(path, module, values),
        text_teacher=_text_teacher(path, module, values),
        training=str(values.get("training", "pre-trained" if isinstance(module, TMOR) else "trained")),
    )


def _layout(path: str, module: TMOR | UNIK, values: Mapping[str, Any]) -> SkeletonLayout:
    """The layout by name, or as the file describes it where it is not one of the library's."""
    described = values.get("skeleton")
    try:
        if described is None:
            layout = get_layout(values["layout"])
        else:
            layout = SkeletonLayout.from_dict(described)
            register_layout(layout)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: metadata layout: {error}") from error
    config = module.backbone.config if isinstance(module, TMOR) else module.config
    if layout.num_joints != config.joints:
        raise DataError(
            f"{path}: layout {layout.name!r} has {layout.num_joints} joints and the network {config.joints}; the file "
            "may have been edited"
        )
    return layout


def _label_names(path: str, module: TMOR | UNIK, values: Mapping[str, Any]) -> tuple[str, ...]:
    key = "trained_on" if isinstance(module, TMOR) else "label_names"
    names = values.get(key, [])
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: metadata {key} must be a list of names, got {type(names).__name__}")
    if isinstance(module, UNIK):
        if not names:
            names = [f"class {number}" for number in range(module.num_classes or 0)]
        if len(names) != module.num_classes:
            raise DataError(f"{path}: {len(names)} label_names for {module.num_classes} classes; the file was edited")
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise DataError(f"{path}: metadata {key}: {twice[0]!r} is named twice")
    return tuple(names)


def _text_teacher(path: str, module: TMOR | UNIK, values: Mapping[str, Any]) -> str | None:
    """The text encoder's name where the text head was trained, that is after stage 2."""
    if isinstance(module, UNIK) or module.text_head is None or values["stage"] != 2:
        return None
    name = values.get("text_teacher")
    if not isinstance(name, str):
        raise DataError(f"{path}: metadata text_teacher is {name!r}; the name of the text encoder is needed")
    return name
