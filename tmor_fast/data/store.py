"""Reading a clip store: Parquet shards, a dataset.json, and teacher embeddings beside them.

A store is a folder: `dataset.json`, `clips/00000.parquet` ... (see `tmor_fast.data.shards` for the columns) and
`embeddings/<teacher>.npy` with a JSON of the same name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np

from tmor_fast.atomic import new_file
from tmor_fast.data.clip import Clip
from tmor_fast.data.layout import SkeletonLayout, register_layout
from tmor_fast.data.ragged import ClipBatch
from tmor_fast.data.shards import column_array, from_table, import_pyarrow, open_shard, read_table
from tmor_fast.data.store_writer import FORMAT, VERSION, ClipStoreWriter
from tmor_fast.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ClipStore", "ClipStoreWriter"]


class ClipStore:
    """A clip store opened for reading.

    Args:
        path: the folder that `ClipStoreWriter` made.

    Raises:
        DataError: the folder is no clip store, dataset.json is damaged, or a shard is absent.
        MissingDependencyError: pyarrow is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        import_pyarrow()
        self.path = Path(path)
        self._info = _read_info(self.path)
        try:
            self._layout = SkeletonLayout.from_dict(self._info["layout"])
            register_layout(self._layout)
        except ValueError as error:
            raise DataError(f"{self.path / 'dataset.json'}: layout: {error}") from error
        self._shards = [self.path / "clips" / shard["file"] for shard in self._info["shards"]]
        for shard in self._shards:
            if not shard.is_file():
                raise DataError(f"{shard} is absent; copy it again or write the store anew")
        counts = [int(shard["clips"]) for shard in self._info["shards"]]
        self._first = np.concatenate(([0], np.cumsum(counts)))
        self._cached: tuple[tuple[int, int], int, ClipBatch] | None = None

    def __len__(self) -> int:
        return int(self._first[-1])

    def __repr__(self) -> str:
        return f"ClipStore({str(self.path)!r}: {len(self)} clips, {self.num_frames} frames, {self._layout.name})"

    @property
    def info(self) -> dict[str, Any]:
        """What dataset.json says, and under "teachers" the embeddings that are there."""
        return {**self._info, "teachers": self.teachers}

    @property
    def name(self) -> str:
        """Name of the data set."""
        return str(self._info["name"])

    @property
    def layout(self) -> SkeletonLayout:
        """Skeleton layout of every clip."""
        return self._layout

    @property
    def channels(self) -> int:
        """2 or 3 coordinates."""
        return int(self._info["channels"])

    @property
    def units(self) -> str:
        """Units of the coordinates."""
        return str(self._info["units"])

    @property
    def label_names(self) -> list[str]:
        """Names of the classes."""
        return list(self._info["label_names"])

    @property
    def num_frames(self) -> int:
        """Frames of all clips together."""
        return int(self._info["num_frames"])

    @property
    def max_persons(self) -> int:
        """Most person slots of any clip."""
        return int(self._info["max_persons"])

    def batches(self) -> Iterator[ClipBatch]:
        """The clips shard by shard, in flat arrays, their values checked.

        Raises:
            DataError: a shard is truncated, corrupt or does not hold what dataset.json says, or a value is out of its
                range (a valid joint that is not finite, a label that has no name); the message names file and clip.
        """
        for number, path in enumerate(self._shards):
            batch = self._checked(read_table(path), path)
            expected = self._info["shards"][number]
            if len(batch) != expected["clips"] or len(batch.joints) != expected["frames"]:
                raise DataError(
                    f"{path}: {len(batch)} clips and {len(batch.joints)} frames, but dataset.json says "
                    f"{expected['clips']} and {expected['frames']}; copy the store again"
                )
            yield batch

    def __iter__(self) -> Iterator[Clip]:
        for batch in self.batches():
            for index in range(len(batch)):
                yield batch.clip(index, self._layout.name, self.units)

    def __getitem__(self, index: int) -> Clip:
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"clip {index} of a store of {len(self)}")
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        row = number - int(self._first[shard])
        first, batch = self._row_group(shard, row)
        return batch.clip(row - first, self._layout.name, self.units)

    def _row_group(self, shard: int, row: int) -> tuple[int, ClipBatch]:
        """The row group that holds `row` of `shard` and the number of its first row; the last one read is kept."""
        if self._cached is not None:
            (cached_shard, first), count, batch = self._cached
            if cached_shard == shard and first <= row < first + count:
                return first, batch
        path = self._shards[shard]
        first = 0
        with open_shard(path) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if row < first + count:
                    break
                first += count
            else:
                raise DataError(f"{path}: has {first} clips, fewer than dataset.json says; copy the store again")
        batch = self._checked(read_table(path, row_group=group), path)
        self._cached = ((shard, first), count, batch)
        return first, batch

    def _checked(self, table: pa.Table, path: Path) -> ClipBatch:
        """The clips of a table: others than the writer may have made the file, so their values are not trusted."""
        batch = from_table(table, self._layout.num_joints, self.channels, path)
        try:
            batch.check(self._layout, self.channels, len(self._info["label_names"]))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        return batch

    def column(self, name: str) -> list[str] | np.ndarray:
        """One column of all clips without reading joints.

        Args:
            name: e.g. "clip_id", "num_frames", "label", "caption", "split" or an extra column such as "style".

        Returns:
            A list for strings, an array for numbers.

        Raises:
            DataError: no such column (the message lists those there are), or a shard is corrupt.
        """
        if name in ("joints", "valid", "confidence", "frame_label"):
            raise ValueError(f"{name!r} has many values a clip; read it through batches() or store[i]")
        parts = [column_array(read_table(path, columns=[name]), name) for path in self._shards]
        whole = np.concatenate(parts)
        return whole.tolist() if whole.dtype == object else whole

    # ------------------------------------------------------------------------------------------------------------
    # Teacher embeddings
    # ------------------------------------------------------------------------------------------------------------

    @property
    def teachers(self) -> list[str]:
        """Names of the teachers whose embeddings are stored."""
        return sorted(unquote(file.stem) for file in (self.path / "embeddings").glob("*.npy"))

    def _embedding_file(self, teacher: str) -> Path:
        return self.path / "embeddings" / f"{quote(teacher, safe='')}.npy"

    def embeddings(self, teacher: str) -> np.ndarray:
        """Stored embeddings of one teacher: (n, D) float32; an all-zero row stands for a clip without one.

        Raises:
            DataError: there are none of that name (the message lists those there are), or the file is corrupt or has
                not one row a clip.
        """
        path = self._embedding_file(teacher)
        if not path.is_file():
            known = ", ".join(self.teachers) or "none"
            raise DataError(f"{self.path}: no embeddings of teacher {teacher!r}; there are: {known}")
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{path}: cannot be read ({error}); write the embeddings again") from error
        if array.ndim != 2 or len(array) != len(self):
            raise DataError(f"{path}: shape {array.shape}, but one row for each of {len(self)} clips is needed")
        return array.astype(np.float32, copy=False)

    def embedding_metadata(self, teacher: str) -> dict[str, Any]:
        """What was noted when the embeddings were written; empty if nothing was."""
        path = self._embedding_file(teacher).with_suffix(".json")
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def write_embeddings(self, teacher: str, array: np.ndarray, metadata: Mapping[str, Any] | None = None) -> None:
        """Keep embeddings of every clip, replacing older ones of that teacher.

        Interrupted at any point, the notes that are found belong to the rows that are found; there may be rows without
        notes, never notes of other rows.

        Args:
            teacher: name of the teacher.
            array: (n, D) float16 or float32, row i for clip i; an all-zero row says that clip i has none.
            metadata: JSON-ready notes, e.g. {"prompt": "..."}.

        Raises:
            ValueError: wrong shape or dtype, a value that is not finite, or an empty name.
        """
        if not teacher:
            raise ValueError("the teacher needs a name")
        if array.ndim != 2 or len(array) != len(self) or array.shape[1] == 0:
            raise ValueError(f"embeddings must be ({len(self)}, D), one row a clip, got {array.shape}")
        if array.dtype not in (np.float16, np.float32):
            raise ValueError(f"embeddings must be float16 or float32, got {array.dtype}")
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise ValueError(f"the embedding of clip {row} is not finite")
        path = self._embedding_file(teacher)
        notes = {"teacher": teacher, "clips": len(array), "dim": array.shape[1], **(metadata or {})}
        text = json.dumps(notes, indent=1) + "\n"
        described = path.with_suffix(".json")
        described.unlink(missing_ok=True)
        with new_file(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
        with new_file(described) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    if not path.is_file():
        raise DataError(f"{folder} is no clip store: it has no dataset.json. 'tmor data import' makes one")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: no valid JSON ({error})") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise DataError(f"{path}: not the description of a clip store (format {FORMAT!r})")
    if info.get("version") != VERSION:
        raise DataError(f"{path}: version {info.get('version')}; this library reads version {VERSION}")
    needed = ("name", "layout", "channels", "units", "label_names", "num_clips", "num_frames", "max_persons", "shards")
    lacking = [key for key in needed if key not in info]
    if lacking:
        raise DataError(f"{path}: lacks {', '.join(lacking)}")
    for shard in info["shards"]:
        file = shard.get("file") if isinstance(shard, dict) else None
        if not isinstance(file, str) or Path(file).name != file or not {"clips", "frames"} <= set(shard):
            raise DataError(f"{path}: shard {shard!r} must be a file name without folders, clips and frames")
    return info
