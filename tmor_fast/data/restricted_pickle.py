"""Reading pickles of others without running what they say.

A pickle is a program: opened by ordinary means it may import any module and call anything. Data sets come as pickles
all the same. `load_pickle` reads plain data out of them and nothing else: None, bool, int, float, complex, str, bytes,
bytearray, list, tuple, dict, set, frozenset, and numpy arrays, scalars and dtypes of plain numbers and text.

How: every name the file mentions must be one of a few, and each of those stands for a function of this module that
rebuilds an array from bytes that lie in the file, never for the real thing. Before anything is built, one pass over
the file checks that no opcode claims more bytes than there are (memory could be exhausted by a claim alone) and none
is used that plain data does not need.
"""

from __future__ import annotations

import io
import mmap
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from tmor_fast.errors import DataError

REMEDY = (
    "It was not opened further. Get the file again from where it was published, or have its maker save plain arrays "
    "(.npz)"
)
PROTOCOLS = (2, 3, 4, 5)
PLAIN_KINDS = "biufcSU"  # of numpy dtypes: no objects, no records
BUFFER_BYTES = 2**20

# Opcodes of protocols 0 and 1 alone, and those that reach outside the file: extensions, persistent ids, buffers.
_REFUSED_OPCODES = frozenset(
    {
        *("EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER", "INST", "OBJ"),
        *("INT", "LONG", "STRING", "UNICODE", "FLOAT", "GET", "PUT", "LIST", "DICT"),
    }
)


class _NotPlainError(Exception):
    """What a file asked for that plain data does not need; the text says what was found."""


