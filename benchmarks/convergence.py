"""Does training with the compiled kernels end where training with the reference equations ends?

    python benchmarks/convergence.py --op cluster_infonce --out RUN [--result FILE]
    python benchmarks/convergence.py --op dependency_attention --out RUN --data FOLDER [--result FILE]

For every seed the same training runs with the op's backend "reference" and with what "auto" takes, and a third time
with the reference at a learning rate a millionth higher: what such a nudge does is the noise of training, where
clusters turn rounding into other neighbours. It is pre-training on synthetic motion and a linear probe on people not
seen in training, or, with `--data` (the folder of `penn_action/labels.tar.xz`), UNIK from scratch on Penn Action.
Shown: how far the loss curves are apart, averaged over a tenth of the steps, and the accuracies.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from only_reference import only_reference
from rich.console import Console
from rich.table import Table

from tmor_fast.benchmark.machine import commit, machine, software
from tmor_fast.cli.demo import ACTIONS
from tmor_fast.data import ClipStore, prepare
from tmor_fast.data.importers import import_penn
from tmor_fast.data.synthetic import write_synthetic_store
from tmor_fast.evaluation.saving import save_json
from tmor_fast.training import FinetuneConfig, PretrainConfig, ProbeConfig, finetune, load_config, pretrain, probe

# The ops that go together: those of UNIK's units.
OPS = {
    "cluster_infonce": ("cluster_infonce",),
    "dependency_attention": ("dependency_attention", "batch_norm_relu", "temporal_convolution"),
}
# Penn Action's recipe cut further, so that more epochs fit: what is compared are the ops, not the accuracy.
SMALL = ("backbone.preset=unik-micro", "augmentation.frames=32")
# Backend, and the factor on the learning rate.
FORMS = {"reference": ("reference", 1.0), "nudged": ("reference", 1 + 1e-6), "kernel": ("auto", 1.0)}


def synthetic(folder: Path, arguments: argparse.Namespace, seed: int, factor: float) -> float:
    """Pre-training in both stages on made-up motion, then the accuracy of a linear probe."""
    store = arguments.out / "synthetic"
    if not store.is_dir():
        write_synthetic_store(store, clips=arguments.clips, seed=0, actions=ACTIONS)
    config = load_config(PretrainConfig, "demo")
    optimiser = replace(config.optimiser, epochs=arguments.epochs, rate=config.optimiser.rate * factor)
    config = replace(config, seed=seed, stage2_epochs=arguments.epochs, optimiser=optimiser)
    model, _ = pretrain([store], folder, config, overwrite=True, progress=False)
    settings = replace(load_config(ProbeConfig, "demo_probe"), seed=seed)
    packed = prepare(ClipStore(store), layout=config.layout, normalisation=config.normalisation)
    return probe(packed, settings, model.backbone, progress=False).reports["probe"].top1


def penn(folder: Path, arguments: argparse.Namespace, seed: int, factor: float) -> float:
    """UNIK from scratch on Penn Action's official split, joints."""
    store = arguments.out / "penn_action"
    if not store.is_dir():
        import_penn(arguments.data / "penn_action" / "labels.tar.xz", store)
    config = load_config(FinetuneConfig, "penn_scratch", ["streams=[joint]", f"seed={seed}", *SMALL])
    optimiser = replace(config.optimiser, epochs=arguments.epochs, rate=config.optimiser.rate * factor)
    config = replace(config, optimiser=optimiser)
    return finetune(prepare(ClipStore(store)), config, folder, overwrite=True, progress=False).reports["joint"].top1


def losses(folder: Path) -> list[float]:
    """The total loss of every step, in the order of training."""
    found: list[float] = []
    for table in sorted(folder.rglob("losses.csv")):
        with table.open(newline="") as file:
            found += [float(row["loss"]) for row in csv.DictReader(file)]
    return found


def apart(first: list[float], second: list[float]) -> dict[str, float]:
    """How far two loss curves are apart: at the first step, and on average over each tenth of the steps."""
    if len(first) != len(second):
        raise RuntimeError(f"{len(first)} and {len(second)} steps")
    tenth = max(1, len(first) // 10)
    means = [
        abs(statistics.fmean(first[i : i + tenth]) / statistics.fmean(second[i : i + tenth]) - 1)
        for i in range(0, len(first), tenth)
    ]
    return {"first_step": abs(first[0] / second[0] - 1), "largest_tenth": max(means), "last_tenth": means[-1]}


def run(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Train in each of `FORMS` for every seed."""
    train = synthetic if arguments.data is None else penn
    rows = []
    for seed in range(1, arguments.seeds + 1):
        row: dict[str, Any] = {"seed": seed}
        curves = {}
        for form, (backend, factor) in arguments.forms.items():
            folder, started = arguments.out / f"{arguments.op}_{form}_{seed}", time.perf_counter()
            with only_reference(OPS[arguments.op]) if backend == "reference" else nullcontext():
                accuracy = train(folder, arguments, seed, factor)
            curves[form] = losses(folder)
            row[form] = {
                "top1": round(100 * accuracy, 2),
                "last_loss": round(statistics.fmean(curves[form][-5:]), 5),
                "seconds": round(time.perf_counter() - started, 1),
                "from_reference": apart(curves[form], curves["reference"]),
            }
            console.print(f"seed {seed}, {form}: {row[form]}")
        rows.append(row)
    means = {form: round(statistics.fmean(row[form]["top1"] for row in rows), 2) for form in arguments.forms}
    return {"steps": len(curves["kernel"]), "seeds": rows, "mean_top1": means}


def show(found: dict[str, Any], op: str, console: Console) -> None:
    """The table."""
    table = Table(title=f"{op}: the same training, {found['steps']} steps")
    for heading in ("seed", "form", "top-1", "loss from reference: first step", "any tenth", "last tenth"):
        table.add_column(heading, justify="left" if heading == "form" else "right")
    for row in found["seeds"]:
        for form in found["mean_top1"]:
            gaps = (
                f"{row[form]['from_reference'][name]:.1e}" for name in ("first_step", "largest_tenth", "last_tenth")
            )
            table.add_row(str(row["seed"]), form, f"{row[form]['top1']:.2f} %", *gaps)
    for form, mean in found["mean_top1"].items():
        table.add_row("mean", form, f"{mean:.2f} %")
    console.print(table)


def main() -> None:
    """Read the arguments, train, show and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--op", choices=OPS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for data and runs")
    parser.add_argument("--data", type=Path, help="train on Penn Action, whose files are in this folder")
    parser.add_argument("--result", type=Path, help="a JSON file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of each stage, or of Penn Action")
    parser.add_argument("--clips", type=int, default=900)
    parser.add_argument("--skip-nudged", action="store_true", help="without the third training: a third less time")
    arguments = parser.parse_args()
    arguments.forms = {name: form for name, form in FORMS.items() if name != "nudged" or not arguments.skip_nudged}
    console = Console()
    found = run(arguments, console)
    show(found, arguments.op, console)
    if arguments.result is not None:
        data = "" if arguments.data is None else " --data DATA"
        command = f"python benchmarks/convergence.py --op {arguments.op} --out RUN{data} --epochs {arguments.epochs}"
        command += " --skip-nudged" if arguments.skip_nudged else ""
        about = {"machine": machine("cpu"), "software": software(), "commit": commit(Path(__file__).parent)}
        save_json(
            arguments.result, {"benchmark": "convergence", "op": arguments.op, "command": command} | about | found
        )


if __name__ == "__main__":
    main()
