"""The Parquet form of a clip store's shards, readable by pyarrow, pandas and `datasets` without this library.

One row a clip. Columns:

===========  ==================  ======================================================================================
clip_id      string              unique in the store
num_frames   int32               T
persons      int32               M
joints       list<float16/32>    T * M * V * C coordinates, time slowest, coordinate fastest; 0 where not valid
valid        list<bool>          T * M * V, null when every joint is valid
confidence   list<float16>       T * M * V in [0, 1], null when the source has none
frame_label  list<int32>         T, null when the source has none
label        int64               number in label_names of dataset.json, -1 for none
label_name   string              its name, "" for none
caption, subject, view, split    string, "" where not known
fps          double
width        int32, height int32 of the image that pixels belong to; 0 where not known
===========  ==================  ======================================================================================

and any further column the source brought. V, C, the joint names and the units are in dataset.json and in the metadata
of every shard (key "tmor").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tmor_fast.data.ragged import COLUMN_DEFAULTS, ClipBatch
from tmor_fast.errors import DataError, missing

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_CLIPS = 256  # what random access to one clip reads
FIXED_COLUMNS = ("clip_id", "num_frames", "persons", "joints", "valid", "confidence", "frame_label", "label_name")


def import_pyarrow() -> Any:
    """pyarrow with its Parquet module.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing("pyarrow", "train", "A clip store") from error
    return pyarrow


def _list_column(values: np.ndarray, lengths: np.ndarray, kind: Any) -> pa.Array:
    pa = import_pyarrow()
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).reshape(-1), type=kind))


def _nullable_list_column(values: np.ndarray, lengths: np.ndarray, null: np.ndarray, kind: Any) -> pa.Array:
    """A list column whose `null` rows hold nothing; `values` has the rest only."""
    pa = import_pyarrow()
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(np.where(null, 0, lengths), out=offsets[1:])
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=kind)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=pa.array(null))


def to_table(batch: ClipBatch, dtype: str, label_names: Sequence[str], metadata: dict[str, Any]) -> pa.Table:
    """Arrow table of a batch.

    Args:
        batch: a checked batch.
        dtype: "float16" or "float32", how coordinates are kept.
        label_names: names of the classes.
        metadata: JSON-ready description kept in the shard.

    Raises:
        DataError: a coordinate does not fit float16.
    """
    pa = import_pyarrow()
    kind = {"float16": pa.float16(), "float32": pa.float32()}[dtype]
    lengths, persons = batch.lengths, batch.persons
    channels, joints = batch.joints.shape[3], batch.joints.shape[2]
    coordinates = np.where(batch.valid[..., None], batch.joints, batch.joints.dtype.type(0))
    if dtype == "float16":
        _require_float16_range(batch, coordinates)
    coordinates = coordinates.astype(dtype, copy=False)
    slots = np.ones(batch.joints.shape[:2], dtype=bool)  # (F, M): the person slots that exist
    if (persons != batch.joints.shape[1]).any():
        slots = np.arange(batch.joints.shape[1]) < persons[batch.clip_of_frame, None]
    per_joint = lengths * persons * joints
    whole = np.logical_and.reduceat((batch.valid | ~slots[..., None]).all(axis=(1, 2)), batch.offsets[:-1])
    partial = slots & ~whole[batch.clip_of_frame, None]
    nothing = np.ones(len(batch), dtype=bool)
    empty = np.empty(0)
    label = batch.columns["label"].astype(np.int64)
    columns: dict[str, Any] = {
        "clip_id": pa.array(batch.clip_id, type=pa.string()),
        "num_frames": pa.array(lengths.astype(np.int32)),
        "persons": pa.array(persons.astype(np.int32)),
        "joints": _list_column(coordinates[slots], per_joint * channels, kind),
        "valid": _nullable_list_column(batch.valid[partial], per_joint, whole, pa.bool_()),
        "confidence": _nullable_list_column(empty.astype(np.float16), per_joint, nothing, pa.float16())
        if batch.confidence is None
        else _list_column(batch.confidence[slots].astype(np.float16), per_joint, pa.float16()),
        "frame_label": _nullable_list_column(empty.astype(np.int32), lengths, nothing, pa.int32())
        if batch.frame_label is None
        else _list_column(batch.frame_label.astype(np.int32), lengths, pa.int32()),
        "label": pa.array(label),
        "label_name": pa.array(np.array([*label_names, ""], dtype=object)[label].tolist(), type=pa.string()),
    }
    for name in ("caption", "subject", "view", "split"):
        columns[name] = pa.array(batch.columns[name].tolist(), type=pa.string())
    columns["fps"] = pa.array(batch.columns["fps"].astype(np.float64))
    for name in ("width", "height"):
        columns[name] = pa.array(batch.columns[name].astype(np.int32))
    for name in batch.extra_names:
        columns[name] = pa.array(batch.columns[name].tolist())
    return pa.table(columns).replace_schema_metadata({"tmor": json.dumps(metadata)})


