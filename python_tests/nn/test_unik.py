"""UNIK: published sizes, shapes, options, persons, input checks, compilation and precision."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tmor_fast.nn.flops import flop_formulas, unik_flops
from tmor_fast.nn.unik import UNIK, UNIKConfig
from tmor_fast.nn.unik_blocks import SpatialUnit, unfold_frames

SMALL = UNIKConfig(joints=5, widths=(8, 8, 12), strides=(1, 1, 2))


def small(**changes: Any) -> UNIK:
    torch.manual_seed(0)
    return UNIK(dataclasses.replace(SMALL, **changes))


def lively(model: UNIK) -> UNIK:
    """Random norms, so that the head sums count (released: 1e-6) and slots differ."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if "norm" in name or "data_bn" in name:
            if name.endswith(("weight", "running_var")):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif name.endswith(("bias", "running_mean")):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return model


def clips(n: int = 3, frames: int = 12, config: UNIKConfig = SMALL) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(n, config.channels, frames, config.joints, config.persons, generator=generator)


@pytest.mark.parametrize(
    ("joints", "channels", "heads", "classes", "parameters"),
    [
        (17, 2, 3, 31, 3_451_631),
        (17, 2, 3, 15, 3_447_519),
        (17, 2, 3, 155, 3_483_499),
        (17, 2, 3, 51, 3_456_771),
        (17, 2, 3, 157, 3_484_013),
        (17, 2, 3, 320, 3_525_904),
        (25, 3, 3, 60, 3_469_760),
        (25, 3, 12, 60, 6_469_217),
        (17, 2, 3, None, 3_443_664),
    ],
)
def test_published_parameter_counts(
    joints: int, channels: int, heads: int, classes: int | None, parameters: int
) -> None:
    model = UNIK(UNIKConfig(joints=joints, channels=channels, heads=heads, num_classes=classes))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == 10 * joints


def test_published_flops() -> None:
    config = UNIKConfig(num_classes=31)
    assert unik_flops(config, 150) == pytest.approx(13.1e9, rel=0.01)
    assert unik_flops(SMALL, 8, clips=3) == 3 * unik_flops(SMALL, 8)


def test_flops_of_one_block_by_hand() -> None:
    config = UNIKConfig(joints=5, persons=1, channels=2, widths=(8,), strides=(2,), heads=7)
    rows, out_rows = 10 * 5, 5 * 5
    spatial = 2 * rows * 2 * (2 * 3 * 2) + 2 * 3 * 5 * 5 * 10 * 2 + 2 * rows * 5 * 3 * 2 + 2 * rows * 8 * 6
    forward = spatial + 2 * rows * 2 * 8 + 2 * out_rows * 8 * 8 * 9
    assert unik_flops(config, 10) == forward
    # The first block passes a gradient down too, to the norm of the joints: backward is twice forward throughout.
    assert unik_flops(config, 10, training=True) == 3 * forward


def test_formulas_fit_torchs_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = small(num_classes=4).eval()
    with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter, torch.no_grad():
        model(clips(2, 8))
    assert counter.get_total_flops() == unik_flops(model.config, 8, clips=2)


@pytest.mark.parametrize(("frames", "expected"), [(150, 38), (300, 75), (400, 100), (1, 1), (2, 1), (5, 2), (7, 2)])
def test_output_frames(frames: int, expected: int) -> None:
    config = UNIKConfig(joints=2, persons=1, widths=(4, 4, 4), strides=(1, 2, 2))
    assert config.output_frames(frames) == expected
    joints = torch.randn(1, 2, frames, 2, 1)
    model = UNIK(config).eval()
    assert model.frame_features(joints).shape == (1, expected, 4)
    assert model.frame_features(joints, upsample=True).shape == (1, frames, 4)


