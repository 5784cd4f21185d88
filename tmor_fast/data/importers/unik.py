"""Arrays of UNIK, 2s-AGCN and ST-GCN: one .npy of all clips and a pickle of names and labels.

What they hold and what becomes of it:

- `<split>_data*.npy`: (N, C, T, V, M) float. C is x, y; or x, y, z; or x, y, score (ST-GCN's Kinetics, 18 joints); or
  x, y, X, Y, Z (UNIK's Posetics: 2D and 3D together). The file is mapped, never loaded: one clip at a time is.
- `<split>_label.pkl`: (names, labels), read by `tmor_fast.data.restricted_pickle`, so code in it is never run.
- Clips are padded to the longest in one of two ways. Zeros at the end go. Where the generator replayed the clip from
  its start until the array was full, the repetition goes: it is exact to the last bit, which no recording is.
- A joint whose coordinates are all exactly 0 is missing; a person without any goes (the second one is often padding).
- 2D coordinates are normalised (UNIK: 2x/w - 1, 2y/w - h/w, y down; Kinetics: from -0.5 to 0.5, y up) and stay so.
  25-joint 3D ones went through 2s-AGCN's normalisation, which puts z up, and are turned to the store's axes.

Frame-wise label files (a dense array a clip, for TSU) are refused: a store has one class a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tmor_fast.data.check.findings import Finding
from tmor_fast.data.clip import Clip
from tmor_fast.data.importers.writing import BadClipError, bad_clip, names_for, progress_of, turn_axes, write_clips
from tmor_fast.data.layout import get_layout
from tmor_fast.data.restricted_pickle import load_pickle
from tmor_fast.data.store import ClipStore
from tmor_fast.data.store_writer import ClipStoreWriter
from tmor_fast.errors import DataError

#: Number of joints -> layout, where the format has one. UAV-Human's 17 joints are COCO's: name "coco17" for them.
LAYOUT_OF = {17: "unik17", 18: "openpose18", 25: "ntu25", 20: "kinect20", 13: "penn13"}
SPLITS = ("auto", "train", "test", "")


def import_unik(
    source: str | Path,
    labels: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    label_names: Sequence[str] | None = None,
    layout: str | None = None,
    dims: int | None = None,
    axes: str | None = None,
    split: str = "auto",
    fps: float = 30.0,
    licence: str = "",
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> ClipStore:
    """Make a clip store from arrays in the format of UNIK and 2s-AGCN.

    Args:
        source: the .npy file, (N, C, T, V, M).
        labels: the .pkl file, (names, labels).
        out: folder of the store.
        name: name of the data set; default the array file's stem.
        label_names: names of the classes; they become captions too. Default: the labels as text, and no captions.
        layout: layout of the joints; default by their number (`LAYOUT_OF`).
        dims: 2 or 3 coordinates to take; default 2 where C is 2 or 5 or the layout is a 2D estimator's, else 3.
        axes: axes of the coordinates (`tmor_fast.data.importers.writing.AXES`); default "image" in 2D ("image-up" for
            18 joints), "z-up" for 25 joints in 3D, else "store".
        split: "train", "test", "" or "auto": from the file's name.
        fps: frames a second to note; the file does not say.
        licence: noted in dataset.json.
        skip_bad: leave bad clips out, noted in dataset.json as "skipped", rather than stop at the first.
        overwrite: replace a store that exists.
        progress: show a progress bar (needs rich).

    Returns:
        The store: normalised units in 2D, metres in 3D.

    Raises:
        ValueError: an unknown layout, split, axes or number of dimensions.
        FileNotFoundError: a file does not exist.
        FileExistsError: `out` exists and `overwrite` is False.
        DataError: a file is truncated or damaged, the pickle holds more than plain data, sizes disagree, or a clip is
            bad.
        MissingDependencyError: pyarrow is not installed.
    """
    file = open_unik(source, labels, layout, dims, axes, split, fps, label_names)
    notes: dict[str, Any] = {"source": f"UNIK arrays, {file.path.name}", "axes": file.axes}
    if licence:
        notes["licence"] = licence
    writer = ClipStoreWriter(
        out,
        name=name or file.path.stem,
        layout=get_layout(file.layout),
        channels=file.dims,
        units=file.units,
        label_names=file.label_names,
        dtype="float16" if file.data.dtype == np.float16 else "float32",
        overwrite=overwrite,
        **notes,
    )
    with writer, progress_of(file.records(), len(file), f"importing {file.path.name}", progress) as counted:
        write_clips(writer, counted, source=file.path, num_labels=len(file.label_names), skip_bad=skip_bad)
    return ClipStore(out)


def open_unik(
    source: str | Path,
    labels: str | Path,
    layout: str | None = None,
    dims: int | None = None,
    axes: str | None = None,
    split: str = "auto",
    fps: float = 30.0,
    label_names: Sequence[str] | None = None,
) -> UnikFile:
    """Map the array, read the labels, and settle what the numbers mean (arguments: see `import_unik`).

    Raises:
        ValueError, FileNotFoundError, DataError: see `import_unik`.
    """
    path = Path(source)
    data = _map(path)
    joints, channels = data.shape[3], data.shape[1]
    if layout is None and joints not in LAYOUT_OF:
        raise DataError(f"{path}: {joints} joints are no layout of this format; name one (--layout)")
    chosen = layout or LAYOUT_OF[joints]
    if get_layout(chosen).num_joints != joints:
        expected = get_layout(chosen).num_joints
        raise DataError(f"{path}: {joints} joints, but layout {chosen!r} has {expected}; choose another layout")
    flat = channels in (2, 5) or (channels == 3 and chosen in ("openpose18", "coco17", "penn13"))
    taken = dims if dims is not None else 2 if flat else 3
    if taken not in (2, 3) or (taken == 3 and channels == 2):
        raise ValueError(f"dims {taken} of an array with {channels} channels; accepted: 2, and 3 with 3 or 5 channels")
    usual = {"openpose18": "image-up"}.get(chosen, "image") if taken == 2 else {"ntu25": "z-up"}.get(chosen, "store")
    turn_axes(np.zeros(taken), axes or usual)
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; accepted: {', '.join(map(repr, SPLITS))}")
    names, numbers = read_labels(labels, len(data))
    classes = names_for((number for number in numbers if _is_integer(number)), label_names)
    captions = [name.replace("_", " ") for name in classes] if label_names is not None else [""] * len(classes)
    side = split if split != "auto" else _side_of(path)
    return UnikFile(path, data, names, numbers, chosen, taken, axes or usual, side, fps, classes, captions)


def read_labels(labels: str | Path, count: int) -> tuple[list[str], list[Any]]:
    """Names and labels of the clips from the pickle beside an array.

    Args:
        labels: the .pkl file.
        count: clips of the array.

    Raises:
        FileNotFoundError: no such file.
        DataError: the file holds more than plain data, is damaged, no pair of names and labels, frame-wise, or its
            length is not `count`.
    """
    path = Path(labels)
    content = load_pickle(path)
    pair = isinstance(content, (list, tuple)) and len(content) >= 2
    if not pair or not all(isinstance(part, (list, tuple, np.ndarray)) for part in content[:2]):
        raise DataError(f"{path}: holds no pair of names and labels, (names, labels); this is no label file of UNIK")
    names, values = list(content[0]), list(content[1])
    if any(isinstance(value, (tuple, list, np.ndarray)) for value in values):
        raise DataError(
            f"{path}: has a label for every frame; a store takes one class a frame: save joints and 'frame_label' as "
            ".npz and use 'tmor data import npz'"
        )
    if len(names) != count or len(values) != count:
        raise DataError(
            f"{path}: {len(names)} names and {len(values)} labels, but the array has {count} clips; these files do not "
            "belong together"
        )
    return [str(name) for name in names], values


def labels_beside(path: Path) -> Path | None:
    """The label file that belongs to an array by its name: train_data_joint.npy -> train_label.pkl."""
    start = path.stem.partition("data")[0]
    return next(
        (file for file in (path.with_name(f"{start}label.pkl"), path.with_suffix(".pkl")) if file.is_file()), None
    )


def _map(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; a .npy file (clips, coordinates, frames, joints, persons) is needed"
        )
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, OverflowError, SyntaxError) as error:
        raise DataError(f"{path}: truncated, damaged or no plain .npy file ({error}); copy it again") from error
    if not isinstance(data, np.ndarray):
        raise DataError(
            f"{path}: holds several arrays; a .npy file with one is needed ('tmor data import npz' for .npz)"
        )
    if data.ndim != 5 or data.shape[1] not in (2, 3, 5) or data.dtype.kind != "f" or 0 in data.shape:
        wanted = "floats (clips, 2, 3 or 5 coordinates, frames, joints, persons)"
        raise DataError(f"{path}: {data.dtype} {data.shape}; {wanted} are needed")
    return data


def _side_of(path: Path) -> str:
    words = path.stem.lower()
    return "train" if "train" in words else "test" if "val" in words or "test" in words else ""


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


@dataclass
class UnikFile:
    """An array and its labels, opened.

    Args:
        path: the .npy file.
        data: (N, C, T, V, M), mapped.
        names, numbers: name and label of each clip.
        layout: layout of the joints.
        dims: coordinates to take.
        axes: axes they are in.
        split: of all clips.
        fps: frames a second to note.
        label_names, captions: of each class.
    """

    path: Path
    data: np.ndarray
    names: list[str]
    numbers: list[Any]
    layout: str
    dims: int
    axes: str
    split: str
    fps: float
    label_names: list[str]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.data)

    @property
    def units(self) -> str:
        """Units of the coordinates."""
        return "normalised" if self.dims == 2 else "metres"

    def records(self) -> Iterator[Clip | Finding]:
        """Each clip, or what is wrong with it."""
        for number in range(len(self)):
            try:
                yield self.clip(number)
            except BadClipError as error:
                yield error.finding

    def clip(self, number: int) -> Clip:
        """One clip.

        Raises:
            BadClipError: it has no name, its label is outside the list, or nothing in it was observed.
        """
        name, label = self.names[number] or f"clip {number}", self.numbers[number]
        if not _is_integer(label) or not 0 <= label < len(self.label_names):
            what = f"label {str(label)[:40]} is outside the list, 0 to {len(self.label_names) - 1}"
            remedy = "add the class to the list (--label-names) or correct the label"
            raise bad_clip("label", what, remedy, file=str(self.path), clip=name)
        whole = np.array(self.data[number]).transpose(1, 3, 2, 0)  # (T, M, V, C)
        channels = whole.shape[-1]
        joints = whole[..., 2:5] if channels == 5 and self.dims == 3 else whole[..., : self.dims]
        valid = (joints != 0).any(axis=-1)
        people = valid.any(axis=(0, 2))
        if not people.any():
            what = f"no joint was observed in any of its {len(joints)} frames"
            raise bad_clip("all-missing", what, file=str(self.path), clip=name)
        frames = replayed_length(joints, _last_frame(valid) + 1)
        confidence = None
        if channels == 3 and self.dims == 2:
            confidence = np.clip(np.nan_to_num(whole[:frames][:, people][..., 2]), 0.0, 1.0).astype(np.float32)
        kept = np.ascontiguousarray(joints[:frames, people], dtype=np.float32)
        return Clip(
            joints=turn_axes(kept, self.axes), valid=np.ascontiguousarray(valid[:frames, people]), layout=self.layout,
            clip_id=name, units=self.units, label=int(label), caption=self.captions[int(label)], split=self.split,
            fps=self.fps, confidence=confidence,
        )  # fmt: skip


def _last_frame(valid: np.ndarray) -> int:
    return int(np.flatnonzero(valid.any(axis=(1, 2)))[-1])


def replayed_length(joints: np.ndarray, frames: int) -> int:
    """Frames of the clip itself where the generator replayed it to fill the array.

    Args:
        joints: (T, M, V, C).
        frames: frames up to the last that is not zero.

    Returns:
        The smallest p > 1 with joints[t] == joints[t - p] for all p <= t < frames, if the array is full and the clip
        moves; else `frames`.
    """
    if frames < len(joints) or frames < 3:
        return frames  # zeros at the end: it was not replayed
    flat = np.ascontiguousarray(joints[:frames]).reshape(frames, -1)
    if (flat[1:] == flat[0]).all():
        return frames  # nobody moves; nothing can be told
    # Where the replay starts, the first frame is there again.
    for period in (np.flatnonzero((flat[2:] == flat[0]).all(axis=1)) + 2).tolist():
        if np.array_equal(flat[period:], flat[:-period]):
            return int(period)
    return frames
