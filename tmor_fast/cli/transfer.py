"""`tmor probe` and `tmor finetune`."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tmor_fast.cli.checkpoint import augmentation_of, open_model
from tmor_fast.cli.pretrain import ConfigFile, Overrides, Overwrite, config_of_run
from tmor_fast.cli.stopping import stoppable

if TYPE_CHECKING:
    from tmor_fast.data.packed import PackedClips
    from tmor_fast.nn.unik import UNIK
    from tmor_fast.training.finetune import TransferResult

Config = TypeVar("Config", bound=Any)
Checkpoint = Annotated[Path | None, typer.Option(help="model.pt of a pre-training run; left out: random weights.")]
Store = Annotated[Path, typer.Argument(help="A clip store with labels.")]


def probe(
    store: Store,
    checkpoint: Checkpoint = None,
    config: ConfigFile = None,
    settings: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Write the metrics to this JSON file.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write encoder and layer to this file, for `tmor predict`.")] = None,
) -> None:
    """Linear probe: one linear layer on frozen features."""
    with stoppable("no file was changed; run the command again"):
        from tmor_fast.training.config import ProbeConfig, load_config
        from tmor_fast.training.probe import probe as run

        loaded, backbone, packed = _open(store, checkpoint, load_config(ProbeConfig, config, settings or []))
        result = run(packed, loaded, backbone, save=save)
        _show(result, "linear probe" + ("" if checkpoint else " of a random backbone"))
        if out is not None:
            from tmor_fast.evaluation.saving import save_json

            save_json(out, result.to_dict())


def finetune(
    store: Store,
    out: Annotated[Path, typer.Option(help="Run folder; gets the models, metrics and logs.")],
    checkpoint: Checkpoint = None,
    config: ConfigFile = None,
    settings: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT; finished parts stay.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a whole encoder with a classifier: from a checkpoint, from scratch, or few-shot (--set share=0.05)."""
    command = ["tmor", "finetune", str(store), "--out", str(out)]
    command += [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    with stoppable(f"go on with: {shlex.join([*command, '--resume'])}"):
        from tmor_fast.training.config import FinetuneConfig, load_config
        from tmor_fast.training.finetune import finetune as run

        given = load_config(FinetuneConfig, config_of_run(out, config, resume), settings or [])
        loaded, backbone, packed = _open(store, checkpoint, given)
        result = run(packed, loaded, out, backbone=backbone, resume=resume, overwrite=overwrite)
        _show(result, f"fine-tuned on {result.train_clips} clips" if checkpoint else f"{result.train_clips} clips")


def _open(store: Path, checkpoint: Path | None, config: Config) -> tuple[Config, UNIK | None, PackedClips]:
    """The store prepared as the checkpoint was trained, and its encoder."""
    from tmor_fast.data.prepare import prepare
    from tmor_fast.data.store import ClipStore
    from tmor_fast.training.config import ProbeConfig

    backbone = None
    if checkpoint is not None:
        model, metadata = open_model(checkpoint)
        backbone = model.backbone
        own = {name: metadata[name] for name in ("layout", "normalisation")}
        if isinstance(config, ProbeConfig):
            # Frozen features are those of the stream that was pre-trained; fine-tuning adapts to either.
            own["stream"] = metadata["stream"]
        seen = augmentation_of(metadata)
        config = dataclasses.replace(config, augmentation=dataclasses.replace(config.augmentation, **seen), **own)
    packed = prepare(
        ClipStore(store), layout=config.layout, normalisation=config.normalisation,
        persons=config.backbone.persons if backbone is None else backbone.config.persons, progress=True,
    )  # fmt: skip
    return config, backbone, packed


def _show(result: TransferResult, title: str) -> None:
    from rich.console import Console

    for name, report in result.reports.items():
        Console().print(report.to_table(f"{title} · {name}"))
