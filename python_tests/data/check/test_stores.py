"""Checking stores that were damaged after they were written: everything is found, in one pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tmor_fast.data import Clip, ClipStore
from tmor_fast.data.check.findings import Report
from tmor_fast.data.check.paths import check_path
from tmor_fast.data.check.stores import check_store, count_clips

Make = Callable[..., Clip]
Write = Callable[..., ClipStore]


@pytest.fixture
def store(clip: Make, write_store: Write) -> ClipStore:
    clips = [clip(i, 5 + i, caption="walks", frame_label=np.zeros(5 + i, np.int64)) for i in range(8)]
    for made in clips:
        made.joints[:] = np.cumsum(made.joints, axis=0) * 0.01 + np.arange(17)[None, None, :, None]
    return write_store(clips, clips_per_shard=4)


def kinds(report: Report) -> list[tuple[str, str]]:
    return [(found.kind, found.clip) for found in report]


def shard(store: ClipStore, number: int = 0) -> Path:
    return store.path / "clips" / f"{number:05d}.parquet"


def rewrite(path: Path, rows: int = 2, **changes: Callable[[list], object]) -> None:
    """Write a shard anew, as another program might."""
    table = pq.read_table(path)
    for column, change in changes.items():
        values = table[column].to_pylist()
        change(values)
        place = table.column_names.index(column)
        table = table.set_column(place, column, pa.array(values, type=table[column].type))
    pq.write_table(table, path, row_group_size=rows, write_page_checksum=True, compression="none", use_dictionary=False)


def test_a_sound_store_has_no_findings(store: ClipStore) -> None:
    seen: list[int] = []
    report = check_store(store.path, seen.append)
    assert kinds(report) == []
    assert (report.clips, report.frames, report.joints) == (8, store.num_frames, store.num_frames * 17)
    assert report.observed == report.joints
    assert sum(seen) == 8 == count_clips(store.path)


def put(row: int, value: Any) -> Callable[[list], object]:
    return lambda rows: rows.__setitem__(row, value)


def test_everything_wrong_is_found_at_once(store: ClipStore) -> None:
    def spoil(rows: list) -> None:
        rows[1][3 * 34 + 2 * 7] = float("nan")  # clip1, frame 3, left elbow
        rows[3] = rows[3][:-1]

    rewrite(shard(store), joints=spoil, label=put(0, 9), split=put(2, "dev"))
    rewrite(shard(store, 1), clip_id=put(0, "clip0"), fps=put(1, None), num_frames=put(2, 0), caption=put(3, None))
    np.save(store.path / "junk.npy", np.zeros(1))
    report = check_path(store.path)
    assert sorted(kinds(report)) == [
        ("caption", "clip7"), ("counts", ""), ("duplicate-id", "clip0"), ("empty", "clip6"), ("fps", "clip5"),
        ("label", "clip0"), ("not-finite", "clip1"), ("shape", "clip3"), ("split", "clip2"),
    ]  # fmt: skip
    by_kind = {found.kind: found for found in report}
    assert (by_kind["not-finite"].frame, by_kind["not-finite"].joint) == (3, "left_elbow")
    assert by_kind["not-finite"].file.endswith("00000.parquet")
    assert "column 'joints' has 271 values; 8 frames, 1 persons, 17 joints in 2D need 272" in by_kind["shape"].what
    assert report.clips == 6, "the two clips whose arrays do not fit cannot be looked into"


def test_a_flipped_byte_hides_only_its_row_group(store: ClipStore) -> None:
    rewrite(shard(store), rows=2, label=put(3, 9))
    path = shard(store)
    meta = pq.ParquetFile(path).metadata.row_group(0)
    column = next(meta.column(i) for i in range(meta.num_columns) if meta.column(i).path_in_schema.startswith("joints"))
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    report = check_store(store.path)
    damage, label = report.findings
    assert damage.kind == "unreadable"
    assert "column joints of clips 'clip0' to 'clip1'" in damage.what
    assert damage.file == str(path)
    assert (label.kind, label.clip) == ("label", "clip3"), "the rest of the file is still looked at"
    assert report.clips == 6


def test_a_truncated_and_an_absent_shard(store: ClipStore, clip: Make) -> None:
    shard(store).write_bytes(shard(store).read_bytes()[:-100])
    shard(store, 1).rename(store.path / "clips" / "00009.parquet")
    report = check_store(store.path)
    assert [(found.severity, found.kind, Path(found.file).name) for found in report] == [
        ("error", "unreadable", "00000.parquet"),
        ("error", "absent", "00001.parquet"),
        ("warning", "unlisted", "00009.parquet"),
    ]


def test_counts_and_columns_that_do_not_fit(store: ClipStore) -> None:
    pq.write_table(pq.read_table(shard(store)).slice(0, 2), shard(store))
    pq.write_table(pq.read_table(shard(store, 1)).drop_columns(["joints", "fps"]), shard(store, 1))
    report = check_store(store.path)
    assert [found.kind for found in report] == ["counts", "columns"]
    assert "2 clips and 11 frames, but dataset.json says 4 and 26" in report.findings[0].what
    assert "lacks the columns fps, joints" in report.findings[1].what


def test_a_column_of_another_type_is_named(store: ClipStore) -> None:
    table = pq.read_table(shard(store))
    place = table.column_names.index("joints")
    pq.write_table(table.set_column(place, "joints", pa.array(["x"] * 4)), shard(store))
    assert "columns" in [found.kind for found in check_store(store.path)]


def test_embeddings_are_checked(store: ClipStore) -> None:
    store.write_embeddings("good", np.ones((8, 3), np.float32))
    folder = store.path / "embeddings"
    np.save(folder / "few.npy", np.ones((7, 3), np.float32))
    np.save(folder / "nan.npy", np.where(np.arange(8)[:, None] == 5, np.nan, np.ones((8, 3))))
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:-4])
    report = check_store(store.path)
    assert [(Path(found.file).name, found.kind) for found in report] == [
        ("cut.npy", "unreadable"), ("few.npy", "embeddings"), ("nan.npy", "not-finite"),
    ]  # fmt: skip
    assert "the first is row 5" in report.findings[2].what


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:50],
        lambda text: text.replace("tmor-clip-store", "x"),
        lambda text: json.dumps({**json.loads(text), "layout": {"name": "x"}}),
    ],
)
def test_a_damaged_description_is_one_finding(store: ClipStore, change: Callable[[str], str]) -> None:
    path = store.path / "dataset.json"
    path.write_text(change(path.read_text()))
    (found,) = check_path(store.path)
    assert (found.severity, found.kind, found.file) == ("error", "description", str(path))
    assert found.remedy


def test_a_store_that_lost_its_description_is_still_one(store: ClipStore) -> None:
    (store.path / "dataset.json").unlink()
    (found,) = check_path(store.path)
    assert "dataset.json" in found.what


def test_a_report_as_json(store: ClipStore, tmp_path: Path) -> None:
    rewrite(shard(store), label=put(0, 9))
    report = check_store(store.path)
    report.write(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["ok"] is False
    assert read["findings"][0]["clip"] == "clip0"
    assert set(read["findings"][0]) == {
        "severity", "kind", "what", "remedy", "file", "clip", "frame", "last_frame", "person", "joint",
    }  # fmt: skip
