"""Small RGB videos of moving skeletons, so that a visual teacher can watch data that has no video."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tmor_fast.data.layout import SkeletonLayout, get_layout
from tmor_fast.errors import DataError, missing

if TYPE_CHECKING:
    from tmor_fast.data.packed import PackedClips

VIEWS = ("facing", "drawn", "stored")

# RGB. Left, right and trunk differ in brightness too, so that grey-value descriptors tell them apart.
_BACKGROUND = (28, 28, 32)
_OUTLINE = (0, 0, 0)
_LEFT, _RIGHT, _TRUNK, _HEAD = (250, 190, 80), (60, 120, 225), (165, 165, 170), (250, 235, 215)
# Pixels drawn per pixel kept, and the fixed-point bits with which OpenCV places points between pixels.
_SUPERSAMPLE = 2
_SHIFT = 4
_LIMB_WIDTH, _HEAD_RADIUS, _OUTLINE_WIDTH = 0.055, 0.065, 0.022  # parts of the body's extent
_MAX_BOX = 2.0  # side of the picture in body extents, however far the figure walks


@dataclass(frozen=True)
class RenderSettings:
    """How clips become frames.

    Attributes:
        size: height and width in pixels.
        frames: frames a clip, evenly spread over it.
        view: for 3D clips: "facing" (turned so that the body faces the camera, then by `yaw`), "drawn" (a yaw drawn
            from `seed` and the clip's position), or "stored" (as the coordinates are, turned by `yaw`).
        yaw, pitch: camera angles in radians for 3D clips; positive pitch looks down on the figure.
        margin: free border around the clip's bounding box, as a part of the box.
        seed: seed of drawn views.
    """

    size: int = 64
    frames: int = 10
    view: str = "facing"
    yaw: float = math.pi / 6
    pitch: float = 0.15
    margin: float = 0.04
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 8 or self.frames < 1:
            raise ValueError(f"size must be at least 8 and frames at least 1, got {self.size} and {self.frames}")
        if self.view not in VIEWS:
            raise ValueError(f"view {self.view!r} is not one of {', '.join(VIEWS)}")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin must be in [0, 1), got {self.margin}")

    def to_dict(self) -> dict[str, object]:
        """JSON-ready settings."""
        return asdict(self)


@dataclass(frozen=True)
class _Figure:
    """What to draw for a layout: bones with their side, the trunk's corners, the head."""

    limbs: tuple[tuple[int, int, int], ...]  # child, parent, side: 0 trunk, 1 left, 2 right
    trunk: tuple[int, ...]  # corners of the polygon, empty where the layout has no shoulders or hips
    head: int
    pairs: tuple[tuple[int, int], ...] = field(default=())


def render_clip(
    joints: np.ndarray,
    layout: str | SkeletonLayout,
    *,
    valid: np.ndarray | None = None,
    settings: RenderSettings | None = None,
    position: int = 0,
    **changes: Any,
) -> np.ndarray:
    """One clip as a video of a limb figure: left limbs bright, right limbs dark, the head a disc.

    The picture is cropped to the square around everything the figure does, so its place and size in the source do not
    matter. Gaps are filled in time; joints that are never seen are not drawn.

    Args:
        joints: (T, M, V, C) floats. C = 2 is image coordinates (y down), C = 3 has y up and z towards the viewer.
        layout: skeleton layout or its name.
        valid: (T, M, V) bool; None takes finite joints of persons that are not all zero.
        settings: default `RenderSettings()`.
        position: position of the clip in its set; decides the view where views are drawn.
        changes: single fields of `settings` to replace, e.g. `size=96`.

    Returns:
        (frames, size, size, 3) uint8 RGB.

    Raises:
        ValueError: the shape of `joints` or `valid` does not fit the layout.
        DataError: no joint of the clip is valid.
    """
    chosen = _replace(settings or RenderSettings(), changes)
    skeleton = get_layout(layout)
    tracks, seen = _checked(joints, valid, skeleton)
    figure = _figure(skeleton)
    sampled = _sample(tracks, seen, chosen.frames)
    drawn = np.asarray(seen.any(0))
    points, depth = _project(sampled, drawn, figure, chosen, position)
    return _draw(points, depth, drawn, figure, chosen)


def render_clips(
    clips: PackedClips | Sequence[np.ndarray],
    layout: str | SkeletonLayout | None = None,
    *,
    valid: Sequence[np.ndarray] | None = None,
    settings: RenderSettings | None = None,
    indices: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    workers: int = 1,
    **changes: Any,
) -> np.ndarray:
    """Many clips as videos.

    Args:
        clips: packed clips (their layout is used; flat clips are drawn in 2D), or arrays (T, M, V, C) of any lengths.
        layout: layout of the arrays; not needed for packed clips.
        valid: one mask (T, M, V) an array; packed clips bring their own.
        settings, changes: as in `render_clip`.
        indices: which clips, default all.
        positions: position in its set of every clip drawn, where that is not its index; decides drawn views.
        workers: threads. Drawing is many short calls, which threads of one process slow down: 1 is mostly best.

    Returns:
        (N, frames, size, size, 3) uint8 RGB.
    """
    chosen = _replace(settings or RenderSettings(), changes)
    fetch, count, skeleton = _source(clips, layout, valid)
    wanted = range(count) if indices is None else [int(index) for index in indices]
    places = wanted if positions is None else positions
    if len(places) != len(wanted):
        raise ValueError(f"positions must hold one number a clip: {len(wanted)} clips, {len(places)} positions")
    frames = np.empty((len(wanted), chosen.frames, chosen.size, chosen.size, 3), np.uint8)

    def work(row: int) -> None:
        joints, mask = fetch(wanted[row])
        try:
            frames[row] = render_clip(joints, skeleton, valid=mask, settings=chosen, position=int(places[row]))
        except DataError as error:
            raise DataError(f"clip {places[row]}: {error}") from error

    map_threads(work, range(len(wanted)), workers)
    return frames


def map_threads(work: Callable[[int], Any], items: Sequence[int] | range, workers: int | None) -> list[Any]:
    """`work` over `items` in a pool of threads, OpenCV's own threads off meanwhile; results in order."""
    cv2 = import_cv2()
    threads = min(workers or os.cpu_count() or 1, max(1, len(items)))
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # threads over clips; more inside each call would only compete
    try:
        if threads == 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, items))
    finally:
        cv2.setNumThreads(before)


