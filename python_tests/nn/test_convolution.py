"""Convolutions with shortcut and ReLU: what torch's functions give, by oneDNN's fused op and without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tmor_fast.nn import convolution as module
from tmor_fast.nn.convolution import PackedConv2d, convolve_add_relu, convolve_recorded
from tmor_fast.nn.unik_blocks import TemporalConv
from tmor_fast.ops.temporal_convolution import unavailable

FUSED = module.has_fused_convolution()
NEEDS_KERNEL = pytest.mark.skipif(unavailable(torch.ones(1)) is not None, reason="no compiled module")


def maps(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


def conv_of(cin: int, cout: int, kernel: int = 9, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    torch.manual_seed(0)
    padding = ((kernel - 1) * dilation // 2, 0)
    return nn.Conv2d(cin, cout, (kernel, 1), (stride, 1), padding, (dilation, 1))


def packed(conv: nn.Conv2d) -> PackedConv2d:
    return PackedConv2d(conv, conv.weight, conv.bias)


def expected(conv: nn.Conv2d, x: Tensor, shortcut: Tensor | None, relu: bool, dtype: torch.dtype) -> Tensor:
    wide = [None if value is None else value.to(dtype) for value in (x, conv.weight, conv.bias)]
    y = F.conv2d(*wide, conv.stride, conv.padding, conv.dilation)  # type: ignore[arg-type]
    y = y if shortcut is None else y + shortcut.to(dtype)
    return F.relu(y) if relu else y


@given(
    cin=st.sampled_from([2, 3, 16, 64]), cout=st.sampled_from([5, 16, 64]), kernel=st.sampled_from([1, 3, 9]),
    stride=st.sampled_from([1, 2]), dilation=st.sampled_from([1, 2]), frames=st.sampled_from([1, 2, 9, 30]),
    joints=st.sampled_from([1, 5, 17]), clips=st.integers(1, 3), shortcut=st.booleans(), relu=st.booleans(),
    keeps=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@torch.no_grad()
def test_against_float64(
    cin: int, cout: int, kernel: int, stride: int, dilation: int, frames: int, joints: int, clips: int,
    shortcut: bool, relu: bool, keeps: bool, seed: int,
) -> None:  # fmt: skip
    conv = conv_of(cin, cout, kernel, stride, dilation)
    x = maps(clips, cin, frames, joints, seed=seed)
    added = maps(clips, cout, (frames - 1) // stride + 1, joints, seed=seed + 1) if shortcut else None
    before = None if added is None else added.clone()
    used = packed(conv) if keeps else conv
    found = convolve_add_relu(
        used, x, used.weight, used.bias, stride=(stride, 1), shortcut=added, relu=relu
    )  # fmt: skip
    truth = expected(conv, x, added, relu, torch.float64)
    plain = expected(conv, x, added, relu, torch.float32)
    error, allowed = (found - truth).abs().max(), 2 * (plain - truth).abs().max() + 1e-6
    assert error <= allowed
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert found.shape == truth.shape
    assert added is None or torch.equal(added, before)  # type: ignore[arg-type]


@pytest.mark.parametrize("keeps", [True, False])
@torch.no_grad()
def test_nan_stays(keeps: bool) -> None:
    conv = conv_of(16, 16)
    used = packed(conv) if keeps else conv
    x, added = maps(1, 16, 20, 5), maps(1, 16, 20, 5, seed=1)
    x[0, 3, 5, 2] = torch.nan
    added[0, 0, 19, 0] = torch.nan
    found = convolve_add_relu(used, x, used.weight, used.bias, stride=(1, 1), shortcut=added, relu=True)
    assert torch.equal(found.isnan(), expected(conv, x, added, True, torch.float32).isnan())
    assert found.isnan().sum() == 9 * 16 + 1


@pytest.mark.skipif(not FUSED, reason="this torch has no fused convolution")
@torch.no_grad()
def test_the_packed_weight_is_used_and_follows_the_weight() -> None:
    conv, x = packed(conv_of(16, 16)), maps(2, 16, 20, 5)
    first = convolve_add_relu(conv, x, conv.weight, conv.bias, stride=(1, 1))
    made = conv._packed
    assert made is not None
    convolve_add_relu(conv, x, conv.weight, conv.bias, stride=(1, 1))
    assert conv._packed is made
    conv.weight.mul_(2)
    torch.testing.assert_close(
        convolve_add_relu(conv, x, conv.weight, None, stride=(1, 1)), F.conv2d(x, conv.weight, None, padding=(4, 0))
    )
    conv.to(torch.float64).to(torch.float32)
    assert conv._packed is None
    conv.weight.div_(2)
    torch.testing.assert_close(convolve_add_relu(conv, x, conv.weight, conv.bias, stride=(1, 1)), first)
    # Another weight than the convolution's own has no packed copy.
    other = conv.weight * 3
    torch.testing.assert_close(
        convolve_add_relu(conv, x, other, None, stride=(1, 1)), F.conv2d(x, other, None, padding=(4, 0))
    )


@pytest.mark.skipif(not FUSED, reason="this torch has no fused convolution")
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_where_the_fused_op_is_not_called() -> None:
    conv, x = conv_of(4, 4), maps(1, 4, 9, 5)
    assert not module._takes(x, conv.weight, None)  # gradients are recorded
    with torch.no_grad():
        assert module._takes(x, conv.weight, x)
        assert not module._takes(x.double(), conv.weight.double(), None)
        assert not module._takes(x, conv.weight.double(), None)
        assert not module._takes(x[:0], conv.weight, None)
        assert not module._takes(x.contiguous(), conv.weight, None)
        assert not module._takes(x, conv.weight, x.contiguous())
        assert not module._takes(x.to("meta"), conv.weight, None)
        with torch.autocast("cpu", torch.bfloat16):
            assert not module._takes(x, conv.weight, None)
        with torch.backends.mkldnn.flags(enabled=False):
            assert not module._takes(x, conv.weight, None)


class Calls(TorchDispatchMode):
    """The backends of the calls of `temporal_convolution`."""

    def __init__(self) -> None:
        super().__init__()
        self.backends: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.tmor_fast.temporal_convolution.default:
            self.backends.append(args[-1])
        return func(*args, **(kwargs or {}))


def recorded(conv: nn.Conv2d, x: Tensor) -> tuple[list[str], Tensor]:
    with Calls() as calls:
        y = convolve_recorded(conv, x, conv.weight, conv.bias, stride=conv.stride)
    assert y.is_contiguous(memory_format=torch.channels_last)
    return calls.backends, y


@NEEDS_KERNEL
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 3)])
def test_training_takes_the_own_gradient(stride: int, dilation: int) -> None:
    conv, x = conv_of(6, 8, 9, stride, dilation), maps(3, 6, 20, 5)
    backends, y = recorded(conv, x)
    assert backends == ["cpu"]
    upstream = maps(*y.shape, seed=1)
    y.backward(upstream)
    exact = conv_of(6, 8, 9, stride, dilation).double()
    exact(x.double()).backward(upstream.double())
    for name, parameter in conv.named_parameters():
        truth = exact.get_parameter(name).grad
        assert truth is not None
        torch.testing.assert_close(parameter.grad, truth.float(), rtol=1e-5, atol=1e-4, msg=name)


def test_where_the_own_gradient_is_not_asked_for() -> None:
    conv, x = conv_of(6, 8), maps(3, 6, 20, 5)
    with torch.no_grad():
        assert not recorded(conv, x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        backends, y = recorded(conv, x)
        assert not backends
        assert y.dtype == torch.bfloat16
    assert not recorded(conv.double(), x.double())[0]
    others = (
        conv_of(6, 8, kernel=1),
        nn.Conv2d(6, 8, (9, 3), padding=(4, 0)),
        nn.Conv2d(6, 8, (9, 1), padding=(4, 1)),
        nn.Conv2d(6, 8, (9, 1), (1, 2), padding=(4, 0)),
        nn.Conv2d(6, 8, (9, 1), padding="same"),
        nn.Conv2d(6, 8, (9, 1), groups=2),
    )
    for other in others:
        backends, y = recorded(other, x)
        assert not backends
        assert torch.equal(y, other(x))
    frozen = conv_of(6, 8)
    frozen.weight.requires_grad_(False)
    assert not recorded(frozen, x)[0]


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm2d(8)])
def test_norms_that_return_what_they_are_given(norm: nn.Module) -> None:
    """What follows works in place."""
    unit, x, added = TemporalConv(6, 8, 9), maps(3, 6, 20, 5), maps(3, 8, 20, 5, seed=1)
    unit.norm = norm  # type: ignore[assignment]
    y = unit(x, shortcut=added, relu=True)
    y.sum().backward()
    torch.testing.assert_close(y, F.relu(norm(unit.conv(x)) + added), rtol=1e-4, atol=1e-4)


def test_a_parametrised_weight_is_computed_once() -> None:
    class Counted(nn.Module):
        calls = 0

        def forward(self, weight: Tensor) -> Tensor:
            Counted.calls += 1
            return 2 * weight

    unit, x = TemporalConv(6, 8, 9), maps(3, 6, 20, 5)
    nn.utils.parametrize.register_parametrization(unit.conv, "weight", Counted())
    Counted.calls = 0
    unit(x).sum().backward()
    assert Counted.calls == 1


def test_transforms_of_torch_func() -> None:
    unit, x = TemporalConv(6, 8, 9).eval(), maps(3, 6, 20, 5)
    unit.norm = nn.Identity()  # type: ignore[assignment]

    def loss(value: Tensor) -> Tensor:
        result: Tensor = unit(value).square().sum()
        return result

    gradient = torch.func.grad(loss)(x)
    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-4, atol=1e-4)
    _, tangent = torch.func.jvp(loss, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, gradient.sum(), rtol=1e-3, atol=1e-3)


def test_integers_of_numpy() -> None:
    unit = TemporalConv(6, 8, 9, stride=np.int64(2), dilation=np.int64(1))  # type: ignore[arg-type]
    assert unit(maps(3, 6, 20, 5)).shape[2] == 10
