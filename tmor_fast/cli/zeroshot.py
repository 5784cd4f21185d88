"""`tmor zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tmor_fast.cli.checkpoint import augmentation_of, open_model


def zeroshot(
    checkpoint: Annotated[Path, typer.Argument(help="model.pt of a pre-training run with stage 2.")],
    store: Annotated[Path, typer.Argument(help="A clip store with labels.")],
    actions: Annotated[
        str | None, typer.Option(help="Names that compete, comma-separated; left out: those held out of the training.")
    ] = None,
    views: Annotated[int, typer.Option(help="Directions from which a 3D clip is seen.")] = 4,
    video: Annotated[bool, typer.Option(help="Also with the video teacher's embeddings.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write the metrics to this JSON file.")] = None,
) -> None:
    """Recognise actions by name; says which of them the training knew."""
    from rich.console import Console

    from tmor_fast.data.clip_batches import AugmentationConfig
    from tmor_fast.data.prepare import prepare
    from tmor_fast.data.store import ClipStore
    from tmor_fast.evaluation.saving import save_json
    from tmor_fast.evaluation.zero_shot import action_text
    from tmor_fast.teachers import get_teacher
    from tmor_fast.training.datasets import embed_videos
    from tmor_fast.training.zero_shot import zero_shot

    model, metadata = open_model(checkpoint)
    if metadata["stage"] < 2:
        raise ValueError(f"{checkpoint} ended with stage 1 and has seen no text; zero-shot needs stage 2")
    opened = ClipStore(store)
    teachers: list[str] = []
    if video and metadata["video_teacher"]:
        teachers = [embed_videos(opened, get_teacher(metadata["video_teacher"]))]
    packed = prepare(
        opened, layout=metadata["layout"], normalisation=metadata["normalisation"], teachers=teachers,
        persons=model.backbone.config.persons, progress=True,
    )  # fmt: skip
    names = metadata["held_out"] or None
    if actions is not None:
        names = [name.strip() for name in actions.split(",")]
    result = zero_shot(
        model,
        packed,
        get_teacher(metadata["text_teacher"]),
        names,
        augmentation=AugmentationConfig(**augmentation_of(metadata)),
        video=teachers[0] if teachers else None,
        views=views,
    )
    for name, report in result.reports.items():
        Console().print(report.to_table(f"zero-shot · {name} · chance {100 * result.chance:.1f} %"))
    Console().print(result.headline())
    known = [name for name in result.actions if metadata["trained_on"].count(action_text(name))]
    Console().print("in training: " + (", ".join(known) or "none of them"))
    if out is not None:
        save_json(out, result.to_dict())
