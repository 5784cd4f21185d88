"""From files to a model that predicts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from tmor_fast.build import multiplies_bfloat16
from tmor_fast.errors import DataError
from tmor_fast.inference.model import ActionModel
from tmor_fast.inference.network import Network
from tmor_fast.inference.settings import trained_with
from tmor_fast.nn.checkpoint import load_checkpoint
from tmor_fast.nn.for_inference import for_inference
from tmor_fast.teachers.protocol import Teacher

# What a run folder may hold: a pre-trained model, or the classifiers of one or two streams.
MODEL_FILE, STREAM_FILES = "model.pt", ("joint.pt", "bone.pt")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def load(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    device: str | torch.device = "auto",
    dtype: torch.dtype | str | None = None,
    *,
    text_teacher: Teacher | str | None = None,
) -> ActionModel:
    """Open a trained model to predict with.

    Args:
        path: a file that `tmor pretrain` (model.pt), `tmor finetune` (joint.pt, bone.pt) or `tmor probe --save` wrote,
            or a run folder. Several classifiers, or a folder with joint.pt and bone.pt, are fused: their scores are
            averaged as in evaluation.
        device: "auto" takes the GPU where there is one.
        dtype: of the computation, also by name ("bfloat16"); float32 if None. "auto" takes bfloat16 where the
            device multiplies it natively (scores then differ in the third digit), else float32.
        text_teacher: text encoder to use for names instead of the one the checkpoint was trained with; it must be the
            same encoder, e.g. where the files of a "precomputed:..." one have moved.

    Returns:
        The model.

    Raises:
        FileNotFoundError: no such file, or a folder without a model.
        DataError: a file is none of these, damaged, of a newer version, or lacks what prediction needs.
        ValueError: an unusable device or dtype, or models that cannot be fused.
    """
    place = _device(device)
    precision = _dtype(dtype, place)
    given = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not given:
        raise ValueError("load: give at least one checkpoint")
    files = [file for one in given for file in _files(Path(one))]
    networks = []
    for file in files:
        module, metadata = load_checkpoint(file)
        settings = trained_with(str(file), module, metadata)
        # Norms are folded before the weights are rounded.
        networks.append(Network(for_inference(module).to(place, precision), settings))
    return ActionModel(networks, [str(file) for file in files], text_teacher=text_teacher)


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {str(device)!r} cannot be used here ({reason}); try 'auto' or 'cpu'") from error
    return place


def _dtype(dtype: torch.dtype | str | None, place: torch.device) -> torch.dtype | None:
    names = {str(one).removeprefix("torch."): one for one in DTYPES}
    if dtype == "auto":
        on_gpu = place.type == "cuda"
        native = torch.cuda.get_device_capability(place) >= (8, 0) if on_gpu else multiplies_bfloat16()
        return torch.bfloat16 if native else torch.float32
    found = names.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in DTYPES:
        raise ValueError(f"dtype {dtype}; accepted: auto, {', '.join(names)}")
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (path / MODEL_FILE).is_file():
        return [path / MODEL_FILE]
    streams = [path / name for name in STREAM_FILES if (path / name).is_file()]
    if streams:
        return streams
    if (path / "dataset.json").is_file():
        raise DataError(f"{path} is a clip store, not a model; the checkpoint comes first, then the source")
    raise FileNotFoundError(
        f"{path} holds no {MODEL_FILE}, {' or '.join(STREAM_FILES)}; give the folder of a finished run or a file"
    )
