"""Writing a clip store: clips come in any number, shards go out, the folder appears when it is complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tmor_fast.atomic import finish_folder, start_folder
from tmor_fast.data.clip import UNITS, Clip
from tmor_fast.data.layout import SkeletonLayout, get_layout
from tmor_fast.data.ragged import ClipBatch, concatenate_batches
from tmor_fast.data.shards import import_pyarrow, to_table, write_shard
from tmor_fast.errors import DataError

FORMAT = "tmor-clip-store"
VERSION = 1
MAX_SHARD_VALUES = 2**26  # coordinates of one shard: 256 MiB in float32, far below Arrow's 2^31 list limit


class ClipStoreWriter:
    """Writes a clip store; use it as a context manager.

    The folder is built under a temporary name and takes its place at `close`; leaving the `with` block by an exception
    removes what was written and keeps an older store.

    Args:
        path: folder to make.
        name: name of the data set.
        layout: skeleton layout of every clip.
        channels: 2 or 3 coordinates.
        units: "pixels", "metres" or "normalised".
        label_names: names of the classes, distinct.
        dtype: "float32", or "float16" (half the size; 0.5 units of resolution from 512 up, so rather not for pixels).
        clips_per_shard: most clips of one Parquet file.
        overwrite: replace a store that exists.
        metadata: further JSON-ready entries of dataset.json, e.g. `source=`, `licence=`.

    Raises:
        ValueError: an argument is not among the accepted values.
        FileExistsError: the folder exists and `overwrite` is False.
        MissingDependencyError: pyarrow is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str,
        layout: str | SkeletonLayout,
        channels: int,
        units: str,
        label_names: Sequence[str] = (),
        dtype: str = "float32",
        clips_per_shard: int = 2048,
        overwrite: bool = False,
        **metadata: Any,
    ) -> None:
        import_pyarrow()
        if channels not in (2, 3):
            raise ValueError(f"channels must be 2 or 3, got {channels}")
        if units not in UNITS:
            raise ValueError(f"units {units!r}; accepted: {', '.join(UNITS)}")
        if dtype not in ("float16", "float32"):
            raise ValueError(f"dtype {dtype!r}; accepted: 'float16', 'float32'")
        if len(set(label_names)) != len(label_names):
            raise ValueError("label_names must be distinct")
        if clips_per_shard < 1:
            raise ValueError(f"clips_per_shard must be at least 1, got {clips_per_shard}")
        reserved = {"format", "version", "num_clips", "num_frames", "max_persons", "shards"} & set(metadata)
        if reserved:
            raise ValueError(f"metadata may not use the names {sorted(reserved)}")
        self._path = Path(path)
        self._layout = get_layout(layout)
        self._info: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "name": name,
            "layout": self._layout.to_dict(),
            "channels": channels,
            "units": units,
            "dtype": dtype,
            "label_names": [str(label) for label in label_names],
            **metadata,
        }
        json.dumps(self._info)  # a value that JSON cannot hold fails here, not after hours of writing
        self._clips_per_shard = clips_per_shard
        self._overwrite = overwrite
        self._pending: list[ClipBatch] = []
        self._pending_clips = 0
        self._pending_values = 0
        self._seen: set[str] = set()
        self._extras: set[str] | None = None
        self._shards: list[dict[str, Any]] = []
        self._max_persons = 0
        self._temporary: Path | None = start_folder(self._path, overwrite)
        (self._temporary / "clips").mkdir()

    def __enter__(self) -> ClipStoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def note(self, **metadata: Any) -> None:
        """Further entries of dataset.json, known only after the clips.

        Raises:
            ValueError: a name is taken.
        """
        taken = {*self._info, "num_clips", "num_frames", "max_persons", "shards"} & set(metadata)
        if taken:
            raise ValueError(f"metadata may not use the names {sorted(taken)}")
        json.dumps(metadata)
        self._info.update(metadata)

    def add(self, clip: Clip) -> None:
        """Add one clip.

        Raises:
            DataError: the clip is malformed (see `Clip.check`), of another layout or units, or its clip_id is taken.
        """
        clip.check()
        if get_layout(clip.layout) != self._layout or clip.units != self._info["units"]:
            raise DataError(
                f"clip {clip.clip_id!r}: {clip.layout} in {clip.units}, but the store holds {self._layout.name} in "
                f"{self._info['units']}"
            )
        self.add_ragged(ClipBatch.from_clip(clip))

    def add_many(self, clips: Iterable[Clip]) -> None:
        """Add clips one after another (see `add`)."""
        for clip in clips:
            self.add(clip)

    def add_batch(
        self,
        joints: np.ndarray,
        clip_ids: Sequence[str],
        *,
        valid: np.ndarray | None = None,
        confidence: np.ndarray | None = None,
        frame_label: np.ndarray | None = None,
        **columns: Any,
    ) -> None:
        """Add clips of equal length at once.

        Args:
            joints: (B, T, M, V, C) float.
            clip_ids: B unique names.
            valid: (B, T, M, V) bool; None means that every joint is valid.
            confidence: (B, T, M, V) or None.
            frame_label: (B, T) or None.
            columns: label, caption, subject, view, split, fps, width, height and any further column: one value for all
                or B values.

        Raises:
            DataError: shapes or values do not fit, or a clip_id is taken.
        """
        if joints.ndim != 5:
            raise DataError(f"joints must be (B, T, M, V, C), got {joints.shape}")
        count, frames = joints.shape[:2]
        flat = {"valid": valid, "confidence": confidence, "frame_label": frame_label}
        for name, array in flat.items():
            expected = joints.shape[:2] if name == "frame_label" else joints.shape[:4]
            if array is not None and array.shape != expected:
                raise DataError(f"{name} must be {expected} to fit joints {joints.shape}, got {array.shape}")
        batch = ClipBatch.build(
            joints.reshape(count * frames, *joints.shape[2:]),
            np.arange(count + 1) * frames,
            clip_ids,
            **{k: None if v is None else v.reshape(count * frames, *v.shape[2:]) for k, v in flat.items()},
            **columns,
        )
        self.add_ragged(batch)

    def add_ragged(self, batch: ClipBatch) -> None:
        """Add clips of any lengths in flat arrays.

        Raises:
            DataError: shapes or values do not fit, or a clip_id is taken or empty.
        """
        if self._temporary is None:
            raise RuntimeError("the store is closed")
        batch.check(self._layout, self._info["channels"], len(self._info["label_names"]))
        self._require_new_ids(batch)
        extras = set(batch.extra_names)
        if self._extras is not None and extras != self._extras:
            odd = sorted(extras ^ self._extras)
            raise DataError(f"clip {batch.clip_id[0]!r}: extra columns {odd} are not on every clip of this store")
        self._extras = extras
        start = 0
        frame_values = int(np.prod(batch.joints.shape[1:]))
        while start < len(batch):
            room = max(MAX_SHARD_VALUES - self._pending_values, 0) // frame_values
            fitting = int(np.searchsorted(batch.offsets, batch.offsets[start] + room, side="right")) - 1
            stop = min(start + self._clips_per_shard - self._pending_clips, max(fitting, start))
            if stop == start and not self._pending:
                stop = start + 1  # a single clip larger than a shard is a shard of its own
            if stop > start:
                part = batch.slice(start, stop)
                self._pending.append(part)
                self._pending_clips += len(part)
                self._pending_values += part.joints.size
            if stop < len(batch) or self._pending_clips >= self._clips_per_shard:
                self._flush()
            start = stop

    def _require_new_ids(self, batch: ClipBatch) -> None:
        if "" in batch.clip_id:
            raise DataError("a clip has no clip_id; give every clip a unique name")
        fresh = set(batch.clip_id)
        if len(fresh) != len(batch.clip_id) or not fresh.isdisjoint(self._seen):
            taken = set(self._seen)
            for name in batch.clip_id:
                if name in taken:
                    raise DataError(f"clip {name!r} occurs twice; clip_id must be unique within a store")
                taken.add(name)
        self._seen |= fresh

    def _flush(self) -> None:
        if not self._pending:
            return
        assert self._temporary is not None
        batch = concatenate_batches(self._pending)
        metadata = {key: self._info[key] for key in ("name", "layout", "channels", "units", "label_names")}
        name = f"{len(self._shards):05d}.parquet"
        write_shard(
            to_table(batch, self._info["dtype"], self._info["label_names"], metadata), self._temporary / "clips" / name
        )
        self._shards.append({"file": name, "clips": len(batch), "frames": len(batch.joints)})
        self._max_persons = max(self._max_persons, int(batch.persons.max()))
        self._pending, self._pending_clips, self._pending_values = [], 0, 0

    def close(self) -> None:
        """Write what is left and put the folder in its place. Closing twice is harmless.

        Raises:
            DataError: no clip was added.
        """
        if self._temporary is None:
            return
        try:
            self._flush()
            if not self._shards:
                raise DataError(f"{self._path}: no clip was added; a store needs at least one")
            info = {
                **self._info,
                "num_clips": sum(shard["clips"] for shard in self._shards),
                "num_frames": sum(shard["frames"] for shard in self._shards),
                "max_persons": self._max_persons,
                "shards": self._shards,
            }
            (self._temporary / "dataset.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
            finish_folder(self._temporary, self._path, self._overwrite)
            self._temporary = None
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove what was written so far; an older store stays."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