def _require_float16_range(batch: ClipBatch, coordinates: np.ndarray) -> None:
    if coordinates.dtype == np.float16 or not coordinates.size:
        return
    if max(coordinates.max(), -coordinates.min()) > np.finfo(np.float16).max:
        frame = int(np.argwhere(np.abs(coordinates) > np.finfo(np.float16).max)[0][0])
        where, local = batch.locate(frame)
        raise DataError(f"{where}: frame {local} has a coordinate beyond float16's 65504; use dtype='float32'")


def write_shard(table: pa.Table, path: Path) -> None:
    """Write one shard: zstd, page checksums, row groups small enough for random access."""
    pa = import_pyarrow()
    strings = [field.name for field in table.schema if field.type == pa.string()]
    pa.parquet.write_table(
        table,
        path,
        row_group_size=ROW_GROUP_CLIPS,
        compression="zstd",
        compression_level=1,
        use_dictionary=strings,
        write_statistics=False,
        write_page_checksum=True,
    )


def open_shard(path: Path) -> Any:
    """`pyarrow.parquet.ParquetFile` of a shard.

    Raises:
        DataError: the file is absent, truncated or no Parquet file.
    """
    pa = import_pyarrow()
    try:
        return pa.parquet.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(_unreadable(path, error)) from error


def read_table(path: Path, columns: Sequence[str] | None = None, row_group: int | None = None) -> pa.Table:
    """A shard's table, or one row group of it.

    Raises:
        DataError: the shard cannot be read or lacks a column.
    """
    pa = import_pyarrow()
    with open_shard(path) as file:
        lacking = set(columns or ()) - set(file.schema_arrow.names)
        if lacking:
            raise DataError(f"{path}: has no column {sorted(lacking)}; it has {', '.join(file.schema_arrow.names)}")
        wanted = None if columns is None else list(columns)
        try:
            if row_group is None:
                return file.read(columns=wanted)
            return file.read_row_group(row_group, columns=wanted)
        except (pa.ArrowException, OSError) as error:
            raise DataError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    state = "is absent" if not path.exists() else f"cannot be read as Parquet (truncated or corrupt: {error})"
    return f"{path} {state}; copy it again or write the store anew"


def from_table(table: pa.Table, joints: int, channels: int, path: Path) -> ClipBatch:
    """The batch that `to_table` wrote; coordinates as float32.

    Args:
        table: rows of a shard.
        joints: V.
        channels: C.
        path: the shard, for messages.

    Raises:
        DataError: a column is missing or its length does not fit num_frames, persons, V and C.
    """
    lacking = {"clip_id", "num_frames", "persons", "joints", "valid", *COLUMN_DEFAULTS} - set(table.column_names)
    if lacking:
        raise DataError(f"{path}: lacks the columns {sorted(lacking)}; write the store anew")
    rows = _Rows(table, joints, channels, path)
    coordinates = rows.per_joint("joints", 0.0, np.float32, channels)
    valid = rows.per_joint("valid", True, np.bool_)
    assert coordinates is not None
    if valid is None:
        valid = np.ones(coordinates.shape[:3], dtype=bool)
        if rows.slots is not None:
            valid[~rows.slots] = False
    extras = [name for name in table.column_names if name not in FIXED_COLUMNS and name not in COLUMN_DEFAULTS]
    return ClipBatch(
        joints=coordinates,
        valid=valid,
        offsets=np.concatenate(([0], np.cumsum(rows.lengths))),
        persons=rows.persons,
        clip_id=rows.clip_id,
        columns={name: column_array(table, name) for name in (*COLUMN_DEFAULTS, *extras)},
        confidence=rows.per_joint("confidence", 1.0, np.float32),
        frame_label=rows.per_frame("frame_label", -1, np.int64),
    )


