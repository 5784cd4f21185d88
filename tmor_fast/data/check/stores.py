"""Everything wrong with a clip store: description, shards, columns, clips, embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tmor_fast.data.check.across import AcrossClips
from tmor_fast.data.check.clips import check_batch
from tmor_fast.data.check.findings import Finding, Report
from tmor_fast.data.layout import SkeletonLayout, register_layout
from tmor_fast.data.ragged import COLUMN_DEFAULTS
from tmor_fast.data.shards import from_table, import_pyarrow, open_shard, read_table
from tmor_fast.data.store import _read_info
from tmor_fast.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

COPY = "copy the store again from where it is whole, or import it anew"
NEEDED = {"clip_id", "num_frames", "persons", "joints", "valid", *COLUMN_DEFAULTS}


def check_store(path: Path, advance: Callable[[int], None] = lambda clips: None) -> Report:
    """Check a clip store, row group by row group, so that one damaged place hides nothing else.

    Args:
        path: its folder.
        advance: called with the number of clips that were looked at.

    Returns:
        The report. A store that cannot be opened at all has one finding.
    """
    report = Report(str(path), "store")
    described = str(path / "dataset.json")
    try:
        info = _read_info(path)
        layout = SkeletonLayout.from_dict(info["layout"])
        register_layout(layout)
    except ValueError as error:
        report.add([Finding("error", "description", _without(error, described), COPY, file=described)])
        return report
    across = AcrossClips()
    for shard in info["shards"]:
        _Shard(path / "clips" / shard["file"], info, layout, report, across, advance).check(shard)
    report.add(across.finish(), str(path))
    listed = {shard["file"] for shard in info["shards"]}
    for file in sorted((path / "clips").glob("*.parquet")):
        if file.name not in listed:
            what = "is not in dataset.json, so nothing reads it"
            report.add([Finding("warning", "unlisted", what, "remove it, or import anew", file=str(file))])
    _check_embeddings(path, int(info["num_clips"]), report)
    return report


def count_clips(path: Path) -> int | None:
    """How many clips a store says it has, for a progress bar; None if it cannot be opened."""
    try:
        return int(_read_info(path)["num_clips"])
    except ValueError:
        return None


def _without(error: Exception, *prefixes: str) -> str:
    """The message without the place in front, which the finding has in fields of its own."""
    text = " ".join(str(error).split())
    for prefix in prefixes:
        text = text.removeprefix(prefix).lstrip(": ")
    return text


class _Shard:
    """The check of one Parquet file."""

    def __init__(
        self,
        path: Path,
        info: dict[str, Any],
        layout: SkeletonLayout,
        report: Report,
        across: AcrossClips,
        advance: Callable[[int], None],
    ) -> None:
        self.path, self.info, self.layout, self.report = path, info, layout, report
        self.across, self.advance = across, advance
        self.joints, self.channels = layout.num_joints, int(info["channels"])
        self.whole = True

    def _note(self, kind: str, what: str, remedy: str = COPY, **place: Any) -> None:
        self.report.add([Finding("error", kind, what, remedy, file=str(self.path), **place)])

    def check(self, expected: dict[str, Any]) -> None:
        """Check all row groups against what dataset.json says."""
        if not self.path.is_file():
            self._note("absent", "is in dataset.json, but not there")
            return
        try:
            with open_shard(self.path) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                names = set(file.schema_arrow.names)
        except DataError as error:
            self._note("unreadable", _without(error, str(self.path)))
            return
        if NEEDED - names:
            self._note("columns", f"lacks the columns {', '.join(sorted(NEEDED - names))}", "write the store anew")
            return
        frames = 0
        for group, rows in enumerate(sizes):
            frames += self._check_group(group, sorted(names))
            self.advance(rows)
        clips = sum(sizes)
        if clips != expected["clips"] or (self.whole and frames != expected["frames"]):
            self._note(
                "counts",
                f"{clips} clips and {frames} frames, but dataset.json says {expected['clips']} and "
                f"{expected['frames']}",
            )

    def _check_group(self, group: int, names: list[str]) -> int:
        """Check the clips of one row group; returns how many frames they say they have."""
        try:
            table = read_table(self.path, row_group=group)
        except DataError as error:
            self.whole = False
            self._note_damage(group, names, error)
            return 0
        frames = 0
        try:
            frames = int(np.nan_to_num(_numbers(table, "num_frames")).sum())
            fits = self._rows_that_fit(table)
            if not fits.any():
                return frames
            sound = table if fits.all() else table.filter(import_pyarrow().array(fits))
            batch = from_table(sound, self.joints, self.channels, self.path)
        except (DataError, AttributeError, TypeError, ValueError) as error:
            what = f"row group {group}: a column has not the type it should have ({_without(error, str(self.path))})"
            self._note("columns", what, "write the store anew")
            return frames
        file = str(self.path)
        self.report.add(check_batch(batch, self.layout, self.info["units"], len(self.info["label_names"])), file)
        self.report.add(self.across.add(batch, file))
        self.report.clips += len(batch)
        self.report.frames += len(batch.joints)
        self.report.joints += int((batch.persons * batch.lengths).sum()) * self.joints
        self.report.observed += int(batch.valid.sum())
        return frames

    def _note_damage(self, group: int, names: list[str], error: DataError) -> None:
        """Which columns of a row group cannot be read, and whose they are if the names can."""
        try:
            ids = read_table(self.path, ["clip_id"], row_group=group)["clip_id"].to_pylist()
            whose = f"clips {ids[0]!r} to {ids[-1]!r}"
        except DataError:
            whose = f"row group {group}"
        damaged = []
        for name in names:
            try:
                read_table(self.path, [name], row_group=group)
            except DataError:
                damaged.append(name)
        cause = _without(error, str(self.path)).removesuffix("; copy it again or write the store anew")
        what = f"column {', '.join(damaged)} of {whose}: {cause}" if damaged else f"{whose}: {cause}"
        self._note("unreadable", what)

    def _rows_that_fit(self, table: pa.Table) -> np.ndarray:
        """Rows whose lists are as long as their frames and persons say; the others are noted."""
        lengths, persons = _numbers(table, "num_frames"), _numbers(table, "persons")
        ids = table["clip_id"].to_pylist()
        fits = (lengths >= 1) & (persons >= 1)  # NaN, a null, is neither
        for row in np.flatnonzero(~fits).tolist():
            what = f"an empty clip: {lengths[row]:g} frames, {persons[row]:g} persons"
            self._note("empty", what, "leave it out of the source and import anew", clip=ids[row] or "")
        for row in [row for row, name in enumerate(ids) if not name]:
            fits[row] = False
            self._note("clip-id", f"row {row} has no clip_id", "give every clip a unique name")
        per_joint = lengths * persons * self.joints
        sizes = {"joints": per_joint * self.channels, "valid": per_joint, "confidence": per_joint}
        for name, size in {**sizes, "frame_label": lengths}.items():
            if name not in table.column_names:
                continue
            column = table[name].combine_chunks()
            null = column.is_null().to_numpy(zero_copy_only=False)
            stored = np.diff(column.offsets.to_numpy())
            wrong = fits & ((stored != size) & ~null | (null if name == "joints" else False))
            for row in np.flatnonzero(wrong).tolist():
                frames, people = int(lengths[row]), int(persons[row])
                what = (
                    f"column {name!r} has {stored[row]} values; {frames} frames, {people} persons, {self.joints} "
                    f"joints in {self.channels}D need {int(size[row])}"
                )
                self._note("shape", what, clip=ids[row])
            fits &= ~wrong
        return fits


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column of numbers as float64, NaN where null."""
    return table[name].to_numpy().astype(np.float64)


def _check_embeddings(path: Path, clips: int, report: Report) -> None:
    for file in sorted((path / "embeddings").glob("*.npy")):
        remedy = "run 'tmor embed' again"

        def note(kind: str, what: str, file: Path = file, remedy: str = remedy) -> None:
            report.add([Finding("error", kind, what, remedy, file=str(file))])

        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            note("unreadable", f"truncated or corrupt ({error})")
            continue
        if array.ndim != 2 or len(array) != clips or array.dtype.kind != "f":
            note("embeddings", f"{array.dtype} {array.shape}, but floats with one row for each of {clips} clips needed")
            continue
        wrong = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(wrong):
            note("not-finite", f"{len(wrong)} rows are not finite, the first is row {wrong[0]}")
