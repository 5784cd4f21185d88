"""Checkpoint files: whole or absent, checked, and the older ones kept until the newer are known to be good."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from limits import largest_file

from tmor_fast.atomic import DiskFullError, new_file, remove_leftovers, space_for
from tmor_fast.errors import DataError
from tmor_fast.training import checkpoints
from tmor_fast.training.checkpoints import (
    checkpoint_name,
    checkpoints_in,
    checksum_file,
    damage,
    newest_whole,
    order_of,
    tidy,
    write_checkpoint,
)


def content(size: int = 1000) -> dict[str, Any]:
    return {"weights": torch.arange(float(size)), "names": ["a", "b"]}


def folder_of(tmp_path: Path, *names: str) -> Path:
    for name in names:
        write_checkpoint(content(), tmp_path / name)
    return tmp_path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_checkpoint_reads_back_and_its_checksum_is_that_of_sha256sum(tmp_path: Path):
    path = tmp_path / "new" / checkpoint_name(0)
    write_checkpoint(content(), path)
    found = torch.load(path, weights_only=True)
    assert torch.equal(found["weights"], content()["weights"])
    line = checksum_file(path).read_text()
    assert line == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  epoch-0000.ckpt\n"
    subprocess.run(["sha256sum", "--check", "--quiet", checksum_file(path).name], cwd=path.parent, check=True)
    assert damage(path) == ""
    assert len(list(path.parent.iterdir())) == 2


def test_names_sort_as_time_goes():
    in_order = [
        checkpoint_name(0, 5),
        checkpoint_name(0),
        checkpoint_name(1, 7),
        checkpoint_name(1, 10),
        checkpoint_name(1),
    ]
    assert sorted(in_order) == in_order
    assert sorted((Path(name) for name in reversed(in_order)), key=order_of) == [Path(name) for name in in_order]
    with pytest.raises(ValueError, match="not named as a checkpoint"):
        order_of(Path("last.ckpt"))


@pytest.mark.parametrize("harm", [cut, flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(harm: Any, tmp_path: Path):
    folder = folder_of(tmp_path, checkpoint_name(0), checkpoint_name(1, 5))
    harm(folder / checkpoint_name(1, 5))
    with pytest.warns(
        UserWarning, match=r"epoch-0001-step-000000005.ckpt is damaged: .*checksum.*; going back to .*0000"
    ):
        assert newest_whole([folder]) == folder / checkpoint_name(0)
    # PyTorch alone would read the flipped one as if nothing were wrong, so the checksum matters.
    harm(folder / checkpoint_name(0))
    with pytest.raises(DataError, match=r"no whole checkpoint is left: .*0001.* is damaged.*0000.* is damaged"):
        newest_whole([folder])


def test_going_back_reaches_the_part_before(tmp_path: Path):
    first = folder_of(tmp_path / "stage1", checkpoint_name(4))
    second = folder_of(tmp_path / "stage2", checkpoint_name(0))
    assert newest_whole([first, second]) == second / checkpoint_name(0)
    cut(second / checkpoint_name(0))
    with pytest.warns(UserWarning, match="stage2"):
        assert newest_whole([first, second]) == first / checkpoint_name(4)
    assert newest_whole([tmp_path / "nothing"]) is None


def test_a_copy_without_its_checksum_is_judged_by_whether_it_loads(tmp_path: Path):
    path = folder_of(tmp_path, checkpoint_name(0)) / checkpoint_name(0)
    checksum_file(path).unlink()
    assert damage(path) == ""
    cut(path)
    assert "cannot be read" in damage(path)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(143), OSError(5, "Input/output error"), ValueError("x")]
)
def test_what_stops_a_write_is_not_hidden_by_torch_and_leaves_the_older_file(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = folder_of(tmp_path, checkpoint_name(0)) / checkpoint_name(0)
    before = path.read_bytes()

    def write(self: Any, data: Any) -> int:
        if self.file.tell() > 500:
            raise error
        return self.file.write(data)

    monkeypatch.setattr(checkpoints._Hashing, "write", write)
    with pytest.raises(type(error)):
        write_checkpoint(content(), path)
    assert path.read_bytes() == before
    assert damage(path) == ""
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_is_named_and_leaves_the_older_file(tmp_path: Path):
    path = folder_of(tmp_path, checkpoint_name(0)) / checkpoint_name(0)
    with largest_file(20_000), pytest.raises(DiskFullError, match=r"epoch-0000.ckpt: no space left.*Free some space"):
        write_checkpoint(content(100_000), path)
    assert damage(path) == ""
    assert torch.equal(torch.load(path, weights_only=True)["weights"], content()["weights"])
    assert len(list(tmp_path.iterdir())) == 2


def test_torchs_own_file_writer_is_understood_too(tmp_path: Path):
    with largest_file(20_000), pytest.raises(DiskFullError, match=r"model.pt: no space left"), space_for("model.pt"):
        torch.save(content(100_000), tmp_path / "model.pt")


def test_other_errors_pass_as_they_are(tmp_path: Path):
    for error in (PermissionError(13, "no"), RuntimeError("CUDA out of memory"), ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, space_for("file"):
            raise error
        assert caught.value is error
    with pytest.raises(DiskFullError, match="inner") as named, space_for("outer"), space_for("inner"):
        raise OSError(28, os.strerror(28))
    assert named.value.errno == 28


def test_a_new_file_on_a_full_disk(tmp_path: Path):
    target = tmp_path / "table.csv"
    target.write_text("before")
    with largest_file(100), pytest.raises(DiskFullError, match=r"table.csv"), new_file(target) as temporary:
        temporary.write_text("x" * 1000)
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_leftovers_of_a_killed_run_go(tmp_path: Path):
    for name in (".a.ckpt.1234.tmp", "a.ckpt", ".hidden", "b.tmp"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "a.ckpt", "b.tmp"]
    remove_leftovers(tmp_path / "not there")


def test_tidying_keeps_the_newest_and_the_whole_one_before(tmp_path: Path):
    names = [checkpoint_name(epoch) for epoch in range(5)]
    folder = folder_of(tmp_path, *names)
    flip(folder / names[2])
    (folder / names[4]).unlink()
    tidy(folder / names[3])
    assert [path.name for path in checkpoints_in(folder)] == [names[1], names[2], names[3]]
    assert not checksum_file(folder / names[4]).exists()


def test_pickles_that_run_code_are_not_read(tmp_path: Path):
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return print, ("ran",)

    buffer = io.BytesIO()
    torch.save({"x": Evil()}, buffer)
    (tmp_path / checkpoint_name(0)).write_bytes(buffer.getvalue())
    assert "cannot be read" in damage(tmp_path / checkpoint_name(0))
