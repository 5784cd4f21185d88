"""Checking whatever a path holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tmor_fast.data.check.findings import Report
from tmor_fast.data.check.sources import check_npz, check_penn, check_poses, check_pyskl, check_unik
from tmor_fast.data.check.stores import check_store

FORMATS = ("store", "penn", "npz", "pyskl", "unik", "pose-json")
_BY_SUFFIX = {".npz": "npz", ".pkl": "pyskl", ".pickle": "pyskl", ".npy": "unik", ".json": "pose-json"}
_ARCHIVES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".txz", ".tar.bz2")


def check_path(
    path: str | Path,
    *,
    format: str | None = None,
    labels: str | Path | None = None,
    label_names: Sequence[str] | None = None,
    layout: str | None = None,
    advance: Callable[[int], None] = lambda clips: None,
) -> Report:
    """Everything wrong with a clip store or with the files of a data set, in one pass.

    Args:
        path: a clip store, Penn Action's archive or folder, a .npz file, a pyskl pickle, a UNIK array, or JSON files of
            a pose estimator.
        format: one of `FORMATS`; default: found out by `find_format`.
        labels: label pickle of a UNIK array; default: beside it by its name.
        label_names: names of the classes, for pickles and arrays, whose labels must be inside.
        layout: layout of the joints, where their number does not tell.
        advance: called with the number of clips checked since the last call, for a progress bar.

    Returns:
        The report.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: the format is unknown or cannot be found out.
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"{place} does not exist; give a clip store or the files of a data set")
    kind = format or find_format(place)
    if kind not in FORMATS:
        raise ValueError(f"format {kind!r}; accepted: {', '.join(FORMATS)}")
    if kind == "store":
        return check_store(place, advance)
    if kind == "penn":
        return check_penn(place, advance)
    if kind == "npz":
        return check_npz(place, advance)
    if kind == "pyskl":
        return check_pyskl(place, advance, label_names, layout)
    if kind == "unik":
        return check_unik(place, None if labels is None else Path(labels), advance, label_names, layout)
    return check_poses(place, advance, layout)


def find_format(path: Path) -> str:
    """What a path holds, by its name and, for a folder, by the files in it.

    Raises:
        ValueError: it is none of the formats.
    """
    if path.is_dir():
        if (path / "dataset.json").exists() or (path / "clips").is_dir():
            return "store"
        if next(path.rglob("*.mat"), None) is not None:
            return "penn"
        if next(path.glob("*.json"), None) is not None:
            return "pose-json"
    elif path.name.endswith(_ARCHIVES):
        return "penn"
    elif path.suffix in _BY_SUFFIX:
        return _BY_SUFFIX[path.suffix]
    raise ValueError(
        f"{path}: neither a clip store nor files that an importer reads; accepted: a store (dataset.json), "
        f"{', '.join(_ARCHIVES[:3])} or a folder of .mat files (Penn Action), {', '.join(_BY_SUFFIX)}, a folder of "
        f".json files. Name the format where the file is called otherwise: {', '.join(FORMATS)}"
    )
