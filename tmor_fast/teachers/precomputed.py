"""Embeddings made elsewhere, looked up by clip or by text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tmor_fast.errors import DataError, missing
from tmor_fast.teachers.protocol import check_texts

Source = str | Path | Tensor | np.ndarray | Mapping[str, Any]
_FORMATS = (".npy", ".npz", ".safetensors", ".pt", ".pth")
# Names under which a file may hold one table of embeddings and its keys.
_TABLE, _KEYS = "embeddings", "keys"


class PrecomputedTeacher:
    """Finished embeddings as a teacher: rows of a table by key, where a key is a clip id or a text.

    Args:
        source: one of
            a mapping from key to vector (D,);
            a table (n, D), tensor or array, with `keys`;
            a `.npy` table, with `keys`, or beside it a file of the same stem: `.json` (a list) or `.txt` (one a line);
            a `.npz` or `.safetensors` with one vector a key, or with a table "embeddings" and its keys (array "keys" of
            strings; in safetensors a JSON list in the metadata entry "keys");
            a `.pt` with a mapping, or a table with `keys`. Pickled code is never run.
        keys: n distinct keys of a table. A table without keys has its rows in the order of the clips.
        name: short name for caches, default the stem of the file.

    Raises:
        DataError: a file is absent or holds something else; embeddings are not finite or of unequal width.
        ValueError: `keys` do not fit the table.
    """

    def __init__(self, source: Source, keys: Sequence[str] | None = None, *, name: str | None = None) -> None:
        self._where = f"file {source}" if isinstance(source, (str, Path)) else "the embeddings given"
        if isinstance(source, (str, Path)):
            name = name or Path(source).stem
            source, found = _read(Path(source))
            keys = found if keys is None else keys
        if isinstance(source, Mapping):
            if keys is not None:
                raise ValueError(f"keys are given twice: {self._where} already has its own")
            keys = [str(key) for key in source]
            table = self._stack(source)
        else:
            table = _float_tensor(source)
        if table.ndim != 2 or not table.shape[1]:
            raise DataError(f"{self._where} must be a table (n, D), got shape {tuple(table.shape)}")
        wrong = (~torch.isfinite(table).all(1)).nonzero().flatten()
        if len(wrong):
            raise DataError(f"{self._where}: row {int(wrong[0])} is not finite; compute it again or leave it out")
        self._table = table.contiguous()
        self._rows = None if keys is None else self._index(list(keys))
        self._name = name or "precomputed"

    @property
    def name(self) -> str:
        """Short name; embeddings are cached under it."""
        return self._name

    @property
    def dim(self) -> int:
        """Width D of the embeddings."""
        return int(self._table.shape[1])

    @property
    def supports(self) -> frozenset[str]:
        """What the keys may stand for: texts and clips, or clips alone where there are no keys."""
        return frozenset({"video"}) if self._rows is None else frozenset({"text", "video"})

    @property
    def settings(self) -> Mapping[str, object]:
        """What the embeddings depend on: a hash of keys and values."""
        digest = hashlib.sha256(self._table.numpy().tobytes())
        digest.update(json.dumps(None if self._rows is None else list(self._rows)).encode())
        return {"teacher": "precomputed", "content": digest.hexdigest()[:16]}

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, key: object) -> bool:
        return self._rows is not None and key in self._rows

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (n, D) float32 of texts that are keys.

        Raises:
            DataError: a text has no embedding; the message lists which.
        """
        return self._lookup(check_texts(texts), "text")

    def encode_clips(self, clip_ids: Sequence[str]) -> Tensor:
        """Embeddings (n, D) float32 of clips by id; without keys, row i is clip i and the number of rows must agree.

        Raises:
            DataError: a clip has no embedding; the message lists which.
        """
        wanted = check_texts(clip_ids)
        if self._rows is None:
            if len(wanted) != len(self._table):
                raise DataError(
                    f"{self._where} has {len(self._table)} rows without keys for {len(wanted)} clips; give keys=, the "
                    "clip id of every row"
                )
            return self._table.clone()
        return self._lookup(wanted, "clip")

    def encode_video(self, frames: Tensor | np.ndarray) -> Tensor:
        """Raises TypeError: finished embeddings are looked up by clip id, with `encode_clips`."""
        raise TypeError(
            f"teacher {self.name!r} holds finished embeddings and cannot watch frames; look clips up by id with "
            "encode_clips"
        )

    def _lookup(self, wanted: list[str], what: str) -> Tensor:
        if self._rows is None:
            raise DataError(f"{self._where} has no keys to find a {what} by; give keys=, one a row")
        rows = self._rows
        absent = [key for key in dict.fromkeys(wanted) if key not in rows]
        if absent:
            shown = ", ".join(repr(key) for key in absent[:5]) + (", ..." if len(absent) > 5 else "")
            raise DataError(
                f"{self._where} lacks {len(absent)} of {len(set(wanted))} {what}s: {shown}. It has {len(rows)} keys, "
                f"such as {next(iter(rows), None)!r}; add the missing embeddings or drop those {what}s"
            )
        return self._table[[rows[key] for key in wanted]]

    def _index(self, keys: list[str]) -> dict[str, int]:
        if len(keys) != len(self._table):
            raise ValueError(f"{self._where} has {len(self._table)} rows but {len(keys)} keys")
        rows = {str(key): row for row, key in enumerate(keys)}
        if len(rows) != len(keys):
            twice = next(key for row, key in enumerate(keys) if rows[str(key)] != row)
            raise ValueError(f"{self._where}: the key {twice!r} occurs more than once")
        return rows

    def _stack(self, mapping: Mapping[str, Any]) -> Tensor:
        if not mapping:
            raise DataError(f"{self._where} is empty")
        vectors = {str(key): _float_tensor(value) for key, value in mapping.items()}
        width = next(iter(vectors.values())).shape
        for key, vector in vectors.items():
            if vector.ndim != 1 or vector.shape != width:
                raise DataError(
                    f"{self._where}: key {key!r} has shape {tuple(vector.shape)}; every key needs one vector of "
                    f"equal width, the first has {tuple(width)}"
                )
        return torch.stack(list(vectors.values()))


