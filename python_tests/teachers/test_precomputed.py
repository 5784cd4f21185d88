"""Finished embeddings from every accepted source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tmor_fast.errors import DataError
from tmor_fast.teachers import PrecomputedTeacher

KEYS = ["walk", "run", "jump rope"]
TABLE = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def _write(form: str, folder: Path) -> Path:
    vectors = {key: torch.from_numpy(row) for key, row in zip(KEYS, TABLE, strict=True)}
    path = folder / f"features.{form.split('-')[0]}"
    if form == "npy-json":
        np.save(path, TABLE)
        path.with_suffix(".json").write_text(json.dumps(KEYS))
    elif form == "npy-txt":
        np.save(path, TABLE)
        path.with_suffix(".txt").write_text("\n".join(KEYS) + "\n")
    elif form == "npz-table":
        np.savez(path, embeddings=TABLE, keys=np.array(KEYS))
    elif form == "npz-vectors":
        np.savez(path, **dict(zip(KEYS, TABLE, strict=True)))
    elif form == "safetensors-table":
        save_file({"embeddings": torch.from_numpy(TABLE)}, path, {"keys": json.dumps(KEYS)})
    elif form == "safetensors-vectors":
        save_file(vectors, path)
    elif form == "pt-mapping":
        torch.save(vectors, path)
    else:
        torch.save({"embeddings": torch.from_numpy(TABLE), "keys": KEYS}, path)
    return path


@pytest.mark.parametrize(
    "form",
    [
        *("npy-json", "npy-txt", "npz-table", "npz-vectors", "safetensors-table", "safetensors-vectors"),
        *("pt-mapping", "pt-table"),
    ],
)
def test_every_file_gives_the_same_rows(form: str, tmp_path: Path) -> None:
    teacher = PrecomputedTeacher(_write(form, tmp_path))
    assert (teacher.name, teacher.dim, len(teacher)) == ("features", 2, 3)
    assert torch.equal(teacher.encode_text(["jump rope", "walk", "walk"]), torch.tensor([[5.0, 6], [1, 2], [1, 2]]))
    assert torch.equal(teacher.encode_clips(["run"]), torch.tensor([[3.0, 4]]))
    assert teacher.encode_text([]).shape == (0, 2)


@pytest.mark.parametrize("source", [TABLE, torch.from_numpy(TABLE).double(), TABLE.astype(np.float16)])
def test_tables_take_keys(source: np.ndarray | torch.Tensor) -> None:
    teacher = PrecomputedTeacher(source, KEYS)
    rows = teacher.encode_text(KEYS)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, torch.from_numpy(TABLE))


def test_tables_without_keys_follow_the_clips() -> None:
    teacher = PrecomputedTeacher(TABLE)
    assert teacher.supports == {"video"}
    assert torch.equal(teacher.encode_clips(["x", "y", "z"]), torch.from_numpy(TABLE))
    with pytest.raises(DataError, match="3 rows without keys for 2 clips"):
        teacher.encode_clips(["x", "y"])
    with pytest.raises(DataError, match="no keys to find a text by"):
        teacher.encode_text(["walk"])


def test_what_is_missing_is_named() -> None:
    teacher = PrecomputedTeacher(TABLE, KEYS)
    with pytest.raises(DataError, match="lacks 2 of 3 texts: 'swim', 'fly'"):
        teacher.encode_text(["swim", "run", "fly", "swim"])
    with pytest.raises(DataError, match="lacks 1 of 1 clips: 'clip 9'"):
        teacher.encode_clips(["clip 9"])
    with pytest.raises(TypeError, match="encode_clips"):
        teacher.encode_video(torch.zeros(1, 1, 4, 4, 3, dtype=torch.uint8))


def test_bad_sources_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        PrecomputedTeacher(tmp_path / "absent.npy")
    (tmp_path / "features.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"\.csv.*accepted"):
        PrecomputedTeacher(tmp_path / "features.csv")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.safetensors"):
        PrecomputedTeacher(tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match="3 rows but 2 keys"):
        PrecomputedTeacher(TABLE, ["a", "b"])
    with pytest.raises(ValueError, match="'a' occurs more than once"):
        PrecomputedTeacher(TABLE, ["a", "b", "a"])
    with pytest.raises(DataError, match="row 1 is not finite"):
        PrecomputedTeacher(np.array([[1.0], [np.nan]]), ["a", "b"])
    with pytest.raises(DataError, match="key 'b' has shape"):
        PrecomputedTeacher({"a": [1.0, 2.0], "b": [1.0]})
    with pytest.raises(DataError, match="empty"):
        PrecomputedTeacher({})


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, ("raise SystemExit('ran')",))

    torch.save({"a": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(DataError, match=r"trap\.pt"):
        PrecomputedTeacher(tmp_path / "trap.pt")
    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"trap\.npy"):
        PrecomputedTeacher(tmp_path / "trap.npy")


def test_settings_follow_the_content() -> None:
    first = PrecomputedTeacher(TABLE, KEYS).settings
    assert first == PrecomputedTeacher(TABLE.copy(), KEYS, name="other").settings
    assert first != PrecomputedTeacher(TABLE + 1, KEYS).settings
    assert first != PrecomputedTeacher(TABLE, KEYS[::-1]).settings
