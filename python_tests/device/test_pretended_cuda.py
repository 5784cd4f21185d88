"""The pretended device itself: what CUDA refuses is refused, the rest has the CPU's values, and waits are listed."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from pretended_cuda import Pretended, pretended_cuda, record_waits, why_not
from torch import nn


def test_values_are_those_of_the_cpu(device: torch.device):
    x = torch.arange(6.0).view(2, 3)
    y = x.to(device)
    assert y.device == device
    assert y.is_cuda
    assert not x.is_cuda
    assert torch.equal((y * 2 + 1).sum(0).cpu(), (x * 2 + 1).sum(0))
    assert y.tolist() == x.tolist()
    assert y.to("cuda") is y
    assert float(y.max()) == 5.0
    for made in (torch.ones(2, device="cuda"), torch.tensor([1, 2], device="cuda"), y.new_tensor([3]), y.new_zeros(1),
                 torch.as_tensor(np.ones(2), device=device), torch.full_like(y, 2), torch.ones(2).cuda()):  # fmt: skip
        assert made.device == device
        assert isinstance(made, Pretended)
    assert y.cpu().device.type == "cpu"
    y[0].zero_()
    assert float(y[0].sum()) == 0.0


def test_two_devices_do_not_mix(device: torch.device):
    here, there = torch.ones(3), torch.ones(3, device=device)
    for mixed in (
        lambda: here + there,
        lambda: there * here,
        lambda: here @ there,
        lambda: torch.cat((here, there)),
        lambda: torch.stack((here[0], there[0])),
        lambda: torch.where(there > 0, here, there),
        lambda: here[torch.tensor([0], device=device)],
        lambda: there.index_select(0, torch.tensor([0])),
        lambda: there.masked_fill(here > 0, 0.0),
        lambda: there.index_put_((torch.tensor([0, 1]),), here[:2]),
        lambda: here[0].add_(there[0]),
        lambda: nn.Linear(3, 2)(there),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()


def test_what_may_cross_between_devices_does(device: torch.device):
    here, there = torch.ones(3), torch.ones(3, device=device)
    assert (there + torch.tensor(2.0)).tolist() == [3.0, 3.0, 3.0]
    assert there[torch.tensor([0, 2])].tolist() == [1.0, 1.0]
    assert there[torch.tensor([True, False, False])].tolist() == [1.0]
    there[1:] = here[1:] * 5
    assert there.tolist() == [1.0, 5.0, 5.0]
    assert here.copy_(there).tolist() == [1.0, 5.0, 5.0]


def test_generators_belong_to_a_device(device: torch.device):
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, generator=torch.Generator(), device=device)
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(2, generator=torch.Generator(device))
    drawn = [torch.randperm(9, generator=torch.Generator("cuda").manual_seed(1), device=device) for _ in range(2)]
    assert torch.equal(*drawn)
    assert isinstance(torch.Generator(device), torch.Generator)
    assert torch.Generator(device).device == device


def test_numpy_refuses(device: torch.device):
    with pytest.raises(TypeError, match=r"Tensor\.cpu"):
        torch.ones(2, device=device).numpy()
    with pytest.raises(TypeError, match=r"Tensor\.cpu"):
        np.asarray(torch.ones(2, device=device))
    assert torch.from_numpy(np.ones(2)).device.type == "cpu"


def test_modules_train_as_on_the_cpu(device: torch.device):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    moved = copy.deepcopy(plain)
    weight = moved[0].weight
    moved.to(device)
    assert moved[0].weight is weight
    assert isinstance(weight, nn.Parameter)
    x = torch.randn(5, 2, 4, 4)
    for model, given in ((plain, x), (moved, x.to(device))):
        optimiser = torch.optim.AdamW(model.parameters(), 0.1)
        for _ in range(2):
            optimiser.zero_grad()
            model(given).square().mean().backward()
            optimiser.step()
    for name, value in moved.state_dict().items():
        assert value.device == device
        torch.testing.assert_close(value.cpu(), plain.state_dict()[name])
    assert torch.equal(copy.deepcopy(moved)[0].weight.cpu(), weight.detach().cpu())
    assert moved.cpu()[0].weight is weight
    assert weight.device.type == "cpu"


def test_files_of_the_device_need_map_location_elsewhere():
    reason = why_not()
    if reason:
        pytest.skip(reason)
    file = io.BytesIO()
    with pretended_cuda() as device:
        torch.save({"on": torch.ones(2, device=device), "off": torch.zeros(2)}, file)
        file.seek(0)
        back = torch.load(file, weights_only=True)
        assert back["on"].device == device
        assert back["off"].device.type == "cpu"
    file.seek(0)
    with pytest.raises(RuntimeError, match="deserialize object on a CUDA device"):
        torch.load(file, weights_only=True)
    file.seek(0)
    assert torch.load(file, weights_only=True, map_location="cpu")["on"].tolist() == [1.0, 1.0]


def test_waits_are_recorded(device: torch.device):
    x = torch.tensor([1.0, 0.0], device=device)
    with record_waits() as waits:
        assert float(x.sum()) == 1.0
        x.nonzero()
        x[x > 0]
        x.cpu()
        torch.ones(1).to(device)
        x[torch.tensor([0, 1])]
        (x * 2).relu()
    assert [wait.what for wait in waits.found] == [
        "aten::_local_scalar_dense", "aten::nonzero", "aten::nonzero of a mask", "device to host copy",
        "pageable host to device copy", "pageable host to device copy",
    ]  # fmt: skip


def test_nothing_is_left_behind():
    reason = why_not()
    if reason:
        pytest.skip(reason)
    before = torch.Generator, torch.load, torch.__future__.get_swap_module_params_on_conversion()
    with pretended_cuda():
        pass
    assert before == (torch.Generator, torch.load, torch.__future__.get_swap_module_params_on_conversion())
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(1, device="cuda")
