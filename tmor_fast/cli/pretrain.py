"""`tmor pretrain` and `tmor embed`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tmor_fast.cli.stopping import NEWEST, stoppable

Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, e.g. optimiser.epochs=50; may be repeated.")
]
ConfigFile = Annotated[str | None, typer.Option("--config", help="A YAML file, or the name of a bundled one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is in OUT.")]


def pretrain(
    stores: Annotated[list[Path], typer.Argument(help="Clip stores to train on, together.")],
    out: Annotated[Path, typer.Option(help="Run folder; gets model.pt, config.yaml, logs, checkpoints.")],
    config: ConfigFile = None,
    settings: Overrides = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on with the run in OUT from its newest whole checkpoint, or from a .ckpt file."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Pre-train T-MOR: stage 1 (motion and video), then stage 2 (and text)."""
    with stoppable(f"go on with: {shlex.join(['tmor', 'pretrain', *map(str, stores), '--out', str(out), '--resume'])}"):
        from rich.console import Console

        from tmor_fast.training.config import PretrainConfig, load_config
        from tmor_fast.training.pretrain import pretrain as run
        from tmor_fast.training.run_record import is_finished

        chosen: str | bool | None = True if resume == NEWEST else resume
        loaded = load_config(PretrainConfig, config_of_run(out, config, bool(chosen)), settings or [])
        last, epochs = ("stage2", loaded.stage2_epochs) if loaded.stage2_epochs else ("stage1", loaded.optimiser.epochs)
        finished = chosen is True and is_finished(out, last, epochs, "model.pt")
        if config or settings or not finished:
            run(stores, out, loaded, resume=chosen, overwrite=overwrite)
        console = Console()
        if finished:
            console.print("this run was finished already; nothing was trained")
        console.print(f"model: [bold]{out / 'model.pt'}[/bold]")


def config_of_run(out: Path, config: str | None, resume: bool) -> str | None:
    """The configuration to load: a resumed run brings its own unless one is given.

    Raises:
        FileNotFoundError: there is no run to resume.
    """
    if config is not None or not resume:
        return config
    own = out / "config.yaml"
    if not own.is_file():
        raise FileNotFoundError(f"no run to resume in {out} (it has no config.yaml); start it without --resume")
    return str(own)


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
