"""What all importers share: clips are checked as they are written, and a bad one is an error or left out by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tmor_fast.data.check.clips import LEAVE_OUT, check_clip
from tmor_fast.data.check.findings import Finding
from tmor_fast.data.clip import Clip
from tmor_fast.data.store_writer import ClipStoreWriter
from tmor_fast.errors import DataError, missing

#: How coordinates of a source become the store's: x right, y down in 2D; x right, y up, z to the viewer in 3D.
AXES: Mapping[int, Mapping[str, tuple[str, Sequence[Sequence[int]]]]] = {
    2: {"image": ("x right, y down", ((1, 0), (0, 1))), "image-up": ("x right, y up", ((1, 0), (0, -1)))},
    3: {
        "store": ("x right, y up, z to the viewer", ((1, 0, 0), (0, 1, 0), (0, 0, 1))),
        "kinect": ("x left, y up, z away from the camera", ((-1, 0, 0), (0, 1, 0), (0, 0, -1))),
        "z-up": ("x to the person's right, y ahead, z up (2s-AGCN)", ((-1, 0, 0), (0, 0, 1), (0, 1, 0))),
    },
}


#: More classes than any data set has.
MAX_CLASSES = 10_000


class BadClipError(DataError):
    """One clip of a source that cannot be read; `finding` says where and why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


def bad_clip(kind: str, what: str, remedy: str = LEAVE_OUT, **place: Any) -> BadClipError:
    """The error about one clip; `place` is file, clip, frame, ... of a `Finding`."""
    return BadClipError(Finding("error", kind, what, remedy, **place))


def write_clips(
    writer: ClipStoreWriter,
    records: Iterable[Clip | Finding],
    *,
    source: str | Path,
    num_labels: int,
    skip_bad: bool,
) -> list[Finding]:
    """Check clips and add the sound ones to a store.

    Args:
        writer: an open writer.
        records: clips, or findings that stand for clips which could not be read.
        source: file or folder they are from, for messages.
        num_labels: number of classes.
        skip_bad: leave bad clips out and note them in the store's metadata as "skipped"; else the first is an error.

    Returns:
        What is wrong with each clip that was left out.

    Raises:
        DataError: a clip is bad and `skip_bad` is False; the message names it.
    """
    skipped: list[Finding] = []
    seen: set[str] = set()
    for record in records:
        found = _first_error(record, num_labels, seen)
        if found is None:
            assert isinstance(record, Clip)
            seen.add(record.clip_id)
            writer.add(record)
            continue
        found = replace(found, file=found.file or str(source))
        if skip_bad:
            skipped.append(found)
        else:
            raise DataError(refusal(source, found))
    note_skipped(writer, skipped)
    return skipped


def _first_error(record: Clip | Finding, num_labels: int, seen: set[str]) -> Finding | None:
    if isinstance(record, Finding):
        return record
    if record.clip_id in seen:
        what = f"the clip_id {record.clip_id!r} occurs twice, but must be unique within a store"
        return Finding("error", "duplicate-id", what, "rename one, or leave it out (--skip-bad)", clip=record.clip_id)
    return next(iter(check_clip(record, num_labels, warnings=False)), None)


def note_skipped(writer: ClipStoreWriter, skipped: Sequence[Finding]) -> None:
    """Write into dataset.json which clips were left out, and why."""
    if skipped:
        writer.note(
            skipped=[{"clip": bad.clip, "file": bad.file, "kind": bad.kind, "what": str(bad)} for bad in skipped]
        )


def refusal(source: str | Path, found: Finding) -> str:
    """The message of an import that a bad clip stops."""
    place = "" if found.file.startswith(str(source)) else f"{source}: "
    return f"{place}{found}. 'tmor data check {source}' lists everything wrong with it"


def turn_axes(joints: np.ndarray, axes: str) -> np.ndarray:
    """Coordinates in the store's axes.

    Args:
        joints: (..., C), C = 2 or 3.
        axes: a key of `AXES[C]`.

    Raises:
        ValueError: no such axes for that many coordinates.
    """
    known = AXES[joints.shape[-1]]
    if axes not in known:
        accepted = "; ".join(f"{name!r}: {words}" for name, (words, _) in known.items())
        raise ValueError(f"axes {axes!r} for {joints.shape[-1]}D; accepted: {accepted}")
    matrix = np.array(known[axes][1])
    order, sign = np.abs(matrix).argmax(axis=1), matrix.sum(axis=1)
    # Not by a product: it would turn a NaN of one axis into NaNs of all.
    return joints[..., order] * sign.astype(joints.dtype)


def read_label_names(path: str | Path) -> list[str]:
    """Names of the classes from a text file, one a line, in the order of the labels.

    Raises:
        FileNotFoundError: no such file.
        DataError: it is no UTF-8 text, empty, or names repeat.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; a text file with the name of a class a line is needed")
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: no UTF-8 text ({error}); save it as plain text, a name a line") from error
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        wrong = f"names that repeat: {', '.join(repeated)}" if repeated else "no names"
        raise DataError(f"{file}: {wrong}; a distinct name for every class is needed, one a line")
    return names


def names_for(labels: Iterable[int], given: Sequence[str] | None) -> list[str]:
    """The class names given, or the numbers 0 to the highest label as text.

    Labels from `MAX_CLASSES` on are not counted: they are damage, and outside the list that results.
    """
    if given is not None:
        return list(given)
    return [str(number) for number in range(max((int(n) for n in labels if n < MAX_CLASSES), default=-1) + 1)]


@contextmanager
def progress_of(records: Iterable[Any], total: int, words: str, show: bool) -> Iterator[Iterable[Any]]:
    """`records`, counted by a progress bar while they are taken if `show`."""
    if not show:
        yield records
        return
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress
    except ImportError as error:
        raise missing("rich", "train", "A progress bar") from error
    with Progress(console=Console(stderr=True)) as bar:
        yield bar.track(records, total=total, description=escape(words))
