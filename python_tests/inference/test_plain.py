"""UNIK in torch's own ops against UNIK."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tmor_fast.inference.plain import PlainUNIK
from tmor_fast.nn import UNIK, UNIKConfig

SMALL: dict[str, Any] = {"joints": 5, "num_classes": 4, "widths": (8, 8, 12, 16), "strides": (1, 1, 2, 2)}
CASES: dict[str, dict[str, Any]] = {
    "strides": {},
    "3D, heads": {"channels": 3, "persons": 1, "heads": 5},
    "tau": {"tau": 3, "joints": 3},
    "tau 5, present": {"tau": 5, "joints": 2, "persons": 3, "person_average": "present"},
    "dilation": {"dilation": (1, 3, 2, 1)},
}


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_unik(case: str, head: bool) -> None:
    torch.manual_seed(0)
    config = UNIKConfig(**{**SMALL, **CASES[case]})
    encoder = UNIK(config).double().eval()
    for name, tensor in encoder.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=0.3)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    plain = PlainUNIK(encoder, encoder.classifier if head else None)
    joints = torch.randn(3, config.channels, 11, config.joints, config.persons, dtype=torch.float64)
    joints[0, ..., 1:] = 0
    joints[1] = 0  # nobody at all
    with torch.no_grad():
        expected = encoder(joints) if head else encoder.features(joints)
        torch.testing.assert_close(plain(joints), expected, rtol=1e-11, atol=1e-11)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in plain.modules())


def test_it_is_a_copy() -> None:
    encoder = UNIK(UNIKConfig(**SMALL)).eval()
    plain, joints = PlainUNIK(encoder), torch.randn(2, 2, 6, 5, 2)
    expected = plain(joints)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1)
    torch.testing.assert_close(plain(joints), expected, rtol=0, atol=0)
