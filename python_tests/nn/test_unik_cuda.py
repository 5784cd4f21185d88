"""UNIK where there is a GPU: training and inference against the released form, and as CUDA graphs.

Needs torch and pytest alone, as a bare GPU machine has them.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tmor_fast.benchmark.measure import captured
from tmor_fast.nn import UNIK, UNIKConfig, for_inference, to_official
from tmor_fast.nn.unik_released import ReleasedUNIK

DEVICE = "cuda"
CLASSES = 5
pytestmark = [
    pytest.mark.gpu,
    # The op's own tests cover its kernels there.
    pytest.mark.skipif(bool(os.environ.get("TMOR_TEST_SMALL")), reason="too long under compute-sanitizer"),
]


@pytest.fixture(autouse=True)
def no_tf32() -> Iterator[None]:
    """Plain torch in float32 is what errors are compared with."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def twins() -> tuple[UNIK, ReleasedUNIK]:
    """The same network in both forms; norms at random, for fresh ones are near zero and would hide the heads."""
    torch.manual_seed(0)
    config = UNIKConfig.preset("unik-micro", num_classes=CLASSES)
    model = UNIK(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
    released = ReleasedUNIK(config)
    released.load_state_dict(to_official(model))
    return model.to(DEVICE), released.to(DEVICE)


def clips(n: int = 6, frames: int = 40, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Joints (N, C, T, V, M) and labels."""
    generator = torch.Generator().manual_seed(seed)
    joints = torch.randn(n, 2, frames, 17, 2, generator=generator)
    return joints.to(DEVICE), torch.randint(CLASSES, (n,), generator=generator).to(DEVICE)


def gradients(model: nn.Module, joints: Tensor, labels: Tensor, half: bool = False) -> dict[str, Tensor]:
    """Scores in training, and every parameter's gradient under its released name, in float64."""
    with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
        scores = model(joints)
        loss = F.cross_entropy(scores, labels)
    loss.backward()
    carrier = copy.deepcopy(model)
    for target, source in zip(carrier.parameters(), model.parameters(), strict=True):
        target.data = torch.zeros_like(source) if source.grad is None else source.grad
    found = to_official(carrier) if isinstance(carrier, UNIK) else dict(carrier.state_dict())
    names = {name for name, _ in ReleasedUNIK(UNIKConfig.preset("unik-micro")).named_parameters()}
    return {"scores": scores.detach().double(), **{name: found[name].double() for name in sorted(names)}}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return float(torch.stack([(a[name] - b[name]).norm() for name in b if name != "scores"]).norm())


@pytest.mark.parametrize("half", [False, True])
def test_training_step_against_the_released_form(half: bool) -> None:
    model, released = twins()
    joints, labels = clips()
    exact = gradients(copy.deepcopy(released).double(), joints.double(), labels)
    plain, ours = gradients(released, joints, labels, half), gradients(model, joints, labels, half)
    rounding = torch.finfo(torch.bfloat16 if half else torch.float32).eps
    error, allowed = (float((found["scores"] - exact["scores"]).norm()) for found in (ours, plain))
    assert error <= 2 * allowed + rounding * float(exact["scores"].norm())
    # All gradients as one vector: many of the released parameters have none by nature, a norm follows their bias.
    size = float(torch.stack([value.norm() for name, value in exact.items() if name != "scores"]).norm())
    assert distance(ours, exact) <= 2 * distance(plain, exact) + rounding * size
    if half:
        return
    for name, value in exact.items():
        assert float((ours[name] - value).norm()) <= 1e-4 * float(value.norm()) + 1e-5 * size, name


@pytest.mark.parametrize("form", ["float32", "autocast", "bfloat16"])
@torch.no_grad()
def test_inference_against_the_released_form(form: str) -> None:
    model, released = twins()
    joints, _ = clips()
    exact = copy.deepcopy(released).double().eval()(joints.double())
    dtype = torch.bfloat16 if form == "bfloat16" else torch.float32
    made = for_inference(model).to(dtype)
    found = []
    for network in (released.eval().to(dtype), made, model.eval().to(dtype)):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=form == "autocast"):
            found.append(network(joints.to(dtype)).double())
    rounding = torch.finfo(torch.float32 if form == "float32" else torch.bfloat16).eps
    allowed = 2 * float((found[0] - exact).norm()) + rounding * float(exact.norm())
    for scores in found[1:]:
        assert float((scores - exact).norm()) <= allowed


@pytest.mark.parametrize("half", [False, True])
@torch.no_grad()
def test_inference_as_a_graph_equals_eager(half: bool) -> None:
    made = for_inference(twins()[0])
    joints, _ = clips()

    def call() -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
            scores: Tensor = made(joints)
        return scores

    replay = captured(call)
    for seed in (2, 3):
        joints.copy_(clips(seed=seed)[0])
        if seed == 3:
            joints[1:, ..., 1] = 0  # eager computes an empty person once, a graph every one
        want = call()
        torch.testing.assert_close(replay(), want, rtol=1e-2 if half else 1e-5, atol=1e-2 if half else 1e-5)


def training_step(model: UNIK, joints: Tensor, labels: Tensor, half: bool) -> Callable[[], Tensor]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step() -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(model(joints), labels)
        found = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, found, alpha=-0.02)
        return loss.detach()

    return step


@pytest.mark.parametrize("half", [False, True])
def test_training_as_a_graph(half: bool) -> None:
    model, _ = twins()
    joints, labels = clips()
    eager = training_step(copy.deepcopy(model), joints, labels, half)
    want = [float(eager()) for _ in range(8)]
    replay = captured(training_step(model, joints, labels, half))
    got = [float(replay()) for _ in range(5)]  # three steps were made before the capture
    assert got[-1] < 0.9 * want[0]
    torch.testing.assert_close(got, want[3:], rtol=0.1 if half else 1e-3, atol=0.0)
