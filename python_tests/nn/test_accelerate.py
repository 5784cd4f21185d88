"""`tmor_fast.accelerate`: a UNIK of another code, written from the formulas, before and after."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tmor_fast
from tmor_fast.nn import UNIK, UNIKConfig
from tmor_fast.nn.accelerate import accelerate
from tmor_fast.nn.unik_released import ReleasedUNIK

CASES = {
    "strides": UNIKConfig(joints=5, num_classes=4, widths=(8, 8, 12, 16), strides=(1, 1, 2, 2)),
    "heads": UNIKConfig(joints=4, channels=3, persons=1, num_classes=2, heads=5, widths=(8, 12), strides=(1, 1)),
    "one head": UNIKConfig(joints=4, num_classes=2, heads=1, first_block_heads=1, widths=(8, 8), strides=(1, 2)),
    "tau": UNIKConfig(joints=3, num_classes=2, tau=3, widths=(8, 8, 12), strides=(1, 1, 2)),
}


class Joints(nn.Module):
    """An S-LSU under other names, its parts defined in another order, its shortcut no module."""

    def __init__(self, cin: int, cout: int, joints: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.after = nn.BatchNorm2d(cout, eps=1e-3)
        self.project = nn.ModuleList(nn.Conv2d(cin, cout, 1, bias=bias) for _ in range(heads))
        self.key = nn.ModuleList(nn.Conv2d(cin, cout // 4, 1, bias=bias) for _ in range(heads))
        self.query = nn.ModuleList(nn.Conv2d(cin, cout // 4, 1, bias=bias) for _ in range(heads))
        self.graph = nn.Parameter(torch.empty(heads, joints, joints))
        self.skip: Any = (lambda x: x) if cin == cout else nn.Sequential(nn.Conv2d(cin, cout, 1), nn.BatchNorm2d(cout))

    def logits(self, head: int, x: Tensor) -> Tensor:
        query, key = self.query[head](x), self.key[head](x)
        return torch.einsum("nctv,nctw->nvw", query, key) / (query.shape[1] * x.shape[2])

    def attention(self, head: int, x: Tensor) -> Tensor:
        return self.logits(head, x).softmax(-2)

    def forward(self, x: Tensor) -> Tensor:
        mixed = [
            project(torch.einsum("nctv,nvw->nctw", x, self.attention(head, x) + self.graph[head]))
            for head, project in enumerate(self.project)
        ]
        return F.relu(self.after(torch.stack(mixed).sum(0)) + self.skip(x))


class Rows(Joints):
    """Softmax over the other joint: rows sum to 1."""

    def attention(self, head: int, x: Tensor) -> Tensor:
        return self.logits(head, x).softmax(-1)


class NoFrames(Joints):
    """Scaled by a number that is right for one length only."""

    def logits(self, head: int, x: Tensor) -> Tensor:
        return super().logits(head, x) * x.shape[2] / 5


class Stopped(Joints):
    """The same output, but no gradient through the attention."""

    def attention(self, head: int, x: Tensor) -> Tensor:
        return super().attention(head, x).detach()


class Dropped(Joints):
    """The same in eval mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5, self.training)


