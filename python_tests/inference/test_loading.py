"""`load`: which files make a model, what it says it is, and how everything else is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tmor_fast
from tmor_fast import build
from tmor_fast.data.layout import SkeletonLayout, get_layout
from tmor_fast.errors import DataError
from tmor_fast.inference import ActionModel, load
from tmor_fast.nn import TMOR, UNIKConfig, save_model
from tmor_fast.nn import checkpoint as files

ACTIONS = ("wave the left hand", "squat", "walk", "clap")


def test_load_is_found_on_the_package():
    assert tmor_fast.load is load
    assert "load" in dir(tmor_fast)
    assert tmor_fast.inference.ActionModel is ActionModel


def test_what_it_says_it_is(model: ActionModel, folder: Path):
    assert model.label_names == ACTIONS
    assert model.layout == get_layout("unik17")
    assert not model.supports_text
    assert (model.channels, model.frames, model.persons, model.dtype) == (2, 8, 1, torch.float32)
    assert repr(model) == (
        "ActionModel(fine-tuned, joint; 4 actions; unik17, 2D, 8 frames, 1 person; cpu, float32; "
        f"{folder / 'plain.pt'})"
    )


def test_a_run_folder_and_its_files(tuned: Any, text_file: Path):
    both = load(str(tuned.path))
    assert both.describe()["streams"] == ["joint", "bone"]
    assert both.describe()["files"] == [str(tuned.path / "joint.pt"), str(tuned.path / "bone.pt")]
    assert "joint + bone" in repr(both)
    assert load(tuned.path / "bone.pt").describe()["streams"] == ["bone"]
    assert load(text_file.parent).supports_text
    content = torch.load(tuned.path / "joint.pt", weights_only=True)
    assert content["metadata"]["training"] == "from scratch"


def test_fusion_is_that_of_the_files(make: Any, folder: Path, clip: np.ndarray):
    first, second = folder / "plain.pt", make(seed=7)
    one, two = (load(path).predict(clip, layout="unik17", top=None) for path in (first, second))
    fused = load([first, second]).predict(clip, layout="unik17", top=None)
    for name, score in zip(fused.names, fused.scores, strict=True):
        mean = (one.scores[one.names.index(name)] + two.scores[two.names.index(name)]) / 2
        assert score == pytest.approx(mean, abs=1e-6)
    assert load([first, second]).embed(clip, layout="unik17").shape[1] == 2 * one.embedding.numel()
    logits = make(seed=7, fusion="logits")
    double = load([logits, logits]).predict(clip, layout="unik17", top=None)
    assert double.scores == pytest.approx(two.scores, abs=1e-6)


def test_what_cannot_be_fused(make: Any, folder: Path, text_file: Path):
    plain = folder / "plain.pt"
    with pytest.raises(ValueError, match="name different classes"):
        load([plain, make(label_names=list("abcd"))])
    with pytest.raises(ValueError, match="different ways of fusion"):
        load([plain, make(fusion="logits")])
    with pytest.raises(ValueError, match=r"model\.pt has no classifier"):
        load([plain, text_file])
    with pytest.raises(ValueError, match="different persons"):
        load([plain, make(persons=2)])
    with pytest.raises(ValueError, match="at least one checkpoint"):
        load([])


def test_paths_that_are_no_models(tmp_path: Path, store2d: Any):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*gone\.pt; `tmor pretrain`.*`tmor finetune`"):
        load(tmp_path / "gone.pt")
    with pytest.raises(FileNotFoundError, match=r"holds no model\.pt, joint\.pt or bone\.pt"):
        load(tmp_path)
    with pytest.raises(DataError, match="is a clip store, not a model"):
        load(store2d.path)
    (tmp_path / "x.pt").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="cannot be read as a checkpoint"):
        load(tmp_path / "x.pt")
    torch.save({"format": ["list"], "version": 1}, tmp_path / "x.pt")
    with pytest.raises(DataError, match="not a tmor_fast model or classifier"):
        load(tmp_path / "x.pt")


def test_precision_by_name_and_picked(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert load(folder / "plain.pt", "cpu", "bfloat16").dtype == torch.bfloat16
    for native, expected in (([], torch.float32), (["avx512_bf16"], torch.bfloat16)):
        config = {"isa_supported": ["portable", *native]}
        monkeypatch.setattr(build, "build_config", lambda config=config: config)
        assert load(folder / "plain.pt", "cpu", "auto").dtype == expected


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "cpu:x"])
def test_devices(folder: Path, model: ActionModel, device: str):
    with pytest.raises(ValueError, match="cannot be used here"):
        load(folder / "plain.pt", device)
    assert load(folder / "plain.pt", torch.device("cpu")).device.type == "cpu"
    with pytest.raises(ValueError, match="dtype"):
        load(folder / "plain.pt", dtype=torch.int8)
    with pytest.raises(ValueError, match="dtype half; accepted: auto, float32"):
        load(folder / "plain.pt", dtype="half")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": "somewhere"}, "metadata layout: unknown skeleton layout 'somewhere'"),
        ({"layout": ["unik17"]}, "metadata layout"),
        ({"layout": "penn13"}, "'penn13' has 13 joints and the network 17"),
        ({"skeleton": {"name": "unik17"}}, "metadata layout: a layout needs"),
        ({"skeleton": "unik17"}, "metadata layout"),
        ({"normalisation": "whitened"}, "normalisation is 'whitened'; accepted: body"),
        ({"normalisation": ["body"]}, "normalisation"),
        ({"frames": 0}, "frames is 0"),
        ({"frames": 10**9}, "frames is 1000000000"),
        ({"frames": "8"}, "frames is '8'"),
        ({"frames": True}, "frames is True"),
        ({"sampling": "thin"}, "sampling is 'thin'"),
        ({"stream": "motion"}, "stream is 'motion'"),
        ({"fusion": "max"}, "fusion is 'max'"),
        ({"view_yaw_degrees": float("nan")}, "view_yaw_degrees is nan"),
        ({"view_yaw_degrees": 400}, "view_yaw_degrees is 400"),
        ({"label_names": ["a", "b"]}, "2 label_names for 4 classes"),
        ({"label_names": ["a", "a", "b", "c"]}, "'a' is named twice"),
        ({"label_names": "abcd"}, "must be a list of names"),
        ({"label_names": [1, 2, 3, 4]}, "must be a list of names"),
    ],
)
def test_edited_metadata_is_named(make: Any, settings: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message) as caught:
        load(make(**settings))
    assert "other.pt" in str(caught.value)


def test_files_of_other_versions(make: Any, folder: Path, clip: np.ndarray, model: ActionModel):
    path = make()
    content = torch.load(path, weights_only=True)
    newer = {**content, "version": files.VERSION + 1}
    torch.save(newer, path)
    with pytest.raises(DataError, match="written by a newer tmor_fast"):
        load(path)
    torch.save({name: value for name, value in content.items() if name != "metadata"}, path)
    with pytest.raises(DataError, match="metadata is missing"):
        load(path)
    # Earlier files noted less.
    old = {name: content["metadata"][name] for name in ("layout", "normalisation", "frames", "stream", "label_names")}
    torch.save({**content, "metadata": old}, path)
    assert load(path).predict(clip, layout="unik17").scores == model.predict(clip, layout="unik17").scores
    torch.save({**content, "metadata": {**old, "label_names": []}}, path)
    assert load(path).label_names == ("class 0", "class 1", "class 2", "class 3")
    torch.save({**content, "metadata": {"label_names": list(ACTIONS)}}, path)
    with pytest.raises(DataError, match="metadata lacks layout, normalisation, frames, stream"):
        load(path)


def test_a_skeleton_of_its_own_comes_with_the_file(make: Any, clip: np.ndarray):
    chain = SkeletonLayout("worm17", tuple(f"segment {i}" for i in range(17)), (-1, *range(16)), 0)
    model = load(make(layout="worm17", skeleton=chain.to_dict()))
    assert model.layout == chain
    assert model.predict(clip, layout="worm17").names
    other = SkeletonLayout("worm17", chain.joint_names, chain.parents, 3)
    with pytest.raises(DataError, match="a different layout is already registered"):
        load(make(layout="worm17", skeleton=other.to_dict()))


def test_a_model_without_text_and_classifier_embeds_alone(tmp_path: Path, clip: np.ndarray):
    metadata = {"layout": "unik17", "normalisation": "body", "frames": 8, "stream": "joint", "stage": 1,
                "text_teacher": "minilm"}  # fmt: skip
    save_model(tmp_path / "stage1.pt", TMOR(UNIKConfig.preset("unik-micro", persons=1), text_dim=6), metadata)
    model = load(tmp_path / "stage1.pt")
    assert not model.supports_text
    assert "no classifier;" in repr(model)
    assert model.embed(clip, layout="unik17").shape == (1, model._networks[0].encoder.feature_dim)
    for actions in (None, ["walk"]):
        with pytest.raises(ValueError, match="pre-trained without text and has no classifier"):
            model.predict(clip, layout="unik17", actions=actions)


def test_a_classifier_has_no_shared_space(model: ActionModel, clip: np.ndarray):
    with pytest.raises(ValueError, match="no shared space"):
        model.embed(clip, layout="unik17", shared=True)


def test_predictions_need_no_training_library(folder: Path, model: ActionModel, clip: np.ndarray, tmp_path: Path):
    np.save(tmp_path / "clip.npy", clip)
    program = f"""
import sys
for name in ("lightning", "torchmetrics", "yaml", "jsonargparse"):
    sys.modules[name] = None
import numpy, tmor_fast
clip = numpy.load({str(tmp_path / "clip.npy")!r})
print(tmor_fast.load({str(folder / "plain.pt")!r}).predict(clip, layout="unik17").top)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == model.predict(clip, layout="unik17").top
