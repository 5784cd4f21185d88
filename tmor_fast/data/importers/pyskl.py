"""pyskl's annotation pickles (also MMAction2's skeleton pickles): NTU RGB+D, FineGYM, UCF101, HMDB51, Diving48 ...

What such a file holds (tools/data/README.md of pyskl) and what becomes of it:

- `split`: {name: [clip names]}, e.g. `xsub_train` and `xsub_val`. One pair becomes the store's split; "val" is "test".
- `annotations`: a list of {`frame_dir` (name of the clip), `label`, `total_frames`, `keypoint` (M, T, V, C), and in 2D
  `keypoint_score` (M, T, V) and `img_shape` (height, width)}.
- Frames beyond `total_frames` are padding and go. A joint whose coordinates are all exactly 0 was not found: it becomes
  missing, and a person who has none goes.
- Scores become confidences, held to [0, 1]: a heatmap's maximum may lie a little outside.
- 3D skeletons of a Kinect (25 or 20 joints) are in the sensor's axes and are turned half round to the store's.

The pickle is read by `tmor_fast.data.restricted_pickle`: code in it is never run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from tmor_fast.errors import DataError, missing

#: (joints, coordinates) -> layout, where one is usual.
LAYOUT_OF = {
    (17, 2): "coco17",
    (18, 2): "openpose18",
    (25, 2): "openpose25",
    (33, 2): "mediapipe33",
    (13, 2): "penn13",
    (25, 3): "ntu25",
    (20, 3): "kinect20",
    (33, 3): "mediapipe33",
    (31, 3): "cmu31",
    (21, 3): "bandai21",
}
FIELDS = ("frame_dir", "label", "keypoint")
TRAIN, TEST = "train", ("val", "test")


def import_pyskl(
    source: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    split: str | None = None,
    label_names: Sequence[str] | None = None,
    layout: str | None = None,
    axes: str | None = None,
    fps: float = 30.0,
    licence: str = "",
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> ClipStore:
    """Make a clip store from a pyskl annotation pickle.

    Args:
        source: the .pkl file.
        out: folder of the store.
        name: name of the data set; default the file's stem.
        split: which pair of splits to note, e.g. "xsub" for xsub_train and xsub_val; needed where there are several.
        label_names: names of the classes; they become captions too. Default: the labels as text, and no captions.
        layout: layout of the joints; default by their number and dimension (`LAYOUT_OF`).
        axes: axes of the coordinates (`tmor_fast.data.importers.writing.AXES`); default "image" in 2D, "kinect" for the
            layouts of a Kinect, else "store".
        fps: frames a second to note; the file does not say.
        licence: noted in dataset.json.
        skip_bad: leave bad clips out, noted in dataset.json as "skipped", rather than stop at the first.
        overwrite: replace a store that exists.
        progress: show a progress bar (needs rich).

    Returns:
        The store: pixels in 2D, metres in 3D.

    Raises:
        ValueError: an unknown layout, split or axes; the message lists those there are.
        FileNotFoundError: `source` does not exist.
        FileExistsError: `out` exists and `overwrite` is False.
        DataError: the pickle holds more than plain data, is damaged or no annotation file, or a clip is bad.
        MissingDependencyError: pyarrow is not installed.
    """
    file = open_pyskl(source, progress=progress)
    reader = file.reader(layout, axes, fps, label_names)
    membership = file.membership(split)
    skeleton = get_layout(reader.layout)
    notes: dict[str, Any] = {"source": f"pyskl annotations, {file.path.name}", "axes": reader.axes}
    if membership:
        notes["official_split"] = file.pairs()[file.chosen(split)]
    if licence:
        notes["licence"] = licence
    with ClipStoreWriter(
        out,
        name=name or file.path.stem,
        layout=skeleton,
        channels=reader.channels,
        units="pixels" if reader.channels == 2 else "metres",
        label_names=reader.label_names,
        dtype=file.dtype,
        overwrite=overwrite,
        **notes,
    ) as writer:
        records = reader.records(file.annotations, membership)
        with progress_of(records, len(file.annotations), f"importing {file.path.name}", progress) as counted:
            write_clips(writer, counted, source=file.path, num_labels=len(reader.label_names), skip_bad=skip_bad)
    return ClipStore(out)


def open_pyskl(source: str | Path, progress: bool = False) -> PysklFile:
    """Read an annotation pickle.

    Raises:
        FileNotFoundError: no such file.
        DataError: it holds more than plain data, is damaged, or is no annotation file.
    """
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a pyskl annotation pickle is needed")
    with _reading(path, progress) as report:
        content = load_pickle(path, report)
    split: Any = {}
    annotations = content
    if isinstance(content, dict):
        lacking = [key for key in ("split", "annotations") if key not in content]
        if lacking:
            keys = ", ".join(str(key) for key in list(content)[:10])
            raise DataError(
                f"{path}: lacks {' and '.join(lacking)}; a pyskl file has 'split' and 'annotations', this one {keys}"
            )
        split, annotations = content["split"], content["annotations"]
    named = isinstance(split, dict) and all(
        isinstance(key, str) and isinstance(names, (list, tuple, set, np.ndarray)) for key, names in split.items()
    )
    if not isinstance(annotations, list) or not annotations or not named:
        raise DataError(
            f"{path}: 'annotations' must be a list of clips and 'split' a dictionary of lists of names; this is no "
            "pyskl annotation file"
        )
    if all(isinstance(entry, dict) and "raw_file" in entry and "keypoint" not in entry for entry in annotations):
        raise DataError(
            f"{path}: its skeletons lie in other files (raw_file); put them into the annotations as 'keypoint' first"
        )
    return PysklFile(path, annotations, {key: [str(name) for name in names] for key, names in split.items()})


@contextmanager
def _reading(path: Path, progress: bool) -> Iterator[Any]:
    """A progress bar over the bytes of a file: yields what to call with each number read, or None."""
    if not progress:
        yield None
        return
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress
    except ImportError as error:
        raise missing("rich", "train", "A progress bar") from error
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(f"reading {escape(path.name)}", total=path.stat().st_size)
        yield lambda count: bar.advance(task, count)


@dataclass
class PysklFile:
    """An annotation file that was read.

    Args:
        path: the file.
        annotations: its clips, not checked yet.
        split: name of a split -> names of its clips.
    """

    path: Path
    annotations: list[Any]
    split: dict[str, list[str]]

    @property
    def dtype(self) -> str:
        """ "float16" if every clip is, so that nothing is lost; else "float32"."""
        kinds = {entry["keypoint"].dtype.itemsize for entry in self._with_keypoints()}
        return "float16" if kinds == {2} else "float32"

    def _with_keypoints(self) -> Iterator[dict[str, Any]]:
        for entry in self.annotations:
            if isinstance(entry, dict) and isinstance(entry.get("keypoint"), np.ndarray):
                yield entry

    def pairs(self) -> dict[str, tuple[str, str]]:
        """What `split` accepts -> (training, test) names: "xsub" -> ("xsub_train", "xsub_val")."""
        found: dict[str, tuple[str, str]] = {}
        for train in self.split:
            for word in TEST:
                test = train.replace(TRAIN, word)
                if TRAIN in train and test in self.split:
                    found.setdefault(train.replace(TRAIN, "").strip("_") or TRAIN, (train, test))
        return found

    def chosen(self, split: str | None) -> str:
        """The name of the pair to use, "" for a file without splits.

        Raises:
            ValueError: there is no such pair, or there are several and none was chosen.
        """
        pairs = self.pairs()
        if split is None and len(pairs) <= 1:
            return next(iter(pairs), "")
        if split not in pairs:
            given = "several pairs of splits" if split is None else f"no pair of splits {split!r}"
            raise ValueError(
                f"{self.path}: {given}; choose one of: {', '.join(sorted(pairs)) or 'none, it has no split'}"
            )
        return split

    def membership(self, split: str | None) -> dict[str, str]:
        """Name of a clip -> "train", "test" or "both" (which is an error of the clip).

        Raises:
            ValueError: see `chosen`.
        """
        chosen = self.chosen(split)
        if not chosen:
            return {}
        train, test = self.pairs()[chosen]
        side = dict.fromkeys(self.split[train], "train")
        for name in self.split[test]:
            side[name] = "both" if side.get(name) == "train" else "test"
        return side

    def reader(
        self, layout: str | None, axes: str | None, fps: float, label_names: Sequence[str] | None
    ) -> PysklReader:
        """What turns annotations into clips; layout and dimension are those of most of them.

        Raises:
            ValueError: an unknown layout or axes.
            DataError: no annotation has keypoints, or their layout must be named.
        """
        shapes = Counter(entry["keypoint"].shape[2:] for entry in self._with_keypoints() if entry["keypoint"].ndim == 4)
        usual = [shape for shape, _ in shapes.most_common() if shape[1] in (2, 3)]
        if not usual:
            raise DataError(f"{self.path}: no annotation has a 'keypoint' (persons, frames, joints, 2 or 3)")
        joints, channels = usual[0] if layout is None else (get_layout(layout).num_joints, usual[0][1])
        if layout is None and (joints, channels) not in LAYOUT_OF:
            raise DataError(f"{self.path}: {joints} joints in {channels}D may be several layouts; name one (--layout)")
        chosen = layout or LAYOUT_OF[joints, channels]
        sensor = chosen in ("ntu25", "kinect20")
        turned = axes or ("image" if channels == 2 else "kinect" if sensor else "store")
        turn_axes(np.zeros(channels), turned)
        labels = [entry["label"] for entry in self._with_keypoints() if _is_integer(entry.get("label"))]
        names = names_for(labels, label_names)
        captions = [_words(name) for name in names] if label_names is not None else [""] * len(names)
        return PysklReader(str(self.path), chosen, channels, turned, fps, names, captions)

    def findings(self) -> list[Finding]:
        """What is wrong with the splits themselves."""
        known = {str(entry.get("frame_dir")) for entry in self.annotations if isinstance(entry, dict)}
        file, found = str(self.path), []
        for split, names in self.split.items():
            absent = [name for name in names if name not in known]
            if absent:
                what = f"split {split!r} names {len(absent)} clips that are not there, e.g. {absent[0]!r}"
                found.append(Finding("warning", "split", what, "get the file again if they should be", file=file))
        for title, (train, test) in self.pairs().items():
            for name in sorted(set(self.split[train]) & set(self.split[test])):
                what = f"is in training and in test of the split {title!r}"
                found.append(Finding("error", "leakage", what, "take it out of one", file=file, clip=name))
        return found


@dataclass
class PysklReader:
    """How the annotations of one file become clips.

    Args:
        file: its path, for messages.
        layout: layout of the joints.
        channels: 2 or 3 coordinates.
        axes: axes of the coordinates.
        fps: frames a second to note.
        label_names: names of the classes.
        captions: one a class.
    """

    file: str
    layout: str
    channels: int
    axes: str
    fps: float
    label_names: list[str]
    captions: list[str]

    def records(self, annotations: Sequence[Any], membership: Mapping[str, str]) -> Iterator[Clip | Finding]:
        """Each annotation as a clip, or as what is wrong with it."""
        for number, entry in enumerate(annotations):
            try:
                yield self.clip(entry, number, membership)
            except BadClipError as error:
                yield error.finding

    def clip(self, entry: Any, number: int, membership: Mapping[str, str]) -> Clip:
        """One annotation as a clip.

        Args:
            entry: the annotation.
            number: its place in the list, for messages.
            membership: see `PysklFile.membership`.

        Raises:
            BadClipError: a field is absent or malformed.
        """
        if not isinstance(entry, dict):
            raise self._bad(f"annotation {number}", "fields", f"is {type(entry).__name__}, not a dictionary")
        name = str(entry.get("frame_dir", "")) or f"annotation {number}"
        lacking = [field for field in FIELDS if field not in entry]
        if lacking:
            raise self._bad(name, "fields", f"lacks {', '.join(lacking)}")
        if not _is_integer(entry["label"]):
            raise self._bad(name, "label", f"label {str(entry['label'])[:60]!r} is no whole number")
        label = int(entry["label"])
        if not 0 <= label < len(self.label_names):
            what = f"label {label} is outside the list, 0 to {len(self.label_names) - 1}"
            raise self._bad(name, "label", what, "add the class to the list (--label-names) or correct the label")
        side = membership.get(name, "")
        if side == "both":
            raise self._bad(name, "leakage", "is in training and in test", "take it out of one of the splits")
        joints = self._keypoints(entry, name)
        valid = (joints != 0).any(axis=-1)
        score = self._scores(entry, name, valid)
        people = valid.any(axis=(0, 2))
        if not people.any():
            what = f"no joint was observed in any of its {len(joints)} frames"
            raise self._bad(name, "all-missing", what)
        joints, valid = turn_axes(joints[:, people], self.axes), valid[:, people]
        return Clip(
            joints=joints, valid=valid, layout=self.layout, clip_id=name, label=label,
            units="pixels" if self.channels == 2 else "metres",
            caption=self.captions[label], split=side, fps=self.fps,
            image_size=self._image_size(entry, name) if self.channels == 2 else None,
            confidence=None if score is None else np.where(valid, score[:, people], 0.0).astype(np.float32),
        )  # fmt: skip

    def _bad(self, name: str, kind: str, what: str, remedy: str | None = None) -> BadClipError:
        options = {} if remedy is None else {"remedy": remedy}
        return bad_clip(kind, what, file=self.file, clip=name, **options)

    def _keypoints(self, entry: dict[str, Any], name: str) -> np.ndarray:
        """(T, M, V, C) float32 without padding frames."""
        points, count = entry["keypoint"], get_layout(self.layout).num_joints
        if not isinstance(points, np.ndarray) or points.ndim != 4 or points.dtype.kind != "f":
            seen = f"{points.dtype} {points.shape}" if isinstance(points, np.ndarray) else type(points).__name__
            raise self._bad(name, "shape", f"keypoint is {seen}, not floats (persons, frames, joints, coordinates)")
        if points.shape[2:] != (count, self.channels):
            what = (
                f"{points.shape[2]} joints in {points.shape[3]}D, but {self.layout!r} in {self.channels}D has {count}"
            )
            raise self._bad(
                name, "layout", what, "choose the layout of most clips (--layout), or leave it out (--skip-bad)"
            )
        total = entry.get("total_frames", points.shape[1])
        if not _is_integer(total) or not 0 <= total <= points.shape[1]:
            what = f"total_frames is {str(total)[:40]}, but keypoint has {points.shape[1]} frames"
            raise self._bad(name, "shape", what)
        if 0 in (points.shape[0], int(total)):
            raise self._bad(name, "empty", f"an empty clip: {int(total)} frames, {points.shape[0]} persons")
        return points[:, : int(total)].transpose(1, 0, 2, 3).astype(np.float32)

    def _scores(self, entry: dict[str, Any], name: str, valid: np.ndarray) -> np.ndarray | None:
        """(T, M, V) in [0, 1], or None where the file has none."""
        score = entry.get("keypoint_score")
        if score is None:
            return None
        if not isinstance(score, np.ndarray) or score.dtype.kind != "f" or score.shape != entry["keypoint"].shape[:3]:
            seen = f"{score.dtype} {score.shape}" if isinstance(score, np.ndarray) else type(score).__name__
            raise self._bad(name, "shape", f"keypoint_score is {seen}, keypoint {entry['keypoint'].shape}")
        by_frame = score[:, : len(valid)].transpose(1, 0, 2)
        wrong = np.argwhere(valid & ~np.isfinite(by_frame))
        if len(wrong):
            frame, person, joint = (int(number) for number in wrong[0])
            what = f"keypoint_score {by_frame[frame, person, joint]} is not finite"
            where: dict[str, Any] = {
                "frame": frame,
                "person": person,
                "joint": get_layout(self.layout).joint_names[joint],
            }
            raise bad_clip("not-finite", what, file=self.file, clip=name, **where)
        return np.clip(by_frame, 0.0, 1.0)

    def _image_size(self, entry: dict[str, Any], name: str) -> tuple[int, int] | None:
        shape = entry.get("img_shape")
        if shape is None:
            return None
        if not isinstance(shape, (list, tuple, np.ndarray)) or len(shape) != 2 or not all(map(_is_integer, shape)):
            raise self._bad(name, "fields", f"img_shape {str(shape)[:60]} is not (height, width)")
        return int(shape[1]), int(shape[0])


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _words(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")