def load_pickle(path: str | Path, report: Callable[[int], None] | None = None) -> Any:
    """The plain data in a pickle file; code in it is never run.

    Args:
        path: the file, protocol 2 to 5, also from Python 2. Arrays are read-only views of its bytes.
        report: called now and then with the number of bytes read since the last call, for a progress bar.

    Returns:
        Builtin containers, numbers and text, numpy arrays and scalars.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: the file mentions anything else (the message names it), is truncated or damaged, or is no pickle.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; give the path of a pickle file")
    try:
        with file.open("rb") as stream, _mapped(stream) as content:
            _check_opcodes(content)
        with _Counted(file, report) as raw:
            return _plain(_Unpickler(io.BufferedReader(raw, BUFFER_BYTES), file.stat().st_size).load())
    except _NotPlainError as error:
        raise DataError(f"{file}: {error}. {REMEDY}") from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle makes the unpickler raise nearly anything
        text = str(error) or type(error).__name__
        raise DataError(f"{file}: truncated, damaged or no pickle ({text}); copy or download it again") from error


def _mapped(stream: BinaryIO) -> mmap.mmap:
    try:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise pickle.UnpicklingError("the file is empty") from error


class _Counted(io.FileIO):
    """A file that reports how much of it was read."""

    def __init__(self, path: Path, report: Callable[[int], None] | None) -> None:
        super().__init__(path)
        self._report = report

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        if self._report is not None:
            self._report(count or 0)
        return count or 0


# --------------------------------------------------------------------------------------------------------------------
# The pass over the opcodes
# --------------------------------------------------------------------------------------------------------------------

_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: struct.Struct("<B"),
    pickletools.TAKEN_FROM_ARGUMENT4: struct.Struct("<i"),
    pickletools.TAKEN_FROM_ARGUMENT4U: struct.Struct("<I"),
    pickletools.TAKEN_FROM_ARGUMENT8U: struct.Struct("<Q"),
}
_FIXED = {
    ord(op.code): op.arg.n if op.arg else 0
    for op in pickletools.opcodes
    if op.name not in _REFUSED_OPCODES and (op.arg is None or op.arg.n >= 0)
}
_COUNTED = {
    ord(op.code): _LENGTHS[op.arg.n]
    for op in pickletools.opcodes
    if op.name not in _REFUSED_OPCODES and op.arg is not None and op.arg.n in _LENGTHS
}
_NAMES = {ord(op.code): op.name for op in pickletools.opcodes}
_CODES = {name: code for code, name in _NAMES.items()}


def _check_opcodes(content: mmap.mmap) -> None:
    """Walk over the opcodes without building anything.

    Raises:
        _NotPlainError: an opcode that plain data does not need, or one that claims memory the file does not back.
        pickle.UnpicklingError: the file ends early or holds no pickle of an accepted protocol.
    """
    size = len(content)
    if size < 2 or content[0] != _CODES["PROTO"] or content[1] not in PROTOCOLS:
        raise pickle.UnpicklingError(f"it does not begin as a pickle of protocol {PROTOCOLS[0]} to {PROTOCOLS[-1]}")
    place = count = 0
    while place < size:
        code = content[place]
        count += 1
        start, place = place, place + 1
        fixed = _FIXED.get(code)
        if fixed is not None:
            if code == _CODES["STOP"]:
                return
            if code == _CODES["LONG_BINPUT"] and place + 4 <= size:
                # The memo is an array as long as the highest number: no writer numbers ahead of what it wrote.
                if struct.unpack_from("<I", content, place)[0] > count:
                    raise _NotPlainError(f"opcode LONG_BINPUT at byte {start} claims a table larger than the file")
            elif code == _CODES["FRAME"] and place + 8 <= size:
                _require_backed(struct.unpack_from("<Q", content, place)[0], place + 8, size, code, start)
            place += fixed
        elif code in _COUNTED:
            kind = _COUNTED[code]
            if place + kind.size > size:
                break
            length = kind.unpack_from(content, place)[0]
            place += kind.size
            _require_backed(length, place, size, code, start)
            place += length
        elif code == _CODES["GLOBAL"]:
            for _ in range(2):
                place = content.find(b"\n", place, place + 1000) + 1
                if place == 0:
                    raise pickle.UnpicklingError(f"a name at byte {start} does not end")
        else:
            name = _NAMES.get(code)
            if name is None:
                raise pickle.UnpicklingError(f"byte {start} is no opcode")
            raise _NotPlainError(f"uses the opcode {name} at byte {start}, which plain data does not need")
    raise pickle.UnpicklingError(f"it ends after {size} bytes, inside its data")


def _require_backed(length: int, place: int, size: int, code: int, start: int) -> None:
    if not 0 <= length <= size - place:
        raise pickle.UnpicklingError(
            f"opcode {_NAMES[code]} at byte {start} claims {length} bytes where {size - place} are left"
        )


# --------------------------------------------------------------------------------------------------------------------
# What the few accepted names stand for
# --------------------------------------------------------------------------------------------------------------------


class _Standin:
    """An object on the unpickler's stack that the file can neither look into nor change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise _NotPlainError("changes something that it should only call")


class _Name(_Standin):
    """What an accepted name stands for; called like the original."""

    __slots__ = ("_build", "_title")
    _build: Callable[..., Any]
    _title: str

    def __init__(self, title: str, build: Callable[..., Any]) -> None:
        object.__setattr__(self, "_title", title)
        object.__setattr__(self, "_build", build)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _NotPlainError(f"changes {self._title}")

    def __call__(self, *values: Any) -> Any:
        return self._build(*values)


_ORDERS: dict[Any, Literal["<", ">", "|", "="]] = {"<": "<", ">": ">", "|": "|", "=": "="}