def import_cv2() -> Any:
    """OpenCV, or the error that says which extra brings it."""
    try:
        import cv2
    except ImportError as error:
        raise missing("cv2", "teachers", "drawing skeleton videos and measuring optical flow") from error
    return cv2


def _replace(settings: RenderSettings, changes: dict[str, Any]) -> RenderSettings:
    if not changes:
        return settings
    fields = settings.to_dict()
    unknown = sorted(set(changes) - set(fields))
    if unknown:
        raise TypeError(f"unknown render setting {unknown[0]!r}; accepted: {', '.join(fields)}")
    return RenderSettings(**{**fields, **changes})


def _source(
    clips: Any, layout: str | SkeletonLayout | None, valid: Sequence[np.ndarray] | None
) -> tuple[Callable[[int], tuple[np.ndarray, np.ndarray | None]], int, SkeletonLayout]:
    """A function that returns joints and mask of a clip, the number of clips, and their layout."""
    if hasattr(clips, "offsets") and hasattr(clips, "planar"):
        offsets, planar = clips.offsets.tolist(), clips.planar.tolist()

        def packed(index: int) -> tuple[np.ndarray, np.ndarray | None]:
            span = slice(offsets[index], offsets[index + 1])
            joints = clips.joints[span].cpu().numpy()
            return (joints[..., :2] if planar[index] else joints), clips.valid[span].cpu().numpy()

        return packed, len(offsets) - 1, get_layout(clips.layout if layout is None else layout)
    if layout is None:
        raise ValueError("layout is needed to draw plain arrays, e.g. layout='unik17'")
    if valid is not None and len(valid) != len(clips):
        raise ValueError(f"valid must hold one mask a clip: {len(clips)} clips, {len(valid)} masks")
    return (lambda index: (clips[index], None if valid is None else valid[index])), len(clips), get_layout(layout)


def _checked(joints: np.ndarray, valid: np.ndarray | None, layout: SkeletonLayout) -> tuple[np.ndarray, np.ndarray]:
    tracks = np.asarray(joints, np.float32)
    if tracks.ndim != 4 or tracks.shape[3] not in (2, 3) or tracks.shape[2] != layout.num_joints or not len(tracks):
        raise ValueError(
            f"joints must have shape (T >= 1, M, {layout.num_joints}, 2 or 3) for layout {layout.name!r}, "
            f"got {tracks.shape}"
        )
    finite = np.isfinite(tracks).all(-1)
    if valid is None:
        seen = finite & (np.nan_to_num(tracks) != 0).any((0, 2, 3))[None, :, None]
    elif np.shape(valid) != tracks.shape[:3]:
        raise ValueError(f"valid must have shape {tracks.shape[:3]} like the joints, got {np.shape(valid)}")
    else:
        seen = np.asarray(valid, bool) & finite
    if not seen.any():
        raise DataError("no joint is valid, so there is nothing to draw; drop the clip or check its validity mask")
    return tracks, seen


