"""The fused op inside a model that somebody else wrote: UNIK's units are found by their structure and run in place.

What a module computes cannot be read off its parameters, so a candidate is tried: a float64 copy with random weights
must give the same output and the same gradients both ways, in training and in eval mode, before it is replaced.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmor_fast.nn.folding import convolve
from tmor_fast.nn.normalising import has_hooks
from tmor_fast.nn.unik_blocks import SpatialUnit, attend, unfold_frames

Model = TypeVar("Model", bound=nn.Module)

# Both ways in float64, relative to the largest value; a different formula is off by far more.
AGREEMENT = 1e-9
TRIED_FRAMES = (5, 2)


@dataclass(frozen=True)
class AccelerationReport:
    """What `accelerate` did.

    Args:
        spatial: names of the S-LSU that now run on the fused op.
        temporal: names of the T-LSU and strided projections beside them that now run channels-last.
        left_alone: name -> reason, of modules built like an S-LSU that were not replaced.
    """

    spatial: tuple[str, ...]
    temporal: tuple[str, ...]
    left_alone: dict[str, str]

    def __str__(self) -> str:
        text = f"{len(self.spatial)} spatial and {len(self.temporal)} temporal units replaced"
        if self.left_alone:
            text += "; left alone: " + ", ".join(f"{name} ({why})" for name, why in self.left_alone.items())
        return text


def accelerate(model: Model) -> tuple[Model, AccelerationReport]:
    """Run the units of a UNIK written like the released one on `dependency_attention`, in place.

    An S-LSU is a module with a parameter (H, W, W), three lists of H 1x1 convolutions (two of them to the embedding,
    one to the output channels), a batch norm, and a shortcut; with tau > 1 also a (1, tau, 1) convolution and its norm.
    Names do not count, except that they stay. Convolutions over time with a batch norm, beside an S-LSU in the same
    parent, go with it. Each is replaced only after a copy of it was seen to compute the formula (module docstring).

    Parameters, buffers, their names and order stay, so state dicts go both ways and optimisers made before still hold
    the same tensors; modules stay instances of their class; `copy.deepcopy`, pickling and `torch.compile` work. Two
    things change: the 1x1 convolutions of an S-LSU are read, not called, so hooks set on them later never run (modules
    that carry hooks already are left alone), and the second derivative is not implemented.

    Args:
        model: any module that holds such blocks, on any device, in any mode.

    Returns:
        `model` itself, and what was replaced.

    Raises:
        TypeError: not a module.
        ValueError: there is no such block in it; the message names modules that came near.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate takes a torch.nn.Module, got {type(model).__name__}")
    spatial: list[str] = []
    temporal: list[str] = []
    left: dict[str, str] = {}
    parents = []
    for name, module in list(model.named_modules()):
        plans = [] if isinstance(module, _Accelerated) else list(_spatial_plans(module))
        if not plans:
            continue
        plan, reason = _first_that_agrees(module, plans)
        if plan is None:
            left[name] = reason
            continue
        _replace(module, plan)
        spatial.append(name)
        parents.append(name.rpartition(".")[0])
    for parent in dict.fromkeys(parents if "" not in spatial else []):
        for child, module in model.get_submodule(parent).named_children():
            wanted = _temporal_plan(module)
            if wanted is not None and _first_that_agrees(module, [wanted])[0] is not None:
                _replace(module, wanted)
                temporal.append(f"{parent}.{child}" if parent else child)
    if not spatial:
        raise ValueError(_nothing_found(model, left))
    return model, AccelerationReport(tuple(spatial), tuple(temporal), left)


def _nothing_found(model: nn.Module, left: dict[str, str]) -> str:
    kind = type(model).__name__
    if any(isinstance(module, _Accelerated) for module in model.modules()):
        return f"accelerate: the S-LSU of this {kind} are accelerated already"
    if any(isinstance(module, SpatialUnit) for module in model.modules()):
        return f"accelerate: this {kind} is the library's own UNIK, which runs on the fused op as it is"
    near = "; ".join(f"{name or 'the model itself'}: {why}" for name, why in left.items())
    return (
        f"accelerate: no S-LSU of UNIK was found in this {kind}. Wanted: a module with a parameter (H, V, V), three "
        "lists of H 1x1 convolutions and a batch norm that computes the released formula"
        + (f". Built like one, but left alone: {near}" if near else "")
    )


# --------------------------------------------------------------------------------------------------------------------
# What a unit is made of
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spatial:
    """Names of the parts of an S-LSU; None for what it lacks."""

    dependency: str
    theta: str
    phi: str
    value: str
    norm: str
    shortcut: str | None
    window_conv: str | None = None
    window_norm: str | None = None


@dataclass(frozen=True)
class _Temporal:
    """Names of the parts of a T-LSU."""

    conv: str
    norm: str


_Plan = _Spatial | _Temporal


