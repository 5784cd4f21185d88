"""Skeleton layouts: which joints a clip has, how they hang together, and how one layout becomes another.

A layout is data, not code: `register_layout` adds a topology, `register_conversion` the way to reach it from another.
Those that come with the library are in `tmor_fast.data.layouts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tmor_fast.data.layouts.captured import BANDAI21, CMU31, H36M17
from tmor_fast.data.layouts.estimated import COCO17, MEDIAPIPE33, OPENPOSE18, OPENPOSE25
from tmor_fast.data.layouts.marked import PENN13, UNIK17
from tmor_fast.data.layouts.sensed import KINECT20, NTU25
from tmor_fast.data.layouts.topology import SkeletonLayout, pair_sides

__all__ = ["LAYOUTS", "SkeletonLayout", "find_layout", "get_layout", "pair_sides", "register_layout"]

_KNOWN = (
    *(UNIK17, PENN13, COCO17, OPENPOSE18, OPENPOSE25, MEDIAPIPE33),
    *(H36M17, KINECT20, NTU25, BANDAI21, CMU31),
)
_registry: dict[str, SkeletonLayout] = {layout.name: layout for layout in _KNOWN}
LAYOUTS: Mapping[str, SkeletonLayout] = MappingProxyType(_registry)
"""Every known layout by name; `register_layout` adds to it."""


def get_layout(name: str | SkeletonLayout) -> SkeletonLayout:
    """The layout called `name`; a layout is handed back as it is.

    Raises:
        ValueError: no such layout; the message lists those that exist.
    """
    if isinstance(name, SkeletonLayout):
        return name
    if name not in _registry:
        raise ValueError(
            f"unknown skeleton layout {name!r}; known: {', '.join(sorted(_registry))}. See register_layout"
        )
    return _registry[name]


def register_layout(layout: SkeletonLayout) -> None:
    """Make a layout known under its name. Registering the same layout twice is harmless.

    Raises:
        ValueError: another layout already has that name.
    """
    known = _registry.get(layout.name)
    if known is not None and known != layout:
        raise ValueError(f"a different layout is already registered as {layout.name!r}; give the new one another name")
    _registry[layout.name] = layout


def find_layout(joint_names: Sequence[str]) -> SkeletonLayout | None:
    """The known layout with exactly these joints in this order, or None."""
    names = tuple(str(name) for name in joint_names)
    return next((layout for layout in _registry.values() if layout.joint_names == names), None)
