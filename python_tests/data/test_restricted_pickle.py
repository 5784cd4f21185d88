"""Pickles of others: plain data comes through whole, everything else is refused before it can do anything."""

from __future__ import annotations

import collections
import os
import pickle
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tmor_fast.data.restricted_pickle import load_pickle
from tmor_fast.errors import DataError

PROTOCOLS = (2, 3, 4, 5)


def saved(folder: Path, content: bytes) -> Path:
    path = folder / "data.pkl"
    path.write_bytes(content)
    return path


def through(folder: Path, value: Any, protocol: int) -> Any:
    return load_pickle(saved(folder, pickle.dumps(value, protocol)))


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one == other


PLAIN: dict[str, Any] = {
    "numbers": [1, -5, 2**100, 1.5, True, None, 1 + 2j],
    "text": ["walk", "größe", b"bytes\xff", b"", bytearray(b"x")],
    "sets": [{1, 2}, frozenset(["a"]), set()],
    "arrays": [
        np.arange(6, dtype=np.float32).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros((0, 3)), np.array(3.5), np.array(["ab", "c"]), np.array([b"x"]), np.ones(2, ">i4"), np.float16([1, 2]),
        np.array([True]), np.array([1j]),
    ],
    "scalars": [np.float32(1), np.int64(3), np.bool_(True), np.dtype("f4")],
    "nested": (np.ones(2), [(np.zeros(1), {"k": np.int8(1)})]),
}  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_through_whole(tmp_path: Path, protocol: int) -> None:
    assert_same(through(tmp_path, PLAIN, protocol), PLAIN)


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_names_of_numpys_core_are_known(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps([np.arange(3.0), np.int64(1)], protocol)
    for one, other in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
        assert_same(load_pickle(saved(tmp_path, content.replace(one, other))), [np.arange(3.0), np.int64(1)])


def test_text_and_arrays_of_python_2(tmp_path: Path) -> None:
    # what Python 2 wrote for (['S001'], [3, u'x']) and for numpy.float32 data: 8-bit strings
    text = b"\x80\x02]q\x00U\x04S001q\x01aK\x03X\x01\x00\x00\x00x\x87q\x02."
    assert load_pickle(saved(tmp_path, text)) == (["S001"], 3, "x")
    array = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85U\x01b\x87Rq\x02(K\x01K\x02"
        b"\x85cnumpy\ndtype\nq\x03U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
        + struct.pack("<2f", 1.5, -200.0)
        + b"tb."
    )
    assert_same(load_pickle(saved(tmp_path, array)), np.array([1.5, -200.0], np.float32))


def test_shared_and_cyclic_containers_stay_so(tmp_path: Path) -> None:
    shared = [np.ones(2)]
    cycle: list[Any] = [shared, shared]
    cycle.append(cycle)
    read = through(tmp_path, cycle, 4)
    assert read[0] is read[1]
    assert read[2] is read
    assert_same(read[0], shared)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *values: Any) -> None:
        self.call = (function, values)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple]:
        return self.call


HOSTILE: list[tuple[str, Any, str]] = [
    ("os.system", Calls(os.system, "touch {proof}"), "(posix|nt).system"),
    ("eval", Calls(eval, "open('{proof}', 'w')"), r"(builtins|__builtin__)\.eval"),
    ("exec", Calls(exec, "open('{proof}', 'w')"), r"(builtins|__builtin__)\.exec"),
    ("open", Calls(open, "{proof}", "w"), "open"),
    ("subprocess", Calls(subprocess.Popen, ["touch", "{proof}"]), r"(subprocess|commands)\.Popen"),
    ("getattr", Calls(getattr, Calls(getattr, "", "__class__"), "__mro__"), r"getattr"),
    ("import", Calls(__import__, "antigravity"), "__import__"),
    ("numpy function", Calls(np.load, "{proof}"), r"numpy\S*\.load"),
    ("numpy testing", Calls(np.testing.assert_equal, 1, 1), r"refers to numpy\.testing"),
    ("memmap", Calls(np.memmap, "{proof}", "u1", "w+", 0, (9,)), r"numpy\S*\.memmap"),
    ("object", Path("x"), "pathlib"),
    ("ordered", collections.OrderedDict(a=1), r"collections\.OrderedDict"),
    ("a name as data", np.ndarray, "holds a name"),
    ("calling ndarray", Calls(np.ndarray, (3,)), r"numpy\.ndarray itself"),
    ("objects", np.array([1, "a", None], dtype=object), "Python objects"),
    ("records", np.zeros(2, [("x", "f4")]), "not of plain numbers"),
    ("subarrays", Calls(np.dtype, "(3,)f4"), "not of plain numbers"),
    ("object type", Calls(np.dtype, "O"), "Python objects"),
    ("dates", np.array(["2020-01-01"], "M8[D]"), "not of plain numbers"),
]