def _spatial_plans(module: nn.Module) -> Iterator[_Spatial]:
    """The ways in which a module can be read as an S-LSU, the likeliest (in order of definition) first."""
    squares = [n for n, p in module.named_parameters(recurse=False) if p.dim() == 3 and p.shape[1] == p.shape[2]]
    lists = {n: c for n, c in module.named_children() if isinstance(c, nn.ModuleList) and _pointwise(c)}
    norms = [n for n, c in module.named_children() if isinstance(c, _BatchNorm)]
    windows: list[str | None] = [n for n, c in module.named_children() if isinstance(c, nn.Conv3d)]
    if len(lists) != 3 or len(windows) > 1 or len(norms) != 1 + len(windows):
        return
    for dependency, roles in itertools.product(squares, itertools.permutations(lists, 3)):
        heads = getattr(module, dependency).shape[0]
        theta, phi, value = (_heads(module, name) for name in roles)
        same = theta[0].weight.shape == phi[0].weight.shape and theta[0].in_channels == value[0].in_channels
        if not same or {len(theta), len(phi), len(value)} != {heads}:
            continue
        cin, cout = value[0].in_channels, value[0].out_channels
        shortcuts: list[str | None] = [n for n, c in module.named_children() if _is_shortcut(c, cin, cout)]
        for norm, shortcut in itertools.product(norms, shortcuts or [None]):
            window_norm = next((other for other in norms if other != norm), None)
            if shortcut is not None or cin == cout:
                yield _Spatial(dependency, *roles, norm, shortcut, windows[0] if windows else None, window_norm)


def _pointwise(convs: nn.ModuleList) -> bool:
    """Whether these are plain 1x1 convolutions of one shape."""
    return len(convs) > 0 and all(
        isinstance(conv, nn.Conv2d) and conv.kernel_size == conv.stride == conv.dilation == (1, 1)
        and conv.padding in ((0, 0), 0, "valid", "same") and conv.groups == 1
        and conv.weight.shape == cast(nn.Conv2d, convs[0]).weight.shape
        for conv in convs
    )  # fmt: skip


def _is_shortcut(module: nn.Module, cin: int, cout: int) -> bool:
    if not isinstance(module, nn.Sequential):
        return isinstance(module, nn.Identity) and cin == cout
    first = module[0] if len(module) == 2 else None
    fits = isinstance(first, nn.Conv2d) and (first.in_channels, first.out_channels) == (cin, cout)
    return fits and isinstance(module[1], _BatchNorm)


def _temporal_plan(module: nn.Module) -> _Temporal | None:
    """A module whose only parameters are those of a (K, 1) convolution and of a batch norm."""
    own = next(module.parameters(recurse=False), None)
    if own is not None or isinstance(module, (nn.Sequential, nn.ModuleList, _Accelerated)):
        return None
    parts = [(name, child) for name, child in module.named_children() if next(child.parameters(), None) is not None]
    convs = [
        name for name, child in parts
        if isinstance(child, nn.Conv2d) and child.kernel_size[1] == child.stride[1] == 1
        and child.padding_mode == "zeros" and not isinstance(child.padding, str) and child.padding[1] == 0
    ]  # fmt: skip
    norms = [name for name, child in parts if isinstance(child, _BatchNorm)]
    return _Temporal(convs[0], norms[0]) if len(parts) == 2 and len(convs) == len(norms) == 1 else None


# --------------------------------------------------------------------------------------------------------------------
# Is it really one?
# --------------------------------------------------------------------------------------------------------------------


def _first_that_agrees(module: nn.Module, plans: list[Any]) -> tuple[_Plan | None, str]:
    """The first plan whose forward equals the module's own, or the reason why there is none."""
    if "forward" in vars(module):
        return None, "its forward was replaced already"
    hooked = [name for name, part in module.named_modules() if name and has_hooks(part)]
    if hooked:
        return None, f"hooks on {', '.join(hooked)} would no longer run"
    try:
        twin = _random_copy(module)
        # Dropout and the like draw from torch's generator, which stays as it was.
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            for plan in plans:
                if all(_agree(twin, plan, frames, train) for frames in TRIED_FRAMES for train in (False, True)):
                    return plan, ""
    except Exception as error:  # another's forward may raise anything on input it was not made for
        return None, f"trying a copy of it failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None, "it computes something else"


