"""Files and folders that appear whole or not at all: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """A fresh hidden name in the folder of `path`, on the same file system, so that renaming is atomic."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Write one file: yields a temporary path; on success it replaces `path`, on an error it is removed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(target)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def start_folder(path: str | Path, overwrite: bool) -> Path:
    """An empty temporary folder that `finish_folder` turns into `path`.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} already exists; remove it, choose another place or pass overwrite=True")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(target)
    temporary.mkdir()
    return temporary


def finish_folder(temporary: Path, path: str | Path, overwrite: bool) -> None:
    """Rename `temporary` to `path`; an older folder there goes only once the new one stands complete.

    Raises:
        FileExistsError: `path` has appeared meanwhile and `overwrite` is False.
    """
    target = Path(path)
    if not target.exists():
        os.replace(temporary, target)
        return
    if not overwrite:
        raise FileExistsError(f"{target} already exists; remove it, choose another place or pass overwrite=True")
    old = temporary_name(target)
    os.replace(target, old)
    try:
        os.replace(temporary, target)
    except OSError:
        os.replace(old, target)
        raise
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink()


@contextmanager
def new_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write one folder: yields a temporary folder that becomes `path` on success and is removed on an error.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
    """
    temporary = start_folder(path, overwrite)
    try:
        yield temporary
        finish_folder(temporary, path, overwrite)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
