"""`tmor demo`: the whole method on synthetic motion, in a few minutes on two CPU cores."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tmor_fast.data.packed import PackedClips
    from tmor_fast.evaluation.metrics import ClassificationReport


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does: clips made, epochs of both stages, clips per action of the zero-shot test."""

    clips: int
    stage1_epochs: int
    stage2_epochs: int


# Names that share their words, so that held-out ones can be put together from what was learned.
ACTIONS = (
    "wave the left hand", "wave the right hand", "wave both hands", "raise the left hand", "raise the right hand",
    "raise both hands", "punch with the left hand", "punch with the right hand", "push with both hands",
    "kick with the left leg", "kick with the right leg", "raise the left knee", "raise the right knee",
    "lunge with the left leg", "lunge with the right leg", "clap", "bow", "squat", "sit down", "stand up",
    "touch the toes", "walk", "run", "walk in place", "run in place", "march", "jump", "do jumping jacks",
    "step to the left side", "step to the right side", "stretch to the left side", "stretch to the right side",
)  # fmt: skip

FULL = DemoSize(clips=1800, stage1_epochs=6, stage2_epochs=8)
QUICK = DemoSize(clips=400, stage1_epochs=2, stage2_epochs=3)


def demo(
    out: Annotated[Path | None, typer.Option(help="Run folder; left out: a temporary one.")] = None,
    quick: Annotated[bool, typer.Option(help="A fifth of the work, to see that everything runs.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 1,
) -> None:
    """Pre-train T-MOR on made-up motion, probe it, and name actions it never trained on."""
    from rich.console import Console

    console = Console()
    started = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="tmor_demo_")) if out is None else out
    size = QUICK if quick else FULL
    results = run_demo(folder, size, seed, console)
    _show(console, results)
    console.print(f"Report: [bold]{_report(folder)}[/bold], opens in any browser.", soft_wrap=True)
    minutes, seconds = divmod(round(time.perf_counter() - started), 60)
    console.print(f"Everything is in [bold]{folder}[/bold]. {minutes} min {seconds} s.")


def run_demo(folder: Path, size: DemoSize, seed: int, console: Any) -> dict[str, Any]:
    """Make the data, pre-train in both stages, probe and try zero-shot; returns and saves what came out."""
    from tmor_fast.data.prepare import prepare
    from tmor_fast.data.synthetic import ZERO_SHOT_ACTIONS, write_synthetic_store
    from tmor_fast.evaluation.saving import save_json
    from tmor_fast.teachers import get_teacher
    from tmor_fast.training import PretrainConfig, ProbeConfig, load_config, pretrain, probe, zero_shot
    from tmor_fast.training.datasets import embed_videos

    config = load_config(PretrainConfig, "demo")
    config = replace(
        config, held_out=tuple(ZERO_SHOT_ACTIONS), seed=seed, stage2_epochs=size.stage2_epochs,
        optimiser=replace(config.optimiser, epochs=size.stage1_epochs),
    )  # fmt: skip
    console.rule(f"1 of 4 · {size.clips} clips of synthetic motion")
    store = write_synthetic_store(
        folder / "synthetic", clips=size.clips, seed=seed, actions=ACTIONS,
        overwrite=(folder / "synthetic").exists(), progress=True,
    )  # fmt: skip
    console.rule("2 of 4 · pre-training: motion and video, then motion, video and text")
    model, metadata = pretrain([store.path], folder / "run", config, overwrite=True)
    video = embed_videos(store, get_teacher(metadata["video_teacher"]))
    packed = prepare(
        store,
        layout=config.layout,
        normalisation=config.normalisation,
        persons=config.backbone.persons,
        teachers=(video,),
    )
    console.rule("3 of 4 · linear probe on people not seen in training")
    seen = _without(packed, ZERO_SHOT_ACTIONS)
    settings = load_config(ProbeConfig, "demo_probe")
    probed = {"random backbone": probe(seen, settings), "T-MOR": probe(seen, settings, model.backbone)}
    reports = {name: result.reports["probe"] for name, result in probed.items()}
    console.rule("4 of 4 · zero-shot: names of actions that were left out of training")
    named = zero_shot(
        model, packed, get_teacher(metadata["text_teacher"]), ZERO_SHOT_ACTIONS,
        augmentation=config.augmentation, video=video, views=4,
    )  # fmt: skip
    results = {"probe": reports, "zero_shot": named}
    save_json(
        folder / "results.json",
        {
            "probe": {name: report.to_dict() for name, report in reports.items()},
            "predictions": {"linear probe · T-MOR": probed["T-MOR"].predictions["probe"]},
            "zero_shot": named.to_dict(),
        },
    )
    return results


def _report(folder: Path) -> Path:
    from rich.progress import Progress

    from tmor_fast.cli.report import shown_on
    from tmor_fast.report import write_report

    with Progress(transient=True) as bar:
        # The plain projection: t-SNE would take longer than the quick demo's training.
        return write_report(folder, projection="pca", advance=shown_on(bar))


def _without(packed: PackedClips, actions: tuple[str, ...]) -> PackedClips:
    import torch

    left_out = torch.tensor([packed.label_names.index(name) for name in actions])
    return packed.subset((~torch.isin(packed.label, left_out)).nonzero().squeeze(1))


def _show(console: Any, results: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title="T-MOR on synthetic motion")
    for heading in ("what", "top-1", "mean per class", "clips"):
        table.add_column(heading, justify="left" if heading == "what" else "right")

    def row(name: str, report: ClassificationReport) -> None:
        cells = (f"{100 * report.top1:.1f} %", f"{100 * report.mean_per_class:.1f} %", str(report.num_samples))
        table.add_row(name, *cells)

    for name, report in results["probe"].items():
        row(f"linear probe · {name}", report)
    named = results["zero_shot"]
    for name, report in named.reports.items():
        row(f"zero-shot · {name} (chance {100 * named.chance:.1f} %)", report)
    console.print(table)
    console.print("Never trained on: " + ", ".join(named.actions))
