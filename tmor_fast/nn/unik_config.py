"""The choices that define a UNIK encoder, checked once, and the named presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Dilation = Literal["released", "thesis"]
Initialisation = Literal["released", "thesis"]
PersonAverage = Literal["all", "present"]

# The thesis (sec. 3.7.1) dilates blocks 2 to 5 by 3; the released code dilates nothing.
_THESIS_DILATION = (1, 3, 3, 3, 3)

PRESETS: dict[str, dict[str, tuple[int, ...]]] = {
    "unik": {
        "widths": (64, 64, 64, 64, 128, 128, 128, 256, 256, 256),
        "strides": (1, 1, 1, 1, 2, 1, 1, 2, 1, 1),
    },
    "unik-small": {
        "widths": (32, 32, 32, 32, 64, 64, 64, 128, 128, 128),
        "strides": (1, 1, 1, 1, 2, 1, 1, 2, 1, 1),
    },
    "unik-tiny": {
        "widths": (32, 32, 64, 64, 128),
        "strides": (1, 1, 2, 1, 2),
    },
    "unik-micro": {
        "widths": (32, 32, 64, 64, 128),
        "strides": (2, 1, 2, 1, 2),
    },
}


@dataclass(frozen=True)
class UNIKConfig:
    """Everything that shapes a UNIK encoder. The defaults are the released network for 17 joints in 2D.

    Args:
        joints: V, joints of a skeleton. Part of the weights (dependency matrices, input norm).
        channels: C, coordinates of a joint: 2 for (x, y), 3 for (x, y, z).
        persons: M, person slots of a clip. Part of the weights (input norm).
        num_classes: outputs of the classifier; None builds the encoder alone.
        heads: H, dependency matrices and attention maps of a block.
        tau: frames that a spatial unit sees together, odd; 1 is a frame by itself.
        widths: output channels of each block.
        strides: temporal stride of each block, as many as widths.
        dilation: temporal dilation of the blocks: "released" (all 1), "thesis" (1, 3, 3, 3, 3, then 1), or one integer
            per block. It changes no parameter shape.
        init: bound of the uniform initial dependency matrices: "released" (1/V, what the public code does) or "thesis"
            (1/sqrt(V), Eq. 3.10).
        person_average: "all" averages over every person slot as released, "present" over the persons of the clip.
        first_block_heads: heads of the first block. The released code always uses 3, whatever `heads` says.

    Raises:
        TypeError: a number is not an integer.
        ValueError: a value is out of range, the tuples differ in length, or a name is unknown.
    """

    joints: int = 17
    channels: int = 2
    persons: int = 2
    num_classes: int | None = None
    heads: int = 3
    tau: int = 1
    widths: tuple[int, ...] = PRESETS["unik"]["widths"]
    strides: tuple[int, ...] = PRESETS["unik"]["strides"]
    dilation: Dilation | tuple[int, ...] = "released"
    init: Initialisation = "released"
    person_average: PersonAverage = "all"
    first_block_heads: int = 3

    def __post_init__(self) -> None:
        for name in ("joints", "channels", "persons", "heads", "tau", "first_block_heads"):
            _check_positive(name, getattr(self, name))
        if self.num_classes is not None:
            _check_positive("num_classes", self.num_classes)
        if self.tau % 2 == 0:
            raise ValueError(f"tau must be odd, so that its window is centred on a frame; got {self.tau}")
        # Configurations read from YAML or JSON carry lists.
        for name in ("widths", "strides"):
            object.__setattr__(self, name, _integers(name, getattr(self, name)))
        if not isinstance(self.dilation, str):
            object.__setattr__(self, "dilation", _integers("dilation", self.dilation))
        if min(self.widths) < 4:
            raise ValueError(f"widths must be at least 4, an attention head has a quarter; got {self.widths}")
        if len(self.strides) != len(self.widths):
            raise ValueError(f"strides needs one entry per block: {len(self.widths)} widths, strides {self.strides}")
        _check_name("init", self.init, Initialisation)
        _check_name("person_average", self.person_average, PersonAverage)
        if isinstance(self.dilation, str):
            _check_name("dilation", self.dilation, Dilation)
        elif len(self.dilation) != len(self.widths):
            raise ValueError(f"dilation needs one entry per block: {len(self.widths)} widths, dilation {self.dilation}")

    @property
    def dilations(self) -> tuple[int, ...]:
        """The temporal dilation of each block."""
        if not isinstance(self.dilation, str):
            return self.dilation
        start = _THESIS_DILATION if self.dilation == "thesis" else ()
        return (start + (1,) * len(self.widths))[: len(self.widths)]

    @property
    def block_heads(self) -> tuple[int, ...]:
        """The heads of each block."""
        return (self.first_block_heads,) + (self.heads,) * (len(self.widths) - 1)

    def output_frames(self, frames: int) -> int:
        """T', the frames left of `frames` after all strides."""
        for stride in self.strides:
            frames = -(-frames // stride)
        return frames

    @staticmethod
    def preset(name: str, **overrides: Any) -> UNIKConfig:
        """The configuration called `name`, with any field replaced by keyword.

        Args:
            name: "unik" (released, 3.4 M parameters), "unik-small" (half the widths) "unik-tiny" (5 blocks) or
                "unik-micro" (those 5 at half the frame rate).
            overrides: fields of UNIKConfig.

        Raises:
            ValueError: no such preset or field.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; accepted: {', '.join(map(repr, PRESETS))}")
        accepted = [field.name for field in fields(UNIKConfig)]
        unknown = sorted(set(overrides) - set(accepted))
        if unknown:
            raise ValueError(f"UNIKConfig has no field {', '.join(unknown)}; accepted: {', '.join(accepted)}")
        return UNIKConfig(**{**PRESETS[name], **overrides})


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _integers(name: str, values: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)) or not values:
        raise TypeError(f"{name} must be a non-empty tuple of integers, one per block; got {values!r}")
    for value in values:
        _check_positive(f"every entry of {name}", value)
    return tuple(values)


def _check_name(field: str, value: str, accepted: Any) -> None:
    if value not in get_args(accepted):
        raise ValueError(f"unknown {field} {value!r}; accepted: {', '.join(map(repr, get_args(accepted)))}")
