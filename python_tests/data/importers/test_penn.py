"""Penn Action import on small files made here."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tmor_fast.data import ClipStore, get_layout, import_penn
from tmor_fast.data.importers.penn import read_penn_file
from tmor_fast.errors import DataError

PENN = get_layout("penn13")


def mat(frames: int = 5, drop: str = "", **changes: object) -> bytes:
    """A file as the data set has them: x of joint j in frame t is 100 + 10 j + t."""
    x = 100 + 10 * np.arange(13.0) + np.arange(frames)[:, None]
    fields: dict[str, object] = {
        "x": x,
        "y": x + 50,
        "visibility": np.ones((frames, 13), np.uint8),
        "action": "tennis_serve",
        "pose": "back",
        "train": np.int32(1),
        "dimensions": np.array([360, 480, frames], np.uint16),
        "nframes": np.uint8(frames),
        "bbox": np.zeros((frames - 1, 4)),
        **changes,
    }
    fields.pop(drop, None)
    stream = io.BytesIO()
    savemat(stream, fields)
    return stream.getvalue()


def archive(path: Path, members: dict[str, bytes | str], mode: str = "w:xz") -> Path:
    """A tar; a member given as text is a symbolic link to it."""
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def test_an_archive_becomes_a_store(tmp_path: Path) -> None:
    source = archive(
        tmp_path / "labels.tar.xz",
        {
            "labels/0002.mat": mat(4, action="bowl", train=np.int32(-1), pose="left"),
            "labels/0001.mat": mat(),
            "labels/readme.txt": b"not read",
        },
    )
    store = import_penn(source, tmp_path / "store", fps=25)
    assert store.label_names == ["bowl", "tennis serve"]
    assert store.layout == PENN
    assert store.units == "pixels"
    one, two = store
    assert (one.clip_id, one.label, one.caption, one.view, one.split) == ("0001", 1, "tennis serve", "back", "train")
    assert (two.clip_id, two.label, two.caption, two.view, two.split) == ("0002", 0, "bowl", "left", "test")
    assert one.image_size == (480, 360)
    assert one.fps == 25
    assert one.joints.shape == (5, 1, 13, 2)


def test_a_folder_gives_the_same(tmp_path: Path) -> None:
    files = {"0001.mat": mat(), "0002.mat": mat(3)}
    (tmp_path / "labels").mkdir()
    for name, data in files.items():
        (tmp_path / "labels" / name).write_bytes(data)
    one = import_penn(archive(tmp_path / "a.tar.gz", dict(files), "w:gz"), tmp_path / "one")
    two = import_penn(tmp_path / "labels", tmp_path / "two")
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.joints, b.joints)
        assert (a.clip_id, a.label) == (b.clip_id, b.label)


def test_sides_become_anatomical_unless_told_otherwise() -> None:
    official, swapped = read_penn_file(mat(), "1.mat", sides="official"), read_penn_file(mat(), "1.mat")
    assert official.joints[0, 0, PENN.index("left_wrist")].tolist() == [150, 200]
    assert swapped.joints[0, 0, PENN.index("right_wrist")].tolist() == [150, 200]
    assert swapped.joints[0, 0, PENN.index("head")].tolist() == [100, 150]


def test_what_is_seen_guessed_and_missing() -> None:
    x = np.full((3, 13), 200.0)
    y = np.full((3, 13), 90.0)
    visible = np.ones((3, 13), np.uint8)
    wrist, knee, ankle = (PENN.index(f"left_{part}") for part in ("wrist", "knee", "ankle"))
    visible[1, [wrist, knee, ankle]] = 0
    x[1, wrist], y[1, wrist] = 0.75, 0.75  # a placeholder
    x[1, ankle] = 0.75  # at the image's left edge, but not in its corner
    clip = read_penn_file(mat(3, x=x, y=y, visibility=visible), "1.mat", sides="official")
    assert clip.confidence is not None
    assert not clip.valid[1, 0, wrist]
    assert clip.confidence[1, 0, wrist] == 0
    for joint in (knee, ankle):
        assert clip.valid[1, 0, joint]
        assert clip.confidence[1, 0, joint] == 0.5
    assert clip.valid.sum() == 3 * 13 - 1
    assert (clip.confidence == 1).sum() == 3 * 13 - 3


def test_a_visible_joint_in_the_corner_stays() -> None:
    x = np.full((2, 13), 1.0)
    assert read_penn_file(mat(2, x=x, y=x), "1.mat").valid.all()


@pytest.mark.parametrize("name", ["../evil.mat", "/tmp/evil.mat", "labels/../../evil.mat", "..\\evil.mat"])
def test_members_that_climb_out_are_refused(tmp_path: Path, name: str) -> None:
    source = archive(tmp_path / "labels.tar.xz", {"labels/0001.mat": mat(), name: mat()})
    with pytest.raises(DataError, match=r"labels\.tar\.xz: member .* would leave the folder"):
        import_penn(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert not list(tmp_path.parent.glob("evil*"))


def test_links_and_huge_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = archive(tmp_path / "a.tar.xz", {"labels/0001.mat": "/etc/passwd"})
    with pytest.raises(DataError, match="link"):
        import_penn(source, tmp_path / "store")
    monkeypatch.setattr("tmor_fast.data.importers.penn.MAX_FILE_BYTES", 100)
    with pytest.raises(DataError, match="bytes"):
        import_penn(archive(tmp_path / "b.tar.xz", {"labels/0001.mat": mat()}), tmp_path / "store")


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.97])
def test_a_truncated_file_is_named(tmp_path: Path, keep: float) -> None:
    data = mat(40)
    source = archive(
        tmp_path / "a.tar.xz", {"labels/0001.mat": mat(), "labels/0007.mat": data[: int(len(data) * keep)]}
    )
    with pytest.raises(DataError, match=r"labels/0007\.mat"):
        import_penn(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w"])
def test_a_truncated_archive_is_named(tmp_path: Path, mode: str) -> None:
    source = archive(tmp_path / "labels.tar", {f"labels/{i:04d}.mat": mat(60 + i) for i in range(20)}, mode)
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=r"labels\.tar"):
        import_penn(source, tmp_path / "store")


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"hello" * 1000)
    with pytest.raises(DataError, match=r"x\.tar"):
        import_penn(tmp_path / "x.tar", tmp_path / "store")
    with pytest.raises(FileNotFoundError, match=r"no\.tar"):
        import_penn(tmp_path / "no.tar", tmp_path / "store")
    with pytest.raises(DataError, match=r"no \.mat file"):
        import_penn(archive(tmp_path / "empty.tar", {"a.txt": b""}, "w"), tmp_path / "store")
    with pytest.raises(ValueError, match="anatomical"):
        import_penn(tmp_path, tmp_path / "store", sides="left")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mat(drop="visibility"), "lacks visibility"),
        (lambda: mat(x=np.zeros((5, 12))), r"\(5, 12\)"),
        (lambda: mat(y=np.zeros((4, 13))), r"\(4, 13\)"),
        (lambda: mat(train=np.int32(3)), "train must be 1"),
        (lambda: mat(train=np.zeros((0, 0))), "unexpected type"),
        (lambda: mat(dimensions=np.array([0, 480])), "dimensions"),
        (lambda: mat(x=np.array([["a"] * 13] * 5, dtype=object)), "x, y and visibility|unexpected type"),
        (lambda: b"not a mat file at all" * 20, "MATLAB 5"),
        (lambda: b"", "MATLAB 5"),
    ],
)
def test_a_malformed_file_is_named(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(DataError, match=rf"labels/0003\.mat: .*({message})"):
        read_penn_file(make(), "labels/0003.mat")


def test_a_coordinate_that_is_no_number_is_invalid() -> None:
    x = np.full((2, 13), 50.0)
    x[0, 3] = np.nan
    clip = read_penn_file(mat(2, x=x), "1.mat", sides="official")
    assert not clip.valid[0, 0, 3]
    assert clip.valid.sum() == 25
    clip.check()


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"scipy.*tmor_fast\[train\]"):
        read_penn_file(mat(), "1.mat")


def test_a_bad_file_can_be_left_out_by_name(tmp_path: Path) -> None:
    members = {"labels/0001.mat": mat(), "labels/0002.mat": mat(x=np.zeros((5, 12))), "labels/0003.mat": mat(40)[:900]}
    source = archive(tmp_path / "labels.tar.xz", dict(members))
    with pytest.raises(DataError, match=r"labels/0002\.mat: .*\(5, 12\).*tmor data check .*labels\.tar\.xz"):
        import_penn(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    store = import_penn(source, tmp_path / "store", skip_bad=True)
    assert store.column("clip_id") == ["0001"]
    assert [(entry["clip"], entry["file"]) for entry in store.info["skipped"]] == [
        ("0002", "labels/0002.mat"),
        ("0003", "labels/0003.mat"),
    ]


def test_a_failed_import_leaves_an_earlier_store_whole(tmp_path: Path) -> None:
    out = tmp_path / "store"
    import_penn(archive(tmp_path / "one.tar", {"labels/0001.mat": mat()}, "w"), out)
    for name, members in (
        ("bad", {"0001.mat": mat(), "0002.mat": b"x"}),
        ("blank", {"0001.mat": mat(x=BLANK, y=BLANK)}),
    ):
        with pytest.raises(DataError):
            import_penn(archive(tmp_path / f"{name}.tar", dict(members), "w"), out, overwrite=True)
    assert ClipStore(out).column("clip_id") == ["0001"]
    assert {file.name for file in tmp_path.iterdir()} == {"one.tar", "bad.tar", "blank.tar", "store"}


BLANK = np.full((5, 13), np.nan)


@pytest.mark.parametrize("seed", range(5))
def test_flipped_bytes_of_a_compressed_file_are_named(seed: int) -> None:
    """zlib's checksum finds them; MATLAB 5 files without compression have none."""
    stream = io.BytesIO()
    savemat(stream, {"x": np.random.default_rng(0).normal(size=(50, 13))}, do_compression=True)
    data = bytearray(stream.getvalue())
    place = int(np.random.default_rng(seed).integers(200, len(data) - 20))
    data[place] ^= 0x10
    with pytest.raises(DataError, match=r"labels/0004\.mat: "):
        read_penn_file(bytes(data), "labels/0004.mat")
