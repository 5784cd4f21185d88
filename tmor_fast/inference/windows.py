"""Windows of long recordings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tmor_fast.inference.clips import Recording


def window_starts(frames: int, window: int, stride: int) -> Iterator[int]:
    """First frames of the windows of a recording: every `stride`, and one that ends where the recording ends."""
    last = max(frames - window, 0)
    yield from range(0, last, stride)
    yield last


def cut_windows(each: Iterable[Recording], window: int, stride: int) -> Iterator[Recording]:
    """The windows of recordings, one after another, without a copy of their frames."""
    for recording in each:
        for start in window_starts(len(recording), window, stride):
            yield recording.cut(start, min(start + window, len(recording)))