class _Dtype(_Standin):
    """A dtype being rebuilt: its name, then its byte order."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any) -> None:
        if not isinstance(name, (str, bytes)) or len(name) > 16:
            raise _NotPlainError(f"has an array of the type {str(name)[:60]!r}, not of plain numbers or text")
        text = name if isinstance(name, str) else name.decode("latin1")
        try:
            dtype = np.dtype(text)
        except TypeError:
            raise _NotPlainError(f"has an array of the unknown type {text!r}") from None
        if dtype.kind not in PLAIN_KINDS:
            held = "Python objects" if dtype.kind == "O" else f"the type {text!r}"
            raise _NotPlainError(f"has an array of {held}, not of plain numbers or text")
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        plain = isinstance(state, tuple) and 5 <= len(state) <= 9 and state[2:5] == (None, None, None)
        if not plain or state[1] not in _ORDERS:
            raise _NotPlainError("has an array of records, not of plain numbers or text")
        self.dtype = self.dtype.newbyteorder(_ORDERS[state[1]])


class _Array(_Standin):
    """An array being rebuilt: empty, then with the contents that its state brings."""

    __slots__ = ("array",)

    def __init__(self, kind: Any, shape: Any, code: Any) -> None:
        if kind is not _NDARRAY:
            raise _NotPlainError("rebuilds something other than an array as an array")
        self.array: np.ndarray = np.empty(0, dtype=np.uint8)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _NotPlainError("has an array whose contents are malformed")
        _, shape, dtype, fortran, raw = state
        self.array = _from_bytes(raw, dtype, shape, "F" if fortran else "C")


def _from_bytes(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """The array whose elements are the bytes `raw`."""
    if not isinstance(dtype, _Dtype):
        raise _NotPlainError(f"has an array of the type {type(dtype).__name__!r}, not of plain numbers or text")
    sizes = shape if isinstance(shape, tuple) else (shape,)
    data = raw.encode("latin1") if isinstance(raw, str) else raw  # text: from Python 2
    lengths = all(isinstance(size, int) and size >= 0 for size in sizes)
    if not isinstance(data, (bytes, bytearray)) or not lengths or order not in ("C", "F"):
        raise _NotPlainError("has an array whose contents are malformed")
    needed = dtype.dtype.itemsize
    for size in sizes:
        needed *= size
    if needed != len(data) or len(sizes) > 32:
        raise _NotPlainError(f"has an array {sizes} of {dtype.dtype}, {needed} bytes, but {len(data)} bytes for it")
    if not needed:
        return np.empty(sizes, dtype.dtype, order=order)
    return np.frombuffer(data, dtype.dtype).reshape(sizes, order=order)


class _Builders:
    """What the accepted names do in one file; together they may copy no more than a small multiple of its size."""

    def __init__(self, file_bytes: int) -> None:
        self._left = 4 * file_bytes + BUFFER_BYTES

    def _spend(self, values: Any, each: int = 1) -> None:
        self._left -= len(values) * each
        if self._left < 0:
            raise _NotPlainError("makes far more copies of its data than it has data")

    def scalar(self, dtype: Any, raw: Any = b"") -> Any:
        return self.from_bytes(raw, dtype, (), "C")[()]

    def from_bytes(self, raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        if isinstance(raw, str):
            self._spend(raw)
        return _from_bytes(raw, dtype, shape, order)

    def encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """How protocol 2 writes bytes: as text with a note that it is latin1."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _NotPlainError(f"encodes text as {str(encoding)[:40]!r}")
        self._spend(text)
        return text.encode("latin1")

    def byte_array(self, *values: Any) -> bytearray:
        if len(values) == 2:  # protocol 2
            return bytearray(self.encode(*values))
        if values and not (len(values) == 1 and isinstance(values[0], bytes)):
            raise _NotPlainError("makes a bytearray of something other than bytes")
        self._spend(values[0] if values else ())
        return bytearray(*values)

    def no_bytes(self, *values: Any) -> bytes:
        """How protocol 2 writes bytes of length 0."""
        if values:
            raise _NotPlainError("makes bytes of something")
        return b""

    def set(self, values: Any = ()) -> set:
        return set(self._members(values))

    def frozenset(self, values: Any = ()) -> frozenset:
        return frozenset(self._members(values))

    def _members(self, values: Any) -> list | tuple:
        if not isinstance(values, (list, tuple)):
            raise _NotPlainError("makes a set of something other than a list")
        self._spend(values, 8)
        return values

    def complex(self, real: Any, imaginary: Any) -> complex:
        if not isinstance(real, float) or not isinstance(imaginary, float):
            raise _NotPlainError("makes a complex number of something other than two numbers")
        return complex(real, imaginary)


