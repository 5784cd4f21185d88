"""From tensors to the pointers that compiled kernels take: the only place that does it, and that checks what it passes.

```python
with Launch("my_op", points.device) as launch:
    _C.my_op(launch.pointer("points", points, dtypes=(torch.float32,)), ..., launch.stream)
```

The kernels see integers, so a wrong device, type or layout, or a tensor freed too early, would be silent memory
corruption. `Launch` refuses the former and prevents the latter.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

# As csrc/common/dtype.hpp has them.
DTYPE_CODES: Final[dict[torch.dtype, int]] = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.int64: 4,
    torch.int32: 5,
    torch.uint8: 6,
    torch.bool: 7,
}

# What the kernels of networks and losses take.
FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16)


def not_taken(x: Tensor, device: str) -> str | None:
    """None if kernels on `device` ("cpu" or "cuda") take x as one of `FLOATS`, else the reason why not."""
    if x.device.type != device:
        return f"it takes {device.upper()} tensors, x is on {x.device}"
    if x.dtype not in FLOATS:
        return f"it takes {', '.join(map(str, FLOATS))}, x is {x.dtype} (backend 'reference' takes it)"
    return None


def single(value: Tensor) -> Tensor:
    """`value` in float32, contiguous, without its gradient; copied only where it is not so already."""
    return value.detach().to(torch.float32).contiguous()


def dtype_code(dtype: torch.dtype) -> int:
    """The number by which csrc/ knows `dtype`; TypeError if it does not."""
    if dtype not in DTYPE_CODES:
        raise TypeError(f"kernels have no code for {dtype}; accepted: {', '.join(map(str, DTYPE_CODES))}")
    return DTYPE_CODES[dtype]


def current_stream(device: torch.device) -> int:
    """The CUDA stream (as an integer) on which PyTorch runs now on `device`; 0 for a CPU."""
    if device.type != "cuda":
        return 0
    index = device.index if device.index is not None else torch.cuda.current_device()
    raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    if raw is not None:  # no Python stream object: a microsecond less per call
        return int(raw(index))
    return int(torch.cuda.current_stream(index).cuda_stream)


class Launch:
    """One call of a compiled kernel, used as a context manager.

    Args:
        op: name of the op, for messages.
        device: where all tensors of the call must be. A CUDA device without an index is the current one.

    Attributes:
        device: the device, with its index.
        stream: the current CUDA stream of that device as an integer; 0 on a CPU.

    Inside the context the device is current, and every tensor passed to `pointer` stays alive. Memory that was
    allocated on another stream is recorded on this one, so the allocator does not hand it out while the kernel reads.
    """

    def __init__(self, op: str, device: torch.device | str) -> None:
        self.op = op
        device = torch.device(device)
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"{op}: device {device} is not supported; accepted: cpu, cuda")
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self.device = device
        self.stream = 0
        self._held: list[Tensor] = []
        self._guard: torch.cuda.device | None = None
        self._entered = False

    def __enter__(self) -> Launch:
        if self.device.type == "cuda":
            self._guard = torch.cuda.device(self.device)
            self._guard.__enter__()
        self.stream = current_stream(self.device)
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._guard is not None:
            stream = torch.cuda.current_stream(self.device)
            for tensor in self._held:
                tensor.record_stream(stream)
            self._guard.__exit__(kind, error, traceback)
            self._guard = None
        self._held.clear()
        self._entered = False

    def pointer(
        self,
        name: str,
        tensor: Tensor | None,
        *,
        dtypes: tuple[torch.dtype, ...],
        shape: tuple[int | None, ...] | None = None,
        alignment: int = 0,
        contiguous: bool = True,
    ) -> int:
        """The address of `tensor`'s first element, after everything about it has been checked.

        Args:
            name: of the argument, for messages.
            tensor: dense, not empty, on the device of this call; None gives 0 (an argument left out).
            dtypes: the accepted types.
            shape: the expected sizes, None for any.
            alignment: bytes that must divide the address; 0 for the size of an element.
            contiguous: whether the elements must be row-major without gaps.

        Raises:
            TypeError: not a tensor, or of a type not accepted.
            ValueError: another device, layout, shape, alignment, or no elements.
            RuntimeError: a tensor without memory (fake, meta, functorch), one that requires a gradient which a raw
                kernel would drop, or a call outside of the context.
        """
        if not self._entered:
            raise RuntimeError(f"{self.op}: pointer() outside of 'with Launch(...)': nothing would keep {name!r} alive")
        if tensor is None:
            return 0
        self._check_memory(name, tensor)
        self._check_kind(name, tensor, dtypes, shape)
        if contiguous and not tensor.is_contiguous():
            raise ValueError(
                f"{self.op}: {name} must be contiguous, got strides {tuple(tensor.stride())} for shape "
                f"{tuple(tensor.shape)}; call .contiguous() first"
            )
        address = tensor.data_ptr()
        if address == 0:
            raise RuntimeError(f"{self.op}: {name} has no memory (data_ptr() is 0)")
        wanted = alignment or tensor.element_size()
        if address % wanted:
            raise ValueError(f"{self.op}: {name} must start at a multiple of {wanted} bytes; call .clone() first")
        self._held.append(tensor)
        return address

    def _check_memory(self, name: str, tensor: Tensor) -> None:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{self.op}: {name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.is_meta or isinstance(tensor, FakeTensor):
            raise RuntimeError(
                f"{self.op}: {name} is a fake or meta tensor without values: a kernel was reached while tracing; "
                "call the op through torch.ops.tmor_fast, which has a fake implementation"
            )
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            raise RuntimeError(
                f"{self.op}: {name} is wrapped by torch.func (vmap, grad, ...), which kernels do not support"
            )
        if tensor.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"{self.op}: {name} requires a gradient, but a raw kernel call records none; "
                "call it inside an autograd.Function, under torch.no_grad(), or with .detach()"
            )

    def _check_kind(
        self, name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], shape: tuple[int | None, ...] | None
    ) -> None:
        if tensor.layout != torch.strided:
            raise ValueError(f"{self.op}: {name} must be dense, got layout {tensor.layout}; call .to_dense() first")
        if tensor.device != self.device:
            raise ValueError(f"{self.op}: {name} is on {tensor.device}, the other arguments are on {self.device}")
        if tensor.dtype not in dtypes:
            accepted = ", ".join(str(dtype) for dtype in dtypes)
            raise TypeError(f"{self.op}: {name} has dtype {tensor.dtype}; accepted: {accepted}")
        if tensor.is_neg() or tensor.is_conj():
            raise ValueError(f"{self.op}: {name} is a lazily negated or conjugated view; call .resolve_neg() first")
        if shape is not None and (
            tensor.dim() != len(shape)
            or any(want is not None and size != want for size, want in zip(tensor.shape, shape, strict=True))
        ):
            wanted = "(" + ", ".join("any" if want is None else str(want) for want in shape) + ")"
            raise ValueError(f"{self.op}: {name} has shape {tuple(tensor.shape)}; expected {wanted}")
        if tensor.numel() == 0:
            raise ValueError(f"{self.op}: {name} is empty, shape {tuple(tensor.shape)}")
