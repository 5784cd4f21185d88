"""What a path holds to predict for: a clip store, an .npz of clips, or the files of a pose estimator."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tmor_fast.data.clip import Clip
from tmor_fast.data.importers.npz import import_npz
from tmor_fast.data.importers.pose_json import read_poses
from tmor_fast.data.layout import SkeletonLayout, get_layout
from tmor_fast.data.store import ClipStore


@dataclass(frozen=True)
class Source:
    """Clips found at a path.

    Args:
        kind: "clip store", "npz", "OpenPose", "COCO results", "AlphaPose" or "MMPose".
        clips: what `ActionModel.predict` takes.
        layout: their skeleton.
    """

    kind: str
    clips: ClipStore | list[Clip]
    layout: SkeletonLayout

    def __str__(self) -> str:
        return f"{self.kind}: {len(self.clips)} clip{'s' if len(self.clips) != 1 else ''} of {self.layout.name}"


@contextmanager
def open_source(
    path: str | Path,
    *,
    layout: str | SkeletonLayout | None = None,
    persons: int = 1,
    fps: float | None = None,
    image_size: tuple[int, int] | None = None,
) -> Iterator[Source]:
    """Open what `tmor predict` is given; what it is, is found out by its structure.

    Args:
        path: the folder of a clip store, a .npz file (`tmor_fast.data.importers.npz`), a pose file or a folder of such
            (`tmor_fast.data.importers.pose_json`).
        layout: skeleton of a pose file whose number of keypoints does not say it; a store and a .npz say it themselves.
        persons: persons to keep of a pose file.
        fps: frames a second of a pose file, 30 if None; a store and a .npz say it themselves.
        image_size: (width, height) of a pose file's images.

    Raises:
        FileNotFoundError: there is nothing.
        DataError: it is none of these, or damaged; the message says where.
        ValueError: `layout` disagrees with what the store or .npz says, or `fps` is given for one.
    """
    place = Path(path)
    if place.is_dir() and (place / "dataset.json").is_file():
        yield _of_store("clip store", place, ClipStore(place), layout, fps)
    elif place.suffix.lower() == ".npz":
        # A store is what checks its values; it lasts as long as the source.
        with tempfile.TemporaryDirectory(prefix="tmor_predict_") as folder:
            store = import_npz(place, Path(folder) / "store", name=place.stem)
            yield _of_store("npz", place, store, layout, fps)
    elif place.is_dir() or place.suffix.lower() == ".json":
        poses = read_poses(
            place, layout=layout, persons=persons, fps=30.0 if fps is None else fps, image_size=image_size
        )
        yield Source(poses.kind, poses.clips, poses.layout)
    elif not place.exists():
        raise FileNotFoundError(f"{place} does not exist; give a clip store, a .npz, a pose .json or a folder of them")
    else:
        raise ValueError(f"{place}: accepted are the folder of a clip store, a .npz, a pose .json or a folder of them")


def _of_store(
    kind: str, path: Path, store: ClipStore, layout: str | SkeletonLayout | None, fps: float | None
) -> Source:
    if layout is not None and get_layout(layout) != store.layout:
        raise ValueError(f"{path}: its clips are {store.layout.name!r}, not {get_layout(layout).name!r}")
    if fps is not None:
        raise ValueError(f"{path}: its clips have frame rates of their own; leave fps out")
    return Source(kind, store, store.layout)
