"""Model files: exact round trips, and a clear error for everything that is no such file."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tmor_fast.errors import DataError
from tmor_fast.nn import checkpoint
from tmor_fast.nn.checkpoint import load_classifier, load_model, save_classifier, save_model
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik import UNIK
from tmor_fast.nn.unik_config import UNIKConfig

TINY = UNIKConfig.preset("unik-micro", widths=(8, 16), strides=(1, 2), persons=1, dilation=(1, 2), init="thesis")
METADATA = {"layout": "unik17", "frames": 8, "texts": ["wave", "walk"], "video_teacher": None, "more": {"share": 0.5}}


def build(**options: Any) -> TMOR:
    torch.manual_seed(3)
    settings = TMOROptions(**{"embedding_dim": 8, "head_hidden": 12, **options})
    model = TMOR(TINY, settings, video_dim=6, text_dim=5)
    # Batch statistics away from their start, so that the test sees them.
    model.embed_motion(torch.randn(4, 2, 8, 17, 1))
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "model.pt"
    save_model(path, build(), METADATA)
    return path


@pytest.mark.parametrize(
    "options", [{}, {"per_loss_heads": True, "head_batch_norm": True}, {"learn_temperature": True, "head_layers": 1}]
)
def test_round_trip_is_exact(options: dict[str, Any], tmp_path: Path):
    model = build(**options)
    save_model(tmp_path / "model.pt", model, METADATA)
    loaded, metadata = load_model(tmp_path / "model.pt")
    assert metadata == METADATA
    assert (loaded.options, loaded.backbone.config) == (model.options, model.backbone.config)
    assert (loaded.video_dim, loaded.text_dim) == (6, 5)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in loaded.modules())
    joints = torch.randn(2, 2, 8, 17, 1)
    assert torch.equal(loaded.embed_motion(joints), model.eval().embed_motion(joints))


def test_a_model_without_teachers_and_metadata(tmp_path: Path):
    save_model(tmp_path / "m.pt", TMOR(TINY, TMOROptions()))
    loaded, metadata = load_model(tmp_path / "m.pt")
    assert (loaded.video_head, loaded.text_head, metadata) == (None, None, {})


def test_files_hold_tensors_and_plain_values_alone(saved: Path):
    content = torch.load(saved, weights_only=True)
    assert set(content) >= {"format", "version", "backbone", "options", "state_dict", "metadata"}
    assert content["options"] == dataclasses.asdict(build().options)


def test_code_in_a_file_is_never_run(tmp_path: Path):
    class Touch:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was_run",))

    torch.save({"format": checkpoint.MODEL, "version": 1, "payload": Touch()}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Touch()))
    for name in ("evil.pt", "evil.pkl"):
        with pytest.raises(DataError, match=name):
            load_model(tmp_path / name)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_files_are_named(saved: Path, keep: float):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match=str(saved)):
        load_model(saved)


@pytest.mark.parametrize("content", [b"", b"backbone:\n  preset: unik\n", b"\x00" * 4096, b"PK\x03\x04 no archive"])
def test_foreign_files_are_named(content: bytes, tmp_path: Path):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"other\.pt"):
        load_model(path)


@pytest.mark.parametrize("content", [torch.zeros(3), {"state_dict": {}}, {"format": "other", "version": 1}, [1, 2]])
def test_other_things_that_torch_saves_are_no_models(content: Any, tmp_path: Path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(DataError, match=r"other\.pt: not a tmor_fast model"):
        load_model(tmp_path / "other.pt")


def change(path: Path, **values: Any) -> None:
    content = torch.load(path, weights_only=True)
    for name, value in values.items():
        if value is None:
            del content[name]
        elif isinstance(value, dict):
            content[name].update(value)
        else:
            content[name] = value
    torch.save(content, path)


def test_a_newer_version_is_told_apart(saved: Path):
    change(saved, version=checkpoint.VERSION + 1, options={"of_the_future": 1})
    with pytest.raises(DataError, match="newer tmor_fast"):
        load_model(saved)


@pytest.mark.parametrize(
    "damage",
    [
        {"state_dict": None},
        {"backbone": None},
        {"version": None},
        {"options": {"no_such_option": 1}},
        {"options": {"temperature": -1.0}},
        {"backbone": {"widths": [8, 24]}},
        {"state_dict": {"backbone.data_bn.weight": torch.zeros(3)}},
    ],
)
def test_a_file_whose_parts_do_not_fit_is_named(saved: Path, damage: dict[str, Any]):
    change(saved, **damage)
    with pytest.raises(DataError, match=str(saved)):
        load_model(saved)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*gone\.pt"):
        load_model(tmp_path / "gone.pt")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved: Path, monkeypatch: pytest.MonkeyPatch):
    before = saved.read_bytes()

    def fail(content: Any, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint.torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(saved, build())
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_classifiers_have_files_of_their_own(tmp_path: Path, saved: Path):
    torch.manual_seed(0)
    encoder = UNIK(TINY)
    with pytest.raises(ValueError, match="no classifier"):
        save_classifier(tmp_path / "joint.pt", encoder)
    encoder.reset_classifier(3)
    save_classifier(tmp_path / "joint.pt", encoder, {"label_names": ["a", "b", "c"]})
    loaded, metadata = load_classifier(tmp_path / "joint.pt")
    assert metadata == {"label_names": ["a", "b", "c"]}
    assert loaded.config.num_classes == 3
    joints = torch.randn(2, 2, 8, 17, 1)
    assert torch.equal(loaded(joints), encoder.eval()(joints))
    # Each reader names the other where it is given the other's file.
    with pytest.raises(DataError, match=r"read it with tmor_fast\.nn\.load_classifier"):
        load_model(tmp_path / "joint.pt")
    with pytest.raises(DataError, match=r"read it with tmor_fast\.nn\.load_model"):
        load_classifier(saved)
    with pytest.raises(FileNotFoundError, match="tmor finetune"):
        load_classifier(tmp_path / "gone.pt")