def _float_tensor(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().to("cpu", torch.float32)


def _read(path: Path) -> tuple[Tensor | np.ndarray | Mapping[str, Any], list[str] | None]:
    """The table or mapping in a file, and its keys where the file has them apart."""
    if not path.is_file():
        raise DataError(f"there is no file {path}; give a file of embeddings: {', '.join(_FORMATS)}")
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            return np.load(path, allow_pickle=False), _keys_beside(path)
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                content = {key: archive[key] for key in archive.files}
            return _split(content, content.pop(_KEYS, None))
        if suffix == ".safetensors":
            return _read_safetensors(path)
        if suffix in (".pt", ".pth"):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(loaded, Tensor):
                return loaded, _keys_beside(path)
            return _split(dict(loaded), dict(loaded).get(_KEYS) if _TABLE in loaded else None)
    except (OSError, ValueError, TypeError, RuntimeError, EOFError) as error:
        raise DataError(f"file {path} cannot be read as embeddings: {error}") from error
    except Exception as error:  # pickle and safetensors raise errors of their own
        raise DataError(f"file {path} cannot be read as embeddings: {type(error).__name__}: {error}") from error
    raise DataError(f"file {path} has the ending {suffix!r}; accepted: {', '.join(_FORMATS)}")


def _split(
    content: dict[str, Any], keys: Iterable[Any] | None
) -> tuple[Tensor | np.ndarray | Mapping[str, Any], list[str] | None]:
    table = content.get(_TABLE)
    if table is not None and getattr(table, "ndim", 0) == 2:
        return table, None if keys is None else [str(key) for key in keys]
    return content, None


def _read_safetensors(path: Path) -> tuple[Tensor | np.ndarray | Mapping[str, Any], list[str] | None]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise missing("safetensors", "teachers", f"reading {path}") from error
    with safe_open(str(path), framework="pt") as archive:
        notes = archive.metadata() or {}
        content = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118 (not a dict)
    table, keys = _split(content, json.loads(notes[_KEYS]) if _KEYS in notes else None)
    return table, keys if keys is not None or isinstance(table, Mapping) else _keys_beside(path)


def _keys_beside(path: Path) -> list[str] | None:
    listed = path.with_suffix(".json")
    if listed.is_file():
        content = json.loads(listed.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            content = content.get(_KEYS)
        return None if content is None else [str(key) for key in content]
    lines = path.with_suffix(".txt")
    return lines.read_text(encoding="utf-8").splitlines() if lines.is_file() else None
