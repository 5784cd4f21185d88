"""The run's side of a contender's process: start it, ask it with a time limit, say how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import IO, Any

_TAIL = 600  # characters of a dead process's last words


class WorkerError(RuntimeError):
    """A contender did not finish. `status` is "failed" (an exception), "crashed" or "timeout"."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Process:
    """A Python process with the same import path as this one that runs `tmor_fast.benchmark.worker`.

    Args:
        environment: variables beside those of this process.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        program = f"import sys; sys.path[:] = {sys.path!r}; from tmor_fast.benchmark.worker import main; main()"
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        # A session of its own: Ctrl-C reaches the run alone, which then ends its processes.
        self._child = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            env={**os.environ, **environment}, cwd=tempfile.gettempdir(), start_new_session=True,
        )  # fmt: skip
        self._pending = b""

    def send(self, request: Mapping[str, Any]) -> None:
        """Ask; `answer` has the answer."""
        assert self._child.stdin is not None
        # If it is dead, `answer` says how it died.
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any]:
        """The answer to the last request.

        Raises:
            WorkerError: it failed, died or took longer than `seconds`; then it is ended.
        """
        assert self._child.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._pending:
            left = end - time.monotonic()
            ready = select.select([self._child.stdout], [], [], max(left, 0))[0]
            if not ready:
                self.stop()
                raise WorkerError("timeout", f"took longer than {seconds:.0f} s")
            part = os.read(self._child.stdout.fileno(), 1 << 16)
            if not part:
                raise WorkerError("crashed", self._last_words())
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            self.stop()
            raise WorkerError("failed", reply["error"])
        return reply

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """`send`, then `answer`."""
        self.send(request)
        return self.answer(seconds)

    def _last_words(self) -> str:
        code = self._child.wait()
        how = f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += " (out of memory?)"
        self._log.seek(0)
        words = " ".join(self._log.read().decode(errors="replace").split())[-_TAIL:]
        return f"{how}: {words}" if words else how

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._log.close()
