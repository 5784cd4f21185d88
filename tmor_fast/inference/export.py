"""A trained model as one file that runs without this library: torch.export (.pt2) or ONNX (.onnx)."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tmor_fast.atomic import new_file
from tmor_fast.errors import missing
from tmor_fast.inference.loading import MODEL_FILE, STREAM_FILES
from tmor_fast.inference.plain import PlainUNIK
from tmor_fast.inference.settings import TrainedWith, trained_with
from tmor_fast.nn.checkpoint import load_checkpoint
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik import UNIK

Output = Literal["scores", "features", "embeddings"]
ENDINGS = (".pt2", ".onnx")
INPUT = "joints"

# The name of the metadata: an extra file in a .pt2, a property of an .onnx.
METADATA = "tmor_fast.json"
FORMAT, VERSION = "tmor_fast.export", 1

# Largest difference from the model, relative to its largest output, both in float64.
AGREEMENT = 1e-9

MEANINGS: dict[str, str] = {
    "scores": "class scores before softmax, one column for each of label_names",
    "features": "pooled features of the motion encoder",
    "embeddings": "embeddings of length 1 in the space shared with video and text",
}
NORMALISATION_MEANS = {
    "body": "minus the clip's mean mid-hip, divided by the body's size (the 90th percentile over the frames of the "
    "distance from neck to mid-hip; in 2D at least 0.22 of the body's extent)",
    "screen": "x' = 2 x / width - 1, y' = 2 y / width - height / width, in pixels of the image",
    "none": "coordinates as they were stored",
}
SAMPLING_MEANS = {
    "resample": "the whole clip is interpolated to the number of frames",
    "window": "frames as they are: the middle of a longer clip; a shorter one stands in the middle of zeros",
}
STREAM_MEANS = {
    "joint": "coordinates of the joints",
    "bone": "each joint minus its parent (see layout); the root keeps its coordinates",
}


def export_model(
    checkpoint: str | os.PathLike[str], out: str | os.PathLike[str], *, output: Output | None = None
) -> dict[str, Any]:
    """Write a trained model to one file that runs without this library.

    The file takes float32 joints (N, C, T, V, M) exactly as the network does: any number of clips N; C coordinates, T
    frames, V joints and M persons of its training; prepared (layout, normalisation, number of frames, stream) as its
    metadata says, joints filled where they were not seen, a missing person all zeros. Batch norms are folded into
    the products before them and every op is one of torch's own. Before it is written, the network to be written is
    compared with the model in float64.

    A `.pt2` runs with torch alone, `torch.export.load(file).module()(joints)`, the metadata is read by passing
    `extra_files={"tmor_fast.json": ""}`. An `.onnx` runs with onnxruntime, the metadata is the property
    "tmor_fast.json" of `InferenceSession(file).get_modelmeta().custom_metadata_map`.

    Args:
        checkpoint: a file of `tmor finetune`, `tmor probe --save` or `tmor pretrain`, or a run folder with one model.
        out: a .pt2 or .onnx file; it appears when it is complete.
        output: "scores" (N, K) of a classifier before softmax; "features" (N, F), the encoder's; "embeddings" (N, d) of
            a pre-trained model. None: "scores" of a classifier, "embeddings" of a pre-trained model.

    Returns:
        The metadata written, plain values.

    Raises:
        ValueError: another ending, an unknown output, one that the model does not have, or a folder with two models.
        FileNotFoundError: no such file, or a folder without a model.
        DataError: not such a checkpoint, damaged, or without what preparing clips needs.
        MissingDependencyError: an ONNX file is asked for and its libraries are not installed.
        DiskFullError: there is no space for it.
    """
    target = Path(out)
    check_ending(target)
    if output is not None and output not in get_args(Output):
        raise ValueError(f"unknown output {output!r}; accepted: {', '.join(get_args(Output))}")
    file = _one_file(Path(checkpoint))
    module, saved = load_checkpoint(file)
    settings = trained_with(str(file), module, saved)
    chosen = _output(file, module, output)
    plain, frames = _plain(module, chosen), settings.frames
    example = _example(module, frames)
    result = _checked(plain, module, chosen, example)
    metadata = _describe(module, settings, chosen, result.shape[1])
    plain = plain.float().eval().requires_grad_(False)
    write = _write_onnx if target.suffix.lower() == ".onnx" else _write_torch
    with new_file(target) as temporary:
        write(temporary, plain, example.float(), chosen, json.dumps(metadata, ensure_ascii=False, allow_nan=False))
    return metadata


def check_ending(path: Path) -> None:
    """Refuse a file name before the work is done rather than after it.

    Raises:
        ValueError: it ends neither in .pt2 nor in .onnx.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path}: models are exported to a .pt2 (torch.export) or .onnx file")


