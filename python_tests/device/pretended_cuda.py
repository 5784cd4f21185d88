"""A pretended CUDA device: tensors that say `cuda:0`, are computed on the CPU, and obey CUDA's rules.

It finds Python code that forgets a device, and lists where a real GPU would be waited for. It runs no CUDA kernel, and
says nothing about rounding, streams or asynchrony. Refused, as on a GPU: tensors of two devices in one operation (a
CPU tensor of one number may join, a CPU index may index), a generator of another device, `.numpy()`, files of device
tensors read without `map_location` where there is no device. The library's own ops run the Python that they run on a
GPU without the CUDA build.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import tmor_fast

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
# What torch's C++ takes the tensors for: a device that it has, that autograd knows and that holds nothing.
INSIDE = torch.device("meta")
LIBRARY = Path(tmor_fast.__file__).resolve().parent

# Copies go between devices; the others make CPU tensors out of Python numbers.
CROSSES = {"aten::copy_", "aten::_to_copy", "aten::_foreach_copy_"}
TAKES_NUMBERS = {
    "aten::fill", "aten::fill_", "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_",
    "aten::index_fill", "aten::index_fill_", "aten::masked_fill", "aten::masked_fill_",
}  # fmt: skip
# CUDA kernels that ask how large their result is, or whether it is true.
WAITS = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::equal", "aten::is_nonzero",
}  # fmt: skip


class Pretended(Tensor):
    """A tensor on the pretended device; `inner` holds its values on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=INSIDE,
        )  # fmt: skip

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner.detach()

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def __repr__(self) -> str:
        return f"Pretended({self.inner!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, *arguments: Any, **named: Any) -> Any:
        return self.numpy()

    # Without it, results of functions would be made instances of this class.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied = Pretended(self.inner.clone())
            if getattr(self, "_is_param", False):
                copied._is_param = True
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Stored as a plain tensor whose storage is marked as the device's.
        _STORED.add(self.inner.untyped_storage().data_ptr())
        plain: Any = self.inner
        if getattr(self, "_is_param", False):
            plain = torch.nn.Parameter(plain, self.requires_grad)
        return plain.__reduce_ex__(protocol)


# Addresses of storages that are being saved from the device.
_STORED: set[int] = set()


class PretendedGenerator(torch.Generator):
    """`torch.Generator(device="cuda")`."""

    def __init__(self) -> None:
        # Torch hands an operation another Python object for the same generator. Kept: its address is not used again.
        _GENERATORS[self._cdata] = self

    @property
    def device(self) -> torch.device:
        return CUDA


_GENERATORS: dict[int, PretendedGenerator] = {}


