"""Everything wrong with the files of a data set, before they are imported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from tmor_fast.data.check.across import AcrossClips
from tmor_fast.data.check.clips import LEAVE_OUT, check_batch, shape_findings
from tmor_fast.data.check.findings import Finding, Report
from tmor_fast.data.clip import Clip
from tmor_fast.data.importers.npz import KeyProblemError, NpzReader, load_npz
from tmor_fast.data.importers.penn import penn_records
from tmor_fast.data.importers.pose_json import PoseClips, read_poses
from tmor_fast.data.importers.pyskl import open_pyskl
from tmor_fast.data.importers.unik import labels_beside, open_unik
from tmor_fast.data.layout import SkeletonLayout, get_layout
from tmor_fast.data.ragged import ClipBatch, concatenate_batches
from tmor_fast.errors import DataError

AGAIN = "copy or download it again"
TOGETHER = 128  # clips that are checked at once
Advance = Callable[[int], None]


def _nothing(clips: int) -> None:
    pass


class _Collector:
    """Puts clips and findings of one source into a report."""

    def __init__(self, report: Report, advance: Advance) -> None:
        self.report, self.advance = report, advance
        self.across = AcrossClips()

    def take(self, records: Iterable[Clip | Finding], num_labels: int, file: str) -> None:
        """Check clips, some at a time; an error of the reader itself (a damaged archive) is one about the file."""
        pending: list[Clip] = []
        try:
            for record in records:
                self.advance(1)
                found = [record] if isinstance(record, Finding) else shape_findings(record)
                self.report.add(found, file)
                if isinstance(record, Clip) and not found:
                    pending.append(record)
                if len(pending) == TOGETHER:
                    self._check(pending, num_labels, file)
                    pending = []
        except DataError as error:
            self.fail(error, file)
        if pending:
            self._check(pending, num_labels, file)

    def _check(self, clips: Sequence[Clip], num_labels: int, file: str) -> None:
        batch = concatenate_batches([ClipBatch.from_clip(clip) for clip in clips])
        self.check(batch, get_layout(clips[0].layout), clips[0].units, num_labels, file)

    def check(self, batch: ClipBatch, layout: SkeletonLayout, units: str, num_labels: int, file: str) -> None:
        """Apply the rules for clips and count them."""
        self.report.add(check_batch(batch, layout, units, num_labels), file)
        self.report.add(self.across.add(batch, file))
        self.report.clips += len(batch)
        self.report.frames += len(batch.joints)
        self.report.joints += int((batch.persons * batch.lengths).sum()) * layout.num_joints
        self.report.observed += int(batch.valid.sum())

    def fail(self, error: Exception, file: str, kind: str = "unreadable") -> None:
        """A finding about a whole file."""
        what = str(error).removeprefix(file).lstrip(": ").removesuffix(f"; {AGAIN}")
        self.report.add([Finding("error", kind, what, AGAIN, file=file)])

    def finish(self) -> Report:
        """The report, with what only shows when clips are compared."""
        self.report.add(self.across.finish(), self.report.path)
        return self.report


def check_penn(path: Path, advance: Advance = _nothing) -> Report:
    """Check Penn Action's annotation files, an archive or a folder."""
    collector = _Collector(Report(str(path), "penn"), advance)
    collector.take(penn_records(path), 0, str(path))
    report = collector.finish()
    if not report.clips and report.ok:
        report.add(
            [Finding("error", "empty", "no .mat file in it", "give labels.tar.xz or its folder", file=str(path))]
        )
    return report


def check_npz(path: Path, advance: Advance = _nothing) -> Report:
    """Check a .npz file of clips: every malformed key, then every clip."""
    file = str(path)
    report = Report(file, "npz")
    collector = _Collector(report, advance)
    try:
        fields = load_npz(path)
        _note_empty_clips(fields, report, file)
        reader = _sound_reader(path, fields, collector)
        layout = reader.layout(f"{path.stem}-{len(fields['joint_names'])}")
        batch = _sound_batch(reader, path.stem, collector)
        units = reader.text_scalar(
            "units", "metres" if batch.joints.shape[3] == 3 else "pixels", ("pixels", "metres", "normalised")
        )
    except DataError as error:
        collector.fail(error, file, "key" if isinstance(error, KeyProblemError) else "unreadable")
        return report
    for number in range(0, len(batch), TOGETHER):  # in parts, so that the bar moves
        part = batch.slice(number, min(number + TOGETHER, len(batch)))
        collector.check(part, layout, units, len(reader.label_names), file)
        advance(len(part))
    return collector.finish()


