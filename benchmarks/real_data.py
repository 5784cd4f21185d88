"""The recorded run on real skeletons: Penn Action and Bandai-Namco, from their files to the tables.

    python benchmarks/real_data.py --data FOLDER --out RUN [--steps scratch,pretrain,transfer] [--full]

FOLDER holds `penn_action/labels.tar.xz` and `bandai2/data.npz`. Every step leaves `results/<step>.json` in RUN with
what it measured, its command, seconds, machine and commit; steps that stand on others find their outputs in RUN.
`--merge FILE` gathers all of them into one file. The recipes are cut to two CPU cores, short clips and small presets;
`--full` takes the whole UNIK, 150 frames and bfloat16 in training instead, for a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

import tmor_fast
from tmor_fast.data import ClipStore, prepare
from tmor_fast.data.clip_batches import AugmentationConfig
from tmor_fast.data.importers import import_npz, import_penn
from tmor_fast.evaluation.saving import save_json
from tmor_fast.nn import load_model
from tmor_fast.teachers import embed_store, get_teacher
from tmor_fast.training import FinetuneConfig, PretrainConfig, ProbeConfig, finetune, load_config, pretrain, probe
from tmor_fast.training.zero_shot import zero_shot

Config = TypeVar("Config", FinetuneConfig, PretrainConfig, ProbeConfig)

# Actions of Bandai that pre-training never sees; what it sees are their parts (left hand, both hands, turning right).
HELD_OUT = ("raise-up-right-hand", "wave-both-hands", "walk-turn-left")
SHARES, SEEDS = (0.05, 0.1), (1, 2, 3)


@dataclass(frozen=True)
class Options:
    """How the steps run.

    Attributes:
        full: the whole network on clips of 150 frames, trained in bfloat16.
        progress: show progress bars.
    """

    full: bool = False
    progress: bool = False

    def load(self, cls: type[Config], name: str, *overrides: str) -> Config:
        """A recipe, at the size asked for."""
        size = ["backbone.preset=unik", "augmentation.frames=150"] if self.full else []
        if self.full and cls is not ProbeConfig:
            size.append("precision=bf16-mixed")
        return load_config(cls, name, [*size, *overrides])


def stores(data: Path, run: Path) -> tuple[ClipStore, ClipStore]:
    """The two clip stores, imported where they are not there yet."""
    penn, bandai = run / "penn_action", run / "bandai2"
    if not penn.is_dir():
        import_penn(data / "penn_action" / "labels.tar.xz", penn)
    if not bandai.is_dir():
        import_npz(data / "bandai2" / "data.npz", bandai, name="bandai2")
    return ClipStore(penn), ClipStore(bandai)


def scratch(data: Path, run: Path, options: Options) -> dict[str, Any]:
    """UNIK from scratch on Penn Action's official split: joints, bones, and their fusion."""
    penn, _ = stores(data, run)
    config = options.load(FinetuneConfig, "penn_scratch")
    return short(finetune(prepare(penn), config, run / "scratch", resume=True, progress=options.progress).reports)


def few_shot(data: Path, run: Path, options: Options, pretrained: bool) -> dict[str, Any]:
    """Fine-tuning on 5 and 10 per cent of Penn's training clips, three seeds (draw of clips and of weights)."""
    penn, _ = stores(data, run)
    packed = prepare(penn)
    results = {}
    models = {"scratch": None}
    if pretrained:
        models = {"T-MOR": load_model(run / "pretrain" / "model.pt")[0].backbone}
    for name, backbone in models.items():
        for share in SHARES:
            scores = []
            for seed in SEEDS:
                config = options.load(FinetuneConfig, "penn_few_shot", f"share={share}", f"seed={seed}")
                outcome = finetune(packed, config, backbone=backbone, progress=options.progress)
                scores.append(round(100 * outcome.reports["joint"].top1, 2))
            results[f"{name} {share:.0%}"] = {"top1": scores, "mean": round(sum(scores) / len(scores), 2)}
            results[f"{name} {share:.0%}"]["train_clips"] = outcome.train_clips
            print(name, share, scores, flush=True)
    return results


def pretraining(data: Path, run: Path, options: Options) -> dict[str, Any]:
    """Both stages on Bandai (projected to 2D; motion, video, text) and Penn's training clips (no labels)."""
    penn, bandai = stores(data, run)
    config = options.load(PretrainConfig, "pretrain_small", "unlabelled=['penn_action']", f"held_out={list(HELD_OUT)}")
    _, metadata = pretrain([penn.path, bandai.path], run / "pretrain", config, resume=True, progress=options.progress)
    return metadata


