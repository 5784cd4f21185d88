"""Exported files run without this library and give what the model gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tmor_fast.data.clip_batches import AugmentationConfig, ClipBatches
from tmor_fast.data.layout import get_layout
from tmor_fast.data.prepare import prepare
from tmor_fast.data.store import ClipStore
from tmor_fast.errors import DataError, MissingDependencyError
from tmor_fast.inference import ActionModel, export_model, settings
from tmor_fast.inference import export as exporting
from tmor_fast.nn import TMOR, UNIK, TMOROptions, UNIKConfig, load_classifier, load_model, save_classifier, save_model

# Whoever imports tmor_fast in here is told so.
ALONE = """
import sys, torch
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tmor_fast":
            raise ModuleNotFoundError("tmor_fast is hidden")
sys.meta_path.insert(0, Absent())
try:
    import tmor_fast
    raise SystemExit("tmor_fast was not hidden")
except ModuleNotFoundError:
    pass
extra = {"tmor_fast.json": ""}
network = torch.export.load("model.pt2", extra_files=extra).module()
with torch.no_grad():
    outputs = [network(joints) for joints in torch.load("inputs.pt")]
torch.save((outputs, extra["tmor_fast.json"]), "outputs.pt")
"""


def alone(program: str, folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def clips(channels: int, frames: int, persons: int) -> list[Tensor]:
    """Batches of 1, 2 and 5 clips; of the last clip nobody but the first person is there."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(n, channels, frames, 17, persons, generator=generator) for n in (1, 2, 5)]
    for joints in batches:
        joints[-1, ..., 1:] = 0
    return batches


def run_onnx(file: Path, batches: list[Tensor]) -> tuple[list[Tensor], dict[str, Any]]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["tmor_fast.json"])
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, result.name) == (metadata["input"]["name"], metadata["output"]["name"])
    assert given.shape[1:] == metadata["input"]["shape"][1:]
    assert isinstance(given.shape[0], str)  # any number of clips
    return [torch.from_numpy(session.run(None, {given.name: joints.numpy()})[0]) for joints in batches], metadata


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of bones of two persons in 3D, with windows of three frames; its run folder."""
    torch.manual_seed(3)
    config = UNIKConfig(
        channels=3, persons=2, num_classes=3, tau=3, widths=(8, 12), strides=(1, 2), person_average="present"
    )
    encoder = UNIK(config)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("windowed")
    metadata = {
        "layout": "h36m17", "normalisation": "none", "frames": 7, "sampling": "window", "stream": "bone",
        "label_names": ["a", "b [x]", "c"],
    }  # fmt: skip
    save_classifier(folder / "bone.pt", encoder, metadata)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained model with a head for each loss."""
    torch.manual_seed(4)
    config = UNIKConfig(persons=1, widths=(8, 12), strides=(1, 2))
    tmor = TMOR(config, TMOROptions(embedding_dim=6, per_loss_heads=True), text_dim=5)
    file = tmp_path_factory.mktemp("pretrained") / "model.pt"
    save_model(file, tmor, {"layout": "unik17", "normalisation": "body", "frames": 7, "stream": "joint"})
    return file