class Times(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.norm, self.unused = nn.BatchNorm2d(cout), nn.ReLU()
        self.over = nn.Conv2d(cin, cout, (5, 1), (2, 1), (4, 0), (2, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.over(x))


class Block(nn.Module):
    def __init__(self, spatial: nn.Module, channels: int) -> None:
        super().__init__()
        self.spatial, self.temporal = spatial, Times(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.temporal(self.spatial(x)))


def drawn(model: nn.Module, seed: int = 0) -> Any:
    """The model with every parameter and statistic drawn at random, float64."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.double().state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=0.3, generator=generator)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model


def clips(config: UNIKConfig) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(
        3, config.channels, 13, config.joints, config.persons, generator=generator, dtype=torch.float64
    )  # fmt: skip


def check_equal(before: nn.Module, after: nn.Module, x: Tensor) -> None:
    """Outputs, gradients of input and of all parameters, and statistics, of one step from the same weights."""
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, actual = before(inputs[0]), after(inputs[1])
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (expected * weight).sum().backward()
    (actual * weight).sum().backward()
    scale = max(float(p.grad.abs().max()) for p in before.parameters() if p.grad is not None)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-9, atol=1e-12 * scale)
    for (name, theirs), ours in zip(before.named_parameters(), after.parameters(), strict=True):
        assert (theirs.grad is None) == (ours.grad is None), name
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12 * scale, msg=name)
    for name, tensor in after.state_dict().items():
        torch.testing.assert_close(tensor, before.state_dict()[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_released_network_before_and_after(case: str, train: bool) -> None:
    config = CASES[case]
    before = drawn(ReleasedUNIK(config)).train(train)
    model = copy.deepcopy(before)
    after, report = accelerate(model)
    assert after is model
    assert report.spatial == tuple(f"l{i + 1}.s_unit" for i in range(len(config.widths)))
    strided = {f"l{i + 1}.residual" for i, stride in enumerate(config.strides) if stride > 1}
    assert {f"l{i + 1}.t_unit" for i in range(len(config.widths))} | strided <= set(report.temporal)
    assert report.left_alone == {}
    assert all(module.training == train for module in after.modules())
    check_equal(before, after, clips(config))
    if not train:
        with torch.no_grad():  # norms folded
            torch.testing.assert_close(after(clips(config)), before(clips(config)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("cin", "cout", "bias"), [(8, 8, True), (3, 8, False)])
def test_other_names_and_order(cin: int, cout: int, bias: bool, train: bool) -> None:
    before = drawn(nn.Sequential(Block(Joints(cin, cout, 6, 2, bias), cout))).train(train)
    after, report = tmor_fast.accelerate(copy.deepcopy(before))
    assert (report.spatial, report.temporal) == (("0.spatial",), ("0.temporal",))
    assert str(report) == "1 spatial and 1 temporal units replaced"
    check_equal(before, after, torch.randn(2, cin, 7, 6, dtype=torch.float64))


def test_the_op_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal results alone would not show that anything was replaced."""
    from tmor_fast.nn import accelerate as module

    calls: list[int] = []
    run = module.attend
    model, _ = accelerate(ReleasedUNIK(CASES["strides"]))
    monkeypatch.setattr(
        module, "attend", lambda x, weights, *rest: (calls.append(len(weights[2])), run(x, weights, *rest))[1]
    )
    model(clips(CASES["strides"]).float())
    assert calls == [3, 3, 3, 3]


@pytest.mark.parametrize("kind", [Rows, NoFrames, Stopped, Dropped])
def test_other_meaning_is_left_alone(kind: Callable[..., Joints]) -> None:
    model = drawn(nn.Sequential(Block(Joints(4, 8, 5, 3), 8), Block(kind(8, 8, 5, 3), 8)))
    before, x = copy.deepcopy(model), torch.randn(2, 4, 7, 5, dtype=torch.float64)
    _, report = accelerate(model)
    assert report.spatial == ("0.spatial",)
    assert report.left_alone == {"1.spatial": "it computes something else"}
    assert "left alone: 1.spatial (it computes something else)" in str(report)
    assert type(model[1].spatial) is kind
    check_equal(before.eval(), model.eval(), x)
    with pytest.raises(ValueError, match=r"no S-LSU of UNIK was found .* left alone: spatial: it computes something"):
        accelerate(Block(kind(8, 8, 5, 3), 8))


def test_a_fresh_networks_small_norm_weight_hides_nothing() -> None:
    """At the start the norm weight is 1e-6 and every formula gives nearly the shortcut."""
    unit = Rows(8, 8, 5, 3).double()
    nn.init.zeros_(unit.graph)
    nn.init.constant_(unit.after.weight, 1e-6)
    with pytest.raises(ValueError, match="it computes something else"):
        accelerate(unit)


def test_hooks_inside_a_unit_keep_running() -> None:
    model = drawn(nn.Sequential(Block(Joints(4, 8, 5, 3), 8), Block(Joints(8, 8, 5, 3), 8)))
    seen: list[tuple[int, ...]] = []
    model[0].spatial.query[1].register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    model[1].spatial.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    _, report = accelerate(model)
    assert report.left_alone == {"0.spatial": "hooks on query.1 would no longer run"}
    assert report.spatial == ("1.spatial",)
    assert seen == []
    model(torch.randn(2, 4, 7, 5, dtype=torch.float64))
    assert seen == [(2, 2, 7, 5), (2, 8, 4, 5)]


def test_a_forward_set_by_hand_is_kept() -> None:
    """An attribute `forward` hides that of the class, so replacing the class would do nothing."""
    model = drawn(nn.Sequential(Block(Joints(4, 8, 5, 3), 8), Block(Joints(8, 8, 5, 3), 8)))
    model[0].spatial.forward = lambda x: Joints.forward(model[0].spatial, x)
    _, report = accelerate(model)
    assert report.left_alone == {"0.spatial": "its forward was replaced already"}
    assert report.spatial == ("1.spatial",)


def test_weights_go_both_ways_and_optimisers_hold_them() -> None:
    config = CASES["strides"]
    model, other = drawn(ReleasedUNIK(config)), drawn(ReleasedUNIK(config), seed=5)
    names, held = list(model.state_dict()), dict(model.named_parameters())
    random = torch.random.get_rng_state()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    accelerate(model)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert list(model.state_dict()) == names
    assert all(parameter is held[name] for name, parameter in model.named_parameters())
    x = clips(config)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model.eval()(x), other.eval()(x), rtol=1e-12, atol=1e-12)
    first = model.train()(x).square().mean()
    first.backward()
    optimiser.step()
    assert model(x).square().mean() < first
    back = ReleasedUNIK(config).double()
    back.load_state_dict(model.state_dict())
    torch.testing.assert_close(back.eval()(x), model.eval()(x), rtol=1e-12, atol=1e-12)


def test_copies_pickles_and_compiled_models() -> None:
    config = CASES["strides"]
    model, _ = accelerate(drawn(ReleasedUNIK(config)))
    model.eval()
    x = clips(config)
    expected = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(twin.l1.s_unit, type(ReleasedUNIK(config).l1.s_unit))
        with torch.no_grad():
            twin.l1.s_unit.DepM.add_(1)
        assert not torch.allclose(twin(x), expected)  # its own weights
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precisions_and_autocast(dtype: torch.dtype) -> None:
    config = CASES["strides"]
    before = drawn(ReleasedUNIK(config)).eval()
    expected = before(clips(config))
    after, _ = accelerate(copy.deepcopy(before).float())
    before.float()
    x = clips(config).float()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16), torch.no_grad():
        theirs, ours = before(x), after(x)
    assert ours.dtype == theirs.dtype
    error, allowed = ((out.double() - expected).norm() / expected.norm() for out in (ours, theirs))
    assert error <= 2 * allowed + 10 * torch.finfo(torch.float32).eps


def test_models_without_such_blocks_are_errors() -> None:
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, got str"):
        accelerate("model.pt")  # type: ignore[type-var]
    with pytest.raises(ValueError, match="no S-LSU of UNIK was found in this Linear"):
        accelerate(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="own UNIK, which runs on the fused op as it is"):
        accelerate(UNIK(CASES["heads"]))
    model, _ = accelerate(ReleasedUNIK(CASES["heads"]))
    with pytest.raises(ValueError, match="accelerated already"):
        accelerate(model)