def _note_empty_clips(fields: dict[str, np.ndarray], report: Report, file: str) -> None:
    """Name the clips without frames and take them out, so that the others can be checked."""
    offsets = fields["offsets"]
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2:
        return
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if not len(empty):
        return
    count, names = len(offsets) - 1, fields.get("clip_id")
    for clip in empty.tolist():
        name = str(names[clip]) if names is not None and names.shape == (count,) else f"number {clip}"
        report.add([Finding("error", "empty", "an empty clip: 0 frames", LEAVE_OUT, file=file, clip=name)])
    for key, array in fields.items():
        if (
            key != "offsets"
            and array.shape[:1] == (count,)
            and key not in ("joints", "valid", "confidence", "frame_label")
        ):
            fields[key] = np.delete(array, empty, axis=0)
    fields["offsets"] = np.delete(offsets, empty + 1)


def _sound_reader(path: Path, fields: dict[str, np.ndarray], collector: _Collector) -> NpzReader:
    while True:
        try:
            return NpzReader(path, fields, any_label=True)
        except KeyProblemError as error:
            if error.key in ("joints", "offsets", "joint_names"):
                raise
            collector.fail(error, str(path), "key")
            del fields[error.key]


def _sound_batch(reader: NpzReader, title: str, collector: _Collector) -> ClipBatch:
    """The clips without the keys that are malformed, each of which is noted."""
    while True:
        try:
            return reader.batch(title)
        except KeyProblemError as error:
            collector.fail(error, str(reader.path), "key")
            del reader.fields[error.key]


def check_pyskl(
    path: Path, advance: Advance = _nothing, label_names: Sequence[str] | None = None, layout: str | None = None
) -> Report:
    """Check a pyskl annotation pickle: its splits and every annotation."""
    file = str(path)
    report = Report(file, "pyskl")
    collector = _Collector(report, advance)
    try:
        opened = open_pyskl(path)
        reader = opened.reader(layout, None, 30.0, label_names)
    except DataError as error:
        collector.fail(error, file)
        return report
    report.add(opened.findings())
    # Each pair of splits has its own training and test clips; the first stands for comparing their motion.
    pairs = list(opened.pairs())
    membership = {name: side for name, side in opened.membership(pairs[0] if pairs else None).items() if side != "both"}
    collector.take(reader.records(opened.annotations, membership), len(reader.label_names), file)
    return collector.finish()


def check_unik(
    path: Path,
    labels: Path | None = None,
    advance: Advance = _nothing,
    label_names: Sequence[str] | None = None,
    layout: str | None = None,
) -> Report:
    """Check an array in UNIK's format and the labels beside it."""
    file = str(path)
    report = Report(file, "unik")
    collector = _Collector(report, advance)
    beside = labels or labels_beside(path)
    if beside is None:
        what, remedy = "there is no label file beside it", "name it (--labels), e.g. train_label.pkl"
        report.add([Finding("error", "absent", what, remedy, file=file)])
        return report
    try:
        opened = open_unik(path, beside, layout, label_names=label_names)
    except DataError as error:
        collector.fail(error, str(beside) if str(error).startswith(str(beside)) else file)
        return report
    collector.take(opened.records(), len(opened.label_names), file)
    return collector.finish()


def check_poses(path: Path, advance: Advance = _nothing, layout: str | None = None) -> Report:
    """Check the JSON files of a pose estimator, a file or a folder of them."""
    report = Report(str(path), "pose-json")
    collector = _Collector(report, advance)
    try:
        read = read_poses(path, layout=layout)
    except DataError as error:
        _check_each_pose_file(path, layout, collector, error)
    else:
        collector.take(read.clips, 0, str(path))
    return collector.finish()


def _check_each_pose_file(path: Path, layout: str | None, collector: _Collector, whole: DataError) -> None:
    """Which of the files it is, one by one; `whole` is what reading them together said."""
    before = len(collector.report.findings)
    for file in sorted(path.glob("*.json")) if path.is_dir() else []:
        read = _read_alone(file, layout)
        if isinstance(read, DataError):
            collector.fail(read, str(file))
        elif read is not None and read.kind != "OpenPose":  # of OpenPose a file is one frame
            collector.take(read.clips, 0, str(file))
    if len(collector.report.findings) == before:
        collector.fail(whole, str(path))


def _read_alone(file: Path, layout: str | None) -> PoseClips | DataError | None:
    try:
        return read_poses(file, layout=layout)
    except DataError as error:
        # A frame in which OpenPose saw nobody is no damage.
        return None if "nobody is seen" in str(error) else error