@pytest.fixture(scope="module")
def exported(windowed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The classifier as a .pt2, and its metadata."""
    folder = tmp_path_factory.mktemp("exported")
    return folder / "model.pt2", export_model(windowed, folder / "model.pt2")


def test_torch_file_runs_alone(windowed: Path, exported: tuple[Path, dict[str, Any]]) -> None:
    file, metadata = exported
    assert os.listdir(file.parent) == ["model.pt2"]
    batches = clips(3, 7, 2)
    torch.save(batches, file.with_name("inputs.pt"))
    alone(ALONE, file.parent)
    outputs, text = torch.load(file.with_name("outputs.pt"))
    assert json.loads(text) == metadata
    encoder, _ = load_classifier(windowed / "bone.pt")
    with torch.no_grad():
        for joints, scores in zip(batches, outputs, strict=True):
            torch.testing.assert_close(scores, encoder(joints), rtol=1e-4, atol=1e-5)


def test_the_file_names_clips_as_predict_does(
    model: ActionModel, folder: Path, store2d: ClipStore, tmp_path: Path
) -> None:
    """Prepared as the metadata says, clips get the probabilities of `predict`."""
    metadata = export_model(folder / "plain.pt", tmp_path / "m.pt2")
    given = metadata["input"]
    packed = prepare(
        store2d, layout=given["layout"]["name"], normalisation=given["normalisation"], persons=given["shape"][4]
    )
    seen = AugmentationConfig(frames=given["shape"][2], sampling=given["sampling"])
    joints = ClipBatches(packed, seen, channels=given["shape"][1], stream=given["stream"]).plain(torch.arange(40))
    network = torch.export.load(tmp_path / "m.pt2").module()
    with torch.no_grad():
        best, place = network(joints).softmax(1).max(1)
    predictions = model.predict(store2d, top=1)
    assert [metadata["label_names"][number] for number in place] == [p.top for p in predictions]  # type: ignore[union-attr]
    torch.testing.assert_close(best, torch.tensor([p.score for p in predictions]), rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]


def test_onnx_of_a_classifier(windowed: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    written = export_model(windowed, tmp_path / "new" / "m.onnx")
    batches = clips(3, 7, 2)
    outputs, metadata = run_onnx(tmp_path / "new" / "m.onnx", batches)
    assert metadata == written
    encoder, _ = load_classifier(windowed / "bone.pt")
    with torch.no_grad():
        for joints, scores in zip(batches, outputs, strict=True):
            torch.testing.assert_close(scores, encoder(joints), rtol=1e-4, atol=1e-4)
    assert os.listdir(tmp_path / "new") == ["m.onnx"]
    proto = onnx.load(tmp_path / "new" / "m.onnx")
    assert {node.domain for node in proto.graph.node} == {""}  # ONNX's own ops alone


def test_onnx_of_a_pretrained_model(pretrained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    written = export_model(pretrained, tmp_path / "m.onnx")
    assert written["output"] == {
        "name": "embeddings", "dtype": "float32", "shape": ["batch", 6], "means": exporting.MEANINGS["embeddings"],
    }  # fmt: skip
    batches = clips(2, 7, 1)
    outputs, _ = run_onnx(tmp_path / "m.onnx", batches)
    tmor, _ = load_model(pretrained)
    with torch.no_grad():
        for joints, rows in zip(batches, outputs, strict=True):
            torch.testing.assert_close(rows, tmor.embed_motion(joints), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["classifier", "pre-trained"])
def test_features(kind: str, windowed: Path, pretrained: Path, tmp_path: Path) -> None:
    checkpoint = windowed if kind == "classifier" else pretrained
    metadata = export_model(checkpoint, tmp_path / "m.pt2", output="features")
    assert metadata["label_names"] == []
    _, channels, frames, _, persons = metadata["input"]["shape"]
    encoder = load_classifier(windowed / "bone.pt")[0] if kind == "classifier" else load_model(pretrained)[0].backbone
    network = torch.export.load(tmp_path / "m.pt2").module()
    for joints in clips(channels, frames, persons):
        with torch.no_grad():
            torch.testing.assert_close(network(joints), encoder.features(joints), rtol=1e-4, atol=1e-5)
    with pytest.raises((RuntimeError, AssertionError, ValueError)):
        network(joints[:, :, 1:])


def test_metadata_says_how_clips_are_prepared(exported: tuple[Path, dict[str, Any]]) -> None:
    _, metadata = exported
    given = metadata["input"]
    assert given["shape"] == ["batch", 3, 7, 17, 2]
    assert given["axes"] == ["clips", "coordinates", "frames", "joints", "persons"]
    assert given["layout"] == get_layout("h36m17").to_dict()
    assert (given["stream"], given["normalisation"], given["sampling"]) == ("bone", "none", "window")
    assert given["coordinates"].startswith("x right, y up")
    assert metadata["output"]["shape"] == ["batch", 3]
    assert metadata["label_names"] == ["a", "b [x]", "c"]
    assert json.loads(json.dumps(metadata)) == metadata
    # Every choice that a checkpoint can make is put into words.
    assert set(exporting.NORMALISATION_MEANS) == set(settings.NORMALISATIONS)
    assert set(exporting.SAMPLING_MEANS) == set(settings.SAMPLINGS)
    assert set(exporting.STREAM_MEANS) == set(settings.STREAMS)


def test_what_cannot_be_exported(windowed: Path, pretrained: Path, make: Any, tmp_path: Path) -> None:
    out = tmp_path / "m.pt2"
    pair = tmp_path / "pair"
    pair.mkdir()
    for stream in ("joint", "bone"):
        (pair / f"{stream}.pt").write_bytes((windowed / "bone.pt").read_bytes())
    (tmp_path / "text.pt").write_text("hello")
    torch.save(UNIK(UNIKConfig.preset("unik-micro")).state_dict(), tmp_path / "weights.pt")
    cases: list[tuple[Path, Path, Any, type[Exception], str]] = [
        (windowed, tmp_path / "m.pth", None, ValueError, r"to a \.pt2 .* or \.onnx file"),
        (windowed, out, "logits", ValueError, "unknown output 'logits'; accepted: scores, features, embeddings"),
        (pretrained, out, "scores", ValueError, "has no classifier, .* `tmor probe --save`"),
        (windowed, out, "embeddings", ValueError, "is a classifier and has no shared space"),
        (pair, out, None, ValueError, r"holds joint\.pt and bone\.pt"),
        (tmp_path, out, None, FileNotFoundError, r"holds no model\.pt"),
        (tmp_path / "gone.pt", out, None, FileNotFoundError, "no checkpoint at"),
        (tmp_path / "text.pt", out, None, DataError, "cannot be read as a checkpoint"),
        (tmp_path / "weights.pt", out, None, DataError, "not a tmor_fast model or classifier"),
        (make(normalisation="sun"), out, None, DataError, "metadata normalisation is 'sun'"),
    ]
    for checkpoint, target, output, kind, message in cases:
        with pytest.raises(kind, match=message):
            export_model(checkpoint, target, output=output)
        assert not target.exists()


def test_a_failure_leaves_the_old_file(windowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.pt2"
    out.write_text("before")

    def half(path: Path, *rest: Any) -> None:
        path.write_text("half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "_write_torch", half)
    with pytest.raises(OSError, match="no space left to write it"):
        export_model(windowed, out)
    assert out.read_text() == "before"
    assert os.listdir(tmp_path) == ["m.pt2"]


def test_a_network_that_differs_is_not_written(windowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = exporting.PlainUNIK.forward
    monkeypatch.setattr(exporting.PlainUNIK, "forward", lambda self, joints: forward(self, joints) + 1e-6)
    with pytest.raises(RuntimeError, match="differs from the model by 1e-06"):
        export_model(windowed, tmp_path / "m.pt2")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("library", ["onnx", "onnxscript"])
def test_a_missing_library_is_named(
    library: str, windowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=r"needs the library 'onnx.*tmor_fast\[export\]"):
        export_model(windowed, tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []
