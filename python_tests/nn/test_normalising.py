"""Batch norm, shortcut and ReLU as one op: what torch's modules give, running statistics and listeners included."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tmor_fast.build import compiled
from tmor_fast.nn import UNIK, UNIKConfig
from tmor_fast.nn import normalising as module
from tmor_fast.nn.normalising import is_fused, normalise
from tmor_fast.nn.unik_blocks import UNIKBlock

pytestmark = pytest.mark.skipif(compiled("batch_norm_relu", "cpu") is not None, reason="no compiled module")


def maps(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.3
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_running_statistics(momentum: float | None, track: bool, train: bool) -> None:
    theirs = nn.BatchNorm2d(6, momentum=momentum, track_running_stats=track).train(train)
    ours = copy.deepcopy(theirs)
    assert is_fused(ours, maps(2, 6, 3, 4)) == (train or not track)
    for seed in range(3):
        x = maps(2, 6, 3, 4, seed=seed)
        expected = F.relu(theirs(x) + x)
        found = normalise(ours, x.clone(memory_format=torch.channels_last), shortcut=x, relu=True)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)
    state, wanted = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(wanted)
    for name, value in state.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-6, msg=name)


def test_frozen_running_statistics_stay() -> None:
    """torch reads `track_running_stats` at every call: some switch it off for a second view of the batch."""
    theirs = nn.BatchNorm2d(6)
    ours = copy.deepcopy(theirs)
    theirs.track_running_stats = ours.track_running_stats = False
    x = maps(2, 6, 3, 4)
    torch.testing.assert_close(normalise(ours, x), theirs(x), rtol=1e-5, atol=1e-5)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name])


def test_what_is_not_fused() -> None:
    x, norm = maps(2, 6, 3, 4), nn.BatchNorm2d(6)
    assert is_fused(norm, x)
    assert not is_fused(norm, x.double())
    assert not is_fused(nn.SyncBatchNorm(6), x)
    assert not is_fused(nn.BatchNorm2d(6, affine=False), x)
    assert not is_fused(nn.Identity(), x)
    assert not is_fused(copy.deepcopy(norm).eval(), x)
    assert not is_fused(None, x)
    assert not is_fused(norm, x[:0])
    bare = nn.BatchNorm2d(6)
    bare.register_parameter("bias", None)
    assert not is_fused(bare, x)
    norm.register_forward_hook(lambda *_: None)
    assert not is_fused(norm, x)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        normalise(nn.BatchNorm2d(6), maps(1, 6, 1, 1))


def run(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    out = model(x)
    out.square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"out": out.detach(), **gradients, **dict(model.named_buffers())}


@pytest.mark.parametrize("tau", [1, 3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_unik_trains_as_without(tau: int, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = UNIKConfig(joints=5, channels=2, num_classes=3, widths=(8, 8, 16), strides=(1, 1, 2), tau=tau)
    torch.manual_seed(0)
    model = UNIK(config)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)  # at the start the spatial units are close to nothing
    model.checkpointing = checkpointing
    other = copy.deepcopy(model)
    x = torch.randn(4, 2, 12, 5, config.persons)
    calls: list[bool] = []
    fused = module._fused
    monkeypatch.setattr(module, "_fused", lambda *a: (calls.append(a[4] is not None), fused(*a))[1])
    found = run(model, x)
    # Three spatial norms know their statistics; three temporal ones and those of shortcuts and residuals do not.
    assert calls.count(True) == 3 * (1 + checkpointing)
    assert calls.count(False) >= 6
    monkeypatch.setattr(module, "is_fused", lambda *_: False)
    monkeypatch.setattr("tmor_fast.nn.unik_blocks.is_fused", lambda *_: False)
    expected = run(other, x)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=2e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("where", ["temporal", "temporal.norm"])
@pytest.mark.parametrize("train", [True, False])
def test_listeners_hear_what_is_theirs_and_may_keep_it(where: str, train: bool) -> None:
    block = UNIKBlock(4, 4, 5, 3).train(train)
    heard: list[Tensor] = []
    gradients: list[Tensor] = []

    def listen(_: nn.Module, __: Any, out: Tensor) -> None:
        heard.append(out)

    def backwards(_: nn.Module, __: Any, upstream: tuple[Tensor, ...]) -> None:
        gradients.extend(upstream)

    x = maps(3, 4, 9, 5)
    expected = copy.deepcopy(block)(x)
    block.get_submodule(where).register_forward_hook(listen)
    block.get_submodule(where).register_full_backward_hook(backwards)
    out = block(x)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(F.relu(heard[0] + x), out, rtol=1e-5, atol=1e-5)
    assert (heard[0] < 0).any()
    out.sum().backward()
    torch.testing.assert_close(gradients[0], (out > 0).to(out.dtype))


def test_listeners_of_a_strided_residual_are_heard() -> None:
    block, heard = UNIKBlock(4, 8, 5, 3, stride=2), []
    block.residual.conv.register_forward_hook(lambda *_: heard.append("conv"))
    block(maps(3, 4, 9, 5))
    assert heard == ["conv"]


def test_autocast_keeps_half_precision() -> None:
    block = UNIKBlock(4, 8, 5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(maps(3, 4, 9, 5))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), copy.deepcopy(block)(maps(3, 4, 9, 5)), rtol=0.1, atol=0.1)