def test_presets() -> None:
    assert UNIKConfig.preset("unik") == UNIKConfig()
    assert UNIKConfig.preset("unik-small").widths == (32,) * 4 + (64,) * 3 + (128,) * 3
    sizes = [
        sum(p.numel() for p in UNIK(UNIKConfig.preset(n)).parameters()) for n in ("unik-tiny", "unik-small", "unik")
    ]
    assert sizes == sorted(sizes)
    assert UNIKConfig.preset("unik-tiny", joints=21, num_classes=3).joints == 21
    with pytest.raises(ValueError, match="'unik-small'"):
        UNIKConfig.preset("huge")
    with pytest.raises(ValueError, match="no field depth"):
        UNIKConfig.preset("unik", depth=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": 0}, "joints must be at least 1"),
        ({"tau": 2}, "tau must be odd"),
        ({"widths": (8, 3, 12)}, "at least 4"),
        ({"strides": (1, 2)}, "3 widths"),
        ({"strides": (1, 0, 1)}, "every entry of strides"),
        ({"dilation": "3"}, "'released', 'thesis'"),
        ({"dilation": (1, 2)}, "one entry per block"),
        ({"init": "zero"}, "'released', 'thesis'"),
        ({"person_average": "first"}, "'all', 'present'"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_bad_configuration(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_configuration_types() -> None:
    with pytest.raises(TypeError, match="heads must be an integer"):
        UNIKConfig(heads=2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="UNIKConfig"):
        UNIK("unik")  # type: ignore[arg-type]
    from_lists = UNIKConfig(widths=[8, 8], strides=[1, 2], dilation=[2, 1])  # type: ignore[arg-type]
    assert from_lists == UNIKConfig(**dataclasses.asdict(from_lists))
    assert hash(from_lists) == hash(UNIKConfig(widths=(8, 8), strides=(1, 2), dilation=(2, 1)))


def test_thesis_options() -> None:
    assert UNIKConfig(dilation="thesis").dilations == (1, 3, 3, 3, 3, 1, 1, 1, 1, 1)
    assert UNIKConfig().dilations == (1,) * 10
    model = small(dilation="thesis")
    assert [block.temporal.conv.dilation for block in model.blocks] == [(1, 1), (3, 1), (3, 1)]
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in small().state_dict().items()}
    assert model(clips()).shape == (3, 12)


@pytest.mark.parametrize(("init", "bound"), [("released", 1 / 17), ("thesis", 17**-0.5)])
def test_initial_distribution(init: Any, bound: float) -> None:
    torch.manual_seed(0)
    unit = SpatialUnit(64, 128, 17, 3, init=init)
    assert 0.95 * bound < float(unit.dependency.detach().abs().max()) <= bound
    assert float(unit.query_key_weight.detach().std()) == pytest.approx((2 / 32) ** 0.5, rel=0.03)
    assert float(unit.value_weight.detach().std()) == pytest.approx((2 / (128 * 64 * 3)) ** 0.5, rel=0.03)
    assert not unit.query_key_bias.any()
    assert not unit.value_bias.any()
    assert torch.equal(unit.norm.weight, torch.full((128,), 1e-6))
    assert unit.shortcut is not None
    assert float(unit.shortcut.conv.weight.detach().std()) == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    model = UNIK(UNIKConfig.preset("unik", num_classes=60))
    assert model.classifier is not None
    assert float(model.classifier.weight.detach().std()) == pytest.approx((2 / 60) ** 0.5, rel=0.05)
    assert float(model.blocks[9].temporal.conv.weight.detach().std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


def test_spatial_unit_starts_as_its_shortcut() -> None:
    unit = SpatialUnit(8, 8, 5, 3).eval()
    x = torch.randn(2, 8, 6, 5).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(unit(x), x.relu(), atol=1e-4, rtol=0)


def test_first_block_keeps_three_heads() -> None:
    assert [block.spatial.heads for block in small(heads=2).blocks] == [3, 2, 2]
    assert [block.spatial.heads for block in small(heads=2, first_block_heads=2).blocks] == [2, 2, 2]


def test_classifier_is_replaced() -> None:
    model = small(num_classes=4).eval()
    joints = clips()
    features = model.features(joints)
    assert torch.equal(model(joints), model.classifier(features))
    model.reset_classifier(9)
    assert (model.num_classes, model(joints).shape) == (9, (3, 9))
    model.reset_classifier(None)
    assert model.num_classes is None
    assert torch.equal(model(joints), features)
    with pytest.raises(ValueError, match="num_classes"):
        model.reset_classifier(0)


def test_frame_features_average_to_clip_features() -> None:
    model = lively(small(person_average="present")).eval()
    joints = clips()
    joints[0, ..., 1] = 0
    frames = model.frame_features(joints)
    assert frames.shape == (3, 6, model.feature_dim)
    torch.testing.assert_close(frames.mean(1), model.features(joints))
    # Between the centres of two output frames, a quarter of the way, by hand.
    upsampled = model.frame_features(joints, upsample=True)
    torch.testing.assert_close(upsampled[:, 3], 0.75 * frames[:, 1] + 0.25 * frames[:, 2])


def test_empty_slot_has_one_feature_per_length() -> None:
    """In eval mode an absent person gives the same feature in every clip."""
    everyone, present = lively(small()).eval().double(), lively(small(person_average="present")).eval().double()
    joints = clips(4).double()
    joints[..., 1] = 0
    empty = 2 * everyone.features(joints) - present.features(joints)
    torch.testing.assert_close(empty, empty[:1].expand_as(empty), rtol=0, atol=1e-12)
    assert empty.any()
    # Alone in the clip it is the person's own feature, whatever slot 2 would have given.
    single = everyone.features(torch.zeros_like(joints[:1]))
    both_empty = present.features(torch.zeros_like(joints[:1]))
    torch.testing.assert_close(both_empty, single)


@pytest.mark.parametrize("average", ["all", "present"])
def test_empty_slots_are_computed_once_in_eval_mode(average: Any) -> None:
    model = lively(small(person_average=average, num_classes=3)).eval().double()
    joints = clips(6).double()
    joints[[0, 1, 4], ..., 1] = 0
    joints[[1, 5], ..., 0] = 0
    alone = [torch.cat([call(clip[None]) for clip in joints]) for call in (model, model.features, model.frame_features)]
    rows: list[int] = []
    model.blocks[0].register_forward_hook(lambda module, given, out: rows.append(given[0].shape[0]))
    together = [call(joints) for call in (model, model.features, model.frame_features)]
    for one, all_at_once in zip(alone, together, strict=True):
        torch.testing.assert_close(all_at_once, one, rtol=0, atol=1e-12)
    assert rows == [9] * 3  # seven persons, and one for the empty ones of each slot
    # Gradients of the weights count every clip that shares a row; those of the joints need rows of their own.
    model.features(joints).square().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    given = joints.clone().requires_grad_()
    model.features(given).square().sum().backward()
    torch.testing.assert_close(
        [p.grad for p in model.parameters() if p.grad is not None], gradients, rtol=1e-9, atol=1e-12
    )
    expected = joints.clone().requires_grad_()
    sum(model.features(clip[None]).square().sum() for clip in expected).backward()
    torch.testing.assert_close(given.grad, expected.grad, rtol=0, atol=1e-12)
    rows.clear()
    # In training the statistics of the norms count every slot.
    model.train()(joints)
    assert rows[-1] == 12


def test_a_missing_value_is_not_an_empty_slot() -> None:
    model, joints = lively(small()).eval(), clips(3)
    joints[..., 1] = 0
    joints[1, 0, 2, 3, 1] = torch.nan
    assert model(joints).isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("tau", [1, 3])
def test_norms_are_folded_without_gradients(tau: int) -> None:
    model = lively(small(tau=tau, num_classes=3)).eval().double()
    joints = clips().double()
    expected = model(joints).detach()
    calls: list[str] = []
    with torch.no_grad():
        torch.testing.assert_close(model(joints), expected, rtol=0, atol=1e-12)
        # A norm that somebody listens to runs; the result is the same.
        norm = model.blocks[1].temporal.norm
        norm.register_forward_hook(lambda *_: calls.append("norm"))
        torch.testing.assert_close(model(joints), expected, rtol=0, atol=1e-12)
        assert calls == ["norm"]
        conv = model.blocks[1].temporal.conv
        conv.register_forward_hook(lambda *_: calls.append("conv"))
        torch.testing.assert_close(model(joints), expected, rtol=0, atol=1e-12)
        assert calls == ["norm", "conv", "norm"]
        # Nothing is kept: the next call sees new weights and statistics, even those set behind autograd's back.
        model.blocks[0].temporal.norm.running_mean.data += 0.5
        model.blocks[0].spatial.value_weight.data *= 1.5
        changed = model(joints)
    assert (changed - expected).abs().max() > 1e-3
    torch.testing.assert_close(changed, model(joints).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters(dtype: torch.dtype) -> None:
    model = lively(small(num_classes=3)).eval()
    with torch.no_grad():
        exact = model(clips())
        half = model.to(dtype)(clips())
    assert half.dtype == dtype
    assert float((half.float() - exact).norm() / exact.norm()) < 0.03


def test_checkpointing_changes_nothing_but_memory() -> None:
    joints, found = clips(), []
    for checkpointing in (False, True):
        model = lively(small(tau=3, num_classes=3)).double().train()
        model.checkpointing = checkpointing
        loss = model(joints.double()).square().mean()
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients, model.state_dict()))
    (loss, gradients, state), (kept_loss, kept_gradients, kept_state) = found
    assert torch.equal(loss, kept_loss)
    assert set(gradients) == set(kept_gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(kept_gradients[name], gradient, rtol=1e-12, atol=1e-14)
    # Statistics and their counters moved once.
    for name, value in state.items():
        torch.testing.assert_close(kept_state[name], value, rtol=0, atol=0)


def test_checkpointing_keeps_less() -> None:
    def kept(checkpointing: bool) -> int:
        model, sizes = small(widths=(16, 16, 16), strides=(1, 1, 1)), []
        model.checkpointing = checkpointing
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.nbytes), t)[1], lambda t: t):
            model(clips(8, 32))
        return sum(sizes)

    assert kept(True) < kept(False) / 3


def test_person_averages() -> None:
    everyone, present = lively(small()).eval(), lively(small(person_average="present")).eval()
    joints = clips(3)
    torch.testing.assert_close(present(joints), everyone(joints))
    joints[1, ..., 0] = 0
    joints[2] = 0
    assert present(joints).isfinite().all()
    torch.testing.assert_close(present(joints)[2], everyone(joints)[2])
    torch.testing.assert_close(present(joints)[0], everyone(joints)[0])
    assert (present(joints)[1] - everyone(joints)[1]).abs().max() > 1e-3
    # One joint in one frame is a present person.
    joints[1, 0, 5, 3, 0] = 1e-3
    torch.testing.assert_close(present(joints)[1], everyone(joints)[1])


@pytest.mark.parametrize(
    ("joints", "error", "message"),
    [
        (torch.zeros(2, 2, 9, 5), ValueError, "4 axes"),
        (torch.zeros(2, 3, 9, 5, 2), ValueError, r"C=2, T, V=5, M=2.*\(2, 3, 9, 5, 2\)"),
        (torch.zeros(2, 2, 9, 17, 2), ValueError, "V=5"),
        (torch.zeros(2, 2, 9, 5, 1), ValueError, "M=2"),
        (torch.zeros(2, 2, 0, 5, 2), ValueError, "one frame"),
        (torch.zeros(0, 2, 9, 5, 2), ValueError, "one clip"),
        (torch.zeros(2, 2, 9, 5, 2, dtype=torch.int64), TypeError, "floating point"),
        ([[1.0]], TypeError, "tensor"),
    ],
)
def test_bad_input(joints: Any, error: type[Exception], message: str) -> None:
    model = small()
    for call in (model, model.features, model.frame_features):
        with pytest.raises(error, match=message):
            call(joints)


