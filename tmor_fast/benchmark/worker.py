"""A contender's own process: it sets up, then waits for its turns. One JSON object a line in, one out."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from tmor_fast.benchmark.case import Call, Case, Contender, Settings, load_claim
from tmor_fast.benchmark.measure import Repeats, captured, device_timer
from tmor_fast.benchmark.memory import Peak, device_peak, release_device

Reply = dict[str, Any]


def find_case(request: Reply) -> Case:
    """The case that a request names."""
    claim = load_claim(Path(request["claim"]))
    settings = claim.settle(Settings(**request["settings"]))
    return next(case for case in claim.cases(settings) if case.name == request["case"])


class Server:
    """What the process does for each request; `begin` first, then `warm`, `run` and `finish`.

    `ceilings` and `check` need no `begin`: a process of the run's own answers them.
    """

    def __init__(self) -> None:
        self.contender: Contender | None = None
        self.call: Call | None = None
        self.repeats: Repeats | None = None
        self.peak: Peak | None = None
        self.faults = 0
        self.plain_peak = 0  # of a call before it was captured: a graph keeps its memory, and takes none when replayed
        self.released = False
        self.device = "cpu"

    def handle(self, request: Reply) -> Reply:
        """The answer to one request; anything that goes wrong is an answer too."""
        try:
            operation = {
                "begin": self.begin, "warm": self.warm, "run": self.run, "finish": self.finish,
                "ceilings": self.ceilings, "check": self.check,
            }[request["op"]]  # fmt: skip
            return operation(request)
        except (Exception, SystemExit) as error:
            traceback.print_exc(file=sys.stderr)
            return {"error": f"{type(error).__name__}: {error}"}

    def begin(self, request: Reply) -> Reply:
        """Set the contender up; or say why it cannot run here."""
        contender = find_case(request).contender(request["contender"])
        self.device = device = request["settings"]["device"]
        reason = contender.unavailable() if contender.unavailable else None
        if reason is not None:
            return {"unavailable": reason}
        if device == "cuda":
            _products_in(contender.precision)
        started = time.perf_counter()
        call = contender.setup()
        notes = []
        if contender.one_call_first:
            call()
        self.call = call
        if contender.cuda_graph and device == "cuda":
            self.plain_peak = _peak_of(call, device)
            try:
                call = captured(call)
                notes.append("CUDA graph")
            except RuntimeError as error:
                notes.append(f"no CUDA graph: {str(error).splitlines()[0]}")
        seconds = time.perf_counter() - started
        self.contender, self.repeats = contender, Repeats(call, device_timer(device))
        self.peak = device_peak(device)
        self.peak.start()
        self.faults = _page_faults()
        torch = sys.modules.get("torch")
        threads = torch.get_num_threads() if torch is not None else None
        self._release()
        return {"setup_seconds": seconds, "threads": threads, "notes": notes}

    def _release(self) -> None:
        if self.device == "cuda":
            import torch

            self.released = release_device(torch.cuda)

    def warm(self, request: Reply) -> Reply:
        """Untimed calls, though their seconds are told: of a slow contender they count."""
        assert self.repeats is not None
        samples = self.repeats.warm(request["seconds"])
        self._release()
        return {"samples": samples}

    def run(self, request: Reply) -> Reply:
        """One turn."""
        assert self.repeats is not None
        if self.released:
            self.repeats.warm(0.0)
        samples = self.repeats.run(request["seconds"], request["most"])
        self._release()
        return {"samples": samples}

    def finish(self, request: Reply) -> Reply:
        """Peak memory, the last result to a file if one is named, operations and bytes where the case gives none."""
        assert self.contender is not None
        assert self.repeats is not None
        assert self.peak is not None
        assert self.call is not None
        faults = _page_faults() - self.faults
        peak = self.peak.above()
        peak = peak if peak is None else max(peak, self.plain_peak)
        reply: Reply = {"peak_bytes": peak, "method": self.peak.method, "page_faults": faults}
        if request.get("output"):
            _save(self.repeats.result, Path(request["output"]))
        if request.get("count"):
            from tmor_fast.benchmark.counting import count

            reply["flops"], reply["bytes"] = count(self.call)
        return reply

    def ceilings(self, request: Reply) -> Reply:
        """What the machine can do at most, see `ceilings.measure_ceilings`."""
        from tmor_fast.benchmark.ceilings import measure_ceilings

        return {"ceilings": measure_ceilings(request["device"], request["seconds"])}

    def check(self, request: Reply) -> Reply:
        """Compare outputs that processes have saved, as the case says."""
        import torch

        case = find_case(request)
        assert case.check is not None
        outputs = {name: torch.load(path, weights_only=True) for name, path in request["outputs"].items()}
        return {"facts": case.check(outputs)}


def _products_in(precision: str) -> None:
    """Let products and convolutions of float32 on a GPU be in the contender's precision: torch's default is mixed."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def _peak_of(call: Call, device: str) -> int:
    """Bytes that one call takes above what is allocated."""
    call()
    peak = device_peak(device)
    peak.start()
    call()
    return peak.above() or 0


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _save(result: Any, path: Path) -> None:
    import torch

    values = result if isinstance(result, dict) else {"value": result}
    torch.save(
        {name: value.detach().cpu() if isinstance(value, torch.Tensor) else value for name, value in values.items()},
        path,
    )


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more."""
    server = Server()
    for line in requests:
        answers.write(json.dumps(server.handle(json.loads(line))) + "\n")
        answers.flush()


def main() -> None:
    """Entry point of the process. What libraries print goes to standard error, not among the answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)
