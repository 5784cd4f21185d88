"""Files and folders that appear whole or not at all: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A full disk, an exhausted quota, a limit on the size of a file (`ulimit -f`).
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(OSError):
    """A file could not be written for want of space. The message names it and the remedy."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def space_for(path: str | Path) -> Iterator[None]:
    """Turns the error of a full disk into one that names `path` and the remedy; other errors pass.

    Raises:
        DiskFullError: something inside could not be written for want of space.
    """
    try:
        yield
    except DiskFullError:
        raise
    except (OSError, RuntimeError) as error:
        # torch's own file writer raises a RuntimeError without errno.
        unwritten = "PytorchStreamWriter" in str(error) or "inline_container" in str(error)
        if getattr(error, "errno", None) not in FULL and not (isinstance(error, RuntimeError) and unwritten):
            raise
        number = getattr(error, "errno", errno.ENOSPC)
        raise DiskFullError(
            number,
            f"{path}: no space left to write it ({os.strerror(number)}); files written before are whole. Free some "
            "space, raise the quota or limit, and go on (a training run: with --resume)",
        ) from error


def write_through(file: str | Path) -> None:
    """Wait until a file or folder is on the disk, so that a power cut after this cannot undo it."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed process left in `folder`."""
    for path in folder.glob(".*.tmp"):
        if path.is_file():
            path.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A fresh hidden name in the folder of `path`, on the same file system, so that renaming is atomic."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Write one file: yields a temporary path; on success it replaces `path`, on an error it is removed.

    Raises:
        DiskFullError: there is no space for it.
    """
    target = Path(path)
    temporary = temporary_name(target)
    with space_for(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            write_through(temporary)
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
