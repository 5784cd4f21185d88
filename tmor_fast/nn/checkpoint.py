"""Saving and loading trained models and classifiers: one file of tensors and plain values, read with `weights_only`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from tmor_fast.atomic import new_file
from tmor_fast.errors import DataError
from tmor_fast.nn.for_inference import trained_state
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik import UNIK
from tmor_fast.nn.unik_config import UNIKConfig

Module = TypeVar("Module", bound=torch.nn.Module)

MODEL, CLASSIFIER = "tmor_fast.model", "tmor_fast.classifier"
VERSION = 1


def save_model(path: str | os.PathLike[str], model: TMOR, metadata: dict[str, Any] | None = None) -> None:
    """Write a T-MOR model to one file, under a temporary name first.

    Args:
        path: the file.
        model: what to save.
        metadata: plain values (strings, numbers, lists, dicts) that describe its training: layout, normalisation,
            clip length, teachers, label names.

    Raises:
        ValueError: the model is a copy by `for_inference`.
    """
    content = {
        "backbone": dataclasses.asdict(model.backbone.config),
        "options": dataclasses.asdict(model.options),
        "video_dim": model.video_dim,
        "text_dim": model.text_dim,
        "state_dict": trained_state(model),
    }
    _write(Path(path), MODEL, content, metadata)


def load_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> tuple[TMOR, dict[str, Any]]:
    """Read a model that `save_model` wrote.

    Returns:
        The model in eval mode, and its metadata.

    Raises:
        FileNotFoundError: no such file.
        DataError: not such a file, truncated, edited, or of a newer version.
    """
    content = _read(path, (MODEL,), device)
    return _model(path, content).to(device).eval(), content["metadata"]


def _model(path: str | os.PathLike[str], content: dict[str, Any]) -> TMOR:
    def build() -> TMOR:
        model = TMOR(
            UNIKConfig(**content["backbone"]),
            TMOROptions(**content["options"]),
            video_dim=content["video_dim"],
            text_dim=content["text_dim"],
        )
        model.load_state_dict(content["state_dict"])
        return model

    return _fitted(path, build)


def save_classifier(path: str | os.PathLike[str], encoder: UNIK, metadata: dict[str, Any] | None = None) -> None:
    """Write an encoder with its classifier (of fine-tuning, or of a linear probe) to one file.

    Args:
        path: the file.
        encoder: the encoder; its `classifier` must be there.
        metadata: plain values: label names, layout, normalisation, clip length, stream.

    Raises:
        ValueError: the encoder has no classifier, or is a copy by `for_inference`.
    """
    if encoder.num_classes is None:
        raise ValueError("save_classifier: the encoder has no classifier; save a bare encoder by its state_dict")
    config = dataclasses.replace(encoder.config, num_classes=encoder.num_classes)
    content = {"backbone": dataclasses.asdict(config), "state_dict": trained_state(encoder)}
    _write(Path(path), CLASSIFIER, content, metadata)


def load_classifier(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> tuple[UNIK, dict[str, Any]]:
    """Read a classifier that `save_classifier` wrote; returns and raises as `load_model`."""
    content = _read(path, (CLASSIFIER,), device)
    return _classifier(path, content).to(device).eval(), content["metadata"]


def _classifier(path: str | os.PathLike[str], content: dict[str, Any]) -> UNIK:
    def build() -> UNIK:
        encoder = UNIK(UNIKConfig(**content["backbone"]))
        encoder.load_state_dict(content["state_dict"])
        return encoder

    return _fitted(path, build)


def load_checkpoint(
    path: str | os.PathLike[str], device: str | torch.device = "cpu"
) -> tuple[TMOR | UNIK, dict[str, Any]]:
    """Read a file of either kind: what `save_model` wrote as a TMOR, what `save_classifier` wrote as a UNIK.

    Returns and raises as `load_model`.
    """
    content = _read(path, (MODEL, CLASSIFIER), device)
    module = _model(path, content) if content["format"] == MODEL else _classifier(path, content)
    return module.to(device).eval(), content["metadata"]


def _write(path: Path, kind: str, content: dict[str, Any], metadata: dict[str, Any] | None) -> None:
    with new_file(path) as temporary:
        torch.save({"format": kind, "version": VERSION, **content, "metadata": metadata or {}}, temporary)


REMEDIES = {
    MODEL: "`tmor pretrain` writes model.pt into its run folder",
    CLASSIFIER: "`tmor finetune` writes joint.pt or bone.pt into its run folder, `tmor probe --save` its file",
}


def _read(path: str | os.PathLike[str], kinds: tuple[str, ...], device: str | torch.device) -> dict[str, Any]:
    remedy = "; ".join(REMEDIES[kind] for kind in kinds)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"no checkpoint at {path}; {remedy}") from None
    except (PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # a broken pickle or archive raises almost anything, OSError and IndexError included
        raise DataError(f"{path}: cannot be read as a checkpoint (truncated or another format): {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if not isinstance(found, str):
        found = None
    if found in REMEDIES and found not in kinds:
        reader = "load_model" if found == MODEL else "load_classifier"
        raise DataError(f"{path}: a {found.split('.')[1]}, read it with tmor_fast.nn.{reader}; {remedy}")
    if found not in kinds:
        names = " or ".join(kind.split(".")[1] for kind in kinds)
        raise DataError(
            f"{path}: not a tmor_fast {names}. Official UNIK weights load with "
            "tmor_fast.nn.load_official; a Lightning .ckpt belongs to `tmor pretrain --resume`"
        )
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        raise DataError(
            f"{path}: written by a newer tmor_fast (format {content.get('version')}, this one reads {VERSION})"
        )
    if not isinstance(content.get("metadata"), dict):
        raise DataError(f"{path}: its metadata is missing, the file may have been edited; train again")
    return content


def _fitted(path: str | os.PathLike[str], build: Callable[[], Module]) -> Module:
    try:
        return build()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{path}: its parts do not fit together, it may have been edited: {reason}") from error
