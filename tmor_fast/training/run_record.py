"""What a checkpoint says of its run, and the check that a resumed run is the same one."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tmor_fast.atomic import remove_leftovers
from tmor_fast.data.packed import PackedClips
from tmor_fast.errors import DataError
from tmor_fast.nn.objective import TeacherFeatures
from tmor_fast.training.checkpoints import checkpoint_name, checkpoints_in, damage, newest_whole, tidy
from tmor_fast.training.config import plain_values

# Where a checkpoint keeps the record, and the version of everything this library adds to it.
KEY = "tmor_fast"
VERSION = 1

# Settings that change no loss.
FREE = ("checkpoints",)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What must be the same where a run goes on.

    Args:
        kind: "pretrain" or "finetune".
        part: "stage1", "stage2" or a stream; the folder of its checkpoints.
        config: the configuration as plain values.
        data: `fingerprint` of the data.
    """

    kind: str
    part: str
    config: dict[str, Any]
    data: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"version": VERSION, "torch": str(torch.__version__), **dataclasses.asdict(self)}


def make_record(kind: str, part: str, config: Any, data: Mapping[str, Any]) -> RunRecord:
    """The record of a run with a configuration (a dataclass) and the fingerprint of its data."""
    return RunRecord(kind, part, plain_values(config), dict(data))


def fingerprint(packed: PackedClips, teachers: TeacherFeatures | None = None, start: nn.Module | None = None) -> dict:
    """What tells data sets apart: counts, and digests of clip ids, lengths, labels and texts (not of coordinates).

    Args:
        packed: the clips.
        teachers: embeddings trained against.
        start: module whose weights training starts from, None for fresh ones.
    """
    found: dict[str, Any] = {
        "clips": len(packed),
        "frames": len(packed.joints),
        "layout": packed.layout.name,
        "coordinates": packed.joints.shape[-1],
        "persons": packed.joints.shape[1],
        "clip_ids": _digest("\n".join(packed.clip_ids).encode()),
        "lengths": _digest(_bytes(packed.offsets)),
        "labels": _digest(_bytes(packed.label)),
    }
    if teachers is not None:
        found["video_embedding"] = None if teachers.video is None else teachers.video.shape[1]
        found["texts"] = 0 if teachers.text is None else len(teachers.text)
        found["text_of_clips"] = "" if teachers.text_id is None else _digest(_bytes(teachers.text_id))
    if start is not None:
        found["start_weights"] = _digest(b"".join(_bytes(value) for value in start.state_dict().values()))
    return found


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def read_record(path: Path) -> dict[str, Any]:
    """The record in a checkpoint file.

    Raises:
        FileNotFoundError: no such file.
        DataError: the file is damaged, or no checkpoint of a run of this version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; give --resume alone to take the newest of the run")
    problem = damage(path)
    if problem:
        raise DataError(f"{path} is damaged: {problem}; resume without a path to take the newest whole checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # another kind of file raises almost anything
        raise DataError(f"{path}: cannot be read as a checkpoint: {error}") from error
    record = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(record, dict):
        raise DataError(
            f"{path}: not a checkpoint that training can go on from (a finished model, or made by another program or "
            "an older tmor_fast); checkpoints are the .ckpt files in the stage1 or stage2 folder of a run, or in that "
            "of a stream. To train again in the same folder, replace the run (--overwrite)"
        )
    if record.get("version") != VERSION:
        raise DataError(
            f"{path}: checkpoint format {record.get('version')}, this tmor_fast reads format {VERSION}; finish the "
            "run with the version that started it, or train again"
        )
    return record


def check_record(path: Path, found: Mapping[str, Any], wanted: RunRecord) -> None:
    """Refuse to go on where the checkpoint belongs to another run.

    Raises:
        DataError: another kind of run, configuration or data set; the message says what differs.
    """
    if (found["kind"], found["part"]) != (wanted.kind, wanted.part):
        raise DataError(
            f"{path}: made by {found['kind']} ({found['part']}), wanted for {wanted.kind} ({wanted.part}); give the "
            "checkpoint of this run and part, or --resume alone"
        )
    changed = _differences(found["config"], wanted.config)
    if changed:
        raise DataError(
            f"{path}: made with another configuration. {'; '.join(changed)}. Resume with the settings of the run "
            "(its config.yaml), or start anew in another folder"
        )
    changed = _differences(found["data"], wanted.data)
    if changed:
        raise DataError(
            f"{path}: made on other data. {'; '.join(changed)}. Resume with the stores the run was started with, "
            "unchanged, or start anew in another folder"
        )
    if found.get("torch") != torch.__version__:
        warnings.warn(
            f"{path} was made with torch {found.get('torch')}, this is {torch.__version__}: losses may differ in their "
            "last digits from those of an unbroken run",
            stacklevel=2,
        )


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    changed: list[str] = []
    for name in [*found, *(name for name in wanted if name not in found)]:
        old, new = found.get(name, "(absent)"), wanted.get(name, "(absent)")
        if not prefix and name in FREE:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            changed.append(f"{prefix}{name}: {old} in the checkpoint, {new} now")
    return changed


def begin(
    out: Path, parts: Sequence[str], results: Sequence[str], resume: str | Path | bool | None, overwrite: bool
) -> Path | None:
    """Choose the checkpoint that a run goes on from, or make its folder ready for a fresh start.

    Args:
        out: the run folder.
        parts: names of the folders with checkpoints, in the order of training.
        results: names of the files that the run ends with.
        resume: a checkpoint; True takes the newest whole one, and starts anew where there is none yet.
        overwrite: a fresh start may delete an older run.

    Returns:
        The checkpoint, None for a fresh start.

    Raises:
        FileExistsError: a fresh start where a run is.
        FileNotFoundError: no such checkpoint.
        DataError: all checkpoints are damaged.
    """
    for folder in (out, *(out / part / name for part in parts for name in ("checkpoints", "log"))):
        remove_leftovers(folder)
    if resume not in (None, False, True):
        return Path(str(resume))
    folders = [out / part / "checkpoints" for part in parts]
    if resume:
        chosen = newest_whole(folders)
        if chosen is not None:
            tidy(chosen)
            return chosen
    here = [path for folder in folders for path in checkpoints_in(folder)]
    here += [out / name for name in results if (out / name).exists()]
    if here and not overwrite:
        remedy = "it has no checkpoint to go on from;" if resume else "go on with it (--resume),"
        raise FileExistsError(
            f"{out} holds a run already ({here[-1].name}); {remedy} choose another folder, or let it be replaced "
            "(--overwrite)"
        )
    for path in here:
        if path.parent == out:
            path.unlink()
    for part in parts:
        shutil.rmtree(out / part, ignore_errors=True)
    return None


def is_finished(out: Path, part: str, epochs: int, result: str) -> bool:
    """Whether a run is complete: its last part's last epoch has a checkpoint, and the result is there."""
    last = out / part / "checkpoints" / checkpoint_name(epochs - 1)
    return last.is_file() and (out / result).is_file()
