"""A frozen visual encoder without learned or random numbers: histograms of gradients, flow and motion boundaries.

Appearance: histograms of oriented gradients (Dalal and Triggs, CVPR 2005). Motion: histograms of optical flow (Laptev
et al., CVPR 2008) and of motion boundaries (Dalal, Triggs and Schmid, ECCV 2006). Each is pooled over a grid of space
and time, put through a signed square root and l2-normalised, as for dense trajectories (Wang and Schmid, ICCV 2013).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tmor_fast.teachers.motion_video import RenderSettings, import_cv2, map_threads
from tmor_fast.teachers.protocol import check_frames, unsupported

_VERSION = 1  # raise when the numbers change, so that cached embeddings are made anew
_FINE = 8  # cells a side that pixels are counted in before they are pooled softly


@dataclass(frozen=True)
class DescriptorSettings:
    """The grids of the descriptor. The defaults give 888 numbers.

    Attributes:
        size: pixels a side that frames are resized to for the gradients.
        flow_size: pixels a side for the optical flow.
        hog_grid, hog_bins, hog_times: cells a side, orientations and periods of the gradients.
        flow_grid, flow_bins, flow_times: the same for the flow (its directions are signed).
        boundary_times: periods of the motion boundaries, which share the flow's grid and bins.
    """

    size: int = 64
    flow_size: int = 32
    hog_grid: int = 4
    hog_bins: int = 8
    hog_times: int = 3
    flow_grid: int = 3
    flow_bins: int = 8
    flow_times: int = 3
    boundary_times: int = 2

    @property
    def dim(self) -> int:
        """Length of the descriptor."""
        hog = self.hog_grid**2 * self.hog_bins * self.hog_times
        flow_cells = self.flow_grid**2 * self.flow_bins
        return hog + flow_cells * self.flow_times + 2 * flow_cells * self.boundary_times


class ClassicalVideoTeacher:
    """Video embeddings from image gradients and optical flow: deterministic, no weights, a few milliseconds a clip.

    Meant for frames of `render_clips` with this teacher's `render_settings`; it takes any video.

    Args:
        settings: the descriptor's grids.
        workers: threads over clips, default the number of processors.
    """

    def __init__(self, settings: DescriptorSettings | None = None, *, workers: int | None = None) -> None:
        self._settings = settings or DescriptorSettings()
        self._workers = workers

    @property
    def name(self) -> str:
        """Short name; embeddings are cached under it."""
        return "classical-video"

    @property
    def dim(self) -> int:
        """Length of the descriptor."""
        return self._settings.dim

    @property
    def supports(self) -> frozenset[str]:
        """`{"video"}`."""
        return frozenset({"video"})

    @property
    def settings(self) -> Mapping[str, object]:
        """What the embeddings depend on."""
        return {"teacher": "classical-video", "version": _VERSION, **vars(self._settings)}

    @property
    def render_settings(self) -> RenderSettings:
        """How clips are best drawn for this teacher."""
        return RenderSettings(size=self._settings.size, frames=10)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Raises TypeError: this teacher has no text encoder."""
        raise unsupported(self, "text")

    def encode_video(self, frames: Tensor | np.ndarray) -> Tensor:
        """Video embeddings.

        Args:
            frames: (B, T, H, W, 3) uint8 RGB.

        Returns:
            (B, D) float32 on the CPU, l2-normalised; zero for a video without any gradient.
        """
        clips = check_frames(frames).cpu().numpy()
        if not len(clips):
            return torch.empty(0, self.dim)
        rows = map_threads(
            lambda index: video_descriptor(clips[index], self._settings), range(len(clips)), self._workers
        )
        return torch.from_numpy(np.stack(rows))


def video_descriptor(frames: np.ndarray, settings: DescriptorSettings) -> np.ndarray:
    """The descriptor (D,) float32 of one video `frames` (T, H, W, 3) uint8."""
    cv2 = import_cv2()
    grey = [_square(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), settings.size) for frame in frames]
    hog = _gradient_histograms(np.stack(grey).astype(np.float32), settings.hog_bins, signed=False)
    small = [_square(image, settings.flow_size) for image in grey]
    flow = _flow(small)
    directions = _histograms(flow[:, 0], flow[:, 1], settings.flow_bins, signed=True)
    # Boundaries: gradients of the flow's two components, so that constant camera motion vanishes.
    boundaries = [_gradient_histograms(flow[:, axis], settings.flow_bins, signed=True) for axis in (0, 1)]
    blocks = [
        _pool(hog, settings.hog_grid, settings.hog_times),
        _pool(directions, settings.flow_grid, settings.flow_times),
        *(_pool(boundary, settings.flow_grid, settings.boundary_times) for boundary in boundaries),
    ]
    return _normalised(np.concatenate([_normalised(np.sqrt(block)) for block in blocks]))


