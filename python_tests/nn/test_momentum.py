"""ema_update and MomentumEncoder: the equation, buffers, structure checks, no gradient."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tmor_fast.nn.momentum import MomentumEncoder, ema_update


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def perturb(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))


@settings(deadline=None, max_examples=30)
@given(momentum=st.floats(0, 1), steps=st.integers(1, 4))
def test_parameters_follow_the_equation(momentum: float, steps: int) -> None:
    target, source = network(), network()
    expected = [p.detach().double() for p in target.parameters()]
    for _ in range(steps):
        perturb(source)
        ema_update(target, source, momentum)
        expected = [
            momentum * e + (1 - momentum) * s.double() for e, s in zip(expected, source.parameters(), strict=True)
        ]
    for actual, value in zip(target.parameters(), expected, strict=True):
        torch.testing.assert_close(actual.double(), value, rtol=1e-5, atol=1e-5)


def test_momentum_zero_copies_and_one_keeps() -> None:
    target, source = network(), network()
    before = [p.clone() for p in target.parameters()]
    ema_update(target, source, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), before, strict=True))
    ema_update(target, source, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), source.parameters(), strict=True))


@pytest.mark.parametrize("policy", ["copy", "keep"])
def test_buffer_policy(policy: str) -> None:
    target, source = network(), network()
    source(torch.randn(8, 3) + 5)
    assert source[1].num_batches_tracked == 1
    before = target[1].running_mean.clone()
    ema_update(target, source, 0.9, buffers=policy)  # type: ignore[arg-type]
    wanted = source[1].running_mean if policy == "copy" else before
    assert torch.equal(target[1].running_mean, wanted)
    assert target[1].num_batches_tracked == (1 if policy == "copy" else 0)
    assert target[1].running_mean.data_ptr() != source[1].running_mean.data_ptr()


def test_encoder_starts_equal_and_has_no_gradient() -> None:
    backbone, head = network().eval(), nn.Linear(2, 5)
    encoder = MomentumEncoder(backbone, head)
    x = torch.randn(4, 3, requires_grad=True)
    assert torch.equal(encoder(x), head(backbone(x)))
    assert not encoder(x).requires_grad
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(p.requires_grad for p in (*backbone.parameters(), *head.parameters()))
    # Only the copies belong to it: updating the online modules does not move it.
    before = encoder(x)
    perturb(backbone)
    assert torch.equal(encoder(x), before)
    encoder.update(backbone, head, momentum=0.0)
    assert torch.equal(encoder(x), head(backbone(x)))


def test_encoder_default_momentum_moves_slowly() -> None:
    online = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        online.weight.fill_(1.0)
    encoder = MomentumEncoder(online)
    with torch.no_grad():
        online.weight.fill_(2.0)
    encoder.update(online)
    assert encoder.targets[0].weight.item() == pytest.approx(1.006, abs=1e-6)


def test_shared_parts_move_once() -> None:
    online = nn.Linear(2, 2)
    encoder = MomentumEncoder(online, online, momentum=0.5)
    start = online.weight.detach().clone()
    perturb(online)
    encoder.update(online, online)
    assert encoder.targets[0] is encoder.targets[1]
    torch.testing.assert_close(encoder.targets[0].weight, (start + online.weight.detach()) / 2)


def test_state_dict_round_trip() -> None:
    encoder, other = MomentumEncoder(network()), MomentumEncoder(network())
    buffer = io.BytesIO()
    torch.save(encoder.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    x = torch.randn(4, 3)
    assert torch.equal(other.eval()(x), encoder.eval()(x))


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_momentum_range(momentum: float) -> None:
    online = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        MomentumEncoder(online, momentum=momentum)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        ema_update(online, online, momentum)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        MomentumEncoder(online).update(online, momentum=momentum)


def test_structure_errors() -> None:
    with pytest.raises(ValueError, match="differ in parameters bias"):
        ema_update(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.5)
    with pytest.raises(ValueError, match=r"weight is \(2, 2\) in the target and \(2, 3\)"):
        ema_update(nn.Linear(2, 2), nn.Linear(3, 2), 0.5)
    with pytest.raises(ValueError, match="follows 1 modules, got 2"):
        MomentumEncoder(nn.Linear(2, 2)).update(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="at least one"):
        MomentumEncoder()
    with pytest.raises(ValueError, match="'copy' or 'keep'"):
        MomentumEncoder(nn.Linear(2, 2), buffers="ema")  # type: ignore[arg-type]