def transfer(data: Path, run: Path, options: Options) -> dict[str, Any]:
    """Linear probe on Penn: random backbone, after stage 1, after stage 2; the papers' optimiser, and standardised."""
    penn, _ = stores(data, run)
    packed = prepare(penn)
    backbones = {"random": None} | {
        stage: load_model(run / "pretrain" / f"{stage}.pt")[0].backbone for stage in ("stage1", "stage2")
    }
    results = {}
    for standardise in (False, True):
        for name, backbone in backbones.items():
            config = options.load(ProbeConfig, "penn_probe", f"standardise={str(standardise).lower()}")
            report = probe(packed, config, backbone, progress=options.progress).reports["probe"]
            results[f"{name}{', standardised features' if standardise else ''}"] = summary(report)
    return results


def zero(data: Path, run: Path, options: Options) -> dict[str, Any]:
    """Zero-shot on Bandai: the held-out actions among themselves, by their names and by the data set's captions."""
    _, bandai = stores(data, run)
    teacher = get_teacher("classical-video")
    embed_store(bandai, teacher, progress=options.progress)
    model, metadata = load_model(run / "pretrain" / "model.pt")
    packed = prepare(bandai, teachers=(teacher.name,))
    settings = AugmentationConfig(frames=metadata["frames"], view_yaw_degrees=metadata["view_yaw_degrees"])
    described = [
        sorted(
            {c for c, i in zip(packed.captions, packed.label.tolist(), strict=True) if packed.label_names[i] == name}
        )
        for name in HELD_OUT
    ]
    measured: dict[str, Any] = {"held_out": list(HELD_OUT), "captions": described, "trained_on": metadata["texts"]}
    for text, captions in (("names", None), ("captions", described)):
        result = zero_shot(
            model, packed, get_teacher("minilm"), list(HELD_OUT),
            augmentation=settings, video=teacher.name, views=4, captions=captions,
        )  # fmt: skip
        measured["chance"] = round(100 * result.chance, 2)
        for name, report in result.reports.items():
            per_class = {
                label: round(100 * (share or 0), 1) for label, share in zip(HELD_OUT, report.per_class, strict=True)
            }
            measured[f"{name}, {text}"] = {**summary(report), "per_class": per_class}
    return measured


STEPS: dict[str, Callable[[Path, Path, Options], dict[str, Any]]] = {
    "scratch": scratch,
    "few_shot_scratch": lambda data, run, options: few_shot(data, run, options, pretrained=False),
    "pretrain": pretraining,
    "transfer": transfer,
    "few_shot_pretrained": lambda data, run, options: few_shot(data, run, options, pretrained=True),
    "zero_shot": zero,
}


def summary(report: Any) -> dict[str, float]:
    """Top-1, top-5 and mean per-class accuracy in per cent."""
    return {name: round(100 * getattr(report, name), 2) for name in ("top1", "top5", "mean_per_class")}


def short(reports: dict[str, Any]) -> dict[str, Any]:
    """`summary` of each report."""
    return {name: summary(report) for name, report in reports.items()}


def machine() -> dict[str, Any]:
    """Where this ran."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": cpu,
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tmor_fast": tmor_fast.__version__,
        "commit": commit,
    }


def main() -> None:
    """Run the steps asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--merge", type=Path)
    parser.add_argument("--full", action="store_true", help="the whole UNIK, 150 frames, bfloat16")
    parser.add_argument("--progress", action="store_true")
    arguments = parser.parse_args()
    options = Options(arguments.full, arguments.progress)
    for step in filter(None, arguments.steps.split(",")):
        started, where = time.perf_counter(), machine()
        measured = STEPS[step](arguments.data, arguments.out, options)
        seconds = round(time.perf_counter() - started, 1)
        command = (
            f"python benchmarks/real_data.py --data DATA --out RUN --steps {step}{' --full' if options.full else ''}"
        )
        save_json(
            arguments.out / "results" / f"{step}.json",
            {"step": step, "command": command, "seconds": seconds, "machine": where, "measured": measured},
        )
        print(step, json.dumps(measured), f"{seconds} s", flush=True)
    if arguments.merge:
        files = [arguments.out / "results" / f"{step}.json" for step in STEPS]
        found = [json.loads(file.read_text()) for file in files if file.exists()]
        save_json(arguments.merge, {"benchmark": "real_data", "steps": found})
        print(f"{len(found)} steps in {arguments.merge}", file=sys.stderr)


if __name__ == "__main__":
    main()