def _one_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = [path / name for name in (MODEL_FILE, *STREAM_FILES) if (path / name).is_file()]
    if len(found) > 1:
        raise ValueError(
            f"{path} holds {' and '.join(file.name for file in found)}, which take different input; export them one by "
            "one and add their scores"
        )
    if not found:
        raise FileNotFoundError(
            f"{path} holds no {MODEL_FILE}, {' or '.join(STREAM_FILES)}; give the folder of a finished run or a file"
        )
    return found[0]


def _output(file: Path, module: TMOR | UNIK, output: Output | None) -> Output:
    if isinstance(module, TMOR):
        if output == "scores":
            raise ValueError(
                f"{file} was pre-trained and has no classifier, so it has no class scores; export its 'embeddings' or "
                "'features', or make a classifier of it with `tmor probe --save` or `tmor finetune`"
            )
        return output or "embeddings"
    if output == "embeddings":
        raise ValueError(
            f"{file} is a classifier and has no shared space; export its 'scores' or 'features', or the model.pt of a "
            "pre-training run"
        )
    return output or "scores"


def _plain(module: TMOR | UNIK, output: Output) -> nn.Module:
    """The network in plain torch ops, float64."""
    module = module.double()
    if isinstance(module, UNIK):
        return PlainUNIK(module, module.classifier if output == "scores" else None)
    name = "mt" if module.options.per_loss_heads else "motion"
    return PlainUNIK(module.backbone, module.motion_heads[name] if output == "embeddings" else None)


def _example(module: TMOR | UNIK, frames: int) -> Tensor:
    """Two clips, float64: one is a number that torch.export would take for a constant."""
    config = (module.backbone if isinstance(module, TMOR) else module).config
    generator = torch.Generator().manual_seed(0)
    shape = (2, config.channels, frames, config.joints, config.persons)
    joints = torch.randn(shape, generator=generator, dtype=torch.float64)
    joints[0, ..., 1:] = 0  # persons may be missing
    return joints


@torch.no_grad()
def _checked(plain: nn.Module, module: TMOR | UNIK, output: Output, joints: Tensor) -> Tensor:
    """The output of both, which must agree.

    Raises:
        RuntimeError: they do not, which is a defect of this library.
    """
    encoder = module.backbone if isinstance(module, TMOR) else module
    if output == "features":
        expected = encoder.features(joints)
    else:
        expected = module.embed_motion(joints) if isinstance(module, TMOR) else module(joints)
    result: Tensor = plain(joints)
    error = float((result - expected).abs().max())
    if not error <= AGREEMENT * (1 + float(expected.abs().max())):
        raise RuntimeError(f"export: the network to be written differs from the model by {error:.2g}; please report it")
    return result


def _describe(module: TMOR | UNIK, settings: TrainedWith, output: Output, width: int) -> dict[str, Any]:
    """What somebody who has the file alone must know."""
    from tmor_fast import __version__

    config = (module.backbone if isinstance(module, TMOR) else module).config
    return {
        "format": FORMAT,
        "version": VERSION,
        "tmor_fast": __version__,
        "training": settings.training,
        "input": {
            "name": INPUT,
            "dtype": "float32",
            "axes": ["clips", "coordinates", "frames", "joints", "persons"],
            "shape": ["batch", config.channels, settings.frames, config.joints, config.persons],
            "coordinates": "x right, y down" if config.channels == 2 else "x right, y up, z towards the viewer",
            "stream": settings.stream,
            "stream_means": STREAM_MEANS[settings.stream],
            "normalisation": settings.normalisation,
            "normalisation_means": NORMALISATION_MEANS[settings.normalisation],
            "sampling": settings.sampling,
            "sampling_means": SAMPLING_MEANS[settings.sampling],
            "missing": "joints not seen are interpolated over time; a missing person is all zeros",
            "layout": settings.layout.to_dict(),
        },
        "output": {"name": output, "dtype": "float32", "shape": ["batch", width], "means": MEANINGS[output]},
        "label_names": list(settings.label_names) if output == "scores" else [],
    }


def _write_torch(path: Path, plain: nn.Module, example: Tensor, output: Output, metadata: str) -> None:
    program = torch.export.export(plain, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={METADATA: metadata})
    path.write_bytes(content.getvalue())


def _write_onnx(path: Path, plain: nn.Module, example: Tensor, output: Output, metadata: str) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  (what torch.onnx translates with)
    except ImportError as error:
        raise missing(error.name or "onnx", "export", "An ONNX file") from error
    with _quiet():
        program = torch.onnx.export(
            plain,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    del proto.metadata_props[:]
    proto.metadata_props.add(key=METADATA, value=metadata)
    proto.producer_name, proto.doc_string = "tmor_fast", MEANINGS[output]
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its own deprecations and missing optional libraries; none of it is about the model."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
