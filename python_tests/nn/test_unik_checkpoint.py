"""Released checkpoints: names, shapes, prefixes, round trips and what is refused."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tmor_fast.errors import DataError
from tmor_fast.nn.unik import UNIK, UNIKConfig
from tmor_fast.nn.unik_checkpoint import config_from_official, load_official, to_official

SMALL = UNIKConfig(joints=5, num_classes=7, widths=(8, 8, 12), strides=(1, 1, 2))


def released_shapes(joints: int, channels: int, persons: int, heads: int, classes: int) -> dict[str, tuple[int, ...]]:
    """The ten-block checkpoint written down name by name."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.{x}": (width,) for x in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    def conv(name: str, cout: int, cin: int, kernel: int = 1) -> None:
        shapes[f"{name}.weight"] = (cout, cin, kernel, 1)
        shapes[f"{name}.bias"] = (cout,)

    norm("data_bn", persons * joints * channels)
    table = [(channels, 64)] + [(64, 64)] * 3 + [(64, 128)] + [(128, 128)] * 2 + [(128, 256)] + [(256, 256)] * 2
    for block, (cin, cout) in enumerate(table, start=1):
        h = 3 if block == 1 else heads
        shapes[f"l{block}.s_unit.DepM"] = (h, joints, joints)
        shapes[f"l{block}.s_unit.bias"] = (joints,)
        for i in range(h):
            conv(f"l{block}.s_unit.conv_a.{i}", cout // 4, cin)
            conv(f"l{block}.s_unit.conv_b.{i}", cout // 4, cin)
            conv(f"l{block}.s_unit.conv_d.{i}", cout, cin)
        if block in (1, 5, 8):
            conv(f"l{block}.s_unit.down.0", cout, cin)
            norm(f"l{block}.s_unit.down.1", cout)
        norm(f"l{block}.s_unit.bn", cout)
        conv(f"l{block}.t_unit.conv", cout, cout, 9)
        norm(f"l{block}.t_unit.bn", cout)
        if block in (5, 8):
            conv(f"l{block}.residual.conv", cout, cin)
            norm(f"l{block}.residual.bn", cout)
    shapes["fc.weight"], shapes["fc.bias"] = (classes, 256), (classes,)
    return shapes


def randomised(config: UNIKConfig) -> UNIK:
    model = UNIK(config)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_()
        else:
            tensor.fill_(5)
    return model


def assert_same_state(one: UNIK, other: UNIK, but: str = "nothing") -> None:
    theirs = other.state_dict()
    for name, tensor in one.state_dict().items():
        if not name.startswith(but):
            assert torch.equal(tensor, theirs[name]), name


def prefixed(model: UNIK, prefix: str) -> OrderedDict[str, Tensor]:
    return to_official(model, prefix)


@pytest.mark.parametrize(("joints", "channels", "persons", "heads", "classes"), [(17, 2, 2, 3, 320), (25, 3, 2, 4, 60)])
def test_export_has_the_released_names_and_shapes(
    joints: int, channels: int, persons: int, heads: int, classes: int
) -> None:
    config = UNIKConfig(joints=joints, channels=channels, persons=persons, heads=heads, num_classes=classes)
    exported = {name: tuple(tensor.shape) for name, tensor in to_official(UNIK(config)).items()}
    assert exported == released_shapes(joints, channels, persons, heads, classes)
    if heads == 3:
        assert len(exported) == 362


@pytest.mark.parametrize(
    "config", [SMALL, UNIKConfig(joints=4, tau=3, heads=2, num_classes=3, widths=(4, 8), strides=(1, 2))]
)
def test_round_trip_is_exact(config: UNIKConfig) -> None:
    source, target = randomised(config), randomised(config)
    exported = to_official(source)
    load_official(target, exported)
    assert_same_state(source, target)
    again = to_official(target)
    assert list(again) == list(exported)
    assert all(torch.equal(again[name], exported[name]) for name in exported)
    assert exported["l1.s_unit.DepM"].data_ptr() != source.blocks[0].spatial.dependency.data_ptr()


def test_heads_land_in_their_rows_and_columns() -> None:
    """Head 1 of block 2 by hand: theta, phi, E and its own bias."""
    model = randomised(SMALL)
    exported, unit = to_official(model), model.blocks[1].spatial
    assert torch.equal(exported["l2.s_unit.conv_a.1.weight"][:, :, 0, 0], unit.query_key_weight[2:4])
    assert torch.equal(exported["l2.s_unit.conv_b.1.weight"][:, :, 0, 0], unit.query_key_weight[8:10])
    assert torch.equal(exported["l2.s_unit.conv_b.1.bias"], unit.query_key_bias[8:10])
    assert torch.equal(exported["l2.s_unit.conv_d.1.weight"][:, :, 0, 0], unit.value_weight[:, 8:16])
    assert torch.equal(exported["l2.s_unit.conv_d.1.bias"], unit.value_bias[1])


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model_action.", "module.model_action.", "unik.", "encoder_q.", "module.encoder_q.unik."]
)
def test_prefixes(prefix: str, tmp_path: Path) -> None:
    source, target = randomised(SMALL), randomised(SMALL)
    path = tmp_path / "run-1-100.pt"
    torch.save(prefixed(source, prefix), path)
    report = load_official(target, path)
    assert report.prefix == prefix
    assert report.ignored == ()
    assert_same_state(source, target)
    assert config_from_official(str(path)) == SMALL


def test_momentum_pair_and_foreign_heads() -> None:
    query, key, target = randomised(SMALL), randomised(SMALL), randomised(SMALL)
    content = {**prefixed(query, "encoder_q."), **prefixed(key, "encoder_k."), "queue": torch.zeros(3)}
    report = load_official(target, content, encoder="k")
    assert_same_state(key, target)
    assert "queue" in report.ignored
    assert "encoder_q.fc.weight" in report.ignored
    load_official(target, content)
    assert_same_state(query, target)
    with pytest.raises(ValueError, match="encoder 'x'"):
        load_official(target, content, encoder="x")  # type: ignore[arg-type]

    detector = {**prefixed(query, "unik."), "pdan.conv.weight": torch.zeros(2)}
    assert load_official(target, detector).ignored == ("pdan.conv.weight",)


def test_own_classifier_is_kept_on_request() -> None:
    source = randomised(SMALL)
    target = randomised(UNIKConfig(**{**vars(SMALL), "num_classes": 3}))
    own = target.classifier.weight.clone()
    with pytest.raises(DataError, match=r"fc\.weight is \(7, 12\), the model has \(3, 12\)(.|\n)*classifier='keep'"):
        load_official(target, to_official(source))
    assert load_official(target, to_official(source), classifier="keep").ignored == ("fc.weight", "fc.bias")
    assert torch.equal(target.classifier.weight, own)
    assert_same_state(source, target, but="classifier")

    headless = {name: tensor for name, tensor in to_official(source).items() if not name.startswith("fc.")}
    with pytest.raises(DataError, match=r"missing: fc\.weight, fc\.bias(.|\n)*classifier='keep'"):
        load_official(target, headless)
    load_official(target, headless, classifier="keep")
    assert config_from_official(headless).num_classes is None

    encoder = randomised(UNIKConfig(**{**vars(SMALL), "num_classes": None}))
    assert load_official(encoder, to_official(source)).ignored == ("fc.weight", "fc.bias")
    assert_same_state(encoder, source)
    with pytest.raises(ValueError, match="classifier 'drop'"):
        load_official(encoder, headless, classifier="drop")  # type: ignore[arg-type]


def test_mismatch_names_every_key_and_changes_nothing() -> None:
    source = to_official(randomised(SMALL))
    target = randomised(SMALL)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    broken = dict(source)
    del broken["l2.s_unit.bn.weight"]
    broken["l9.s_unit.DepM"] = torch.zeros(1)
    broken["l1.t_unit.conv.bias"] = torch.zeros(3)
    with pytest.raises(DataError) as error:
        load_official(target, broken)
    for part in ("missing: l2.s_unit.bn.weight", "unexpected: l9.s_unit.DepM", "l1.t_unit.conv.bias is (3,)", "(8,)"):
        assert part in str(error.value)
    with pytest.raises(DataError, match=r"l1\.t_unit\.conv\.bias"):
        load_official(target, broken, strict=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())

    broken["l1.t_unit.conv.bias"] = source["l1.t_unit.conv.bias"]
    report = load_official(target, broken, strict=False)
    assert (report.missing, report.ignored) == (("l2.s_unit.bn.weight",), ("l9.s_unit.DepM",))
    assert torch.equal(target.blocks[1].spatial.norm.weight, before["blocks.1.spatial.norm.weight"])


def test_other_skeleton_is_explained() -> None:
    with pytest.raises(DataError, match=r"data_bn has persons x joints x channels entries, here 2 x 17 x 2"):
        load_official(
            UNIK(UNIKConfig.preset("unik-tiny")), to_official(UNIK(UNIKConfig.preset("unik-tiny", joints=25)))
        )


def test_unused_biases_may_be_missing() -> None:
    """A variant of the released code drops them."""
    source, target = randomised(SMALL), randomised(SMALL)
    content = {name: tensor for name, tensor in to_official(source).items() if not name.endswith("s_unit.bias")}
    report = load_official(target, content)
    assert report.missing == ("l1.s_unit.bias", "l2.s_unit.bias", "l3.s_unit.bias")
    joints = torch.randn(2, 2, 6, 5, 2)
    assert torch.equal(source.eval()(joints), target.eval()(joints))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "epoch": 3}, r"more than tensors(.|\n)*state_dict"),
        ({"weight": torch.zeros(1)}, "no UNIK checkpoint(.|\n)*weight"),
        ({}, "no UNIK checkpoint"),
        ([1, 2], "not a mapping"),
    ],
)
def test_other_content_is_refused(content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_official(UNIK(SMALL), content)
    with pytest.raises(DataError, match=message):
        config_from_official(content)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(UNIK(SMALL), path)
    with pytest.raises(Exception, match="weights_only"):
        load_official(UNIK(SMALL), path)


@pytest.mark.parametrize(
    "config",
    [
        UNIKConfig(num_classes=15),
        UNIKConfig(joints=25, channels=3, persons=1, heads=12, num_classes=60),
        UNIKConfig.preset("unik-tiny", tau=3, heads=2, joints=6, first_block_heads=1),
    ],
)
def test_configuration_is_read_from_shapes(config: UNIKConfig) -> None:
    assert config_from_official(to_official(UNIK(config))) == config


def test_configuration_of_a_truncated_checkpoint() -> None:
    content = to_official(UNIK(SMALL))
    del content["data_bn.weight"]
    with pytest.raises(DataError, match=r"lacks the key 'data_bn\.weight'"):
        config_from_official(content)
    assert config_from_official(to_official(UNIK(SMALL)), dilation="thesis").dilations == (1, 3, 3)
