"""Penn Action: the official annotation files, one MATLAB file a clip.

What the files hold and what becomes of it:

- `x`, `y` (T, 13) pixels and `visibility` (T, 13). A joint flagged invisible often still has a position the annotators
  estimated: it is kept as valid with confidence 0.5. Where both coordinates are below 2 pixels and the joint is
  invisible, the numbers are placeholders at the image corner: not valid, confidence 0.
- Sides. The files name sides as the viewer of a person from the front sees them: "left_shoulder" is the one further
  left in the image when the person faces the camera, hence the anatomical right one (in all frontal jumping jacks and,
  the other way round, in 98 % of the bowlers seen from behind; three in four throw, bowl and serve with the "left"
  hand). Other data sets and every 3D source use anatomical sides, so by default the importer swaps them.
- `action`, `pose` (the view: front, back, left, right), `train` (1 train, -1 test), `dimensions` (height, width,
  frames). `bbox` is not used (in two files it is a row short).

The files state no frame rate; 30 a second is written unless given.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tmor_fast.data.check.clips import LEAVE_OUT
from tmor_fast.data.check.findings import Finding
from tmor_fast.data.clip import Clip
from tmor_fast.data.importers.writing import progress_of, refusal, write_clips
from tmor_fast.data.layout import get_layout
from tmor_fast.data.store import ClipStore
from tmor_fast.data.store_writer import ClipStoreWriter
from tmor_fast.errors import DataError, missing

PLACEHOLDER_PIXELS = 2.0
UNSEEN_CONFIDENCE = 0.5
MAX_FILE_BYTES = 64 * 2**20  # the largest official file has 60 kB
PENN_FILES = 2326  # of the official set
FIELDS = ("x", "y", "visibility", "action", "pose", "train", "dimensions")


def import_penn(
    source: str | Path,
    out: str | Path,
    *,
    name: str = "penn_action",
    fps: float = 30.0,
    sides: str = "anatomical",
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> ClipStore:
    """Make a clip store from Penn Action's annotation files.

    Args:
        source: `labels.tar.xz` (or another tar), read as it is, or a folder with the .mat files.
        out: folder of the store.
        name: name of the data set.
        fps: frames a second to note.
        sides: "anatomical" swaps left and right of the files (see the module's text), "official" keeps them.
        skip_bad: leave bad files out, noted in dataset.json as "skipped", rather than stop at the first.
        overwrite: replace a store that exists.
        progress: show a progress bar (needs rich).

    Returns:
        The store: 13 joints in pixels, the action in words as caption and class name, the view, the official split.

    Raises:
        ValueError: `sides` is unknown.
        FileNotFoundError: `source` does not exist.
        FileExistsError: `out` exists and `overwrite` is False.
        DataError: a file is corrupt, lacks a field or has one of the wrong size, or an archive member would leave the
            folder. The message names the file.
        MissingDependencyError: scipy or pyarrow is not installed.
    """
    if sides not in ("anatomical", "official"):
        raise ValueError(f"sides {sides!r}; accepted: 'anatomical', 'official'")
    records: list[Clip | Finding] = []
    with progress_of(penn_records(source, fps, sides), PENN_FILES, f"reading {Path(source).name}", progress) as counted:
        for record in counted:
            if isinstance(record, Finding) and not skip_bad:
                raise DataError(refusal(source, record))
            records.append(record)
    if not records:
        raise DataError(f"{source}: no .mat file in it; Penn Action's labels.tar.xz or its 'labels' folder is needed")
    records.sort(key=lambda record: record.clip_id if isinstance(record, Clip) else record.clip)
    clips = [record for record in records if isinstance(record, Clip)]
    label_names = sorted({clip.caption for clip in clips})
    for clip in clips:
        clip.label = label_names.index(clip.caption)
    with ClipStoreWriter(
        out,
        name=name,
        layout="penn13",
        channels=2,
        units="pixels",
        label_names=label_names,
        overwrite=overwrite,
        source="Penn Action (Zhang, Zhu and Derpanis, ICCV 2013), official annotation files",
        licence="none stated for the data; research use",
        sides=sides,
    ) as writer:
        write_clips(writer, records, source=source, num_labels=len(label_names), skip_bad=skip_bad)
    return ClipStore(out)


def penn_records(source: str | Path, fps: float = 30.0, sides: str = "anatomical") -> Iterator[Clip | Finding]:
    """Each annotation file as a clip (see `read_penn_file`), or as what is wrong with it.

    Args:
        source: `labels.tar.xz` (or another tar), or a folder with the .mat files.
        fps: frames a second to note.
        sides: see `import_penn`.

    Raises:
        FileNotFoundError: `source` does not exist.
        DataError: the archive itself is damaged or not the official one.
    """
    path = Path(source)
    for file, data in _folder_files(path) if path.is_dir() else _tar_files(path):
        try:
            yield read_penn_file(data, file, fps, sides)
        except DataError as error:
            what = str(error).removeprefix(f"{file}: ")
            yield Finding("error", "unreadable", what, LEAVE_OUT, file=file, clip=PurePosixPath(file).stem)


def read_penn_file(data: bytes, file: str, fps: float = 30.0, sides: str = "anatomical") -> Clip:
    """One annotation file as a clip; its label is still -1, its caption the action in words.

    Args:
        data: content of the .mat file.
        file: its name, for the clip_id and messages.
        fps: frames a second to note.
        sides: see `import_penn`.

    Raises:
        DataError: the file is corrupt, lacks a field or has one of the wrong size.
    """
    fields = _load_mat(data, file)
    lacking = [field for field in FIELDS if field not in fields]
    if lacking:
        raise DataError(f"{file}: lacks {', '.join(lacking)}; a Penn Action file has {', '.join(FIELDS)}")
    x, y, visible = (np.asarray(fields[field]) for field in ("x", "y", "visibility"))
    layout = get_layout("penn13")
    if x.ndim != 2 or x.shape[1] != layout.num_joints or len(x) == 0 or not x.shape == y.shape == visible.shape:
        raise DataError(
            f"{file}: x, y and visibility must all be (frames, 13), got {x.shape}, {y.shape}, {visible.shape}"
        )
    try:
        joints = np.stack((x, y), axis=-1).astype(np.float32)
        size = [int(value) for value in np.ravel(fields["dimensions"])]
        train = int(np.ravel(fields["train"])[0])
        action, view = (str(np.ravel(fields[field])[0]) for field in ("action", "pose"))
    except (ValueError, TypeError, IndexError) as error:
        raise DataError(f"{file}: a field has an unexpected type ({error})") from error
    if len(size) < 2 or min(size[:2]) <= 0:
        raise DataError(f"{file}: dimensions must be height, width and frames, got {size}")
    if train not in (1, -1):
        raise DataError(f"{file}: train must be 1 (train) or -1 (test), got {train}")
    seen = visible != 0
    placeholder = ~seen & (joints < PLACEHOLDER_PIXELS).all(axis=-1)
    confidence = np.where(seen, 1.0, np.where(placeholder, 0.0, UNSEEN_CONFIDENCE)).astype(np.float32)
    valid = ~placeholder & np.isfinite(joints).all(axis=-1)
    if sides == "anatomical":
        order = list(layout.mirror)
        joints, valid, confidence = joints[:, order], valid[:, order], confidence[:, order]
    return Clip(
        joints=joints[:, None],
        valid=valid[:, None],
        confidence=np.where(valid, confidence, 0.0)[:, None],
        layout="penn13",
        clip_id=PurePosixPath(file).stem,
        units="pixels",
        caption=action.replace("_", " "),
        view=view,
        split="train" if train == 1 else "test",
        fps=fps,
        image_size=(size[1], size[0]),
    )


def _load_mat(data: bytes, file: str) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise missing("scipy", "train", "Reading Penn Action's MATLAB files") from error
    try:
        return dict(loadmat(io.BytesIO(data)))
    except Exception as error:  # scipy raises nearly anything on damaged input
        raise DataError(f"{file}: cannot be read as a MATLAB 5 file ({error}); extract or download it again") from error


def _folder_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*.mat")):
        yield str(path), path.read_bytes()


def _tar_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """The .mat files of an archive, read in one pass without extracting anything to disk."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give labels.tar.xz or the folder with the .mat files")
    try:
        with tarfile.open(path, mode="r|*") as archive:
            for member in archive:
                parts = PurePosixPath(member.name.replace("\\", "/"))
                if parts.is_absolute() or ".." in parts.parts:
                    raise DataError(
                        f"{path}: member {member.name!r} would leave the folder; this is not the official file"
                    )
                if member.isdir():
                    continue
                if not member.isfile():
                    raise DataError(
                        f"{path}: member {member.name!r} is a link or device; this is not the official file"
                    )
                if parts.suffix != ".mat" or parts.name.startswith("."):
                    continue
                if member.size > MAX_FILE_BYTES:
                    raise DataError(
                        f"{path}: member {member.name!r} has {member.size} bytes; this is not the official file"
                    )
                stream = archive.extractfile(member)
                assert stream is not None
                yield str(parts), stream.read()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: damaged or no tar archive ({error}); download it again") from error
    except Exception as error:  # lzma, zlib and bz2 each have an error of their own
        raise DataError(f"{path}: damaged archive ({error}); download it again") from error
