"""Stores, logs, models and results for report tests, made without training and full of hostile names."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

from tmor_fast.data.clip import Clip
from tmor_fast.data.layout import get_layout
from tmor_fast.data.store import ClipStore, ClipStoreWriter
from tmor_fast.evaluation.metrics import classification_report
from tmor_fast.evaluation.saving import save_json
from tmor_fast.nn.checkpoint import save_model
from tmor_fast.nn.options import TMOROptions
from tmor_fast.nn.tmor import TMOR
from tmor_fast.nn.unik_config import UNIKConfig
from tmor_fast.training.recording import top_predictions

EVIL = '<script>document.title="owned"</script><img src="https://example.invalid/x.png" onerror=alert(1)>'
ACTIONS = ["wave", "squat", "clap", 'sit "down" </script><b>&']


def write_store(folder: Path, clips: int = 40, *, channels: int = 3, clips_before: int = 0) -> ClipStore:
    """Noise around a standing body; every third joint of the first clip is never seen. `clips_before` shifts labels."""
    layout = get_layout("unik17")
    draw = np.random.default_rng(0)
    with ClipStoreWriter(
        folder, name="made", layout="unik17", channels=channels, units="metres" if channels == 3 else "pixels",
        label_names=ACTIONS, source=EVIL,
    ) as writer:  # fmt: skip
        for number in range(clips):
            frames = 12 + number % 5
            joints = draw.normal(size=(1, 1, layout.num_joints, channels)) + 0.1 * draw.normal(
                size=(frames, 1, layout.num_joints, channels)
            )
            valid = np.ones(joints.shape[:3], dtype=bool)
            valid[:, :, ::3] = number > 0
            writer.add(
                Clip(
                    joints.astype(np.float32), valid, "unik17", f"clip_{number:03d}{EVIL if number == 1 else ''}",
                    "metres" if channels == 3 else "pixels", label=(number + clips_before) % len(ACTIONS),
                    caption=EVIL if number < 8 else f"caption {number}", split="test" if number % 3 == 0 else "train",
                )
            )  # fmt: skip
    return ClipStore(folder)


def write_log(folder: Path, rows: list[dict[str, float]], name: str = "metrics.csv") -> None:
    """A metrics.csv as training writes it."""
    (folder / "log").mkdir(parents=True, exist_ok=True)
    columns = sorted({key for row in rows for key in row})
    with (folder / "log" / name).open("w", newline="") as stream:
        table = csv.DictWriter(stream, columns)
        table.writeheader()
        table.writerows(rows)


def write_model(path: Path, texts: Path | None = None, **changes: object) -> TMOR:
    """An untrained model with a run's metadata."""
    torch.manual_seed(0)
    model = TMOR(UNIKConfig.preset("unik-micro"), TMOROptions(), video_dim=4, text_dim=3).eval()
    metadata: dict[str, object] = {
        "layout": "unik17", "normalisation": "body", "frames": 8, "sampling": "resample", "view_yaw_degrees": 20.0,
        "stream": "joint", "stage": 2, "text_teacher": f"precomputed:{texts}", "video_teacher": None, "held_out": [],
        "trained_on": ["wave"], "clips": 26,
    }  # fmt: skip
    save_model(path, model, {**metadata, **changes})
    return model


def write_results(path: Path, clip_ids: list[str], labels: torch.Tensor, names: list[str] | None = None) -> None:
    """Results of a probe whose every fifth prediction is wrong."""
    names = ACTIONS if names is None else names
    scores = 4.0 * torch.eye(len(names))[labels]
    scores[::5] = scores[::5].roll(1, dims=1)
    report = classification_report(scores, labels, names)
    save_json(path, {"reports": {"probe": report.to_dict()},
                     "predictions": {"probe": top_predictions(scores, labels, clip_ids, names)}})  # fmt: skip