def test_input_is_cast_to_the_parameters() -> None:
    model = small().eval()
    joints = clips()
    assert torch.equal(model(joints.double()), model(joints))
    assert model(joints.half()).dtype == torch.float32


@pytest.mark.parametrize("tau", [1, 3])
@pytest.mark.parametrize("train", [False, True])
def test_activations_stay_channels_last(tau: int, train: bool) -> None:
    model, seen = small(tau=tau).train(train), []
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda m, i, o: seen.append(o.permute(0, 2, 3, 1).is_contiguous()))
    model(clips())
    assert len(seen) == 3 * 2 + 2 + 1 + 3 * (tau > 1)
    assert all(seen)


def test_every_trainable_parameter_gets_a_gradient() -> None:
    """Distributed training waits for every parameter that requires a gradient."""
    model = lively(small(num_classes=3))
    model(clips()).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == [f"blocks.{i}.spatial.joint_bias" for i in range(3)]


def test_unfold_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])[None, None]
    expected = torch.tensor([[0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 0, 0]]).float()
    assert torch.equal(unfold_frames(x, 3)[0, 0], expected)


@settings(max_examples=20, deadline=None)
@given(
    joints=st.integers(1, 7),
    channels=st.integers(1, 4),
    persons=st.integers(1, 3),
    heads=st.integers(1, 4),
    tau=st.sampled_from([1, 3, 5]),
    blocks=st.lists(st.tuples(st.integers(4, 9), st.integers(1, 3)), min_size=1, max_size=3),
    frames=st.integers(1, 11),
    average=st.sampled_from(["all", "present"]),
)
def test_any_configuration(
    joints: int, channels: int, persons: int, heads: int, tau: int, blocks: list[Any], frames: int, average: Any
) -> None:
    widths, strides = zip(*blocks, strict=True)
    config = UNIKConfig(
        joints=joints,
        channels=channels,
        persons=persons,
        num_classes=2,
        heads=heads,
        tau=tau,
        widths=widths,
        strides=strides,
        person_average=average,
    )
    model = UNIK(config)
    scores = model(torch.randn(2, channels, frames, joints, persons))
    scores.sum().backward()
    assert scores.shape == (2, 2)
    assert scores.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    features = model.eval().frame_features(torch.randn(1, channels, frames, joints, persons))
    assert features.shape == (1, config.output_frames(frames), widths[-1])


