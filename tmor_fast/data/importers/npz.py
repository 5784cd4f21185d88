"""Generic import: clips in one .npz file.

===============  ====================================  =================================================================
key              shape                                 meaning
===============  ====================================  =================================================================
joints           (F, V, C) or (F, M, V, C) float       frames of all clips one after another; C = 2 (y down) or 3 (y up)
offsets          (n + 1,) int                          clip i owns frames offsets[i] to offsets[i + 1]
joint_names      (V,) string
edges            (E, 2) int                            bones; needed unless the joint names are those of a known layout
valid            (F, V) or (F, M, V) bool              default: wherever the coordinates are finite
confidence       like valid, float in [0, 1]
label            (n,) int, -1 for none
frame_label      (F,) int, -1 for none                 for continuous sequences
label_names      (classes,) string                     needed with label or frame_label
text             (n,) string                           captions; default: the name of the label
clip_id          (n,) string                           default: the file's stem and a number
subject, view    (n,) string or int
split            (n,) "train", "test" or ""
fps              scalar or (n,)                        default 30
width, height    scalar or (n,) int                    image size, for pixels
units            scalar string                         default: metres for C = 3, pixels for C = 2
anything else    (n,) string, int, float or bool       a column of the store; ints become names by a `<key>_names`
===============  ====================================  =================================================================
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tmor_fast.data.check.clips import check_batch, repeated_ids
from tmor_fast.data.check.findings import Finding
from tmor_fast.data.importers.writing import note_skipped, refusal
from tmor_fast.data.layout import SkeletonLayout, find_layout, get_layout, register_layout
from tmor_fast.data.ragged import ClipBatch
from tmor_fast.data.store import ClipStore
from tmor_fast.data.store_writer import ClipStoreWriter
from tmor_fast.errors import DataError

REQUIRED = ("joints", "offsets", "joint_names")
KNOWN = (
    *REQUIRED,
    *("edges", "valid", "confidence", "label", "frame_label", "label_names", "text", "clip_id", "subject", "view"),
    *("split", "fps", "width", "height", "units"),
)
# Names that a column of the store has already.
RESERVED = frozenset({"num_frames", "persons", "label_name", "caption"})


def import_npz(
    source: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    layout_name: str | None = None,
    expect_layout: str | None = None,
    require: Sequence[str] = (),
    hold_out: Mapping[str, Sequence[str]] | None = None,
    licence: str = "",
    skip_bad: bool = False,
    overwrite: bool = False,
) -> ClipStore:
    """Make a clip store from one .npz file (keys: see the module's text).

    Args:
        source: the .npz file; pickled objects in it are refused.
        out: folder of the store.
        name: name of the data set; default the file's stem, or its folder's name where the stem is "data".
        layout_name: name for a layout that is not known yet; default "<name>-<V>".
        expect_layout: refuse a file whose joints are not those of this layout.
        require: keys the file must have beside `REQUIRED`.
        hold_out: column -> values, e.g. {"style": ["elderly"]}: clips with one of the values get split "test", all
            others "train". Replaces the file's own split.
        licence: noted in dataset.json.
        skip_bad: leave bad clips out, noted in dataset.json as "skipped", rather than stop at the first. A key that is
            malformed as a whole stays an error.
        overwrite: replace a store that exists.

    Returns:
        The store.

    Raises:
        FileNotFoundError: `source` does not exist.
        FileExistsError: `out` exists and `overwrite` is False.
        DataError: the file is damaged, a key is missing or malformed (the message names the key and what is accepted),
            or a clip is bad (the message names it).
        MissingDependencyError: pyarrow is not installed.
    """
    path = Path(source)
    fields = load_npz(path)
    title = name or (path.parent.name if path.stem == "data" and path.parent.name else path.stem)
    reader = NpzReader(path, fields, any_label=skip_bad)
    layout = reader.layout(layout_name or f"{title}-{len(fields['joint_names'])}")
    _require_kind(path, fields, layout, expect_layout, require)
    batch = reader.batch(title)
    metadata: dict[str, Any] = {"source": path.name, **({"licence": licence} if licence else {})}
    if hold_out is not None:
        _apply_hold_out(path, batch, hold_out)
        metadata["hold_out"] = {key: list(values) for key, values in hold_out.items()}
    channels = batch.joints.shape[3]
    units = reader.text_scalar("units", "metres" if channels == 3 else "pixels", ("pixels", "metres", "normalised"))
    try:
        with ClipStoreWriter(
            out,
            name=title,
            layout=layout,
            channels=channels,
            units=units,
            label_names=reader.label_names,
            dtype="float16" if fields["joints"].dtype == np.float16 else "float32",
            overwrite=overwrite,
            **metadata,
        ) as writer:
            _write(writer, batch, layout, path, len(reader.label_names), skip_bad)
    except DataError as error:
        raise DataError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    return ClipStore(out)


def _require_kind(
    path: Path, fields: Mapping[str, np.ndarray], layout: SkeletonLayout, expected: str | None, keys: Sequence[str]
) -> None:
    if expected is not None and layout != get_layout(expected):
        raise DataError(
            f"{path}: its joints are not those of {expected!r}, {', '.join(get_layout(expected).joint_names[:4])}, "
            "...; use 'tmor data import npz' for other skeletons"
        )
    lacking = [key for key in keys if key not in fields]
    if lacking:
        raise DataError(f"{path}: lacks {', '.join(lacking)}; it has {', '.join(fields)}")


def _write(
    writer: ClipStoreWriter, batch: ClipBatch, layout: SkeletonLayout, path: Path, num_labels: int, skip_bad: bool
) -> None:
    """Add the clips of a file, all or, with `skip_bad`, those nothing is wrong with."""
    found = _bad_clips(batch, layout, num_labels)
    if not found:
        writer.add_ragged(batch)
        return
    if not skip_bad:
        raise DataError(refusal(path, replace(found[0], file=str(path))))
    bad_names = {bad.clip for bad in found if bad.kind != "duplicate-id"}
    keep = np.array([name not in bad_names for name in batch.clip_id])
    keep[np.setdiff1d(np.arange(len(batch)), np.unique(batch.clip_id, return_index=True)[1])] = (
        False  # all but the first
    )
    edges = np.flatnonzero(np.diff(np.concatenate(([False], keep, [False]))))
    for start, stop in edges.reshape(-1, 2).tolist():
        writer.add_ragged(batch.slice(start, stop))
    note_skipped(writer, [replace(bad, file=str(path)) for bad in found])


def _bad_clips(batch: ClipBatch, layout: SkeletonLayout, num_labels: int) -> list[Finding]:
    """The errors of `check_batch`, and names that repeat."""
    found = check_batch(batch, layout, "normalised", num_labels, warnings=False)  # units bring warnings only
    for name, number in repeated_ids(batch.clip_id):
        times = "twice" if number == 2 else f"{number} times"
        what = f"the clip_id {name!r} occurs {times}, but must be unique within a store"
        found.append(
            Finding("error", "duplicate-id", what, "rename all but one, or leave them out (--skip-bad)", clip=name)
        )
    return found


def load_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a .npz file with joints, offsets and joint_names is needed")
    fields: dict[str, np.ndarray] = {}
    key = ""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: a single array; a .npz file with {', '.join(REQUIRED)} is needed")
        with archive:
            for key in archive.files:
                fields[key] = archive[key]
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        if key:
            raise DataError(f"{path}: key {key!r} cannot be read ({error}); plain arrays are needed") from error
        raise DataError(f"{path}: damaged or no .npz file ({error}); copy it again") from error
    lacking = [key for key in REQUIRED if key not in fields]
    if lacking:
        raise DataError(f"{path}: lacks {', '.join(lacking)}; it has {', '.join(fields) or 'nothing'}")
    return fields


class KeyProblemError(DataError):
    """A key of a file is malformed; `key` is its name."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class NpzReader:
    """Takes the keys of one file apart; every complaint names file and key.

    Args:
        path: the file, for messages.
        fields: its keys.
        any_label: let labels outside the list pass, for a check of the clips to find.

    Raises:
        DataError: joints, offsets, joint_names or label_names are malformed.
    """

    def __init__(self, path: Path, fields: dict[str, np.ndarray], any_label: bool = False) -> None:
        self.path, self.fields, self.any_label = path, fields, any_label
        joints, offsets = fields["joints"], fields["offsets"]
        self._require(
            "joints",
            joints.ndim in (3, 4) and joints.shape[-1] in (2, 3) and joints.dtype.kind == "f",
            "floats (F, V, C) or (F, M, V, C) with C = 2 or 3",
        )
        self.frames = len(joints)
        self._require(
            "offsets", offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) >= 2, "integers (n + 1,)"
        )
        self.offsets = offsets.astype(np.int64)
        rises = self.offsets[0] == 0 and self.offsets[-1] == self.frames and (np.diff(self.offsets) > 0).all()
        self._require("offsets", bool(rises), f"rising from 0 to the {self.frames} frames of joints, no clip empty")
        names = fields["joint_names"]
        self._require(
            "joint_names", names.shape == (joints.shape[-2],) and names.dtype.kind == "U", f"{joints.shape[-2]} strings"
        )
        self.count = len(offsets) - 1
        self.joints = joints if joints.ndim == 4 else joints[:, None]
        self.ids = [str(number) for number in range(self.count)]
        self.label_names = self._label_names()

    def _require(self, key: str, fine: bool, accepted: str) -> None:
        if not fine:
            array = self.fields[key]
            raise KeyProblemError(f"{self.path}: key {key!r} is {array.dtype} {array.shape}; accepted: {accepted}", key)

    def text_scalar(self, key: str, default: str, accepted: Sequence[str]) -> str:
        """One string out of `accepted`."""
        if key not in self.fields:
            return default
        value = str(self.fields[key])
        if self.fields[key].ndim or value not in accepted:
            raise KeyProblemError(f"{self.path}: key {key!r} is {value!r}; accepted: one of {', '.join(accepted)}", key)
        return value

    def layout(self, new_name: str) -> SkeletonLayout:
        """The known layout with these joints, or a new one from the edges, registered as `new_name`."""
        names = [str(name) for name in self.fields["joint_names"]]
        known = find_layout(names)
        if known is not None:
            return known
        if "edges" not in self.fields:
            raise DataError(
                f"{self.path}: joint_names are those of no known layout, so key 'edges' (V - 1, 2) is needed"
            )
        edges = self.fields["edges"]
        self._require(
            "edges", edges.ndim == 2 and edges.shape[1] == 2 and edges.dtype.kind in "iu", "integers (V - 1, 2)"
        )
        try:
            layout = SkeletonLayout.from_edges(new_name, names, [(int(a), int(b)) for a, b in edges])
            register_layout(layout)
        except ValueError as error:
            raise DataError(f"{self.path}: keys 'joint_names' and 'edges': {error}") from error
        return layout

    def batch(self, title: str) -> ClipBatch:
        """All clips of the file."""
        finite = np.isfinite(self.joints).all(axis=-1)
        valid = self._per_joint("valid", "b")
        if "clip_id" in self.fields:
            self.ids = self._strings("clip_id").tolist()
        else:
            self.ids = [f"{title}-{number:06d}" for number in range(self.count)]
        columns = {
            "label": self._labels("label", self.count),
            "subject": self._strings("subject"),
            "view": self._strings("view"),
            "split": self._strings("split"),
            "fps": self._numbers("fps", 30.0, "a positive number or n of them"),
            "width": self._numbers("width", 0, "a whole number or n of them"),
            "height": self._numbers("height", 0, "a whole number or n of them"),
            **self._extras(),
        }
        columns["caption"] = self._captions(columns["label"])
        frame_label = self._labels("frame_label", self.frames) if "frame_label" in self.fields else None
        return ClipBatch.build(
            self.joints,
            self.offsets,
            self.ids,
            valid=finite if valid is None else valid,
            confidence=self._per_joint("confidence", "f"),
            frame_label=frame_label,
            **columns,
        )

    def _label_names(self) -> list[str]:
        if "label_names" not in self.fields:
            for key in ("label", "frame_label"):
                if key in self.fields and self.fields[key].size and self.fields[key].max() >= 0:
                    what = f"has {key!r} but no 'label_names', the strings that name the classes"
                    raise KeyProblemError(f"{self.path}: {what}", key)
            return []
        names = self.fields["label_names"]
        distinct = names.ndim == 1 and names.dtype.kind == "U" and len(np.unique(names)) == len(names)
        self._require("label_names", distinct, "distinct strings (classes,)")
        return [str(name) for name in names]

    def _labels(self, key: str, length: int) -> np.ndarray:
        if key not in self.fields:
            return np.full(length, -1)
        array = self.fields[key]
        self._require(key, array.shape == (length,) and array.dtype.kind in "iu", f"{length} integers")
        highest = len(self.label_names) - 1
        wrong = np.flatnonzero((array < -1) | (array > highest))
        if len(wrong) and not self.any_label:
            first = int(wrong[0])
            clip = first if key == "label" else int(np.searchsorted(self.offsets, first, side="right")) - 1
            frame = "" if key == "label" else f", frame {first - int(self.offsets[clip])}"
            raise KeyProblemError(
                f"{self.path}: key {key!r} is {array[first]} for clip {self.ids[clip]!r}{frame} ({len(wrong)} such); "
                f"accepted: numbers of label_names, -1 (none) to {highest}. Correct the label or name the class",
                key,
            )
        return array.astype(np.int64)

    def _per_joint(self, key: str, kind: str) -> np.ndarray | None:
        if key not in self.fields:
            return None
        array = self.fields[key]
        if array.shape == self.fields["joints"].shape[:-1] and array.dtype.kind == kind:
            array = array.reshape(self.joints.shape[:-1])
            if kind == "b" or (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
                return array
        wanted = "bool" if kind == "b" else "floats in [0, 1]"
        raise KeyProblemError(
            f"{self.path}: key {key!r} is {array.dtype} {array.shape}; accepted: {wanted} shaped like joints without "
            f"the last axis, {self.fields['joints'].shape[:-1]}",
            key,
        )

    def _strings(self, key: str) -> np.ndarray:
        if key not in self.fields:
            return np.full(self.count, "", dtype=object)
        array = self.fields[key]
        self._require(
            key, array.shape == (self.count,) and array.dtype.kind in "Uiu", f"{self.count} strings or integers"
        )
        return array.astype(str).astype(object)

    def _numbers(self, key: str, default: float, accepted: str) -> np.ndarray:
        array = self.fields.get(key, np.asarray(default))
        if key in self.fields:
            whole = key == "fps" or array.dtype.kind in "iu"
            fine = array.shape in ((), (self.count,)) and array.dtype.kind in "iuf" and whole
            self._require(key, fine and bool((array > 0).all()), accepted)
        return np.broadcast_to(array, (self.count,)).astype(np.float64 if key == "fps" else np.int64)

    def _captions(self, label: np.ndarray) -> np.ndarray:
        if "text" in self.fields:
            return self._strings("text")
        words = [name.replace("_", " ").replace("-", " ") for name in self.label_names]
        known = (label >= 0) & (label < len(words))
        return np.array([*words, ""], dtype=object)[np.where(known, label, -1)]

    def _extras(self) -> dict[str, np.ndarray]:
        extras = {}
        for key, array in self.fields.items():
            if key in KNOWN or key == "text" or (key.endswith("_names") and key.removesuffix("_names") in self.fields):
                continue
            fine = array.shape == (self.count,) and array.dtype.kind in "Uiufb" and key not in RESERVED
            self._require(key, fine, f"one string or number a clip ({self.count}); the keys with a meaning are {KNOWN}")
            names = self.fields.get(f"{key}_names")
            if names is None:
                extras[key] = array.astype(object) if array.dtype.kind == "U" else array
                continue
            numbered = array.dtype.kind in "iu" and names.ndim == 1 and names.dtype.kind == "U"
            inside = numbered and int(array.min()) >= 0 and int(array.max()) < len(names)
            self._require(key, bool(inside), f"numbers of {key}_names, 0 to {len(names) - 1}")
            extras[key] = names[array].astype(object)
        return extras


def _apply_hold_out(path: Path, batch: ClipBatch, hold_out: Mapping[str, Sequence[str]]) -> None:
    """Set the split: "test" where a column has one of the values, "train" elsewhere."""
    test = np.zeros(len(batch), dtype=bool)
    for column, values in hold_out.items():
        if column not in batch.columns:
            raise DataError(f"{path}: no column {column!r} to hold out by; there are: {', '.join(batch.columns)}")
        there = batch.columns[column].astype(str)
        absent = sorted(set(values) - set(there.tolist()))
        if absent:
            raise DataError(f"{path}: column {column!r} never has {absent}; it has {sorted(set(there.tolist()))[:20]}")
        test |= np.isin(there, list(values))
    batch.columns["split"] = np.where(test, "test", "train").astype(object)
