"""A run killed at any moment, and as often as it may be, ends exactly as one that was never killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tmor_fast.data.synthetic import write_synthetic_store
from tmor_fast.nn.checkpoint import load_model
from tmor_fast.teachers import embed_store, get_teacher

ACTIONS = ("squat", "walk", "clap")
SETTINGS = (
    "backbone.preset=unik-micro", "augmentation.frames=8", "augmentation.mirror=0.5", "optimiser.name=adamw",
    "optimiser.rate=0.002", "optimiser.scale_rate=false", "optimiser.batch_size=6", "optimiser.epochs=2",
    "checkpoints.every_steps=3",
)  # fmt: skip
PRETRAINING = (
    "stage2_epochs=2", "options.embedding_dim=16", "options.head_hidden=32", "options.momentum=0.9",
    "options.min_samples=2", "options.max_cluster_share=1.0",
)  # fmt: skip
HARNESS = Path(__file__).parent / "killing.py"


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of 26 clips with video embeddings, and finished text embeddings."""
    folder = tmp_path_factory.mktemp("material")
    store = write_synthetic_store(folder / "store", clips=26, seed=3, actions=ACTIONS, frames=(24, 40), subjects=12)
    embed_store(store, get_teacher("classical-video"))
    torch.save(dict(zip(ACTIONS, torch.eye(3), strict=True)), folder / "texts.pt")
    return folder / "store", folder / "texts.pt"


def pretraining(material: tuple[Path, Path]) -> list[str]:
    store, texts = material
    chosen = (*SETTINGS, *PRETRAINING, f"text_teacher=precomputed:{texts}", "split=all")
    return ["pretrain", str(store), *(word for setting in chosen for word in ("--set", setting))]


def kill_often(folder: Path, command: list[str], kills: int, seed: int) -> dict[str, Any]:
    """Run the harness; returns its outcome."""
    plan = {"command": command, "resume": ["--resume"], "folder": str(folder), "kills": kills, "seed": seed}
    (folder / "plan.json").write_text(json.dumps(plan))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, str(HARNESS), str(folder / "plan.json")], capture_output=True, text=True, timeout=550,
        env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "outcome.json").read_text())


def assert_equal(found: Any, expected: Any, place: str) -> None:
    """Equal to the last bit, through dicts and lists."""
    assert type(found) is type(expected), place
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for name in expected:
            assert_equal(found[name], expected[name], f"{place}.{name}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), place
        for number, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_equal(a, b, f"{place}.{number}")
    elif isinstance(expected, Tensor):
        assert found.dtype == expected.dtype, place
        assert torch.equal(found, expected), place
    else:
        assert found == expected, place


def assert_same_run(found: Path, expected: Path, parts: tuple[str, ...]) -> None:
    """Equal losses of every step, equal tables, and equal last two checkpoints with all they hold.

    That is weights, key encoder, banks, clusters, optimiser, schedule, random states and the place in the data.
    """
    assert not list(found.rglob("*.tmp"))
    for part in parts:
        for table in ("losses.csv", "metrics.csv"):
            assert (found / part / "log" / table).read_bytes() == (expected / part / "log" / table).read_bytes(), table
        names, wanted = (
            sorted(path.name for path in (run / part / "checkpoints").iterdir()) for run in (found, expected)
        )
        assert names == wanted
        assert len(names) == 4
        for name in (name for name in names if name.endswith(".ckpt")):
            content, correct = (
                torch.load(run / part / "checkpoints" / name, weights_only=True) for run in (found, expected)
            )
            # Of Lightning's loops, the place in the data; the rest counts starts of runs, too.
            loops = [state.pop("loops")["fit_loop"]["state_dict"] for state in (content, correct)]
            assert_equal(*loops, "loops")
            assert_equal(content, correct, f"{part}/{name}")


def check_stops(folder: Path, outcome: dict[str, Any], verb: str) -> None:
    """Ctrl-C and SIGTERM end a run with their own status and one line that says how to go on."""
    for kill in outcome["kills"]:
        # Before anything is loaded, SIGTERM ends a process as ever.
        expected = {2: (130,), 9: (-9,), 15: (143,) if kill["begun"] and kill["part"] else (143, -15)}[kill["signal"]]
        assert kill["status"] in expected, kill
    for chain in range(1, outcome["chains"] + 1):
        # Before the command has begun, and so has said nothing yet, a stop is Typer's, which stays silent.
        mine = [kill for kill in outcome["kills"] if kill["chain"] == chain]
        stopped = sum(kill["status"] > 0 and bool(kill["part"]) and kill["begun"] for kill in mine)
        lines = (folder / f"chain-{chain}.log").read_text().splitlines()
        said = [line for line in lines if "stopped; " in line]
        assert len(said) >= stopped
        assert all(f"go on with: tmor {verb}" in line and line.endswith(" --resume") for line in said)


def check_pretraining(folder: Path, outcome: dict[str, Any]) -> None:
    check_stops(folder, outcome, "pretrain")
    for chain in range(1, outcome["chains"] + 1):
        run = folder / f"chain-{chain}"
        assert_same_run(run, folder / "unbroken", ("stage1", "stage2"))
        for file in ("stage1.pt", "stage2.pt", "model.pt"):
            found, expected = (load_model(place / file)[0].state_dict() for place in (run, folder / "unbroken"))
            assert_equal(found, expected, file)


def test_three_kills(material: tuple[Path, Path], tmp_path: Path):
    outcome = kill_often(tmp_path, pretraining(material), kills=3, seed=5)
    assert len(outcome["kills"]) == 3
    check_pretraining(tmp_path, outcome)


@pytest.mark.slow
def test_twenty_kills(material: tuple[Path, Path], tmp_path: Path):
    outcome = kill_often(tmp_path, pretraining(material), kills=20, seed=11)
    kills = outcome["kills"]
    assert len(kills) == 20
    assert {kill["part"] for kill in kills} >= {"stage1", "stage2"}
    assert {kill["signal"] for kill in kills} == {2, 9, 15}
    assert len({kill["rows"] for kill in kills}) > 5
    # Some struck while a file was being written.
    assert any(kill["leftovers"] for kill in kills)
    check_pretraining(tmp_path, outcome)


@pytest.mark.slow
def test_fine_tuning_killed_eight_times(material: tuple[Path, Path], tmp_path: Path):
    chosen = (*SETTINGS, "streams=[joint,bone]")
    command = ["finetune", str(material[0]), *(word for setting in chosen for word in ("--set", setting))]
    outcome = kill_often(tmp_path, command, kills=8, seed=2)
    assert len(outcome["kills"]) == 8
    assert {kill["part"] for kill in outcome["kills"]} >= {"bone", "joint"}
    check_stops(tmp_path, outcome, "finetune")
    for chain in range(1, outcome["chains"] + 1):
        run = tmp_path / f"chain-{chain}"
        assert_same_run(run, tmp_path / "unbroken", ("joint", "bone"))
        for file in ("joint.json", "bone.json", "joint+bone.json", "predictions.json", "train_clips.json"):
            assert (run / file).read_bytes() == (tmp_path / "unbroken" / file).read_bytes(), file