def test_compiles_in_one_graph() -> None:
    model = lively(small(num_classes=3, widths=(8, 12), strides=(1, 2), person_average="present"))
    joints = clips()
    expected = model(joints)
    expected.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    actual = torch.compile(model, fullgraph=True, backend="aot_eager")(joints)
    actual.sum().backward()
    torch.testing.assert_close(actual, expected)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient)


def test_compiles_for_inference() -> None:
    model = lively(small(widths=(8,), strides=(2,))).eval()
    with torch.no_grad():
        compiled = torch.compile(model.frame_features, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(clips(), upsample=True), model.frame_features(clips(), upsample=True))


def test_bfloat16_autocast() -> None:
    model = lively(small(num_classes=3)).eval()
    joints = clips()
    exact = model(joints).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, features = model(joints).detach(), model.features(joints)
    assert (scores.dtype, features.dtype) == (torch.bfloat16, torch.float32)
    assert float((scores.float() - exact).norm() / exact.norm()) < 0.03
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(joints).float().square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_state_is_saved_and_loaded_as_weights_only() -> None:
    model, file = lively(small(num_classes=3)).eval(), io.BytesIO()
    torch.save({"config": dataclasses.asdict(model.config), "state": model.state_dict()}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    copy = UNIK(UNIKConfig(**content["config"])).eval()
    copy.load_state_dict(content["state"])
    assert torch.equal(copy(clips()), model(clips()))