def _not_callable(*_: Any) -> Any:
    raise _NotPlainError("calls numpy.ndarray itself")


_NDARRAY = _Name("numpy.ndarray", _not_callable)


def _accepted_names(file_bytes: int) -> dict[tuple[str, str], _Name]:
    """(module, name) -> what stands for it: all names that a file of plain data has."""
    make = _Builders(file_bytes)
    accepted = {
        ("numpy", "ndarray"): _NDARRAY,
        ("numpy", "dtype"): _Name("numpy.dtype", lambda name, *_: _Dtype(name)),
        ("_codecs", "encode"): _Name("_codecs.encode", make.encode),
    }
    for core in ("numpy.core", "numpy._core"):
        accepted[f"{core}.multiarray", "_reconstruct"] = _Name("numpy's array", _Array)
        accepted[f"{core}.multiarray", "scalar"] = _Name("numpy's scalar", make.scalar)
        accepted[f"{core}.numeric", "_frombuffer"] = _Name("numpy's array", make.from_bytes)
    for module in ("builtins", "__builtin__"):
        accepted[module, "bytes"] = _Name("bytes", make.no_bytes)
        accepted[module, "set"] = _Name("set", make.set)
        accepted[module, "frozenset"] = _Name("frozenset", make.frozenset)
        accepted[module, "bytearray"] = _Name("bytearray", make.byte_array)
        accepted[module, "complex"] = _Name("complex", make.complex)
    return accepted


class _Unpickler(pickle.Unpickler):
    """The standard unpickler, to which every name is a stand-in of this module or refused."""

    def __init__(self, stream: Any, file_bytes: int) -> None:
        super().__init__(stream, fix_imports=False, encoding="latin1")
        self._accepted = _accepted_names(file_bytes)

    def find_class(self, module: str, name: str) -> Any:
        accepted = self._accepted.get((module, name))
        if accepted is None:
            raise _NotPlainError(
                f"refers to {module}.{name}, which plain data does not need and which could run code when a pickle is "
                "opened by ordinary means"
            )
        return accepted


def _plain(root: Any) -> Any:
    """`root` with finished arrays and dtypes in place of what they were rebuilt in; containers are changed in place."""
    done: dict[int, Any] = {}
    outcome = [root]
    pending: list[Any] = [outcome]
    while pending:
        container = pending.pop()
        if isinstance(container, list):
            for number, value in enumerate(container):
                container[number] = _finished(value, done, pending)
        elif isinstance(container, dict):
            for key, value in container.items():
                _require_plain_key(key)
                container[key] = _finished(value, done, pending)
        else:
            for value in container:
                _require_plain_key(value)
    return outcome[0]


def _finished(value: Any, done: dict[int, Any], pending: list[Any]) -> Any:
    """One value in its final form; containers not met before are put on `pending`."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, _Dtype):
        return value.dtype
    if isinstance(value, _Standin):
        raise _NotPlainError("holds a name where data should be")
    if isinstance(value, (list, dict, set, frozenset)):
        if id(value) not in done:
            done[id(value)] = value
            pending.append(value)
        return value
    return _finished_tuple(value, done, pending) if isinstance(value, tuple) else value


def _finished_tuple(value: tuple, done: dict[int, Any], pending: list[Any]) -> tuple:
    """A tuple with its values finished. Tuples in tuples go as deep as Python's own recursion allows."""
    if id(value) not in done:
        # The tuple itself is kept too: its id must not be given to another while `done` lasts.
        done[id(value)] = (value, tuple(_finished(part, done, pending) for part in value))
    return done[id(value)][1]


def _require_plain_key(key: Any) -> None:
    """Keys and members of sets: no array is hashable, so only a bare name or dtype could hide here."""
    parts = [key]
    while parts:
        part = parts.pop()
        if isinstance(part, _Standin):
            raise _NotPlainError("holds a name where data should be")
        if isinstance(part, (tuple, frozenset)):
            parts.extend(part)
