"""A whole run: ceilings, then claim after claim, case after case, with the record saved after each."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tmor_fast.benchmark.allocator import TUNED, Allocator, allocators
from tmor_fast.benchmark.case import Case, Claim, Settings, find_claims, load_claim
from tmor_fast.benchmark.machine import commit, load_average, machine, software
from tmor_fast.benchmark.page import write_page
from tmor_fast.benchmark.process import Process, WorkerError
from tmor_fast.benchmark.record import SCHEMA, SCHEMA_VERSION, Record, case_record, complete, save
from tmor_fast.benchmark.turns import Lane, plan_for, take_turns

Report = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What a run is asked for.

    Attributes:
        folder: of the claim files.
        out: the JSON file; the page lies beside it with the suffix .html.
        names: claims; empty: all.
        quick: small sizes, few repeats.
        device: "cpu" or "cuda".
        options: "claim.option=value".
        threads: of each process; None: as the libraries choose.
    """

    folder: Path
    out: Path
    names: Sequence[str] = ()
    quick: bool = False
    device: str = "cpu"
    options: Sequence[str] = ()
    threads: int | None = None
    command: str = field(default_factory=lambda: command_line(sys.argv))


def command_line(argv: Sequence[str]) -> str:
    """The command that was typed, without folders."""
    words = [Path(argv[0]).name if os.path.isabs(argv[0]) else argv[0], *argv[1:]]
    return " ".join(shlex.quote(Path(word).name if os.path.isabs(word) else word) for word in words)


def parse_options(options: Sequence[str], claims: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """ "claim.option=value" by claim; ValueError for anything else."""
    parsed: dict[str, dict[str, str]] = {}
    for text in options:
        place, equals, value = text.partition("=")
        claim, dot, option = place.partition(".")
        if not (equals and dot and option):
            raise ValueError(f"an option is written claim.option=value, got {text!r}")
        if claim not in claims:
            raise ValueError(f"no claim {claim!r} in the option {text!r}; there are: {', '.join(claims)}")
        parsed.setdefault(claim, {})[option] = value
    return parsed


def run(request: Request, report: Report = lambda message: None) -> Record:
    """Measure, save the record after every case, and write the page.

    Returns:
        The record, as it is saved. Interrupted (Ctrl-C), it holds the cases that were finished, and says so.

    Raises:
        FileNotFoundError: no claim file in the folder.
        ValueError: an unknown claim or option, or a device that is not there.
    """
    claims = find_claims(request.folder)
    if not claims:
        raise FileNotFoundError(
            f"no claim file in {request.folder}: benchmarks live in the repository's folder benchmarks/, which is not "
            "part of an installation; run from a clone, or name the folder with --path"
        )
    unknown = [name for name in request.names if name not in claims]
    if unknown:
        raise ValueError(f"no claim {', '.join(map(repr, unknown))}; there are: {', '.join(claims)}")
    options = parse_options(request.options, claims)
    chosen = {name: claims[name] for name in request.names or claims}
    for name in options:
        load_claim(claims[name]).settle(Settings(options=options[name]))
    if request.device == "cuda":
        _need_cuda()
    record = _header(request)
    try:
        with tempfile.TemporaryDirectory(prefix="tmor_bench_") as scratch:
            _Run(request, record, report, Path(scratch)).measure(chosen, options)
        record["complete"] = True
    except KeyboardInterrupt:
        record["interrupted"] = True
        raise
    finally:
        record["seconds"] = round(time.time() - record["started_unix"], 1)
        record["machine"]["load_average_at_end"] = load_average()
        _save(request.out, record)
    return record


def _need_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch finds no CUDA device; accepted here: cpu")


def _header(request: Request) -> Record:
    now = time.time()
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "command": request.command,
        "started": datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds"),
        "started_unix": round(now, 1),
        "complete": False,
        "interrupted": False,
        "quick": request.quick,
        "device": request.device,
        "threads_asked": request.threads,
        "machine": machine(request.device),
        "software": software(),
        "commit": commit(request.folder),
        "plan": asdict(plan_for(request.device, request.quick)),
        "allocators": {},
        "ceilings": None,
        "claims": [],
    }


def _save(path: Path, record: Record) -> None:
    save(path, complete(record))
    write_page(path.with_suffix(".html"), record)


