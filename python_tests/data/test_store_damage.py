"""A clip store whose files are truncated, absent, altered or hold values that the writer would have refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tmor_fast.data import Clip, ClipBatch, ClipStore, get_layout, prepare
from tmor_fast.errors import DataError

Make = Callable[..., Clip]
Write = Callable[..., ClipStore]


def damaged(clip: Make, write_store: Write) -> tuple[Path, Path]:
    store = write_store([clip(i, 40) for i in range(4)])
    return store.path, store.path / "clips" / "00000.parquet"


def test_a_truncated_shard_is_named(clip: Make, write_store: Write) -> None:
    folder, shard = damaged(clip, write_store)
    shard.write_bytes(shard.read_bytes()[:-200])
    store = ClipStore(folder)
    for read in (lambda: list(store), lambda: store[2], lambda: store.column("label")):
        with pytest.raises(DataError, match=r"00000\.parquet .*truncated or corrupt"):
            read()


def test_a_flipped_byte_is_found(clip: Make, write_store: Write) -> None:
    folder, shard = damaged(clip, write_store)
    data = bytearray(shard.read_bytes())
    for place in range(1000, 1400, 50):
        data[place] ^= 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"00000\.parquet"):
        list(ClipStore(folder))


def test_an_absent_shard_is_named(clip: Make, write_store: Write) -> None:
    folder, shard = damaged(clip, write_store)
    shard.unlink()
    with pytest.raises(DataError, match=r"00000\.parquet is absent"):
        ClipStore(folder)


def test_a_shard_that_does_not_fit_its_description_is_named(clip: Make, write_store: Write) -> None:
    folder, shard = damaged(clip, write_store)
    pq.write_table(pq.read_table(shard).slice(0, 2), shard)
    with pytest.raises(DataError, match=r"2 clips and 80 frames, but dataset\.json says 4 and 160"):
        list(ClipStore(folder))
    table = pq.read_table(shard)
    pq.write_table(table.set_column(1, "num_frames", [[39, 41]]), shard)
    with pytest.raises(DataError, match=r"clip 'clip0': column 'joints' has 1360 values, 1326 expected"):
        list(ClipStore(folder))
    pq.write_table(table.drop_columns(["joints"]), shard)
    with pytest.raises(DataError, match=r"lacks the columns \['joints'\]"):
        list(ClipStore(folder))


def rewritten(shard: Path, column: str, change: Callable[[list], object]) -> None:
    """Write the shard anew, as another program might, with `change` applied to the rows of a column."""
    table = pq.read_table(shard)
    rows = table[column].to_pylist()
    change(rows)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(rows, type=table[column].type)), shard, row_group_size=2)


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        (
            "joints",
            lambda rows: rows[3].__setitem__(5 * 34 + 2 * 7 + 1, float("nan")),
            r"clip 'clip3': frame 5, person 0, joint 'left_elbow' is marked valid but not finite",
        ),
        (
            "joints",
            lambda rows: rows[3].__setitem__(0, float("-inf")),
            r"clip 'clip3': frame 0, person 0, joint 'head'",
        ),
        ("label", lambda rows: rows.__setitem__(3, 999), r"clip 'clip3': label 999 is outside -1 to 1"),
        ("label", lambda rows: rows.__setitem__(3, -2), r"clip 'clip3': label -2 is outside -1 to 1"),
        ("label", lambda rows: rows.__setitem__(3, None), r"clip 'clip3': label nan is outside -1 to 1"),
        ("frame_label", lambda rows: rows[3].__setitem__(8, 2), r"clip 'clip3': frame 8 has frame_label 2"),
        ("split", lambda rows: rows.__setitem__(3, "dev"), r"clip 'clip3': split 'dev' must be 'train', 'test' or ''"),
        ("split", lambda rows: rows.__setitem__(3, None), r"clip 'clip3': split None must be"),
        ("fps", lambda rows: rows.__setitem__(3, 0.0), r"clip 'clip3': split '' .* and fps 0.0 positive"),
        ("fps", lambda rows: rows.__setitem__(3, float("nan")), r"clip 'clip3': .* and fps nan positive"),
    ],
)
def test_a_wrong_value_in_a_shard_is_named(
    clip: Make, write_store: Write, column: str, change: Callable[[list], object], message: str
) -> None:
    store = write_store([clip(i, 40, frame_label=np.zeros(40, np.int64)) for i in range(4)])
    rewritten(store.path / "clips" / "00000.parquet", column, change)
    for read in (lambda: list(store.batches()), lambda: store[2], lambda: prepare(store)):
        with pytest.raises(DataError, match=r"00000\.parquet: " + message):
            read()
    assert store[0].clip_id == "clip0", "another row group is sound"


def test_what_an_invalid_joint_holds_does_not_matter(clip: Make, write_store: Write) -> None:
    gappy = clip(0, 40)
    gappy.valid[5, 0, 7] = False
    store = write_store([gappy])
    rewritten(
        store.path / "clips" / "00000.parquet", "joints", lambda rows: rows[0].__setitem__(5 * 34 + 14, float("nan"))
    )
    assert prepare(store).joints.isfinite().all()


def test_checking_many_clips_takes_no_loop_over_them() -> None:
    count = 100_000
    joints = np.zeros((count, 1, 17, 2), np.float32)
    columns = {"label": np.arange(count) % 2, "split": np.array(["train", ""], dtype=object)[np.arange(count) % 2]}
    batch = ClipBatch.build(joints, np.arange(count + 1), [f"c{i}" for i in range(count)], **columns)
    layout = get_layout("unik17")
    calls = 0

    def count_lines(*_: object) -> object:
        nonlocal calls
        calls += 1
        return count_lines

    before = sys.gettrace()
    sys.settrace(count_lines)
    try:
        batch.check(layout, 2, 2)
    finally:
        sys.settrace(before)
    assert calls < 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info.update(format="x"), "not the description of a clip store"),
        (lambda info: info.update(version=99), "version 99"),
        (lambda info: info.pop("units"), "lacks units"),
        (lambda info: info["shards"][0].update(file="../../evil.parquet"), "without folders"),
        (lambda info: info["layout"].pop("parents"), "parents"),
    ],
)
def test_a_damaged_description_is_refused(
    clip: Make, write_store: Write, change: Callable[[dict], object], message: str
) -> None:
    folder, _ = damaged(clip, write_store)
    info = json.loads((folder / "dataset.json").read_text())
    change(info)
    (folder / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=message):
        ClipStore(folder)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clip store"):
        ClipStore(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": ')
    with pytest.raises(DataError, match="no valid JSON"):
        ClipStore(tmp_path)