class _Functions(TorchFunctionMode):
    """Names the device as C++ knows it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device or func is _REAL_GENERATOR:
            return func(*args, **(kwargs or {}))
        if func is Tensor.cuda:
            func, args = Tensor.to, (args[0], *(args[1:] or (CUDA,)))
        kwargs = {name: _inside(value) for name, value in (kwargs or {}).items()}
        if func is Tensor.new_tensor:
            kwargs = {"dtype": args[0].dtype, "device": _inside(args[0].device), **kwargs}
            func, args = torch.tensor, args[1:]
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == INSIDE:
            # C++ would not keep the values.
            del kwargs["device"]
            return func(*args, **kwargs).to(INSIDE)
        return func(*map(_inside, args), **kwargs)


def _inside(value: Any) -> Any:
    is_device = isinstance(value, (str, torch.device)) and str(value).partition(":")[0] == "cuda"
    return INSIDE if is_device else value


@dataclass
class Wait:
    """A place where the host waits for the device, or copies to it from memory that is not pinned."""

    what: str
    where: str


@dataclass
class Waits:
    """What was recorded between `start` and `stop`."""

    found: list[Wait] = field(default_factory=list)

    def counts(self) -> Counter[tuple[str, str]]:
        """How often each (what, where) occurred."""
        return Counter((wait.what, wait.where) for wait in self.found)

    def __str__(self) -> str:
        return "\n".join(f"{count:4d} {what:32s} {where}" for (what, where), count in sorted(self.counts().items()))


_recording: list[Waits] = []


@contextlib.contextmanager
def record_waits() -> Iterator[Waits]:
    """Note every wait for the pretended device and every pageable copy to it."""
    waits = Waits()
    _recording.append(waits)
    try:
        yield waits
    finally:
        _recording.remove(waits)


def _note(what: str) -> None:
    if not _recording:
        return
    frames = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(LIBRARY)]
    where = "outside of the library"
    if frames:
        where = f"{Path(frames[-1].filename).relative_to(LIBRARY)}:{frames[-1].lineno} {frames[-1].line}"
    for waits in _recording:
        waits.found.append(Wait(what, where))


def _note_waits(func: Any, args: Any, kwargs: dict[str, Any], to_device: bool, from_device: bool) -> None:
    name = func._schema.name
    if name in CROSSES:
        if from_device and not to_device:
            _note("device to host copy")
        elif to_device and not from_device:
            _note("pageable host to device copy")
        return
    if not from_device:
        return
    if name in WAITS or (name == "aten::repeat_interleave" and kwargs.get("output_size") is None):
        _note(name)
    elif name.startswith(("aten::index", "aten::_index_put", "aten::_unsafe_index")):
        for index in args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ():
            if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                _note("aten::nonzero of a mask")
            elif isinstance(index, Tensor) and not isinstance(index, Pretended) and index.dim():
                _note("pageable host to device copy")


def _check_devices(func: Any, args: Any, kwargs: dict[str, Any], leaves: list[Tensor]) -> None:
    name = func._schema.name
    if name in CROSSES:
        return
    # Where a tensor of one number may come from the CPU: CUDA's element-wise kernels take it as an argument.
    may_join = torch.Tag.pointwise in func.tags or name in TAKES_NUMBERS
    numbers = [x for x in leaves if not isinstance(x, Pretended) and x.dim() == 0]
    plain = [x for x in leaves if not isinstance(x, Pretended) and (x.dim() > 0 or not may_join)]
    if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
        indices = [x for x in args[1] if isinstance(x, Tensor)]
        if isinstance(args[0], Pretended):
            plain = [x for x in plain if all(x is not index for index in indices)]
        else:
            plain = plain or [args[0]]
    written: list[Tensor] = []
    if not numbers and not plain:
        return
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += [x for x in _flat([value]) if any(x is number for number in numbers)]
    if plain or written:
        shapes = ", ".join(str(tuple(x.shape)) for x in plain + written)
        raise RuntimeError(f"Expected all tensors to be on the same device, {func}: cuda:0 and cpu, these {shapes}")


def _check_generators(values: list[Any], on_device: bool) -> None:
    for generator in values:
        if isinstance(generator, _REAL_GENERATOR) and (generator._cdata in _GENERATORS) != on_device:
            wanted, found = ("cuda", "cpu") if on_device else ("cpu", "cuda")
            raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}'")


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: checked, computed on the CPU, its results put where CUDA would have them."""
    values = [*_flat(args), *_flat(kwargs)]
    leaves = [x for x in values if isinstance(x, Tensor)]
    known = {id(x.inner): x for x in leaves if isinstance(x, Pretended)}
    if known and func.namespace == "tmor_fast":
        # What the op runs on a GPU, line by line on pretended tensors.
        with _Mode():
            return func._op_dk(torch._C.DispatchKey.CUDA, *args, **kwargs)
    name, asked = func._schema.name, kwargs.get("device")
    on_device = bool(known) if asked is None else torch.device(asked).type in (CUDA.type, INSIDE.type)
    if name == "aten::copy_":
        on_device = isinstance(args[0], Pretended)
    elif name == "aten::_foreach_copy_":
        on_device = all(isinstance(x, Pretended) for x in args[0])
    if name in CROSSES:
        source = args[0] if name == "aten::_to_copy" else args[1]
        from_device = any(isinstance(x, Pretended) for x in _flat([source]))
    else:
        from_device = bool(known)
    if known:
        _check_devices(func, args, kwargs, leaves)
    _check_generators(values, on_device)
    _note_waits(func, args, kwargs, on_device, from_device)
    if on_device and asked is not None:
        kwargs = {**kwargs, "device": CPU}
    if "pin_memory" in kwargs:
        kwargs = {**kwargs, "pin_memory": None}
    result = func(*map(_unwrapped, args), **{key: _unwrapped(value) for key, value in kwargs.items()})
    if name == "aten::_local_scalar_dense" or not on_device:
        return result
    return _wrapped(result, known)