def hostile(value: Any, proof: Path) -> Any:
    """The value with the place where running it would leave a trace."""
    if isinstance(value, Calls):
        function, values = value.call
        return Calls(function, *(hostile(part, proof) for part in values))
    return value.format(proof=proof) if isinstance(value, str) else value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("value", "named"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_anything_else_is_refused_by_name_and_never_run(tmp_path: Path, value: Any, named: str, protocol: int) -> None:
    proof = tmp_path / "proof"
    content = pickle.dumps({"annotations": [hostile(value, proof)]}, protocol)
    with pytest.raises(DataError, match=rf"data\.pkl: .*{named}.*not opened further.*npz"):
        load_pickle(saved(tmp_path, content))
    assert not proof.exists()


def test_what_runs_when_opened_by_ordinary_means_does_run(tmp_path: Path) -> None:
    """The other tests are worth something: the same bytes leave the trace they look for."""
    pickle.loads(pickle.dumps(hostile(HOSTILE[2][1], tmp_path / "proof")))
    assert (tmp_path / "proof").exists()


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x" * 50, "BINBYTES8 at byte 2 claims 1152921504606846976"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x" * 50, "BYTEARRAY8 at byte 2 claims"),
        (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", "FRAME at byte 2 claims"),
        (b"\x80\x02\x8b" + struct.pack("<i", -1) + b"x.", "LONG4 at byte 2 claims -1"),
        (b"\x80\x02X" + struct.pack("<I", 2**31) + b"x.", "BINUNICODE at byte 2 claims"),
        (opcodes(b"Nr", struct.pack("<I", 2**32 - 1)), "LONG_BINPUT at byte 3 claims a table"),
        (opcodes(b"\x82\x01"), "opcode EXT1"),
        (opcodes(b"K\x01Q"), "opcode BINPERSID"),
        (opcodes(b"Pid\n"), "opcode PERSID"),
        (opcodes(b"(ios\nsystem\n"), "opcode INST"),
        (opcodes(b"I5\n"), "opcode INT "),
        (b"(lp0\n.", "does not begin as a pickle of protocol 2 to 5"),
        (b"\x80\x06N.", "does not begin"),
        (b"\x80\x04\xff.", "byte 2 is no opcode"),
        (b"\x80\x04cos\nsystem", "does not end"),
        (b"", "empty"),
        (b"\x80", "does not begin"),
        (b"hello", "does not begin"),
        (opcodes(b"R"), "truncated, damaged or no pickle"),
        (opcodes(b")\x81"), "truncated, damaged or no pickle"),
        (opcodes(b"cnumpy\nndarray\n}b"), "changes something"),
        (opcodes(b"cnumpy\nndarray\n)\x81"), "truncated, damaged or no pickle"),
        (opcodes(b"\x8c\x05numpy\x8c\x11ndarray.__class__\x93"), r"numpy\.ndarray\.__class__"),
    ],
)  # fmt: skip
def test_claims_and_opcodes_that_plain_data_does_not_need(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.pkl: .*{message}"):
        load_pickle(saved(tmp_path, content))


def test_an_array_is_no_larger_than_its_bytes(tmp_path: Path) -> None:
    content = pickle.dumps(np.zeros(4, np.float32), 3)
    place = content.index(b"K\x04\x85")  # its shape, (4,)
    huge = content[:place] + b"J\xff\xff\xff\x7f\x85" + content[place + 3 :]
    with pytest.raises(DataError, match=r"2147483647.* float32, 8589934588 bytes, but 16 bytes for it"):
        load_pickle(saved(tmp_path, huge))


def test_copies_without_end_are_refused(tmp_path: Path) -> None:
    block = b"\x8e" + struct.pack("<Q", 2**20) + b"x" * 2**20 + b"q\x00"
    call = b"cbuiltins\nbytearray\nh\x00\x85R"
    with pytest.raises(DataError, match="far more copies of its data"):
        load_pickle(saved(tmp_path, opcodes(block, b"(", call * 100, b"t")))


def test_deep_nesting_exhausts_nothing(tmp_path: Path) -> None:
    depth = 0
    inner = load_pickle(saved(tmp_path, opcodes(b"]" * 200_000 + b"a" * 199_999)))
    while inner:
        inner, depth = inner[0], depth + 1
    assert depth == 199_999
    with pytest.raises(DataError, match=r"data\.pkl: .*recursion"):
        load_pickle(saved(tmp_path, opcodes(b")" + b"\x85" * 200_000)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_truncated_pickle_is_named_wherever_it_ends(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"split": {"a": ["x"]}, "annotations": [{"keypoint": np.ones((1, 2, 3))}]}, protocol)
    for length in range(len(content)):
        with pytest.raises(DataError, match=r"data\.pkl"):
            load_pickle(saved(tmp_path, content[:length]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_flipped_bytes_end_in_plain_data_or_a_named_error(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"label": [1, 2], "x": np.arange(4.0), "y": {np.int64(3)}, "z": (b"a", "b")}, protocol)
    generator = random.Random(protocol)
    plain = (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex, np.ndarray, np.generic)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 1, 3))):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path = saved(tmp_path, bytes(damaged))
        try:
            value = load_pickle(path)
        except DataError:
            refused += 1
        else:
            assert value is None or isinstance(value, (*plain, np.dtype))
    assert refused > 100


def test_reading_is_reported(tmp_path: Path) -> None:
    path = saved(tmp_path, pickle.dumps([np.zeros(100_000), "x"], 4))
    seen: list[int] = []
    load_pickle(path, seen.append)
    assert sum(seen) == path.stat().st_size


def test_an_absent_file_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pkl does not exist"):
        load_pickle(tmp_path / "none.pkl")
