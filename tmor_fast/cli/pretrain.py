"""`tmor pretrain` and `tmor embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, e.g. optimiser.epochs=50; may be repeated.")
]
ConfigFile = Annotated[str | None, typer.Option("--config", help="A YAML file, or the name of a bundled one.")]


def pretrain(
    stores: Annotated[list[Path], typer.Argument(help="Clip stores to train on, together.")],
    out: Annotated[Path, typer.Option(help="Run folder; gets model.pt, config.yaml, logs, checkpoints.")],
    config: ConfigFile = None,
    settings: Overrides = None,
    resume: Annotated[Path | None, typer.Option(help="Checkpoint of an unfinished stage of this run.")] = None,
) -> None:
    """Pre-train T-MOR: stage 1 (motion and video), then stage 2 (and text)."""
    from rich.console import Console

    from tmor_fast.training.config import PretrainConfig, load_config
    from tmor_fast.training.pretrain import pretrain as run

    loaded = load_config(PretrainConfig, config, settings or [])
    run(stores, out, loaded, resume=resume)
    Console().print(f"model: [bold]{out / 'model.pt'}[/bold]")


def embed(
    store: Annotated[Path, typer.Argument(help="A clip store.")],
    teacher: Annotated[str, typer.Option(help="minilm, classical-video, hf:NAME_OR_PATH or precomputed:PATH.")],
    modality: Annotated[str | None, typer.Option(help="text or video; needed where the teacher encodes both.")] = None,
) -> None:
    """Encode a store with a frozen teacher and keep the embeddings in the store."""
    from rich.console import Console

    from tmor_fast.data.store import ClipStore
    from tmor_fast.teachers import embed_store, get_teacher

    opened = ClipStore(store)
    encoder = get_teacher(teacher)
    embed_store(opened, encoder, modality=modality, progress=True)
    Console().print(f"{len(opened)} clips encoded by {encoder.name} ({encoder.dim} dimensions)")
