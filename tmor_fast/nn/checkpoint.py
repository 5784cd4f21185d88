"""Saving and loading trained T-MOR models: one file of tensors and plain values, read with `weights_only`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from tmor_fast.errors import DataError
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik_config import UNIKConfig

FORMAT = "tmor_fast.model"
VERSION = 1


def save_model(path: str | os.PathLike[str], model: TMOR, metadata: dict[str, Any] | None = None) -> None:
    """Write a model to one file, under a temporary name first.

    Args:
        path: the file.
        model: what to save.
        metadata: plain values (strings, numbers, lists, dicts) that describe its training: layout, normalisation,
            clip length, teachers, label names.
    """
    path = Path(path)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "backbone": dataclasses.asdict(model.backbone.config),
        "options": dataclasses.asdict(model.options),
        "video_dim": model.video_dim,
        "text_dim": model.text_dim,
        "metadata": metadata or {},
        "state_dict": model.state_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> tuple[TMOR, dict[str, Any]]:
    """Read a model that `save_model` wrote.

    Returns:
        The model in eval mode, and its metadata.

    Raises:
        FileNotFoundError: no such file.
        DataError: not such a file, truncated, edited, or of a newer version.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no checkpoint at {path}; `tmor pretrain` writes model.pt into its run folder"
        ) from None
    except (PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # a broken pickle or archive raises almost anything, OSError and IndexError included
        raise DataError(f"{path}: cannot be read as a checkpoint (truncated or another format): {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(
            f"{path}: not a tmor_fast model. Official UNIK weights load with tmor_fast.nn.load_official; "
            "a Lightning .ckpt belongs to `tmor pretrain --resume`"
        )
    try:
        if content["version"] > VERSION:
            raise DataError(
                f"{path}: written by a newer tmor_fast (format {content['version']}, this one reads {VERSION})"
            )
        model = TMOR(
            UNIKConfig(**content["backbone"]),
            TMOROptions(**content["options"]),
            video_dim=content["video_dim"],
            text_dim=content["text_dim"],
        )
        model.load_state_dict(content["state_dict"])
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{path}: its parts do not fit together, it may have been edited: {reason}") from error
    return model.to(device).eval(), content["metadata"]
