"""Runs `tmor` again and again and kills it: one process that has imported everything forks a child a run.

As a program: `python killing.py PLAN.json`, where the plan says what to run and how to kill it (`Plan`); the outcome is
written to `outcome.json` beside the plan.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

# Functions of tmor_fast inside which a run is struck on purpose; the first two in any case: in the middle of writing a
# checkpoint, and on the way into a clustering.
TARGETS = (
    "write", "cluster_embeddings", "write_checkpoint", "checksum_file", "write_through", "_forget_old",
    "remove_checkpoint", "set_clusters", "write_metrics", "append", "save_model", "save_classifier", "after_step",
    "on_load_checkpoint",
)  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM)


@dataclasses.dataclass
class Plan:
    """What to run and how to kill it.

    Args:
        command: arguments of `tmor` without `--out`.
        resume: arguments that are added when a run is started again.
        folder: gets `unbroken` and `chain-N`, the run folders.
        kills: how many kills there must be.
        seed: of all moments.
    """

    command: list[str]
    resume: list[str]
    folder: str
    kills: int
    seed: int


def child(arguments: list[str], log: Path, moment: dict[str, Any]) -> None:
    """Run `tmor` in this process, which ends here; counts its events, or strikes at one of them."""
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from tmor_fast.cli import main

    seen: Counter[str] = Counter()

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        # Called for every call of a Python function.
        name = frame.f_code.co_name
        seen["any"] += 1
        if name in TARGETS and "tmor_fast" in frame.f_code.co_filename:
            seen[name] += 1
            if moment.get("at") == name and seen[name] == moment["count"]:
                strike()
        if moment.get("at") == "any" and seen["any"] == moment["count"]:
            strike()

    def strike() -> None:
        sys.settrace(None)
        os.kill(os.getpid(), moment["signal"])

    if "at" in moment:
        sys.settrace(watch)
    sys.argv = ["tmor", *arguments]
    status = 0
    try:
        main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 70
    sys.settrace(None)
    if moment.get("at") == "nowhere":
        log.with_suffix(".json").write_text(json.dumps(seen))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run(arguments: list[str], log: Path, moment: dict[str, Any]) -> int:
    """Start a child, kill it if the moment is a time; returns its status, negative for the signal that ended it."""
    number = os.fork()
    if number == 0:
        child(arguments, log, moment)
    if "seconds" in moment:
        ends = time.monotonic() + moment["seconds"]
        while time.monotonic() < ends:
            done, status = os.waitpid(number, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(number, moment["signal"])
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def draw(rng: random.Random, number: int, events: dict[str, int], seconds: float) -> dict[str, Any]:
    """The moment of kill `number`: in turn inside a target, anywhere among a run's calls, at some time."""
    chosen: dict[str, Any] = {"signal": SIGNALS[number % len(SIGNALS)]}
    if number % 3 == 0:
        targets = [name for name in TARGETS if events.get(name)]
        name = targets[number // 3] if number < 6 else rng.choice(targets)
        return {**chosen, "at": name, "count": rng.randint(1, events[name])}
    if number % 3 == 1:
        return {**chosen, "at": "any", "count": rng.randint(1, events["any"])}
    return {**chosen, "seconds": rng.uniform(0.0, seconds)}


def main() -> None:
    """Run the plan."""
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    import_everything()
    folder, rng = Path(plan.folder), random.Random(plan.seed)
    arguments = [*plan.command, "--out", str(folder / "unbroken")]
    events_log = folder / "unbroken.log"
    started = time.monotonic()
    assert run(arguments, events_log, {"at": "nowhere"}) == 0, events_log.read_text()
    # Counting takes about as long again as the run.
    seconds = (time.monotonic() - started) / 2
    events = json.loads(events_log.with_suffix(".json").read_text())
    kills: list[dict[str, Any]] = []
    chains = 0
    while len(kills) < plan.kills and chains < 3 * plan.kills:
        chains += 1
        out, log = folder / f"chain-{chains}", folder / f"chain-{chains}.log"
        arguments, status = [*plan.command, "--out", str(out)], -1
        while status != 0:
            # After enough kills the last chain runs to its end.
            moment = draw(rng, len(kills), events, seconds) if len(kills) < plan.kills else {}
            said = log.stat().st_size if log.exists() else 0
            status = run(arguments, log, moment)
            if status != 0:
                assert moment, f"run not killed ended with status {status}:\n{log.read_text()}"
                leftovers = [path.name for path in out.rglob("*.tmp")] if out.is_dir() else []
                kills.append({**moment, "chain": chains, "status": status, "begun": log.stat().st_size > said})
                kills[-1].update(leftovers=leftovers, **place(out))
            if (out / "config.yaml").is_file():
                arguments = [*plan.command, "--out", str(out), *plan.resume]
    outcome = {"kills": kills, "chains": chains, "events": events, "seconds": seconds}
    (Path(sys.argv[1]).parent / "outcome.json").write_text(json.dumps(outcome, indent=1))


def place(out: Path) -> dict[str, Any]:
    """How far a run had come: the last part with a table of losses, and the table's rows."""
    tables = sorted(out.glob("*/log/losses.csv"), key=lambda path: path.stat().st_mtime_ns)
    if not tables:
        return {"part": "", "rows": 0}
    return {"part": tables[-1].parts[-3], "rows": max(0, tables[-1].read_text().count("\n") - 1)}


def import_everything() -> None:
    """Import what a run needs, so that a forked child starts at once; nothing is computed, so no thread is started."""
    names = (
        "jsonargparse", "pyarrow.parquet", "torch", "torch.utils.tensorboard", "torchmetrics", "yaml",
        "lightning.pytorch.loggers.tensorboard", "tmor_fast.cli.app", "tmor_fast.training",
    )  # fmt: skip
    for name in names:
        importlib.import_module(name)
    with contextlib.suppress(ImportError):
        # pyarrow imports it where it is there.
        importlib.import_module("pandas")
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