def _figure(layout: SkeletonLayout) -> _Figure:
    side = {joint: 1 + which for pair in layout.left_right for which, joint in enumerate(pair)}
    names = [name.lower() for name in layout.joint_names]

    def pair_named(*words: str) -> tuple[int, int] | None:
        for word in words:
            for left, right in layout.left_right:
                if word in names[left]:
                    return left, right
        return None

    shoulders = pair_named("upperarm", "humerus", "shoulder")
    hips = pair_named("upperleg", "femur", "hip")
    trunk = (*shoulders, hips[1], hips[0]) if shoulders and hips else ()
    head = next((names.index(name) for name in ("head", "nose") if name in names), layout.bones[0][1])
    limbs = tuple((child, parent, side.get(child, 0)) for child, parent in layout.bones)
    return _Figure(limbs, trunk, head, layout.left_right)


def _sample(tracks: np.ndarray, seen: np.ndarray, frames: int) -> np.ndarray:
    """Joints (frames, M, V, C) at even positions from first to last: linear in time, over gaps too, nearest at ends."""
    positions = np.linspace(0, len(tracks) - 1, frames) if frames > 1 else np.array([(len(tracks) - 1) / 2])
    if not seen.all():
        tracks = np.where(seen[..., None], tracks, 0)
        time = np.arange(len(tracks))
        for person, joint in np.argwhere(seen.any(0) & ~seen.all(0)):
            known = np.flatnonzero(seen[:, person, joint])
            for channel in range(tracks.shape[3]):
                tracks[:, person, joint, channel] = np.interp(time, known, tracks[known, person, joint, channel])
    low = np.floor(positions).astype(np.int64)
    high = np.minimum(low + 1, len(tracks) - 1)
    weight = (positions - low).astype(np.float32)[:, None, None, None]
    return tracks[low] * (1 - weight) + tracks[high] * weight


def _project(
    joints: np.ndarray, drawn: np.ndarray, figure: _Figure, settings: RenderSettings, position: int
) -> tuple[np.ndarray, np.ndarray]:
    """Image points (F, M, V, 2), y down, and depth (F, M, V), larger is nearer to the viewer."""
    if joints.shape[-1] == 2:
        return joints, np.zeros(joints.shape[:3], np.float32)
    yaw = settings.yaw
    if settings.view == "drawn":
        yaw = float(np.random.default_rng((settings.seed, position)).uniform(-math.pi, math.pi))
    elif settings.view == "facing":
        across = [
            (joints[:, person, left] - joints[:, person, right]).sum(0)
            for person in range(joints.shape[1])
            for left, right in figure.pairs
            if drawn[person, left] and drawn[person, right]
        ]
        if across:
            # A body that faces the viewer has its left side on the right of the image.
            total = np.sum(across, 0)
            yaw += math.atan2(float(total[2]), float(total[0]))
    x, y, z = joints[..., 0], joints[..., 1], joints[..., 2]
    turned_x = x * math.cos(yaw) + z * math.sin(yaw)
    turned_z = z * math.cos(yaw) - x * math.sin(yaw)
    up = y * math.cos(settings.pitch) - turned_z * math.sin(settings.pitch)
    depth = turned_z * math.cos(settings.pitch) + y * math.sin(settings.pitch)
    return np.stack([turned_x, -up], -1), depth


def _draw(
    points: np.ndarray, depth: np.ndarray, drawn: np.ndarray, figure: _Figure, settings: RenderSettings
) -> np.ndarray:
    cv2 = import_cv2()
    people = [person for person in range(drawn.shape[0]) if drawn[person].any()]
    pixels, extent, canvas = _frame_up(points, drawn, people, settings)
    # The 0.5 moves from pixel edges to OpenCV's pixel centres.
    fixed = np.rint((pixels - 0.5) * (1 << _SHIFT)).astype(np.int64)
    shapes = [_shapes(depth[:, person], drawn[person], figure) for person in people]
    empty = np.empty((canvas, canvas, 3), np.uint8)
    empty[:] = _BACKGROUND
    frames = np.empty((len(points), settings.size, settings.size, 3), np.uint8)
    nearness = np.stack([depth[:, person, drawn[person]].mean(1) for person in people], 1)
    for index in range(len(points)):
        picture = empty.copy()
        for which in np.argsort(nearness[index], kind="stable").tolist():
            person, (kinds, order) = people[which], shapes[which]
            corners = fixed[index, person].tolist()
            _draw_person(picture, corners, [kinds[row] for row in order[index]], extent, person, cv2)
        cv2.resize(picture, (settings.size, settings.size), dst=frames[index], interpolation=cv2.INTER_AREA)
    return frames


