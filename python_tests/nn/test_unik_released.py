"""The fused network against the released form: one convolution per head, written from the formulas."""

from __future__ import annotations

import copy

import pytest
import torch

from tmor_fast.nn.unik import UNIK, UNIKConfig
from tmor_fast.nn.unik_checkpoint import load_official, to_official
from tmor_fast.nn.unik_released import ReleasedUNIK

CASES = {
    "strides": UNIKConfig(joints=5, num_classes=4, widths=(8, 8, 12, 16), strides=(1, 1, 2, 2)),
    "heads": UNIKConfig(joints=4, channels=3, persons=1, num_classes=2, heads=5, widths=(8, 12), strides=(1, 1)),
    "tau": UNIKConfig(joints=3, num_classes=2, tau=3, widths=(8, 8, 12), strides=(1, 1, 2)),
    "tau5": UNIKConfig(joints=2, persons=3, num_classes=2, tau=5, heads=2, widths=(4, 4), strides=(1, 1)),
    "dilation": UNIKConfig(joints=3, num_classes=2, dilation="thesis", widths=(8, 8, 12), strides=(1, 1, 2)),
}


def released_twin(config: UNIKConfig) -> ReleasedUNIK:
    """The released form with every parameter and statistic drawn at random, float64."""
    blocks = len(config.widths)
    dilations = ((1, 3, 3, 3, 3) if config.dilation == "thesis" else (1,) * 5)[:blocks]
    twin = ReleasedUNIK(config, heads=(3,) + (config.heads,) * (blocks - 1), dilations=dilations).double()
    for name, tensor in twin.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=0.3)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return twin


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_released_form_with_gradients(case: str, train: bool) -> None:
    torch.manual_seed(0)
    config = CASES[case]
    twin = released_twin(config).train(train)
    model = UNIK(config).double().train(train)
    report = load_official(model, twin.state_dict())
    assert (report.prefix, report.ignored, report.missing) == ("", (), ())

    joints = torch.randn(3, config.channels, 13, config.joints, config.persons, dtype=torch.float64)
    inputs = joints.clone().requires_grad_(), joints.clone().requires_grad_()
    expected, actual = twin(inputs[0]), model(inputs[1])
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (actual * weight).sum().backward()

    scale = max(float(p.grad.abs().max()) for p in twin.parameters() if p.grad is not None)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-9, atol=1e-12 * scale)
    carrier = copy.deepcopy(model)
    for target, source in zip(carrier.parameters(), model.parameters(), strict=True):
        target.data = torch.zeros_like(source) if source.grad is None else source.grad
    gradients = to_official(carrier)
    for name, parameter in twin.named_parameters():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradients[name], wanted, rtol=1e-9, atol=1e-12 * scale, msg=lambda m, n=name: n + m)

    # Running statistics moved alike; the names and their order are the released ones.
    exported, wanted_state = to_official(model), twin.state_dict()
    assert list(exported) == list(wanted_state)
    for name, tensor in wanted_state.items():
        torch.testing.assert_close(exported[name], tensor, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: n + m)


def test_batch_statistics_count_absent_persons() -> None:
    """An empty slot has its own statistics, so a person does not see it; zeros count in the shared block norms."""
    config = CASES["strides"]
    torch.manual_seed(1)
    twin = released_twin(config).train()
    model = UNIK(config).double().train()
    load_official(model, twin.state_dict())
    joints = torch.randn(4, 2, 9, 5, 2, dtype=torch.float64)
    joints[..., 1] = 0
    torch.testing.assert_close(model(joints), twin(joints), rtol=1e-12, atol=1e-12)