class _Run:
    """The state of one run: the record, and a process that answers what is no contender's."""

    def __init__(self, request: Request, record: Record, report: Report, scratch: Path) -> None:
        self.request, self.record, self.report, self.scratch = request, record, report, scratch
        self.plan = plan_for(request.device, request.quick)
        self.threads = {} if request.threads is None else _thread_variables(request.threads)
        self.ours, self.peers = allocators(request.device, request.quick)
        record["allocators"] = {a.name: {**asdict(a)} for a in {a.name: a for a in (*self.ours, *self.peers)}.values()}
        self.helper: Process | None = None

    def measure(self, chosen: Mapping[str, Path], options: Mapping[str, dict[str, str]]) -> None:
        """All claims; ceilings before, and in a full run also after, since the machine may have been busy."""
        try:
            self._ceilings()
            for name, path in chosen.items():
                self._claim(name, path, options.get(name, {}))
            if not self.request.quick:
                self._ceilings()
        finally:
            if self.helper is not None:
                self.helper.stop()

    def _ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        # A helper that died with one request is made anew for the next.
        if self.helper is None:
            self.helper = Process({**self.threads, **(TUNED.environment if self.request.device == "cpu" else {})})
        try:
            return self.helper.ask(request, seconds)
        except WorkerError:
            self.helper.stop()
            self.helper = None
            raise

    def _ceilings(self) -> None:
        self.report("ceilings: matrix products, copy")
        seconds = 0.25 if self.request.quick else 1.0
        asked = {"op": "ceilings", "device": self.request.device, "seconds": seconds}
        try:
            measured = self._ask(asked, self.plan.setup_timeout)["ceilings"]
        except WorkerError as error:
            self.record["ceilings_reason"] = str(error)
            return
        before = self.record["ceilings"]
        if before is not None:
            from tmor_fast.benchmark.ceilings import faster

            measured = faster(before, measured)
        self.record["ceilings"] = measured

    def _claim(self, name: str, path: Path, options: Mapping[str, str]) -> None:
        entry: Record = {"name": name, "title": name, "sweep": "", "options": dict(options), "cases": [], "reason": ""}
        self.record["claims"].append(entry)
        try:
            claim = load_claim(path)
            settings = claim.settle(Settings(self.request.quick, self.request.device, options))
            cases = claim.cases(settings)
        except Exception as error:  # one broken claim must not take the others with it
            entry["reason"] = f"{type(error).__name__}: {error}"
            _save(self.request.out, self.record)
            return
        entry |= {"title": claim.title, "sweep": claim.sweep, "options": dict(settings.options)}
        for case in cases:
            self.report(f"{name} · {case.name}")
            entry["cases"].append(self._case(path, claim, case, settings))
            _save(self.request.out, self.record)

    def _case(self, path: Path, claim: Claim, case: Case, settings: Settings) -> Record:
        asked = {"claim": str(path.resolve()), "case": case.name, "settings": asdict(settings)}
        plan = self.plan if case.seconds is None or self.request.quick else replace(self.plan, seconds=case.seconds)
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        lanes = self._lanes(case, asked, folder)
        try:
            take_turns(lanes, plan, lambda message: self.report(f"{path.stem} · {case.name} · {message}"))
            return case_record(case, lanes, self._check(case, asked, lanes))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _lanes(self, case: Case, asked: Mapping[str, Any], folder: Path) -> list[Lane]:
        lanes = []
        for number, contender in enumerate(case.contenders):
            under: Sequence[Allocator] = self.ours if contender.role == "ours" else self.peers
            for place, allocator in enumerate(under):
                output = str(folder / f"{number}.pt") if case.check and place == 0 else None
                # Allocator first: it must not take back what the contender sets.
                environment = {**self.threads, **allocator.environment, **contender.environment}
                lanes.append(
                    Lane(
                        contender.name, allocator.name, Process(environment),
                        {"op": "begin", "contender": contender.name, **asked}, output,
                        count=contender.flops is None,
                    )
                )  # fmt: skip
        return lanes

    def _check(self, case: Case, asked: Mapping[str, Any], lanes: Sequence[Lane]) -> Mapping[str, Mapping[str, Any]]:
        outputs = {lane.contender: lane.output for lane in lanes if lane.status == "ok" and lane.output}
        if case.check is None or not outputs:
            return {}
        self.report(f"{case.name} · check")
        try:
            facts = self._ask({"op": "check", "outputs": outputs, **asked}, self.plan.turn_timeout)["facts"]
        except WorkerError as error:
            return {"": {"wrong": f"the check did not finish: {error}"}}
        return facts


def _thread_variables(threads: int) -> dict[str, str]:
    return {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