def _frame_up(
    points: np.ndarray, drawn: np.ndarray, people: list[int], settings: RenderSettings
) -> tuple[np.ndarray, float, int]:
    """Points in pixels of the drawing canvas, the body's extent in those pixels, and the side of the canvas."""
    shown = points[:, drawn]
    body = max(float(np.median([np.ptp(points[:, who, drawn[who]], axis=1).max(-1) for who in people])), 1e-6)
    low, high = shown.min(1), shown.max(1)
    longest = max(float((high.max(0) - low.min(0)).max()), 1e-6)
    if longest > _MAX_BOX * body:
        # Long paths are shortened, so that the figure stays large enough to see.
        centre = (low + high) / 2
        path = float(np.ptp(centre, axis=0).max())
        keep = max(0.0, min(1.0, (_MAX_BOX - 1) * body / max(path, 1e-6)))
        points = points - ((1 - keep) * (centre - centre.mean(0)))[:, None, None]
        shown = points[:, drawn]
        low, high = shown.min(1), shown.max(1)
        longest = max(float((high.max(0) - low.min(0)).max()), 1e-6)
    # Everything is drawn `_SUPERSAMPLE` times larger and averaged down; a head at the border keeps its full size.
    canvas = settings.size * _SUPERSAMPLE
    scale = canvas / (longest * (1 + 2 * (settings.margin + _HEAD_RADIUS + _OUTLINE_WIDTH)))
    middle = (low.min(0) + high.max(0)) / 2
    return (points - middle) * scale + canvas / 2, max(body * scale, canvas / 8), canvas


def _shapes(
    depth: np.ndarray, drawn: np.ndarray, figure: _Figure
) -> tuple[list[tuple[int, tuple[int, ...]]], list[list[int]]]:
    """What of one person is drawn, as (side, joints), and for each frame the order, far to near.

    Two joints are a limb, more a polygon, one the head. Without depth: right, trunk, left, head.
    """
    shapes = [(side, (child, parent)) for child, parent, side in figure.limbs if drawn[child] and drawn[parent]]
    layers = [(1, 2, 0)[side] for side, _ in shapes]
    if figure.trunk and drawn[list(figure.trunk)].all():
        shapes.append((0, figure.trunk))  # type: ignore[arg-type]
        layers.append(1)
    if drawn[figure.head]:
        shapes.append((0, (figure.head,)))  # type: ignore[arg-type]
        layers.append(3)
    if not depth.any():
        order = np.argsort(layers, kind="stable")[None].repeat(len(depth), 0)
    else:
        order = np.argsort(np.stack([depth[:, list(joints)].mean(1) for _, joints in shapes], 1), kind="stable")
    return [(side, tuple(joints)) for side, joints in shapes], order.tolist()


def _draw_person(
    picture: np.ndarray,
    corners: list[list[int]],
    shapes: list[tuple[int, tuple[int, ...]]],
    extent: float,
    person: int,
    cv2: Any,
) -> None:
    width = max(2, round(_LIMB_WIDTH * extent))
    outline = max(1, round(_OUTLINE_WIDTH * extent))
    palette = [_TRUNK, _LEFT, _RIGHT]
    if person % 2:  # a second person in other hues
        palette = [(red, blue, green) for red, green, blue in palette]
    for side, joints in shapes:
        if len(joints) == 2:
            first, second = corners[joints[0]], corners[joints[1]]
            cv2.line(picture, first, second, _OUTLINE, width + 2 * outline, cv2.LINE_8, _SHIFT)
            cv2.line(picture, first, second, palette[side], width, cv2.LINE_8, _SHIFT)
        elif len(joints) > 2:
            polygon = np.array([corners[joint] for joint in joints], np.int32)
            cv2.fillPoly(picture, [polygon], palette[side], cv2.LINE_8, _SHIFT)
        else:
            radius = round(_HEAD_RADIUS * extent * (1 << _SHIFT))
            cv2.circle(picture, corners[joints[0]], radius + (outline << _SHIFT), _OUTLINE, -1, cv2.LINE_8, _SHIFT)
            cv2.circle(picture, corners[joints[0]], radius, _HEAD, -1, cv2.LINE_8, _SHIFT)