def _square(image: np.ndarray, size: int) -> np.ndarray:
    if image.shape == (size, size):
        return image
    cv2 = import_cv2()
    shrinking = image.shape[0] >= size and image.shape[1] >= size
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR))


def _flow(images: list[np.ndarray]) -> np.ndarray:
    """Optical flow (T-1, 2, S, S) in pixels between neighbouring frames; one frame alone does not move."""
    if len(images) == 1:
        return np.zeros((1, 2, *images[0].shape), np.float32)
    cv2 = import_cv2()
    smooth = [cv2.GaussianBlur(image, (3, 3), 0) for image in images]
    flows = [
        cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 2, 9, 1, 5, 1.1, 0) for before, after in pairwise(smooth)
    ]
    return np.stack(flows).transpose(0, 3, 1, 2)


def _gradient_histograms(images: np.ndarray, bins: int, *, signed: bool) -> np.ndarray:
    """Orientation histograms of the central differences of images (P, S, S)."""
    across, down = np.zeros_like(images), np.zeros_like(images)
    np.subtract(images[:, :, 2:], images[:, :, :-2], out=across[:, :, 1:-1])
    np.subtract(images[:, 2:], images[:, :-2], out=down[:, 1:-1])
    return _histograms(across, down, bins, signed=signed)


def _histograms(across: np.ndarray, down: np.ndarray, bins: int, *, signed: bool) -> np.ndarray:
    """Histograms (P, 8, 8, bins) of directions in 8 x 8 cells, weighted by length, each split over two bins.

    Args:
        across, down: (P, S, S) components of vectors.
        bins: directions over the full circle, or the half circle where `signed` is False.
        signed: whether opposite directions differ.
    """
    cv2 = import_cv2()
    count, size = across.shape[0], across.shape[1]
    length, angle = cv2.cartToPolar(
        np.ascontiguousarray(across).reshape(1, -1), np.ascontiguousarray(down).reshape(1, -1)
    )
    moved = np.flatnonzero(length > 1e-6)  # most of a drawn picture is flat
    length = length.ravel()[moved]
    place = angle.ravel()[moved] * np.float32(bins / (2 * np.pi) * (1 if signed else 2))
    lower = place.astype(np.int32)
    share = length * (place - lower)
    first = lower % bins
    base = _cells(count, size)[moved] * bins
    total = count * _FINE * _FINE * bins
    result = np.bincount(base + first, length - share, total)
    result += np.bincount(base + (first + 1) % bins, share, total)
    return result.reshape(count, _FINE, _FINE, bins)


@lru_cache(maxsize=8)
def _cells(count: int, size: int) -> np.ndarray:
    """The number of the cell of every pixel of `count` images, flattened."""
    line = np.arange(size) * _FINE // size
    cell = (line[:, None] * _FINE + line).ravel() + (np.arange(count) * _FINE * _FINE)[:, None]
    return np.asarray(cell.ravel(), np.int64)


def _pool(cells: np.ndarray, grid: int, times: int) -> np.ndarray:
    """Sums of cells (P, 8, 8, bins) over a soft grid x grid of space and `times` equal periods, flattened."""
    steps, bins = cells.shape[0], cells.shape[3]
    # Steps are shared between the periods they overlap, so any number of steps fills every period.
    periods = (_shares(steps, times) @ cells.reshape(steps, -1)).reshape(times, _FINE, _FINE, bins)
    weights = _overlap(_FINE, grid)
    rows = np.matmul(weights, periods.reshape(times, _FINE, _FINE * bins)).reshape(times * grid, _FINE, bins)
    return np.matmul(weights, rows).ravel()


@lru_cache(maxsize=8)
def _overlap(fine: int, coarse: int) -> np.ndarray:
    """Linear weights (coarse, fine) that share each fine cell between the two nearest coarse cells."""
    centre = (np.arange(fine) + 0.5) / fine * coarse - 0.5
    return np.maximum(0, 1 - np.abs(np.clip(centre, 0, coarse - 1) - np.arange(coarse)[:, None]))


@lru_cache(maxsize=8)
def _shares(steps: int, periods: int) -> np.ndarray:
    """The part (periods, steps) of each period, of unit weight, that each of `steps` equal steps fills."""
    edges = np.arange(steps + 1) / steps * periods
    low, high = edges[:-1], edges[1:]
    period = np.arange(periods)[:, None]
    return np.maximum(0, np.minimum(high, period + 1) - np.maximum(low, period))


def _normalised(values: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(values))
    return (values / norm if norm > 1e-8 else np.zeros_like(values)).astype(np.float32)
