"""Where ops are declared to torch and where a call picks its backend.

Every op file calls `define` once per schema, `implement` for its kernels and fakes, and `choose` on every call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tmor_fast.errors import BackendUnavailableError

LIBRARY = torch.library.Library("tmor_fast", "DEF")

# A backend's check returns None if it can run, else the reason why not.
Check = Callable[[], "str | None"]


def define(schema: str) -> None:
    """Declare one op, e.g. `define("dbscan(Tensor points, ...) -> (Tensor, Tensor)")`."""
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))


def implement(name: str, kernel: Callable[..., Any], fake: Callable[..., Any], devices: tuple[str, ...]) -> None:
    """Attach `kernel` to op `name` on `devices` ("CPU", "CUDA") and `fake` for shape propagation."""
    for device in devices:
        LIBRARY.impl(name, kernel, device)
    torch.library.register_fake(f"tmor_fast::{name}", fake, lib=LIBRARY)


def differentiate(name: str, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Give op `name` a derivative; arguments as in `torch.library.register_autograd`.

    An autograd.Function around the op would cost 20 microseconds less a call, but `torch.ops.tmor_fast.*` itself would
    then have no gradient and fail opcheck; registered, the op is differentiable in eager, compile and export alike.
    """
    torch.library.register_autograd(f"tmor_fast::{name}", backward, setup_context=setup, lib=LIBRARY)


def differentiate_once(name: str) -> None:
    """Declare that the backward op `name` has no derivative of its own, so that asking for one is an error."""

    def refuse(ctx: Any, *grads: Any) -> None:
        raise NotImplementedError(f"tmor_fast::{name} is not differentiable: second derivatives are not implemented")

    differentiate(name, lambda ctx, inputs, output: None, refuse)


def refuse_forward_mode(name: str, *tensors: Tensor | None) -> None:
    """Refuse tensors that carry a tangent (`torch.func.jvp`, `jacfwd`, `forward_ad`), which torch would drop.

    Raises:
        NotImplementedError: one of them does.
    """
    # Below 0 nothing can carry one; the compiler follows no tangents through an op.
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    for tensor in tensors:
        if isinstance(tensor, Tensor) and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                f"{name}: forward-mode derivatives (torch.func.jvp, jacfwd) are not implemented and would be 0; use "
                "backward mode (torch.autograd.grad, torch.func.vjp, jacrev)"
            )


def not_compiled() -> str | None:
    """Check of a backend that this build does not contain."""
    return "it is not compiled into this build (backend='auto' takes one that is)"


def choose(op: str, backend: str, candidates: Mapping[str, Check]) -> str:
    """The backend that `op` will use.

    Args:
        op: name of the op, for the message.
        backend: "auto" or one of the names in `candidates`.
        candidates: backend name -> check, the preferred one first.

    Returns:
        `backend` itself, or for "auto" the first candidate whose check passes.

    Raises:
        ValueError: the name is not a backend of this op.
        BackendUnavailableError: the backend cannot run, with the reason.
    """
    if backend == "auto":
        for name, check in candidates.items():
            if check() is None:
                return name
        raise BackendUnavailableError(f"{op}: no backend can run: " + reasons(candidates))
    if backend not in candidates:
        raise ValueError(f"{op}: unknown backend {backend!r}; accepted: 'auto', " + ", ".join(map(repr, candidates)))
    reason = candidates[backend]()
    if reason is not None:
        raise BackendUnavailableError(f"{op}: backend {backend!r} cannot run: {reason}")
    return backend


def reasons(candidates: Mapping[str, Check]) -> str:
    """One line that says of every backend whether it can run."""
    return "; ".join(f"{name}: {check() or 'available'}" for name, check in candidates.items())