class _Rows:
    """Unpacks the list columns of a shard into flat arrays, with every length checked first."""

    def __init__(self, table: pa.Table, joints: int, channels: int, path: Path) -> None:
        self.table, self.joints, self.path = table, joints, path
        self.lengths = table["num_frames"].to_numpy().astype(np.int64)
        self.persons = table["persons"].to_numpy().astype(np.int64)
        self.clip_id: list[str] = table["clip_id"].to_pylist()
        if (self.lengths < 1).any() or (self.persons < 1).any():
            raise DataError(f"{path}: a clip has no frames or no persons; write the store anew")
        self.most = int(self.persons.max(initial=1))
        # Before anything is allocated by what num_frames says.
        self._values("joints", self.lengths * self.persons * joints * channels)
        self.slots: np.ndarray | None = None  # (F, M): the person slots that exist, None for all
        if (self.persons != self.most).any():
            self.slots = np.arange(self.most) < np.repeat(self.persons, self.lengths)[:, None]

    def _values(self, name: str, sizes: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        """A list column as one array, and which rows are null; each other row must have its size."""
        column = self.table[name].combine_chunks()
        null = column.is_null().to_numpy(zero_copy_only=False)
        stored = np.diff(column.offsets.to_numpy())
        wrong = np.flatnonzero(stored != np.where(null, stored, sizes))
        if len(wrong) or (name == "joints" and null.any()):
            first = int(wrong[0]) if len(wrong) else int(np.flatnonzero(null)[0])
            raise DataError(
                f"{self.path}: clip {self.clip_id[first]!r}: column {name!r} has {stored[first]} values, "
                f"{sizes[first]} expected"
            )
        return column.flatten(), null

    def _absent(self, name: str) -> bool:
        return name not in self.table.column_names or self.table[name].null_count == len(self.table)

    def per_joint(self, name: str, fill: float, dtype: Any, channels: int | None = None) -> np.ndarray | None:
        """(F, M, V) or (F, M, V, C): `fill` in clips without values, 0 in slots nobody has; None if no clip has any."""
        if self._absent(name) and name != "joints":
            return None
        flat, null = self._values(name, self.lengths * self.persons * self.joints * (channels or 1))
        values = flat.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
        tail = (self.joints,) if channels is None else (self.joints, channels)
        frames = int(self.lengths.sum())
        if self.slots is None and not null.any():
            return values.reshape(frames, self.most, *tail)
        target = np.full((frames, self.most, *tail), fill, dtype=dtype)
        present = np.ones((frames, self.most), dtype=bool) if self.slots is None else self.slots
        target[present & ~np.repeat(null, self.lengths)[:, None]] = values.reshape(-1, *tail)
        target[~present] = 0
        return target

    def per_frame(self, name: str, fill: float, dtype: Any) -> np.ndarray | None:
        """(F,), `fill` in clips without values; None if no clip has any."""
        if self._absent(name):
            return None
        flat, null = self._values(name, self.lengths)
        target = np.full(int(self.lengths.sum()), fill, dtype=dtype)
        target[np.repeat(~null, self.lengths)] = flat.to_numpy(zero_copy_only=False)
        return target


def column_array(table: pa.Table, name: str) -> np.ndarray:
    """One column as a numpy array: numbers as they are, strings as objects."""
    column = table[name]
    if import_pyarrow().types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return column.to_numpy()
