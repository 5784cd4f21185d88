"""The copy for inference: outputs of the model it was made from, apart from it, and no way to train or save it."""

from __future__ import annotations

import copy
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from tmor_fast.nn import TMOR, UNIK, UNIKConfig, for_inference, load_official, save_classifier, save_model, to_official
from tmor_fast.nn.convolution import PackedConv2d, has_fused_convolution
from tmor_fast.nn.flops import flop_formulas, unik_flops

SMALL = UNIKConfig(joints=5, widths=(8, 8, 12), strides=(1, 1, 2), num_classes=3)


def lively(model: nn.Module) -> Any:
    """Random norms in eval mode: fresh ones are near zero and would hide the heads."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            values = [module.weight, module.bias, module.running_mean, module.running_var]
            for value in values:
                assert value is not None
                value.data.uniform_(0.3, 1.2, generator=generator)
    return model.eval()


def small(**changes: Any) -> Any:
    torch.manual_seed(0)
    return lively(UNIK(dataclasses.replace(SMALL, **changes)))


def clips(n: int = 3, frames: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(n, 2, frames, 5, 2, generator=generator)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


@pytest.mark.parametrize("tau", [1, 3])
@pytest.mark.parametrize("frames", [1, 12])
@torch.no_grad()
def test_same_outputs(tau: int, frames: int) -> None:
    model, joints = small(tau=tau), clips(frames=frames)
    exact = copy.deepcopy(model).double()(joints.double())
    made = for_inference(model)
    assert norms(made) == 1  # that of the input
    error, allowed = (made(joints) - exact).abs().max(), (model(joints) - exact).abs().max()
    assert error <= 2 * allowed + 1e-6 * exact.abs().max()
    torch.testing.assert_close(
        for_inference(model.double())(joints.double()), exact, rtol=0, atol=1e-12 * float(exact.abs().max())
    )


@torch.no_grad()
def test_frame_features_empty_persons_and_tmor() -> None:
    joints = clips(4)
    joints[1:, ..., 1] = 0
    model = small()
    torch.testing.assert_close(for_inference(model).frame_features(joints), model.frame_features(joints))
    torch.manual_seed(0)
    whole = lively(TMOR(dataclasses.replace(SMALL, num_classes=None), video_dim=6, text_dim=4))
    torch.testing.assert_close(for_inference(whole).embed_motion(joints), whole.embed_motion(joints))


@torch.no_grad()
def test_it_stands_apart() -> None:
    model, joints = small().train(), clips()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = for_inference(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.blocks.parameters(recurse=False))
    assert norms(model) > norms(made)
    assert not made.training
    assert not any(parameter.requires_grad for parameter in made.parameters())
    expected = made(joints)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        value.add_(1)
    assert torch.equal(made(joints), expected)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "deepcopy before a call"])
@torch.no_grad()
def test_copies_of_the_copy(how: str) -> None:
    made, joints = for_inference(small()), clips()
    if how != "deepcopy before a call":
        made(joints)
    if how == "pickle":
        file = io.BytesIO()
        torch.save(made, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    else:
        twin = copy.deepcopy(made)
    assert torch.equal(twin(joints), made(joints))
    torch.testing.assert_close(twin.double()(joints.double()).float(), made(joints))
    half = twin.to(torch.bfloat16)(joints)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), made(joints), rtol=0.1, atol=0.1)


def test_it_cannot_be_trained_or_saved(tmp_path: Path) -> None:
    model = small()
    made = for_inference(model)
    assert made.eval() is made
    with pytest.raises(RuntimeError, match="train the model it was made from"):
        made.train()
    for save in (
        lambda: save_classifier(tmp_path / "made.pt", made),
        lambda: to_official(made),
        lambda: load_official(made, to_official(model)),
        lambda: save_model(tmp_path / "made.pt", for_inference(TMOR(SMALL, video_dim=6))),
    ):
        with pytest.raises(ValueError, match="copy by for_inference"):
            save()
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(made.state_dict())


@torch.no_grad()
def test_listeners_hear_what_they_heard() -> None:
    model, joints = small(), clips()
    heard: list[str] = []
    model.blocks[0].temporal.norm.register_forward_hook(lambda *_: heard.append("norm"))
    model.blocks[1].temporal.conv.register_forward_hook(lambda *_: heard.append("conv"))
    made = for_inference(model)
    torch.testing.assert_close(made(joints), model(joints))
    assert heard == ["norm", "conv"] * 2
    assert norms(made) == 3


def test_gradients_of_the_joints() -> None:
    """Gradients of the input, as saliency maps take them, still come."""
    model, joints = small(), clips()
    found = []
    for one in (model, for_inference(model)):
        given = joints.clone().requires_grad_()
        one(given).square().sum().backward()
        found.append(given.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_autocast_inference_mode_and_compile() -> None:
    model, joints = small(), clips()
    made = for_inference(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert made(joints).dtype == model(joints).dtype
    with torch.inference_mode():
        inside = for_inference(model)
        torch.testing.assert_close(inside(joints), model(joints))
    torch.testing.assert_close(inside(joints), model(joints))
    program = torch.export.export(made, (joints,))
    torch.testing.assert_close(program.module()(joints), model(joints))


@pytest.mark.skipif(not has_fused_convolution(), reason="this torch has no fused convolution")
@torch.no_grad()
def test_weights_are_packed_once() -> None:
    made, joints = for_inference(small()), clips()
    made(joints)
    convs = [module for module in made.modules() if isinstance(module, PackedConv2d)]
    first = [conv._packed for conv in convs]
    assert convs
    assert all(one is not None for one in first)
    made(clips(2, 7))
    assert all(conv._packed is one for conv, one in zip(convs, first, strict=True))


def test_what_it_refuses() -> None:
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, got int"):
        for_inference(3)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="holds no UNIK of this library"):
        for_inference(nn.Sequential(nn.Linear(2, 2)))


@torch.no_grad()
def test_operations_are_counted() -> None:
    model, joints = small(), clips()
    counts = []
    for one in (model, for_inference(model)):
        with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter:
            one(joints)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == unik_flops(model.config, joints.shape[2], clips=len(joints))
