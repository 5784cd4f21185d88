"""Checkpoint files of a run: written whole, checked by their checksum, the last two kept."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from tmor_fast.atomic import new_file, space_for, temporary_name, write_through
from tmor_fast.errors import DataError

# An epoch's end, or a step inside the epoch.
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.ckpt")


def checkpoint_name(epoch: int, step: int | None = None) -> str:
    """File name of a checkpoint: at the end of an epoch, or after a step inside it. Names sort as time goes."""
    return f"epoch-{epoch:04d}.ckpt" if step is None else f"epoch-{epoch:04d}-step-{step:09d}.ckpt"


def order_of(path: Path) -> tuple[int, int, int]:
    """Sort key: where in its run a checkpoint was made.

    Raises:
        ValueError: the name is not one of `checkpoint_name`.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path}: not named as a checkpoint of a run ({checkpoint_name(3)})")
    epoch, step = match.groups()
    return (int(epoch), 1, 0) if step is None else (int(epoch), 0, int(step))


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first; none where the folder is not there."""
    return sorted((path for path in folder.glob("*.ckpt") if _NAME.fullmatch(path.name)), key=order_of)


def checksum_file(path: Path) -> Path:
    """Where the checksum of a checkpoint is kept, in the format of `sha256sum`."""
    return path.with_name(f"{path.name}.sha256")


class _Hashing:
    """A file that computes the SHA-256 of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sum.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint and its checksum; the file is there complete, on the disk, or not at all.

    The checksum comes first: a checkpoint with a name always has one.

    Raises:
        DiskFullError: there is no space for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    with space_for(path):
        try:
            with temporary.open("wb") as file:
                hashing = _Hashing(file)
                try:
                    torch.save(content, hashing)  # type: ignore[arg-type]
                except RuntimeError as error:
                    raise _first_cause(error) from None
                file.flush()
                os.fsync(file.fileno())
            with new_file(checksum_file(path)) as beside:
                beside.write_text(f"{hashing.sum.hexdigest()}  {path.name}\n")
            os.replace(temporary, path)
            write_through(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _first_cause(error: BaseException) -> BaseException:
    # torch closes its archive after an error in `write`, fails again, and hides a full disk or Ctrl-C behind that.
    while isinstance(error, RuntimeError) and error.__context__ is not None:
        error = error.__context__
    return error


def damage(path: Path) -> str:
    """What is wrong with a checkpoint file, "" where it is whole.

    A file without a checksum beside it (one that was copied alone) is whole if it can be read.
    """
    beside = checksum_file(path)
    if not beside.is_file():
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a broken archive raises almost anything
            return f"it cannot be read ({type(error).__name__})"
        return ""
    with path.open("rb") as file:
        found = _digest(file)
    expected = beside.read_text(errors="replace").split()[:1]
    return "" if [found] == expected else f"it does not have the checksum in {beside.name}"


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint, then its checksum."""
    path.unlink(missing_ok=True)
    checksum_file(path).unlink(missing_ok=True)


def newest_whole(folders: Sequence[Path]) -> Path | None:
    """The newest undamaged checkpoint of the last of the folders that has one; None where there is no checkpoint.

    A damaged one is passed over with a warning.

    Raises:
        DataError: there are checkpoints, and all are damaged.
    """
    passed: list[str] = []
    for path in (path for folder in reversed(folders) for path in reversed(checkpoints_in(folder))):
        problem = damage(path)
        if not problem:
            for text in passed:
                warnings.warn(f"{text}; going back to {path}", stacklevel=2)
            return path
        passed.append(f"{path} is damaged: {problem}")
    if passed:
        raise DataError(
            f"no whole checkpoint is left: {'; '.join(passed)}. Start the run again (overwrite), or put a copy of a "
            "checkpoint and its .sha256 file back"
        )
    return None


def tidy(newest: Path) -> None:
    """Finish what a killed run left half done beside the checkpoint it goes on from.

    Of the older checkpoints the next whole one stays; checksums without their checkpoint go.
    """
    older = [path for path in checkpoints_in(newest.parent) if order_of(path) < order_of(newest)]
    while older:
        if not damage(older.pop()):
            break
    for path in older:
        remove_checkpoint(path)
    for beside in newest.parent.glob("*.ckpt.sha256"):
        if not beside.with_suffix("").exists():
            beside.unlink(missing_ok=True)


class WholeFiles(TorchCheckpointIO):
    """Lets Lightning write its checkpoints by `write_checkpoint`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if storage_options is not None:
            raise TypeError("storage_options are for remote file systems; checkpoints are written to local ones")
        write_checkpoint(checkpoint, Path(path))
