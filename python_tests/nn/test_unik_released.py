"""The fused network against the released form: one convolution per head, written from the formulas."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tmor_fast.nn.unik import UNIK, UNIKConfig
from tmor_fast.nn.unik_checkpoint import load_official, to_official


class ReleasedSpatial(nn.Module):
    """S-LSU head by head on (B, C, T, V), as released."""

    def __init__(self, cin: int, cout: int, joints: int, heads: int, tau: int) -> None:
        super().__init__()
        self.tau, self.joints, self.embedding = tau, joints, cout // 4
        self.DepM = nn.Parameter(torch.zeros(heads, tau * joints, tau * joints))
        self.bias = nn.Parameter(torch.zeros(tau * joints))
        if tau > 1:
            self.out_conv = nn.Conv3d(cout, cout, (1, tau, 1))
            self.out_bn = nn.BatchNorm2d(cout)
        self.conv_a = nn.ModuleList([nn.Conv2d(cin, self.embedding, 1) for _ in range(heads)])
        self.conv_b = nn.ModuleList([nn.Conv2d(cin, self.embedding, 1) for _ in range(heads)])
        self.conv_d = nn.ModuleList([nn.Conv2d(cin, cout, 1) for _ in range(heads)])
        self.down = nn.Identity() if cin == cout else nn.Sequential(nn.Conv2d(cin, cout, 1), nn.BatchNorm2d(cout))
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[2]
        if self.tau > 1:
            half = (self.tau - 1) // 2
            padded = F.pad(x, (0, 0, half, half))
            x = torch.cat([padded[:, :, k : k + frames] for k in range(self.tau)], 3)
        total: Tensor | int = 0
        for a, b, d, dependency in zip(self.conv_a, self.conv_b, self.conv_d, self.DepM, strict=True):
            logits = torch.einsum("nctv,nctw->nvw", a(x), b(x)) / (self.embedding * frames)
            total = total + d(torch.einsum("nctv,nvw->nctw", x, logits.softmax(1) + dependency))
        y = F.relu(self.bn(total) + self.down(x))
        if self.tau > 1:
            y = self.out_bn(self.out_conv(y.view(*y.shape[:3], self.tau, self.joints)).squeeze(3))
        return y


class ReleasedTemporal(nn.Module):
    def __init__(self, cin: int, cout: int, kernel: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, (kernel, 1), (stride, 1), (kernel // 2 * dilation, 0), (dilation, 1))
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class ReleasedBlock(nn.Module):
    def __init__(
        self, cin: int, cout: int, joints: int, heads: int, tau: int, stride: int, dilation: int, first: bool
    ) -> None:
        super().__init__()
        self.first = first
        self.s_unit = ReleasedSpatial(cin, cout, joints, heads, tau)
        self.t_unit = ReleasedTemporal(cout, cout, 9, stride, dilation)
        if not first:
            plain = cin == cout and stride == 1
            self.residual = nn.Identity() if plain else ReleasedTemporal(cin, cout, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.t_unit(self.s_unit(x))
        return F.relu(y if self.first else y + self.residual(x))


class ReleasedUNIK(nn.Module):
    def __init__(self, config: UNIKConfig, heads: tuple[int, ...], dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.data_bn = nn.BatchNorm1d(config.persons * config.joints * config.channels)
        cin = config.channels
        for i, width in enumerate(config.widths):
            stride, dilation = config.strides[i], dilations[i]
            block = ReleasedBlock(cin, width, config.joints, heads[i], config.tau, stride, dilation, i == 0)
            self.add_module(f"l{i + 1}", block)
            cin = width
        self.fc = nn.Linear(cin, config.num_classes or 1)

    def forward(self, joints: Tensor) -> Tensor:
        n, c, t, v, m = joints.shape
        x = self.data_bn(joints.permute(0, 4, 3, 1, 2).reshape(n, m * v * c, t))
        x = x.view(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        for name, block in self.named_children():
            if name.startswith("l"):
                x = block(x)
        return self.fc(x.view(n, m, x.shape[1], -1).mean(3).mean(1))


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
    twin = ReleasedUNIK(config, (3,) + (config.heads,) * (blocks - 1), dilations).double()
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