def _random_copy(module: nn.Module) -> nn.Module:
    """A float64 copy on the CPU whose every parameter and statistic matters.

    Fresh weights will not do: a released S-LSU starts with a norm weight of 1e-6, under which all formulas agree.
    """
    twin = copy.deepcopy(module).to("cpu", torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            parameter.requires_grad_(True)
        for part in twin.modules():
            if isinstance(part, _BatchNorm) and part.running_mean is not None and part.running_var is not None:
                part.running_mean.normal_(generator=generator)
                part.running_var.uniform_(0.5, 2, generator=generator)
    return twin


def _agree(twin: nn.Module, plan: _Plan, frames: int, train: bool) -> bool:
    """Whether output, gradients and the statistics left behind are the same by the copy's forward and by ours."""
    if isinstance(plan, _Spatial):
        shape = (_heads(twin, plan.value)[0].in_channels, frames, _joints(twin, plan))
    else:
        shape = (getattr(twin, plan.conv).in_channels, frames, 3)
    generator = torch.Generator().manual_seed(frames)
    x = torch.randn(2, *shape, generator=generator, dtype=torch.float64).requires_grad_()
    results = []
    for forward in (twin.forward, functools.partial(_FORWARDS[type(plan)], twin, plan)):
        run = copy.deepcopy(dict(twin.named_buffers()))
        twin.train(train)
        out = forward(x)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        gradients = torch.autograd.grad((out * weight).sum(), [x, *twin.parameters()], allow_unused=True)
        if not train:
            # Folded norms are another computation; what matters is that the plain one is the same.
            with torch.no_grad():
                folded = forward(x)
            results.append([folded, out, *gradients])
        else:
            results.append([out, *gradients, *(b.double() for b in twin.buffers())])
        with torch.no_grad():
            for name, buffer in twin.named_buffers():
                buffer.copy_(run[name])
    return all(_same(theirs, ours) for theirs, ours in zip(*results, strict=True))


def _same(theirs: Tensor | None, ours: Tensor | None) -> bool:
    if theirs is None or ours is None:
        # An optimiser decays a weight whose gradient is zero, and skips one without.
        return theirs is ours
    if theirs.shape != ours.shape:
        return False
    return bool((theirs - ours).abs().max() <= AGREEMENT * (1 + theirs.abs().max()))


# --------------------------------------------------------------------------------------------------------------------
# Ours
# --------------------------------------------------------------------------------------------------------------------


class _Accelerated:
    """Marks the classes that `_replace` makes: those of the model's own modules with another forward."""

    _tmor_plan: _Plan

    def forward(self, x: Tensor) -> Tensor:
        """As the class it stands before, rounding aside."""
        return _FORWARDS[type(self._tmor_plan)](cast(nn.Module, self), self._tmor_plan, x)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class exists at run time alone: copies and pickles make it anew.
        parts: tuple[Any, ...] = super().__reduce_ex__(protocol)  # type: ignore[assignment]
        return _remake, (type(self).__mro__[2],), *parts[2:]


@functools.cache
def _accelerated(kind: Any) -> type[nn.Module]:
    return type(f"Accelerated{kind.__name__}", (_Accelerated, kind), {"__module__": kind.__module__})


def _remake(kind: Any) -> nn.Module:
    made = _accelerated(kind)
    return made.__new__(made)


def _replace(module: nn.Module, plan: _Plan) -> None:
    # A class, not an attribute `forward`: replicas of DataParallel then run on their own weights.
    module._tmor_plan = plan  # type: ignore[assignment]
    kind: Any = type(module)
    module.__class__ = _accelerated(kind)


def _heads(module: nn.Module, name: str) -> list[nn.Conv2d]:
    return list(getattr(module, name))


def _joints(module: nn.Module, plan: _Spatial) -> int:
    window: int = getattr(module, plan.dependency).shape[-1]
    return window if plan.window_conv is None else window // getattr(module, plan.window_conv).kernel_size[1]


def _spatial_forward(module: nn.Module, plan: _Spatial, x: Tensor) -> Tensor:
    """S-LSU: (B, Cin, T, V) to (B, Cout, T, V), channels-last."""
    window = None if plan.window_conv is None else getattr(module, plan.window_conv)
    x = x.contiguous(memory_format=torch.channels_last) if window is None else unfold_frames(x, window.kernel_size[1])
    queries, values = _heads(module, plan.theta) + _heads(module, plan.phi), _heads(module, plan.value)
    value_weight = torch.cat([conv.weight.flatten(1) for conv in values], 1)
    value_bias = torch.stack([_bias(conv) for conv in values]).sum(0)
    weights = (
        torch.cat([conv.weight.flatten(1) for conv in queries]),
        torch.cat([_bias(conv) for conv in queries]),
        getattr(module, plan.dependency),
        value_weight,
        value_bias,
    )
    y = attend(x, weights, getattr(module, plan.norm), _shortcut(module, plan, x))
    if window is None:
        return y
    tau = window.kernel_size[1]
    y = window(y.unflatten(3, (tau, y.shape[3] // tau))).squeeze(3)
    out: Tensor = getattr(module, cast(str, plan.window_norm))(y)
    return out


def _shortcut(module: nn.Module, plan: _Spatial, x: Tensor) -> Tensor:
    if plan.shortcut is None:
        return x
    part = getattr(module, plan.shortcut)
    if isinstance(part, nn.Sequential):
        return convolve(cast(nn.Conv2d, part[0]), part[1], x)
    out: Tensor = part(x)
    return out


def _temporal_forward(module: nn.Module, plan: _Temporal, x: Tensor) -> Tensor:
    """T-LSU: (B, C, T, V) to (B, C', T', V), channels-last."""
    x = x.contiguous(memory_format=torch.channels_last)
    return convolve(getattr(module, plan.conv), getattr(module, plan.norm), x)


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias


_FORWARDS: Mapping[type, Callable[[nn.Module, Any, Tensor], Tensor]] = {
    _Spatial: _spatial_forward,
    _Temporal: _temporal_forward,
}