def _flat(values: Any) -> Iterator[Any]:
    """What lists, tuples and dicts hold; pytree would take most of the time of a test."""
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _unwrapped(value: Any) -> Any:
    if isinstance(value, Pretended):
        return value.inner
    if type(value) in (list, tuple):
        return type(value)(map(_unwrapped, value))
    return value


def _wrapped(x: Any, known: dict[int, Pretended]) -> Any:
    if type(x) in (list, tuple):
        return type(x)(_wrapped(value, known) for value in x)
    if not isinstance(x, Tensor) or isinstance(x, Pretended):
        return x
    return known[id(x)] if id(x) in known else Pretended(x)


class _Mode(TorchDispatchMode):
    """Sees what has no pretended argument: tensors made on the device, and copies to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


_REAL_GENERATOR = torch.Generator
_REAL_LOAD = torch.load


class _GeneratorType(type(torch.Generator)):
    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        return PretendedGenerator() if torch.device(device).type == "cuda" else _REAL_GENERATOR(device)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _REAL_GENERATOR)


class _Generator(metaclass=_GeneratorType):
    """Stands for `torch.Generator` while the device is pretended."""


def _load(file: Any, map_location: Any = None, **named: Any) -> Any:
    """`torch.load` on a machine with the device."""
    marked: set[int] = set()
    everything = map_location is not None and torch.device(map_location).type == "cuda"

    def keep(storage: Any, location: str) -> Any:
        if everything or (map_location is None and location.startswith("cuda")):
            marked.add(storage.data_ptr())
        return storage

    content = _REAL_LOAD(file, map_location=keep, **named)
    return tree_map_only(Tensor, lambda x: Pretended(x) if x.untyped_storage().data_ptr() in marked else x, content)


def _tag(storage: Any) -> str | None:
    return "cuda:0" if storage.data_ptr() in _STORED else None


def why_not() -> str:
    """Empty where a CUDA device can be pretended, else the reason why not."""
    if torch.version.cuda is not None:
        return "this torch is built for CUDA; a CUDA device is pretended only where there can be none"
    wanted = {
        "Tensor": (Tensor, ("_make_wrapper_subclass",)),
        "torch._C": (torch._C, ("DispatchKey", "_set_only_lift_cpu_tensors", "_disabled_torch_function_impl")),
        "torch.cuda": (torch.cuda, ("_lazy_init", "is_current_stream_capturing")),
        "torch.Generator": (torch.Generator, ("_cdata",)),
        "torch.serialization": (torch.serialization, ("_package_registry", "register_package")),
        "torch.__future__": (torch.__future__, ("set_swap_module_params_on_conversion",)),
        "OpOverload": (torch.ops.aten.add.Tensor, ("_op_dk",)),
    }
    missing = [f"{owner}.{name}" for owner, (of, names) in wanted.items() for name in names if not hasattr(of, name)]
    return f"this torch has no {', '.join(missing)}" if missing else ""


@contextlib.contextmanager
def pretended_cuda() -> Iterator[torch.device]:
    """The device `cuda:0` is there inside of the context.

    Raises:
        RuntimeError: this torch's internals are others than those used here; `why_not` says which.
    """
    reason = why_not()
    if reason:
        raise RuntimeError(reason)
    packages = list(torch.serialization._package_registry)
    torch.serialization.register_package(0, _tag, lambda storage, location: None)
    lifted = torch._C._only_lift_cpu_tensors()
    # Where `_Functions` is not asked (in backward, in ops), torch.tensor(..., device=...) copies in sight of `_Mode`.
    torch._C._set_only_lift_cpu_tensors(True)
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # a moved parameter stays the same object
    try:
        with (
            mock.patch("torch.cuda._lazy_init"),
            mock.patch("torch.cuda.is_current_stream_capturing", return_value=False),
            mock.patch("torch.cuda.current_device", return_value=0),
            # Too old for the kernels of a build that has them, which would follow the tensors' pointers.
            mock.patch("torch.cuda.get_device_capability", return_value=(0, 0)),
            mock.patch("torch.cuda.get_device_properties", return_value=SimpleNamespace(major=0, minor=0)),
            mock.patch("torch.Generator", _Generator),
            mock.patch("torch.load", _load),
            _Functions(),
            _Mode(),
        ):
            yield CUDA
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapped)
        torch._C._set_only_lift_cpu_tensors(lifted)
        torch.serialization._package_registry[:] = packages
        _STORED.clear()
        _GENERATORS.clear()
